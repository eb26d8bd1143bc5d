"""PagedAttention of com.microsoft against its definition in float64: onnxruntime has no kernel of it for CPUs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ingot
from ingot.backend import prepare
from tests.ops.contrib_models import FLOAT_EPSILON, model_of, numbers

HEADS, KEY_HEADS, SIZE, PAGE, PAGES = 4, 2, 16, 4, 12
ANGLES = numbers(9, 40, SIZE // 2)
NAMES = ("key_cache_out", "value_cache_out")
SHAPES: dict[str, list[int | str]] = {
    "q": ["tokens", HEADS * SIZE], "k": ["tokens", KEY_HEADS * SIZE], "v": ["tokens", KEY_HEADS * SIZE], "starts": ["starts"], "past": ["batch"],
    "table": ["batch", "most"]}


def inputs_of(new: list[int], past: list[int], *, rotary: bool = False, sink: bool = False) -> dict[str, np.ndarray | None]:
    """Inputs for some new tokens behind past ones in each sequence. Pages that none has are NaN, and so is what lies behind the tokens."""
    rng = np.random.default_rng(sum(new))
    count, most = sum(new), 3
    caches = [np.full((PAGES, PAGE, KEY_HEADS, SIZE), np.nan, np.float32) for _ in range(2)]
    table = rng.permutation(PAGES)[:len(new) * most].reshape(len(new), most).astype(np.int32)
    for b, length in enumerate(past):
        for i in range(length):
            for cache in caches:
                cache[table[b, i // PAGE], i % PAGE] = rng.standard_normal((KEY_HEADS, SIZE))
        table[b, -(-(length + new[b]) // PAGE):] = -1
    arrays: dict[str, np.ndarray | None] = {
        "q": numbers(1, count, HEADS * SIZE), "k": numbers(2, count, KEY_HEADS * SIZE), "v": numbers(3, count, KEY_HEADS * SIZE),
        "k_cache": caches[0], "v_cache": caches[1], "starts": np.cumsum([0, *new], dtype=np.int32), "past": np.array(past, np.int32), "table": table,
        "cos": np.cos(ANGLES) if rotary else None, "sin": np.sin(ANGLES) if rotary else None, "slots": None,
        "sink": numbers(8, HEADS) if sink else None}
    while next(reversed(arrays.values())) is None:
        arrays.popitem()
    return arrays


def rotated(x: np.ndarray, position: int) -> np.ndarray:
    first, second = x[:, :SIZE // 2], x[:, SIZE // 2:]
    cos, sin = np.cos(ANGLES[position]), np.sin(ANGLES[position])
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=1)


def reference(arrays: dict[str, Any], *, causal: bool, window: int, softcap: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """The output and the caches after it, sequence by sequence."""
    q, k, v = (arrays[n].astype(np.float64).reshape(len(arrays[n]), -1, SIZE) for n in ("q", "k", "v"))
    caches = [arrays[n].astype(np.float64) for n in ("k_cache", "v_cache")]
    output = np.zeros_like(q)
    for b, before in enumerate(arrays["past"]):
        first, last = arrays["starts"][b:b + 2]
        where = [(arrays["table"][b, i // PAGE], i % PAGE) for i in range(before + last - first)]
        for t in range(first, last):
            at = before + t - first
            turn = (lambda x, p=at: rotated(x, p)) if arrays.get("cos") is not None else (lambda x: x)
            caches[0][where[at]], caches[1][where[at]] = turn(k[t]), v[t]
            q[t] = turn(q[t])
        keys, values = (np.repeat(np.array([cache[w] for w in where]).reshape(len(where), KEY_HEADS, SIZE), HEADS // KEY_HEADS, axis=1)
                        for cache in caches)
        for t in range(first, last):
            at = before + t - first
            seen = slice(max(0, at - window + 1) if window > 0 else 0, at + 1 if causal else None)
            scores = np.einsum("hd,thd->ht", q[t], keys[seen]) * SIZE**-0.5
            scores = softcap * np.tanh(scores / softcap) if softcap else scores
            weights = np.exp(scores)
            total = weights.sum(axis=1) + (np.exp(arrays["sink"].astype(np.float64)) if arrays.get("sink") is not None else 0)
            output[t] = np.einsum("ht,thd->hd", weights / total[:, None], values[seen])
    return output.reshape(len(q), -1), caches


@settings(max_examples=16, deadline=None, derandomize=True)
@given(rotary=st.booleans(), sink=st.booleans(), causal=st.booleans(), window=st.sampled_from([-1, 1, 5]), softcap=st.sampled_from([0.0, 2.0]))
def test_sequences_in_pages_are_their_definition(rotary: bool, sink: bool, causal: bool, window: int, softcap: float) -> None:
    options: dict[str, Any] = {"causal": causal, "window": window if causal else -1, "softcap": softcap}
    attributes = {"num_heads": HEADS, "kv_num_heads": KEY_HEADS, "do_rotary": int(rotary), "is_causal": int(causal), "softcap": softcap,
                  "local_window_size": options["window"]}
    model = prepare(model_of("PagedAttention", inputs_of([5, 3], [0, 0], rotary=rotary, sink=sink), ["y", *NAMES], shapes=SHAPES,
                             types=dict.fromkeys(["y", *NAMES], 1), **attributes))
    for new, past in (([5, 3], [0, 0]), ([1, 1], [5, 3]), ([0, 1, 7], [2, 8, 4]), ([1], [11]), ([2, 0], [0, 3])):
        arrays = inputs_of(new, past, rotary=rotary, sink=sink)
        want, caches = reference(arrays, **options)
        y, *got = model.run({n: a for n, a in arrays.items() if a is not None})
        np.testing.assert_allclose(y, want, rtol=0, atol=8 * SIZE * FLOAT_EPSILON * max(1.0, np.abs(want).max(initial=0)))
        for found, cache in zip(got, caches, strict=True):
            np.testing.assert_allclose(found, cache, rtol=0, atol=16 * FLOAT_EPSILON)


@pytest.mark.parametrize(("attributes", "message"), [
    ({"kv_cache_layout": "LATENT"}, "give a value_cache"), ({"k_quant_type": "PER_TENSOR"}, "a quantized cache is not supported"),
    ({"is_causal": 0, "local_window_size": 3}, "set local_window_size=-1"), ({"do_rotary": 1}, "do_rotary needs cos_cache and sin_cache"),
    ({"kv_num_heads": 3}, "do not share 3 heads of keys evenly"), ({"rotary_offset": 8}, "rotary_offset=0"),
])
def test_what_is_not_supported_is_said_with_what_would_work(attributes: dict[str, Any], message: str) -> None:
    model = model_of("PagedAttention", inputs_of([5, 3], [0, 0]), types={"y0": 1}, **{"num_heads": HEADS, "kv_num_heads": KEY_HEADS, **attributes})
    with pytest.raises(ingot.IngotError, match=message):
        prepare(model)
