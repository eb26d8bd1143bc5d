"""GroupQueryAttention of com.microsoft against onnxruntime's kernel: prompts, steps, ragged batches, caches that grow and caches of a fixed size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ingot
from ingot.backend import prepare
from tests.ops.contrib_models import FLOAT_EPSILON, Pair, model_of, numbers, pair

HEADS, KEY_HEADS, SIZE = 4, 2, 16
ROUNDING = 4 * SIZE * FLOAT_EPSILON
CAPACITY = 12
ANGLES = numbers(9, 40, SIZE // 2)
few = settings(max_examples=12, deadline=None, derandomize=True)


def inputs_of(count: int, lengths: list[int], cache: int | None, *, packed: bool = False, rotary: bool = False, positions: bool = False,
              bias: tuple[int, int] | None = None, sink: bool = False, valid: list[int] | None = None, total: int | None = None,
              ) -> dict[str, np.ndarray | None]:
    """Inputs for ``count`` new tokens in batches that have ``lengths`` tokens after them, in a cache of that extent."""
    batch, most = len(lengths), total or max(lengths)
    arrays: dict[str, np.ndarray | None] = {
        "q": numbers(1, batch, count, (HEADS + (2 * KEY_HEADS if packed else 0)) * SIZE),
        "k": None if packed else numbers(2, batch, count, KEY_HEADS * SIZE), "v": None if packed else numbers(3, batch, count, KEY_HEADS * SIZE),
        "past_k": None if cache is None else numbers(4, batch, KEY_HEADS, cache, SIZE),
        "past_v": None if cache is None else numbers(5, batch, KEY_HEADS, cache, SIZE),
        "lengths": np.array(lengths, np.int32) - 1, "total": np.array([most], np.int32),
        "cos": np.cos(ANGLES) if rotary else None, "sin": np.sin(ANGLES) if rotary else None,
        "positions": np.random.default_rng(7).integers(0, 20, (batch, count)) if positions else None,
        "bias": None if bias is None else numbers(6, batch if bias[0] else 1, bias[1], count, most),
        "sink": numbers(8, HEADS) if sink else None, "k_scale": None, "v_scale": None, "q_norm": None, "k_norm": None,
        "valid": None if valid is None else np.array(valid, np.int32)}
    while next(reversed(arrays.values())) is None:
        arrays.popitem()
    return arrays


SHAPES: dict[str, list[int | str]] = {
    "q": ["batch", "sequence", "hidden"], "k": ["batch", "sequence", KEY_HEADS * SIZE], "v": ["batch", "sequence", KEY_HEADS * SIZE],
    "past_k": ["batch", KEY_HEADS, "before", SIZE], "past_v": ["batch", KEY_HEADS, "before", SIZE], "lengths": ["batch"],
    "positions": ["batch", "sequence"], "valid": ["batch"]}


def compiled(inputs: dict[str, np.ndarray | None], **attributes: Any) -> Pair:
    """A model whose batch, sequence and cache are symbolic."""
    assert inputs["q"] is not None
    shapes = {**SHAPES, "q": ["batch", "sequence", inputs["q"].shape[2]]}
    if inputs.get("bias") is not None:
        assert inputs["bias"] is not None
        shapes["bias"] = ["batch" if inputs["bias"].shape[0] > 1 else 1, inputs["bias"].shape[1], "sequence", "total_keys"]
    return pair(model_of("GroupQueryAttention", inputs, ["y", "present_k", "present_v"], shapes=shapes, num_heads=HEADS, kv_num_heads=KEY_HEADS,
                         do_rotary=int(inputs.get("cos") is not None), **attributes))


def check(both: Pair, inputs: dict[str, np.ndarray | None], lengths: list[int], count: int, valid: list[int] | None = None) -> None:
    """Results of tokens agree, and the part of the cache that has tokens; the rest is unspecified."""
    (y, want), *caches = both.run(inputs)
    assert y.shape == want.shape and np.isfinite(y).all()
    for n, length in enumerate(lengths):
        rows = min(count, length) if valid is None else valid[n]
        np.testing.assert_allclose(y[n, :rows], want[n, :rows], rtol=0, atol=ROUNDING * np.abs(want[n, :rows]).max(initial=0))
        for got, kept in caches:
            assert got.shape == kept.shape
            np.testing.assert_allclose(got[n, :, :length], kept[n, :, :length], rtol=0, atol=4 * FLOAT_EPSILON * np.abs(kept[n, :, :length]).max())


@few
@given(packed=st.booleans(), rotary=st.booleans(), interleaved=st.integers(0, 1), growing=st.booleans(), positions=st.booleans(),
       bias=st.sampled_from([None, (0, 1), (1, HEADS)]), sink=st.sampled_from(["none", "zero", "given"]), window=st.sampled_from([-1, 1, 3]),
       softcap=st.sampled_from([0.0, 2.0]), scale=st.sampled_from([None, 0.7]))
def test_prompts_and_steps_of_a_ragged_batch_agree(packed: bool, rotary: bool, interleaved: int, growing: bool, positions: bool,
                                                   bias: tuple[int, int] | None, sink: str, window: int, softcap: float,
                                                   scale: float | None) -> None:
    options: dict[str, Any] = {"packed": packed, "rotary": rotary, "positions": positions and rotary, "bias": bias, "sink": sink == "given"}
    attributes = {"rotary_interleaved": interleaved, "local_window_size": window, "softcap": softcap,
                  **({"smooth_softmax": 1} if sink == "zero" else {}), **({} if scale is None else {"scale": scale})}
    both = compiled(inputs_of(5, [5, 3], CAPACITY, **options), **attributes)
    for count, lengths in ((5, [5, 3]), (4, [4, 4]), (1, [7, 4]), (1, [11, 12]), (1, [1, 1])):
        cache = max(lengths) - count if growing else CAPACITY
        check(both, inputs_of(count, lengths, cache, **options), lengths, count)
    if bias is None or not bias[0]:
        for count, lengths in ((3, [7]), (1, [2])):  # several tokens behind others, which onnxruntime allows for one batch
            check(both, inputs_of(count, lengths, max(lengths) - count if growing else CAPACITY, **options), lengths, count)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("sink", [False, True])
def test_a_first_prompt_needs_no_cache(packed: bool, rotary: bool, sink: bool) -> None:
    both = compiled(inputs_of(5, [5, 3], None, packed=packed, rotary=rotary, sink=sink))
    for lengths in ([5, 3], [2], [7, 7, 1]):
        check(both, inputs_of(max(lengths), lengths, None, packed=packed, rotary=rotary, sink=sink), lengths, max(lengths))
    later = inputs_of(3, [4], None, packed=packed, rotary=rotary, sink=sink)
    with pytest.raises(ingot.IngotError, match="total_sequence_length is the number of tokens"):
        both.compiled.run({n: a for n, a in later.items() if a is not None})


def test_tokens_see_later_ones_without_causality() -> None:
    both = compiled(inputs_of(5, [5, 3], CAPACITY), causal=0)
    for count, lengths in ((5, [5, 3]), (1, [7, 4])):
        check(both, inputs_of(count, lengths, CAPACITY), lengths, count)


@pytest.mark.parametrize("rotary", [False, True])
def test_chunks_of_a_prompt_may_be_padded(rotary: bool) -> None:
    both = compiled(inputs_of(4, [7, 4], CAPACITY, rotary=rotary, valid=[4, 2], total=CAPACITY))
    for lengths, valid in (([7, 4], [4, 2]), ([4, 3], [4, 3]), ([8, 5], [1, 0])):
        check(both, inputs_of(4, lengths, CAPACITY, rotary=rotary, valid=valid, total=CAPACITY), lengths, 4, valid)


def test_heads_are_normalized_before_they_are_rotated() -> None:
    inputs = {**inputs_of(5, [5, 3], None, rotary=True), "positions": None, "bias": None, "sink": None, "k_scale": None, "v_scale": None,
              "q_norm": numbers(10, SIZE), "k_norm": numbers(11, SIZE)}
    got = prepare(model_of("GroupQueryAttention", inputs, num_heads=HEADS, kv_num_heads=KEY_HEADS, do_rotary=1, qk_norm_epsilon=1e-5)).run(
        {n: a for n, a in inputs.items() if a is not None})[0]

    def normalized(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        heads = x.reshape(*x.shape[:2], -1, SIZE).astype(np.float64)
        return (heads / np.sqrt((heads**2).mean(-1, keepdims=True) + 1e-5) * weight).reshape(x.shape).astype(np.float32)

    plain = inputs_of(5, [5, 3], None, rotary=True)
    for name, weight in (("q", "q_norm"), ("k", "k_norm")):
        plain[name] = normalized(plain[name], inputs[weight])  # type: ignore[arg-type]
    (want,) = pair(model_of("GroupQueryAttention", plain, num_heads=HEADS, kv_num_heads=KEY_HEADS, do_rotary=1)).reference.run(
        None, {n: a for n, a in plain.items() if a is not None})
    for n, length in enumerate((5, 3)):
        np.testing.assert_allclose(got[n, :length], want[n, :length], rtol=0, atol=2 * ROUNDING * np.abs(want).max())


def test_lengths_beyond_the_cache_stay_inside_it() -> None:
    both = compiled(inputs_of(1, [7, 4], CAPACITY))
    for lengths in ([1000, 2**31 - 1], [-5, 0]):
        inputs = inputs_of(1, [7, 4], CAPACITY)
        inputs["lengths"] = np.array(lengths, np.int32)
        y = both.compiled.run({n: a for n, a in inputs.items() if a is not None})[0]
        assert y.shape == (2, 1, HEADS * SIZE)


@pytest.mark.parametrize(("attributes", "message"), [
    ({"k_quant_type": "PER_TENSOR"}, "a quantized cache is not supported"), ({"sliding_window_cache": 1}, "keep all keys and values"),
    ({"qk_output": 1}, "set qk_output=0"), ({"causal": 0, "local_window_size": 3}, "set local_window_size=-1"),
    ({"do_rotary": 1}, "do_rotary needs cos_cache and sin_cache"), ({"kv_num_heads": 3}, "do not share 3 heads of keys evenly"),
])
def test_what_is_not_supported_is_said_with_what_would_work(attributes: dict[str, Any], message: str) -> None:
    model = model_of("GroupQueryAttention", inputs_of(5, [5, 3], None), **{"num_heads": HEADS, "kv_num_heads": KEY_HEADS, **attributes})
    with pytest.raises(ingot.IngotError, match=message):
        prepare(model)
