"""Activations, normalizations and operators that move elements, of com.microsoft, against onnxruntime's kernels, with symbolic shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ingot
from ingot.backend import prepare
from tests.ops.contrib_models import FLOAT_EPSILON, model_of, numbers, pair

WIDTH = 24
FREE = ["batch", "sequence", WIDTH]
SHAPES = ((1, 1), (2, 5), (3, 17))
few = settings(max_examples=6, deadline=None, derandomize=True)
# A sum of n squares in another order differs by n / 2 units in the last place at most; erf and tanh are within 5 (lower/cpu/math.py).
ROUNDING = 5 * FLOAT_EPSILON + WIDTH * FLOAT_EPSILON

ACTIVATIONS = [("Gelu", False, {}), ("BiasGelu", True, {}), ("FastGelu", False, {}), ("FastGelu", True, {}), ("QuickGelu", False, {}),
               ("QuickGelu", False, {"alpha": 1.0}), ("QuickGelu", False, {"alpha": 0.5})]


@pytest.mark.parametrize(("op", "bias", "attributes"), ACTIVATIONS)
def test_activations_agree_for_any_batch_and_sequence(op: str, bias: bool, attributes: dict[str, float]) -> None:
    inputs = {"x": numbers(0, 2, 3, WIDTH, scale=3), **({"b": numbers(1, WIDTH)} if bias else {})}
    both = pair(model_of(op, inputs, shapes={"x": FREE}, **attributes))
    for seed, shape in enumerate(SHAPES):
        both.check({**inputs, "x": numbers(seed, *shape, WIDTH, scale=3)}, ROUNDING)


def test_half_of_the_elements_are_gates_of_the_others() -> None:
    inputs = {"x": numbers(0, 2, 3, WIDTH), "b": numbers(1, WIDTH)}
    (got,) = prepare(model_of("BiasSplitGelu", inputs, shapes={"x": FREE})).run(inputs)
    wide = inputs["x"].astype(np.float64) + inputs["b"]
    erf = np.vectorize(__import__("math").erf)
    gate = wide[..., WIDTH // 2:]
    np.testing.assert_allclose(got, wide[..., :WIDTH // 2] * gate * 0.5 * (1 + erf(gate / np.sqrt(2))), rtol=0, atol=20 * ROUNDING)


@few
@given(simple=st.booleans(), skip=st.sampled_from([FREE, [1, "sequence", WIDTH], ["sequence", WIDTH]]), bias=st.booleans(), beta=st.booleans(),
       total=st.booleans(), epsilon=st.sampled_from([1e-12, 1e-5]))
def test_a_skipped_sum_is_normalized_and_given(simple: bool, skip: list[int | str], bias: bool, beta: bool, total: bool, epsilon: float) -> None:
    op = "SkipSimplifiedLayerNormalization" if simple else "SkipLayerNormalization"

    def inputs(batch: int, sequence: int) -> dict[str, np.ndarray | None]:
        known = {"batch": batch, "sequence": sequence}
        arrays: dict[str, np.ndarray | None] = {"x": numbers(0, batch, sequence, WIDTH), "skip": numbers(1, *(known.get(str(d), d) for d in skip)),
                                                "gamma": numbers(2, WIDTH)}
        if not simple:
            arrays["beta"] = numbers(3, WIDTH) if beta else None
        return {**arrays, **({"bias": numbers(4, WIDTH)} if bias else {})}

    model = model_of(op, inputs(2, 3), ["y", "", "", "total"] if total else 1, shapes={"x": FREE, "skip": skip}, epsilon=epsilon)
    both = pair(model)
    for batch, sequence in SHAPES:
        both.check(inputs(batch, sequence), 4 * ROUNDING)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("axis", [-1, 1])
def test_root_mean_squares_normalize_in_onnx_own_domain(outputs: int, axis: int) -> None:
    inputs = {"x": numbers(0, 2, 3, WIDTH), "scale": numbers(1, *((WIDTH,) if axis == -1 else (3, WIDTH)))}
    model = model_of("SimplifiedLayerNormalization", inputs, outputs, shapes={"x": ["batch", 3, WIDTH]}, domain="", axis=axis, epsilon=1e-6)
    both = pair(model)
    for batch in (1, 4):
        both.check({**inputs, "x": numbers(batch, batch, 3, WIDTH)}, 4 * ROUNDING)


def test_layer_normalization_is_known_before_onnx_had_it() -> None:
    inputs = {"x": numbers(0, 2, 3, WIDTH), "scale": numbers(1, WIDTH), "bias": numbers(2, WIDTH)}
    both = pair(model_of("LayerNormalization", inputs, shapes={"x": FREE}, domain="", version=14, axis=-1, epsilon=1e-5))
    both.check(inputs, 4 * ROUNDING)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("positions", [None, 1, 2])
def test_embeddings_are_added_and_normalized(mask: bool, segments: bool, positions: int | None) -> None:
    tables = {"word": numbers(1, 11, WIDTH), "position": numbers(2, 20, WIDTH), "segment": numbers(3, 2, WIDTH)}

    def inputs(batch: int, sequence: int) -> dict[str, np.ndarray | None]:
        random = np.random.default_rng(batch)
        ids = random.integers(0, 11, (batch, sequence), dtype=np.int32)
        seen = (np.arange(sequence) < random.integers(1, sequence + 1, (batch, 1))).astype(np.int32)
        places = random.integers(0, 20, (1 if positions == 1 else batch, sequence), dtype=np.int32)
        arrays: dict[str, np.ndarray | None] = {
            "ids": ids, "segments": ids % 2 if segments else None, "word": tables["word"], "position": tables["position"],
            "segment": tables["segment"] if segments else None, "gamma": numbers(4, WIDTH), "beta": numbers(5, WIDTH), "mask": seen if mask else None,
            "positions": places if positions else None}
        while next(reversed(arrays.values())) is None:
            arrays.popitem()
        return arrays

    free = ["batch", "sequence"]
    shapes = {"ids": free, "segments": free, "mask": free, "positions": [1, "sequence"] if positions == 1 else free}
    both = pair(model_of("EmbedLayerNormalization", inputs(2, 3), 3, shapes=shapes, constants=list(tables)[:3 if segments else 2]))
    for batch, sequence in SHAPES:
        both.check(inputs(batch, sequence), 4 * ROUNDING)


def test_more_tokens_than_positions_are_an_error() -> None:
    ids = np.zeros((1, 21), np.int32)
    inputs = {"ids": ids, "segments": None, "word": numbers(1, 11, WIDTH), "position": numbers(2, 20, WIDTH), "segment": None,
              "gamma": numbers(4, WIDTH), "beta": numbers(5, WIDTH)}
    compiled = prepare(model_of("EmbedLayerNormalization", inputs, 2, shapes={"ids": ["batch", "sequence"]}, constants=["word", "position"]))
    with pytest.raises(ingot.IngotError, match="embeddings for 20 positions"):
        compiled.run({k: v for k, v in inputs.items() if k in compiled.input_names})


# Every pair of choices.
@pytest.mark.parametrize(("skip", "activation", "last"), [(None, 0, 0), (None, 1, 1), (2, 1, 0), (2, 0, 1), (4, 0, 0), (4, 1, 1)])
def test_groups_of_channels_are_normalized_and_activated(last: int, activation: int, skip: int | None) -> None:
    groups, channels, epsilon = 3, 12, 1e-5
    first = numbers(0, 2, channels, 4, 5)
    skipped = None if skip is None else numbers(3, *((2, channels) if skip == 2 else first.shape))
    bias = numbers(4, channels)

    def placed(a: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(a.transpose(0, 2, 3, 1)) if last and a.ndim == 4 else a

    inputs = {"x": placed(first), "gamma": numbers(1, channels), "beta": numbers(2, channels)}
    if skipped is not None:
        inputs.update(skip=placed(skipped), bias=bias)
    shape = ["n", "h", "w", channels] if last else ["n", channels, "h", "w"]
    shapes = {"x": shape, **({"skip": shape} if skip == 4 else {})}
    model = model_of("GroupNorm" if skip is None else "SkipGroupNorm", inputs, 1 if skip is None else 2, shapes=shapes, groups=groups,
                     activation=activation, channels_last=last, epsilon=epsilon)
    got = prepare(model).run(inputs)
    total = first.astype(np.float64)
    if skipped is not None:
        total = total + (skipped[:, :, None, None] if skip == 2 else skipped) + bias[:, None, None]
        np.testing.assert_allclose(got[1], placed(total), rtol=0, atol=8 * FLOAT_EPSILON * np.abs(total).max())
    grouped = total.reshape(2, groups, -1)
    normal = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + epsilon)
    want = normal.reshape(first.shape) * inputs["gamma"][:, None, None] + inputs["beta"][:, None, None]
    want = want / (1 + np.exp(-want)) if activation else want
    np.testing.assert_allclose(got[0], placed(want), rtol=0, atol=80 * FLOAT_EPSILON * np.abs(want).max())  # sums of 80 elements


MOVES = [
    ("GatherND", {"x": numbers(1, 4, 5, 6), "i": np.array([[[0, 1], [3, 4]]])}, (), 1, {}),
    ("Pad", {"x": numbers(1, 2, 5, 6), "p": np.array([0, 1, 2, 0, 3, 4]), "v": np.array([2], np.float32)}, (), 1, {"mode": "constant"}),
    ("Pad", {"x": numbers(1, 2, 5, 6), "p": np.array([0, 1, 2, 0, 3, 4])}, ("p",), 1, {"mode": "reflect"}),
    ("Trilu", {"x": numbers(1, 2, 4, 5), "k": np.array(1)}, (), 1, {"upper": 0}),
    ("Trilu", {"x": numbers(1, 2, 4, 5)}, (), 1, {}),
    ("Range", {"a": np.array([1]), "b": np.array([9])}, (), 1, {}),
    ("Range", {"a": np.array(1, np.float32), "b": np.array(3.2, np.float32), "c": np.array(0.5, np.float32)}, (), 1, {}),
    ("ExpandDims", {"x": numbers(1, 2, 5), "a": np.array([1], np.int32)}, ("a",), 1, {}),
    ("ExpandDims", {"x": numbers(1, 2, 5), "a": np.array(-1, np.int32)}, ("a",), 1, {}),
    ("Unique", {"x": np.array([2, 1, 1, 3, 4, 3], np.float32)}, (), 3, {}),
    ("GridSample", {"x": numbers(1, 1, 2, 5, 6), "g": numbers(2, 1, 3, 4, 2, scale=0.5)}, (), 1, {"mode": "bilinear"}),
]


@pytest.mark.parametrize(("op", "inputs", "constants", "outputs", "attributes"), MOVES)
def test_operators_that_onnx_has_too_agree(op: str, inputs: dict[str, np.ndarray], constants: tuple[str, ...], outputs: int,
                                           attributes: dict[str, object]) -> None:
    pair(model_of(op, inputs, outputs, constants=constants, **attributes)).check(inputs, 16 * FLOAT_EPSILON)


def test_statistics_for_training_are_refused_with_what_would_work() -> None:
    inputs = {"x": numbers(0, 1, 2, WIDTH), "skip": numbers(1, 1, 2, WIDTH), "gamma": numbers(2, WIDTH)}
    with pytest.raises(ingot.IngotError, match="for training, and not given; remove the outputs"):
        prepare(model_of("SkipLayerNormalization", inputs, ["y", "mean"]))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_small_matrices_are_inverted(size: int) -> None:
    def inputs(batch: int) -> dict[str, np.ndarray]:
        return {"x": numbers(batch, batch, 2, size, size) + 4 * np.eye(size, dtype=np.float32)}  # far from singular: condition numbers below 10

    both = pair(model_of("Inverse", inputs(2), shapes={"x": ["batch", 2, size, size]}))
    for batch in (1, 3):
        both.check(inputs(batch), 10 * size * FLOAT_EPSILON)


def test_inverses_of_larger_matrices_are_refused() -> None:
    with pytest.raises(ingot.IngotError, match="they are found of up to 4"):
        prepare(model_of("Inverse", {"x": numbers(0, 5, 5)}))


@pytest.mark.parametrize(("op", "attributes"), [
    ("ImageScaler", {"scale": 0.5, "bias": [1.0, -2.0, 3.0]}), ("Crop", {"border": [1, 2, 3, 0]}),
    ("Crop", {"border": [1, 2, 3, 0], "scale": [2, 3]}),
    ("ScaledTanh", {"alpha": 1.5, "beta": 0.7}),
])
def test_operators_of_the_first_opsets_agree(op: str, attributes: dict[str, object]) -> None:
    inputs = {"x": numbers(0, 2, 3, 6, 7)}
    free = ["n", 3, 6, 7] if op == "Crop" else ["n", 3, "h", "w"]
    pair(model_of(op, inputs, shapes={"x": free}, domain="", version=9, **attributes)).check(inputs, ROUNDING)
