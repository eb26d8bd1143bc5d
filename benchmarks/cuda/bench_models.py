"""Times whole models on a GPU: artifacts, or hollow ones (hollow.py), which are filled with random weights first.

    python3 benchmarks/cuda/bench_models.py --json models.json [build/cuda-models/*.hollow]

Without files it takes those that `make cuda-models` wrote; libingot comes from there, libingot_cuda from `make cuda`. A file's name says model and
type: resnet50-bf16. Image and text models run at batch sizes 1 and 8 (--batches), inputs and outputs on the GPU; a decoder reads a prompt of 512
tokens, then makes one token a run. One line for each: the median of --repeats runs, and how many of them replayed a CUDA graph. Behind them come
PyTorch's models of the same architecture in bfloat16 (peers.py; --no-peers leaves them out), captured in a CUDA graph as they are, then compiled by
its inductor (mode "reduce-overhead"). The status is 77 where there are no models.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import hollow  # noqa: E402
from peers import PEERS, PROMPT, SEQUENCE  # noqa: E402

from tests.runtime.gpu.library import MADE, ROOT, Library, Session, missing  # noqa: E402

SKIPPED = 77
_TORCH = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool, "int32": torch.int32, "bfloat16": torch.bfloat16}


def _timed(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """The median and the least time of calls one after another, in milliseconds, each between events."""
    for _ in range(10):
        call()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        first.record()
        call()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last))
    return {"ms": statistics.median(times), "least_ms": min(times)}


def _session(library: Library, path: Path, outputs: int) -> Session:
    session = library.load(path).session()
    session.set_stream(torch.cuda.current_stream().cuda_stream)
    for output in range(outputs):
        session.give_on_gpu(output, True)
    return session


def _runs(session: Session, inputs: list[Any], repeats: int) -> dict[str, Any]:
    found = _timed(lambda: session.run(*inputs), repeats)
    captured, replayed, reason = session.graphs()
    return {**found, "captured": captured, "replayed": replayed, "reason": reason}


def _plain(library: Library, path: Path, manifest: dict[str, Any], batch: int, repeats: int) -> dict[str, Any]:
    """A model of images or text at a batch size."""
    extents = {d["name"]: batch if i == 0 else SEQUENCE for i, d in enumerate(manifest["dims"])}
    inputs = []
    for spec in manifest["inputs"]:
        shape = [d if isinstance(d, int) else extents[d] for d in spec["shape"]]
        dtype = _TORCH[spec["dtype"]]
        inputs.append(torch.randn(shape, device="cuda", dtype=dtype) if dtype.is_floating_point else torch.ones(shape, device="cuda", dtype=dtype))
    return _runs(_session(library, path, len(manifest["outputs"])), inputs, repeats)


def _decoder(library: Library, path: Path, repeats: int) -> dict[str, Any]:
    """The tokens of a language model behind its prompt."""
    session = _session(library, path, 2)

    def inputs(count: int) -> list[Any]:
        tokens = torch.ones((1, count), device="cuda", dtype=torch.int64)
        choice = [torch.zeros(shape, device="cuda") for shape in ((1, 1, 4), (1, 1))]  # the likeliest token
        return [tokens, torch.full((1,), count, device="cuda"), torch.full((1, 1), count - 1, device="cuda"), *choice]

    session.run(*inputs(PROMPT))
    found = _runs(session, inputs(1), repeats)
    return {**found, "tokens_per_second": 1000 / found["ms"]}


def _ingot(library: Library, model: Path, batches: list[int], repeats: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """An artifact's cases, with what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        path = model
        if model.suffix == ".hollow":
            path = Path(folder) / f"{model.stem}.ingot"
            hollow.fill(model, path)
        manifest = hollow.manifest_of(path)
        if "states" in manifest:
            yield f"a token after {PROMPT}", _decoder(library, path, repeats)
        else:
            for batch in batches:
                yield f"batch {batch}", _plain(library, path, manifest, batch, repeats)


def _captured(module: torch.nn.Module, inputs: tuple[Any, ...]) -> Callable[[], None]:
    for _ in range(3):
        module(*inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        module(*inputs)
    return graph.replay


def _inductor(module: torch.nn.Module, inputs: tuple[Any, ...]) -> Callable[[], Any]:
    compiled = torch.compile(module, mode="reduce-overhead", dynamic=False)
    return lambda: compiled(*inputs)


#: How PyTorch runs a model. The second compiles for up to a minute, so all of the first come before it.
_WAYS = {"PyTorch bf16": _captured, "PyTorch bf16, inductor": _inductor}


def _peer(way: str, name: str, case: str, repeats: int) -> dict[str, Any]:
    """A case of PyTorch's model."""
    peer = PEERS[name]
    batch = int(case.removeprefix("batch ")) if case.startswith("batch ") else 1
    module = peer.build().eval().to("cuda", torch.bfloat16)
    with torch.no_grad():
        return _timed(_WAYS[way](module, peer.inputs(batch)), repeats)


class _Records:
    """What was measured: printed, and written down at once, as a run may be stopped."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._all = path, list[dict[str, Any]]()

    def add(self, stem: str, case: str, contestant: str, found: dict[str, Any]) -> None:
        """Keeps a line."""
        model, _, dtype = stem.rpartition("-")
        self._all.append({"model": model, "dtype": dtype, "case": case, "contestant": contestant, **found})
        text = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items() if v != "")
        print(f"{stem:20} {case:20} {contestant:22} {text}", flush=True)
        if self._path is not None:
            content = {"benchmark": "models", "device": torch.cuda.get_device_name(), "torch": torch.__version__, "records": self._all}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(content, indent=1) + "\n")


def main() -> int:
    """Measures; the status that the process exits with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    models = options.models or sorted(MADE.glob("*.hollow"))
    if not models:
        print(f"skipped, there is no {MADE.relative_to(ROOT)}/*.hollow: `make cuda-models` writes them")
        return SKIPPED
    if lack := missing():
        print(lack)
        return 1
    torch.cuda.set_stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]  # CUDA graphs need another than the legacy default stream
    library, records, failures = Library(), _Records(options.json), 0
    cases: list[tuple[str, str]] = []
    for model in models:
        try:
            for case, found in _ingot(library, model, options.batches, options.repeats):
                records.add(model.stem, case, "Ingot", found)
                cases.append((model.stem, case))
        except Exception as error:  # the others are worth measuring
            failures += 1
            records.add(model.stem, "", "Ingot", {"error": f"{type(error).__name__}: {error}"})
    for way in _WAYS if options.peers else ():
        for stem, case in cases:
            name = stem.rpartition("-")[0]
            if name in PEERS:
                try:
                    records.add(stem, case, way, _peer(way, name, case, options.repeats))
                except Exception as error:
                    records.add(stem, case, way, {"error": f"{type(error).__name__}: {str(error)[:300]}"})
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
