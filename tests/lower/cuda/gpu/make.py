"""Writes the artifacts of test_gpu_models.py, with inputs and what they give, to build/cuda-models/small, on a machine that has Ingot and nvcc.

``python -m tests.lower.cuda.gpu.make [TARGET]`` (``make cuda-models``); the target is cuda:sm_90 if none is given.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx.reference import ReferenceEvaluator

import ingot
from tests.levels.models import MODELS
from tests.runtime.gpu.library import MADE

#: Those of tests/levels/models.py whose inputs and outputs have types that NumPy has, and the precisions that they are compiled with.
SMALL = {
    "matmul": ("f32", "tf32", "bf16", "f16"), "feed_forward": ("f32", "bf16"), "matmul_of_inputs": ("f32", "bf16"), "double_precision": ("",),
    "conv_1x1": ("f32", "bf16"), "conv_3x3": ("f32", "tf32", "bf16", "f16"), "conv_grouped_dilated": ("f32", "bf16"),
    "conv_depthwise": ("f32", "bf16"), "conv_transposed": ("f32",), "pooling": ("f32",), "normalization": ("f32",), "elementwise": ("f32",),
    "integers": ("",), "movement": ("f32",), "selection": ("f32",), "reductions": ("f32",), "attention": ("f32",), "half_precision": ("",),
    "image": ("f32",), "control_flow": ("f32",), "quantized": ("",), "lstm": ("f32",)}
#: Relative norm errors; tf32 rounds to 10 bits of fraction, bf16 to 7, f16 to 10.
TOLERANCES = {"": 1e-5, "f32": 1e-5, "tf32": 2e-3, "bf16": 2e-2, "f16": 2e-3}


@dataclass(frozen=True)
class Decoder:
    """A row of :data:`DECODERS`: a family of tests/generate/families.py, how it is compiled, and the relative norm error of its logits."""

    family: str
    precision: str
    cache: str
    tolerance: float
    quantize: str | None = None


#: float32 through three layers; bf16 rounds what lies between products to 7 bits of fraction, whatever weights and caches are rounded to before.
DECODERS = {
    "llama-f32": Decoder("llama", "f32", "f32", 1e-4), "llama-bf16": Decoder("llama", "bf16", "bf16", 3e-2),
    "gpt2-f32": Decoder("gpt2", "f32", "f32", 1e-4), "gemma2-f32": Decoder("gemma2", "f32", "f32", 1e-4),
    "llama-int8": Decoder("llama", "bf16", "bf16", 3e-2, "int8:g32:float"), "llama-int4": Decoder("llama", "bf16", "bf16", 3e-2, "int4:g32:float"),
    "llama-cache-int8": Decoder("llama", "bf16", "int8", 3e-2)}


def main(target: str) -> None:
    """Writes everything."""
    folder = MADE / "small"
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
            ingot.compile(proto, folder / f"{label}.ingot", target=target, samples=0, precision=precision or None)
            tolerance = np.array(max(model.tolerance, TOLERANCES[precision]))
            np.savez(folder / f"{label}.npz", tolerance=tolerance, **cases)
    for name, decoder in DECODERS.items():
        _decoder(folder / f"decoder-{name}", decoder, target)


def _decoder(path: Path, decoder: Decoder, target: str) -> None:
    """A language model, two texts: a prompt, one token, another one, two at once."""
    from tests.generate.families import save

    tokens = np.random.default_rng(1).integers(2, 300, (2, 11))
    with tempfile.TemporaryDirectory() as scratch:
        directory = save(decoder.family, Path(scratch))
        expected = _logits(directory, decoder, tokens)
        ingot.compile(str(directory), path.with_suffix(".ingot"), target=target, precision=decoder.precision, cache=decoder.cache,
                      quantize=decoder.quantize)
    cases: dict[str, np.ndarray] = {}
    for index, (start, stop) in enumerate(((0, 7), (7, 8), (8, 9), (9, 11))):
        cases |= {f"{index}:in:{i}": array for i, array in enumerate(_step(tokens[:, start:stop]))}
        cases[f"{index}:out:0"] = np.ascontiguousarray(expected[:, start:stop])
        cases[f"{index}:out:1"] = np.full((2, stop - start), 150)
    np.savez(path.with_suffix(".npz"), tolerance=np.array(decoder.tolerance), **cases)


def _logits(directory: Path, decoder: Decoder, tokens: np.ndarray) -> np.ndarray:
    """What the framework gives for a text; for quantized weights, whose error is their scheme's, what they give in float32 on a CPU."""
    from tests.generate.families import build, logits

    if decoder.quantize is None:
        return logits(build(decoder.family), tokens.tolist())
    ingot.compile(str(directory), directory / "cpu.ingot", quantize=decoder.quantize)
    return ingot.load(directory / "cpu.ingot").run(dict(zip(("input_ids", "token_counts", "logits_at"), _step(tokens)[:3], strict=True)))["logits"]


def _step(tokens: np.ndarray) -> Sequence[np.ndarray]:
    """The inputs of a run that takes these tokens, gives the logits of each, and chooses a token behind it."""
    batch, count = tokens.shape
    # At such a temperature all of the 300 tokens are as likely, whatever rounding does: half of them is the middle one.
    sampling, random = np.tile(np.array([1e30, 0, 1, 0], np.float32), (batch, count, 1)), np.full((batch, count), 0.5, np.float32)
    return np.ascontiguousarray(tokens), np.full(batch, count), np.tile(np.arange(count), (batch, 1)), sampling, random


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cuda:sm_90")
