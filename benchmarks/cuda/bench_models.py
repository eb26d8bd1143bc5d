"""Times whole models on a GPU: artifacts, or hollow ones (hollow.py), which are filled with random weights first.

    python3 benchmarks/cuda/bench_models.py --json OUT.json FOLDER/*.hollow

What libingot and libingot_cuda are: build/cuda/runtime/libingot.so and build/cuda/libingot_cuda.so (tests/runtime/gpu/make.py). Image and text models
run at batch sizes 1 and 8 (--batches), inputs and outputs on the GPU; a decoder reads a prompt of 512 tokens, then makes one token a run. One
line for each: median of --repeats runs, and how many of them replayed a CUDA graph. With --peers PyTorch's models of the same architecture are
timed beside them, compiled by its inductor with CUDA graphs (mode "reduce-overhead"), bfloat16, images channels last.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import hollow  # noqa: E402

from tests.runtime.gpu.library import Library, Session  # noqa: E402

PROMPT, SEQUENCE = 512, 128
_TORCH = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool, "int32": torch.int32, "bfloat16": torch.bfloat16}


def _manifest(path: Path) -> dict[str, Any]:
    return hollow._read(path.read_bytes())[2]


def _timed(session: Session, inputs: list[Any], repeats: int) -> dict[str, Any]:
    """The median of runs behind one another, in milliseconds, each between events."""
    for _ in range(5):
        session.run(*inputs)
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        session.run(*inputs)
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last))
    captured, replayed, reason = session.graphs()
    return {"ms": statistics.median(times), "least": min(times), "captured": captured, "replayed": replayed, "reason": reason}


def _session(library: Library, path: Path, outputs: int) -> Session:
    session = library.load(path).session()
    session.set_stream(torch.cuda.current_stream().cuda_stream)
    for output in range(outputs):
        session.give_on_gpu(output, True)
    return session


def _plain(library: Library, path: Path, manifest: dict[str, Any], batch: int, repeats: int) -> dict[str, Any]:
    """A model of images or text at a batch size."""
    extents = {d["name"]: batch if i == 0 else SEQUENCE for i, d in enumerate(manifest["dims"])}
    inputs = []
    for spec in manifest["inputs"]:
        shape = [d if isinstance(d, int) else extents[d] for d in spec["shape"]]
        dtype = _TORCH[spec["dtype"]]
        inputs.append(torch.randn(shape, device="cuda", dtype=dtype) if dtype.is_floating_point else torch.ones(shape, device="cuda", dtype=dtype))
    return _timed(_session(library, path, len(manifest["outputs"])), inputs, repeats)


def _decoder(library: Library, path: Path, repeats: int) -> list[tuple[str, dict[str, Any]]]:
    """The prompt of a language model, and its tokens."""
    session = _session(library, path, 2)

    def inputs(count: int) -> list[Any]:
        tokens = torch.ones((1, count), device="cuda", dtype=torch.int64)
        choice = [torch.zeros(shape, device="cuda") for shape in ((1, 1, 4), (1, 1))]  # the likeliest token
        return [tokens, torch.full((1,), count, device="cuda"), torch.full((1, 1), count - 1, device="cuda"), *choice]

    session.run(*inputs(PROMPT))
    token = _timed(session, inputs(1), repeats)
    return [(f"a token after {PROMPT}", {**token, "tokens/s": 1000 / token["ms"]})]


def _peer(name: str) -> torch.nn.Module | None:
    """PyTorch's model of an artifact's architecture, or None."""
    if name.startswith("resnet50"):
        from torchvision.models import resnet50

        return resnet50().to(memory_format=torch.channels_last)
    if name.startswith("bert_base"):
        from transformers import BertConfig, BertModel

        return BertModel(BertConfig())
    return None


def _inductor(name: str, batch: int, repeats: int) -> dict[str, Any] | None:
    """The time of PyTorch's compiled model, in milliseconds."""
    module = _peer(name)
    if module is None:
        return None
    module = module.eval().to("cuda", torch.bfloat16)
    if name.startswith("resnet50"):
        inputs = (torch.randn(batch, 3, 224, 224, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last),)
    else:
        inputs = (torch.ones(batch, SEQUENCE, device="cuda", dtype=torch.int64),)
    compiled = torch.compile(module, mode="reduce-overhead")
    times = []
    with torch.inference_mode():
        for _ in range(10):
            compiled(*inputs)
        torch.cuda.synchronize()
        for _ in range(repeats):
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            compiled(*inputs)
            last.record()
            last.synchronize()
            times.append(first.elapsed_time(last))
    return {"ms": statistics.median(times), "least": min(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    arguments = parser.parse_args()
    os.environ.setdefault("INGOT_CUDA_LIBRARY", str(ROOT / "build/cuda/libingot_cuda.so"))
    torch.cuda.set_stream(torch.cuda.Stream())  # CUDA graphs need another than the legacy default stream
    library = Library(ROOT / "build/cuda/runtime/libingot.so")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            try:
                path = model
                if model.suffix == ".hollow":
                    path = Path(folder) / f"{model.stem}.ingot"
                    hollow.fill(model, path)
                manifest = _manifest(path)
                if "states" in manifest:
                    found = _decoder(library, path, arguments.repeats)
                else:
                    found = [(f"batch {b}", _plain(library, path, manifest, b, arguments.repeats)) for b in arguments.batches]
                if path != model:
                    path.unlink()
            except Exception as error:  # the others are worth measuring
                found = [("", {"error": f"{type(error).__name__}: {error}"})]
            if arguments.peers:
                try:
                    peers = [(f"inductor, batch {b}", _inductor(model.stem, b, arguments.repeats)) for b in arguments.batches]
                    found += [(case, result) for case, result in peers if result is not None]
                except Exception as error:
                    found.append(("inductor", {"error": f"{type(error).__name__}: {error}"}))
            for case, result in found:
                results.append({"model": model.stem, "case": case, **result})
                text = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in result.items() if v != "")
                print(f"{model.stem:32} {case:20} {text}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"gpu": torch.cuda.get_device_name(), "numpy": np.__version__, "results": results}, indent=1))


if __name__ == "__main__":
    main()
