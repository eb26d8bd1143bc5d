"""Attention, MultiHeadAttention and RotaryEmbedding of com.microsoft against onnxruntime's kernels, with symbolic batches and sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ingot
from ingot.backend import prepare
from tests.ops.contrib_models import FLOAT_EPSILON, model_of, numbers, pair

HEADS, SIZE = 4, 8
HIDDEN = HEADS * SIZE
SHAPES = ((1, 1), (2, 5), (3, 9))
few = settings(max_examples=8, deadline=None, derandomize=True)
# Products of depth HIDDEN, then of depth SIZE, then an average of values: each sum of n terms rounds by n / 2 units at most.
ROUNDING = 2 * HIDDEN * FLOAT_EPSILON


def padding(kind: str, batch: int, queries: int, keys: int) -> np.ndarray | None:
    """A mask of one of the kinds; every query sees a key."""
    ends = np.arange(1, batch + 1, dtype=np.int32) % keys + 1
    starts = np.minimum(ends - 1, np.arange(batch, dtype=np.int32))
    if kind == "ends":
        return ends
    if kind == "ends and starts":
        return np.concatenate([ends, starts])
    if kind == "keys":
        return (np.arange(keys) < ends[:, None]).astype(np.int32)
    if kind == "queries by keys":
        return np.broadcast_to(np.tril(np.ones((queries, keys), np.int32), max(keys - queries, 0)), (batch, queries, keys)).copy()
    return None


MASKS: dict[str, list[int | str] | None] = {"none": None, "ends": ["batch"], "ends and starts": ["twice"], "keys": ["batch", "total"],
                                            "queries by keys": ["batch", "sequence", "total"]}


@few
@given(mask=st.sampled_from(sorted(MASKS)), causal=st.integers(0, 1), past=st.booleans(), bias=st.booleans(), constant=st.booleans(),
       attention_bias=st.sampled_from([None, (0, HEADS), (0, 1), (1, HEADS), (1, 1)]), scale=st.sampled_from([None, 0.3]),
       low=st.sampled_from([None, -30.0]))
def test_attention_projects_and_masks(mask: str, causal: int, past: bool, bias: bool, constant: bool, attention_bias: tuple[int, int] | None,
                                      scale: float | None, low: float | None) -> None:
    past = past and attention_bias is None  # onnxruntime refuses both
    if mask == "ends and starts" and causal:  # some queries see padding alone; of scores less 10000, float32 keeps three digits
        low = -30.0

    def inputs(batch: int, sequence: int) -> dict[str, np.ndarray | None]:
        before = 3 if past else 0
        arrays: dict[str, np.ndarray | None] = {
            "x": numbers(0, batch, sequence, HIDDEN), "w": numbers(1, HIDDEN, 3 * HIDDEN, scale=HIDDEN**-0.5),
            "b": numbers(2, 3 * HIDDEN) if bias else None, "mask": padding(mask, batch, sequence, sequence + before),
            "past": numbers(3, 2, batch, HEADS, before, SIZE) if past else None}
        if attention_bias:
            arrays["bias"] = numbers(4, batch if attention_bias[0] else 1, attention_bias[1], sequence, sequence + before)
        return arrays

    shapes: dict[str, Any] = {"x": ["batch", "sequence", HIDDEN], "past": [2, "batch", HEADS, "before", SIZE]}
    if MASKS[mask]:
        shapes["mask"] = MASKS[mask]
    if attention_bias:
        shapes["bias"] = ["batch" if attention_bias[0] else 1, attention_bias[1], "sequence", "total"]
    options = {**({} if scale is None else {"scale": scale}), **({} if low is None else {"mask_filter_value": low})}
    fixed = ["w", *(["b"] if bias else [])] if constant else []
    both = pair(model_of("Attention", inputs(2, 3), 2 if past else 1, shapes=shapes, constants=fixed, num_heads=HEADS, unidirectional=causal,
                         **options))
    for batch, sequence in SHAPES:
        both.check(inputs(batch, sequence), ROUNDING)


def test_values_may_be_wider_than_keys() -> None:
    inputs = {"x": numbers(0, 2, 5, HIDDEN), "w": numbers(1, HIDDEN, 2 * HIDDEN + 64, scale=0.2), "b": numbers(2, 2 * HIDDEN + 64)}
    for constants in ((), ("w", "b")):
        model = model_of("Attention", inputs, shapes={"x": ["batch", "sequence", HIDDEN]}, constants=constants, num_heads=HEADS,
                         qkv_hidden_sizes=[HIDDEN, HIDDEN, 64])
        pair(model).check(inputs, ROUNDING)


@few
@given(mask=st.sampled_from(["none", "ends", "keys", "queries by keys"]), causal=st.integers(0, 1), past=st.booleans(), bias=st.booleans(),
       attention_bias=st.booleans(), cross=st.booleans(), keep=st.booleans(), scores=st.booleans())
def test_heads_of_separate_tensors_attend(mask: str, causal: int, past: bool, bias: bool, attention_bias: bool, cross: bool, keep: bool,
                                          scores: bool) -> None:
    if cross:  # keys of another sequence
        causal, past = 0, False

    def inputs(batch: int, sequence: int) -> dict[str, np.ndarray | None]:
        keys, before = (7 if cross else sequence), (3 if past else 0)
        return {"q": numbers(0, batch, sequence, HIDDEN), "k": numbers(1, batch, keys, HIDDEN), "v": numbers(2, batch, keys, HIDDEN),
                "b": numbers(3, 3 * HIDDEN) if bias else None, "mask": padding(mask, batch, sequence, keys + before),
                "bias": numbers(4, 1, HEADS, sequence, keys + before) if attention_bias else None,
                "past_k": numbers(5, batch, HEADS, before, SIZE) if past else None,
                "past_v": numbers(6, batch, HEADS, before, SIZE) if past else None}

    given_ = inputs(2, 4)
    while next(reversed(given_.values())) is None:
        given_.popitem()
    source = "keys" if cross else "sequence"
    shapes: dict[str, Any] = {
        "q": ["batch", "sequence", HIDDEN], "k": ["batch", source, HIDDEN], "v": ["batch", source, HIDDEN], "bias": [1, HEADS, "sequence", "total"],
        "past_k": ["batch", HEADS, "before", SIZE], "past_v": ["batch", HEADS, "before", SIZE], **({"mask": MASKS[mask]} if MASKS[mask] else {})}
    outputs = ["y", *(["k_", "v_"] if keep or past else ["", ""] if scores else []), *(["scores"] if scores else [])]
    both = pair(model_of("MultiHeadAttention", given_, outputs, shapes=shapes, types={"scores": onnx.TensorProto.FLOAT}, num_heads=HEADS,
                         unidirectional=causal))
    for batch, sequence in SHAPES:
        arrays = inputs(batch, sequence)
        for got, want in both.run(arrays):
            assert got.shape == want.shape and got.dtype == want.dtype
            hidden = want < -1e4 + 100  # scores of padding, to which a large number is added
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=ROUNDING * max(1.0, float(np.abs(want[~hidden]).max(initial=0))))


@pytest.mark.parametrize("bias", [False, True])
def test_keys_of_an_encoder_come_as_they_are_kept(bias: bool) -> None:
    inputs = {"q": numbers(0, 2, 5, HIDDEN), "k": numbers(1, 2, HEADS, 7, SIZE), "v": numbers(2, 2, HEADS, 7, SIZE),
              **({"b": numbers(3, 3 * HIDDEN)} if bias else {})}
    shapes = {"q": ["batch", "sequence", HIDDEN], "k": ["batch", HEADS, "keys", SIZE], "v": ["batch", HEADS, "keys", SIZE]}
    pair(model_of("MultiHeadAttention", inputs, shapes=shapes, num_heads=HEADS)).check(inputs, ROUNDING)


def test_packed_heads_equal_separate_ones() -> None:
    parts = [numbers(i, 2, 5, HEADS, SIZE) for i in range(3)]
    separate = {n: p.reshape(2, 5, HIDDEN) for n, p in zip("qkv", parts, strict=True)}
    want = pair(model_of("MultiHeadAttention", separate, num_heads=HEADS)).reference.run(None, separate)[0]
    whole = {"q": np.stack(parts, axis=3)}
    half = {"q": separate["q"], "k": np.stack(parts[1:], axis=3)}
    shapes = {"q": ["batch", "sequence", HEADS, 3, SIZE]}
    for inputs, free in ((whole, shapes), (half, {"q": ["batch", "sequence", HIDDEN], "k": ["batch", "keys", HEADS, 2, SIZE]})):
        (got,) = prepare(model_of("MultiHeadAttention", inputs, shapes=free, num_heads=HEADS)).run(inputs)
        np.testing.assert_allclose(got, want, rtol=0, atol=ROUNDING * np.abs(want).max())


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize("part", [1, 2])
@pytest.mark.parametrize("one", [False, True])
def test_pairs_are_rotated_by_their_position(interleaved: int, heads_first: bool, part: int, one: bool) -> None:
    angles = numbers(1, 20, SIZE // 2 // part)

    def inputs(batch: int, sequence: int) -> dict[str, np.ndarray]:
        positions = np.array([4]) if one else np.random.default_rng(0).integers(0, 20, (batch, sequence))
        x = numbers(0, batch, HEADS, sequence, SIZE) if heads_first else numbers(0, batch, sequence, HIDDEN)
        return {"x": x, "positions": positions, "cos": np.cos(angles), "sin": np.sin(angles)}

    shapes = {"x": ["batch", HEADS, "sequence", SIZE] if heads_first else ["batch", "sequence", HIDDEN],
              "positions": [1] if one else ["batch", "sequence"]}
    options = {"num_heads": HEADS, "rotary_embedding_dim": SIZE // part} if part > 1 else {}
    both = pair(model_of("RotaryEmbedding", inputs(2, 3), shapes=shapes, interleaved=interleaved, **options))
    for batch, sequence in SHAPES:
        both.check(inputs(batch, sequence), 4 * FLOAT_EPSILON)


def test_a_position_without_an_angle_is_an_error() -> None:
    inputs = {"x": numbers(0, 1, 2, HIDDEN), "positions": np.array([[3, 20]]), "cos": numbers(1, 20, SIZE // 2), "sin": numbers(2, 20, SIZE // 2)}
    with pytest.raises(ingot.IngotError, match="out of range"):
        prepare(model_of("RotaryEmbedding", inputs)).run(inputs)


@pytest.mark.parametrize(("op", "attributes", "message"), [
    ("Attention", {"do_rotary": 1}, "export with RotaryEmbedding or GroupQueryAttention"),
    ("Attention", {"past_present_share_buffer": 1}, "export with past and present as tensors of their own"),
    ("Attention", {"qkv_hidden_sizes": [8, 16, 72]}, r"sizes \[8, 16, 72\] of Q, K and V are not supported"),
    ("RotaryEmbedding", {"is_packed_batching": 1}, "export with a batch of padded sequences"),
    ("RotaryEmbedding", {"scale": 2.0}, "scale the cosines and sines"),
])
def test_what_is_not_supported_is_said_with_what_would_work(op: str, attributes: dict[str, Any], message: str) -> None:
    inputs = ({"x": numbers(0, 1, 2, HIDDEN), "w": numbers(1, HIDDEN, 3 * HIDDEN), "b": numbers(2, 3 * HIDDEN)} if op == "Attention" else
              {"x": numbers(0, 1, 2, HIDDEN), "p": np.array([0]), "c": numbers(1, 20, SIZE // 2), "s": numbers(2, 20, SIZE // 2)})
    with pytest.raises(ingot.IngotError, match=message):
        prepare(model_of(op, inputs, **({"num_heads": HEADS} if op == "Attention" else {}), **attributes))
