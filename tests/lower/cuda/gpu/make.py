"""Writes the artifacts of test_gpu_models.py, with inputs and what they give, on a machine that has Ingot and nvcc.

They go to build/cuda/models, or to the folder that is given: ``python -m tests.lower.cuda.gpu.make [FOLDER]``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from onnx.reference import ReferenceEvaluator

import ingot
from tests.levels.models import MODELS

ROOT = Path(__file__).resolve().parents[4]
TARGET = "cuda:sm_80+sm_90"
#: Those of tests/levels/models.py whose inputs and outputs have types that NumPy has, and the precisions that they are compiled with.
SMALL = {
    "matmul": ("f32", "tf32", "bf16", "f16"), "feed_forward": ("f32", "bf16"), "matmul_of_inputs": ("f32", "bf16"), "double_precision": ("",),
    "conv_1x1": ("f32", "bf16"), "conv_3x3": ("f32", "tf32", "bf16", "f16"), "conv_grouped_dilated": ("f32", "bf16"),
    "conv_depthwise": ("f32", "bf16"), "conv_transposed": ("f32",), "pooling": ("f32",), "normalization": ("f32",), "elementwise": ("f32",),
    "integers": ("",), "movement": ("f32",), "selection": ("f32",), "reductions": ("f32",), "attention": ("f32",), "half_precision": ("",),
    "image": ("f32",), "control_flow": ("f32",), "quantized": ("",), "lstm": ("f32",)}
#: Relative norm errors; tf32 rounds to 10 bits of fraction, bf16 to 7, f16 to 10.
TOLERANCES = {"": 1e-5, "f32": 1e-5, "tf32": 2e-3, "bf16": 2e-2, "f16": 2e-3}
DECODERS = {"llama": ("f32", "bf16"), "gpt2": ("f32",), "gemma2": ("f32",)}


def main(folder: Path) -> None:
    """Writes everything."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, precisions in SMALL.items():
        model = MODELS[name]()
        proto = model.build()
        cases: dict[str, np.ndarray] = {}
        for index, feeds in enumerate(model.feeds):
            outputs = [o.name for o in proto.graph.output]
            expected = dict(model.expected[index]) if model.expected is not None else dict(
                zip(outputs, ReferenceEvaluator(proto).run(None, dict(feeds)), strict=True))
            cases |= {f"{index}:in:{i}": np.asarray(feeds[v.name]) for i, v in enumerate(proto.graph.input)}
            cases |= {f"{index}:out:{i}": np.asarray(expected[o]) for i, o in enumerate(outputs)}
        for precision in precisions:
            label = f"{name}-{precision}" if precision else name
            ingot.compile(proto, folder / f"{label}.ingot", target=TARGET, samples=0, precision=precision or None)
            tolerance = np.array(max(model.tolerance, TOLERANCES[precision]))
            np.savez(folder / f"{label}.npz", tolerance=tolerance, **cases)
    for name, precisions in DECODERS.items():
        _decoder(name, precisions, folder)


def _decoder(name: str, precisions: tuple[str, ...], folder: Path) -> None:
    """A language model: a prompt, one token, several; then a second text in the same session."""
    from tests.generate.families import build, logits, save

    tokens = np.random.default_rng(1).integers(2, 300, (2, 11))
    expected = logits(build(name), tokens.tolist())
    cases = {}
    for index, (start, stop) in enumerate(((0, 7), (7, 8), (8, 9), (9, 11))):
        count = stop - start
        # At such a temperature all of the 300 tokens are as likely, whatever rounding does: half of them is the middle one.
        sampling, random = np.tile(np.array([1e30, 0, 1, 0], np.float32), (2, count, 1)), np.full((2, count), 0.5, np.float32)
        inputs = (tokens[:, start:stop], np.full(2, count), np.tile(np.arange(count), (2, 1)), sampling, random)
        cases |= {f"{index}:in:{i}": np.ascontiguousarray(array) for i, array in enumerate(inputs)}
        cases[f"{index}:out:0"] = np.ascontiguousarray(expected[:, start:stop])
        cases[f"{index}:out:1"] = np.full((2, count), 150)
    with tempfile.TemporaryDirectory() as scratch:
        directory = save(name, Path(scratch))
        for precision in precisions:
            ingot.compile(str(directory), folder / f"decoder-{name}-{precision}.ingot", target=TARGET, precision=precision, cache=precision)
            np.savez(folder / f"decoder-{name}-{precision}.npz", tolerance=np.array(1e-4 if precision == "f32" else 3e-2), **cases)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "cuda" / "models")
