"""How tokens are chosen from logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ingot.errors import InputError
from ingot.generate.sampling import Sampler, Sampling, log_probabilities

LOGITS = np.array([1.0, 3.0, 2.0, -1.0, 2.5], np.float32)
NONE = np.array([], np.int64)


def draws(sampling: Sampling, count: int = 2000, prompt: np.ndarray = NONE) -> np.ndarray:
    sampler = Sampler(sampling, prompt, len(LOGITS))
    return np.bincount([sampler.choose(LOGITS) for _ in range(count)], minlength=len(LOGITS)) / count


def test_temperature_0_takes_the_likeliest() -> None:
    assert draws(Sampling(), 5)[1] == 1


def test_tokens_come_as_often_as_the_softmax_says() -> None:
    for temperature in (0.5, 1.0, 2.0):
        expected = np.exp(LOGITS / temperature) / np.exp(LOGITS / temperature).sum()
        found = draws(Sampling(temperature=temperature, seed=0), 20_000)
        np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(0.25 / 20_000))


@pytest.mark.parametrize(("sampling", "possible"), [
    (Sampling(temperature=1, top_k=2, seed=0), {1, 4}),
    (Sampling(temperature=1, top_p=0.5, seed=0), {1, 4}),  # 0.46 alone is less
    (Sampling(temperature=1, min_p=0.5, seed=0), {1, 4}),
    (Sampling(temperature=100, top_k=1, seed=0), {1}),
])
def test_filters_leave_the_likeliest(sampling: Sampling, possible: set[int]) -> None:
    assert set(np.flatnonzero(draws(sampling))) == possible


def test_of_equal_tokens_the_first_are_kept() -> None:
    logits = np.tile(np.array([1.0, 2.0, 0.0], np.float32), 50)
    sampler = Sampler(Sampling(temperature=1, top_k=5, seed=0), NONE, len(logits))
    assert {sampler.choose(logits) for _ in range(200)} == {1, 4, 7, 10, 13}


def test_random_numbers_are_the_same_in_float32() -> None:
    sampler = Sampler(Sampling(temperature=1, seed=0), NONE, 5)
    numbers = [sampler.number() for _ in range(1000)]
    assert numbers == np.array(numbers, np.float32).tolist() and min(numbers) >= 0 and max(numbers) < 1
    assert numbers == pytest.approx(np.random.default_rng(0).random(1000).tolist(), abs=2**-24)


def test_the_same_seed_gives_the_same_tokens() -> None:
    first, second = (Sampler(Sampling(temperature=1, seed=7), NONE, 5) for _ in range(2))
    assert [first.choose(LOGITS) for _ in range(50)] == [second.choose(LOGITS) for _ in range(50)]


def test_penalties_follow_their_formulas() -> None:
    repeated = Sampler(Sampling(repetition_penalty=2.0), np.array([1]), 5)
    assert repeated.choose(LOGITS) == 4  # 3 / 2 is less than 2.5
    counted = Sampler(Sampling(presence_penalty=0.2, frequency_penalty=0.4), NONE, 5)
    assert counted.choose(LOGITS) == 1
    counted.add(1)
    assert counted.choose(LOGITS) == 4  # 3 - 0.6
    assert Sampler(Sampling(repetition_penalty=2.0), np.array([3]), 5)._penalized(LOGITS)[3] == -2


def test_only_allowed_tokens_are_chosen() -> None:
    allowed = np.array([True, False, False, True, False])
    assert Sampler(Sampling(), NONE, 5).choose(LOGITS, allowed) == 0
    with pytest.raises(InputError, match="allows no token"):
        Sampler(Sampling(), NONE, 5).choose(LOGITS, np.zeros(5, bool))


@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(-100, 100, width=32)), st.integers(0, 60), st.floats(0.01, 1), st.floats(0, 1))
def test_a_token_can_always_be_chosen(logits: np.ndarray, top_k: int, top_p: float, min_p: float) -> None:
    token = Sampler(Sampling(temperature=1, top_k=top_k, top_p=top_p, min_p=min_p, seed=0), NONE, len(logits)).choose(logits)
    assert 0 <= token < len(logits)


def test_log_probabilities_add_up_to_one() -> None:
    np.testing.assert_allclose(np.exp(log_probabilities(LOGITS)).sum(), 1, rtol=1e-12)


@pytest.mark.parametrize(("name", "value"), [("temperature", -1), ("top_p", 0), ("min_p", 2), ("repetition_penalty", 0), ("top_k", -1)])
def test_numbers_outside_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} is {value}"):
        Sampling(**{name: value})  # type: ignore[arg-type]
