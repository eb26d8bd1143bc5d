"""What the benchmarks of CUDA kernels share: times on a GPU, the device's measured peaks, and tables.

A script of this folder runs by itself, with PyTorch and the libraries of build/cuda:

    bench = common.Bench("quantized_matmul")
    with bench.case("int4 [1, 4096] x [4096, 4096]"):  # or bench.run(name, function, *arguments), which heeds --only
        call = common.kernel("quantized_matmul", [x, packed, scales], [y], ints=[...])
        bench.check(y, reference)
        bench.time("Ingot", call, bytes=packed.nbytes, flops=2 * 4096 * 4096)
        bench.time("cuBLAS bf16", lambda: torch.matmul(x, w))
    bench.finish()

Options: --json FILE writes all numbers; --only TEXT runs the cases whose name has the text; --quick takes fewer repeats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "cuda"))

import harness  # noqa: E402

CACHE_BYTES = 128 << 20  # more than the second-level cache of any GPU here (H100: 50 MB): what is not to be found in it adds up to this


def kernel(name: str, inputs: Sequence[Any], outputs: Sequence[Any], **attributes: Any) -> Callable[[], None]:
    """A function that puts one call of a kernel on the current stream. Tensors are PyTorch's, which it keeps; attributes as of harness.prepare."""
    tensors = [None if tensor is None else harness.of_torch(tensor) for tensor in inputs]
    call = harness.prepare(name, tensors, [harness.of_torch(tensor) for tensor in outputs], **attributes)

    def run(keep: tuple[Any, ...] = (inputs, outputs)) -> None:
        call(torch.cuda.current_stream().cuda_stream)

    return run


def copies(nbytes: int, most: int = 64) -> int:
    """How many copies of operands of `nbytes` bytes it takes that a call finds none of its own in the cache."""
    return max(1, min(most, -(-CACHE_BYTES // max(1, nbytes))))


def rotating(calls: Sequence[Callable[[], Any]]) -> Callable[[], None]:
    """A function that makes all calls, one after another; `Bench.time(..., calls=len(calls))` divides by their number."""

    def run() -> None:
        for call in calls:
            call()

    return run


def milliseconds(call: Callable[[], Any], *, seconds: float = 0.2, graph: bool = True) -> tuple[float, float]:
    """Median and smallest time of a call in milliseconds, without the host's part.

    The call is captured in a CUDA graph, as often as makes a replay take a millisecond or more; where it cannot be captured, or with graph=False,
    calls are made one after another between two events.
    """
    call()
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    once = max(1e-6, time.perf_counter() - started)
    repeats = max(1, min(200, round(2e-3 / once)))
    run: Callable[[], Any]
    captured = None
    if graph:
        try:
            captured = torch.cuda.CUDAGraph()
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                call()  # what a call does once for a stream
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            with torch.cuda.graph(captured, stream=stream):
                for _ in range(repeats):
                    call()
        except Exception:
            captured = None
            torch.cuda.synchronize()
    if captured is not None:
        run = captured.replay
    else:

        def run() -> None:
            for _ in range(repeats):
                call()

    times: list[float] = []
    run()
    torch.cuda.synchronize()
    until = time.perf_counter() + seconds
    while len(times) < 5 or (time.perf_counter() < until and len(times) < 100):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / repeats)
    return statistics.median(times), min(times)


def peaks(*, quick: bool = False) -> dict[str, float]:
    """What this GPU was measured to do: copied bytes (read and written) and cuBLAS's bfloat16 operations in a second.

    The best of copies: a driver's own, alone and in a graph (where they may be slower), and one by a kernel that reads and writes 16 bytes at a time.
    """
    seconds = 0.1 if quick else 0.2
    count = 1 << 30
    a = torch.ones(count // 4, dtype=torch.float32, device="cuda")
    b = torch.ones_like(a)
    ways = [
        milliseconds(lambda: b.copy_(a), seconds=seconds, graph=False),
        milliseconds(lambda: b.copy_(a), seconds=seconds),
        milliseconds(lambda: torch.neg(a, out=b), seconds=seconds),
    ]
    copy = min(median for median, _ in ways)
    n = 8192
    x, w = (torch.randn(n, n, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    y = torch.empty_like(x)
    product, _ = milliseconds(lambda: torch.matmul(x, w, out=y), seconds=seconds)
    return {"bytes_per_second": 2 * count / copy * 1e3, "flops_per_second": 2 * n**3 / product * 1e3}


def relative_error(result: Any, reference: Any) -> float:
    """The norm of the difference over that of the reference, in float64."""
    expected = reference.double()
    return float(torch.linalg.vector_norm(result.double() - expected) / torch.linalg.vector_norm(expected).clamp_min(1e-300))


class Bench:
    """The cases of one script: times them, prints a line for each contestant, and writes everything down."""

    def __init__(self, name: str) -> None:
        parser = argparse.ArgumentParser(description=f"Times {name} on a GPU.")
        parser.add_argument("--json", type=Path)
        parser.add_argument("--only", default="")
        parser.add_argument("--quick", action="store_true")
        self.options = parser.parse_args()
        self.name = name
        if not harness.on_gpu():
            sys.exit("no GPU, or no build/cuda/libingot_cuda.so: `make cuda` builds it")
        torch.manual_seed(1)
        self.peaks = peaks(quick=self.options.quick)
        self.records: list[dict[str, Any]] = []
        self.failures = 0
        self._case = ""
        print(
            f"{name} on {torch.cuda.get_device_name()}, torch {torch.__version__}: copies {self.peaks['bytes_per_second'] / 1e9:.0f} GB/s, "
            f"cuBLAS bf16 {self.peaks['flops_per_second'] / 1e12:.0f} TFLOP/s"
        )
        print(f"{'case':44} {'contestant':22} {'ms':>9} {'TFLOP/s':>8} {'GB/s':>7} {'of peak':>8} {'Ingot':>7}", flush=True)

    def wants(self, case: str) -> bool:
        """Whether a case was asked for with --only."""
        return self.options.only in case

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """The body times one case. An error in it is printed, and the script goes on."""
        self._case = name
        try:
            yield
        except Exception as error:
            self.failures += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            print(f"{name:44} failed: {type(error).__name__}: {str(error)[:300]} ({Path(place.filename).name}:{place.lineno})", flush=True)
            self.records.append({"case": name, "error": str(error)})
        torch.cuda.empty_cache()

    def run(self, name: str, body: Callable[..., None], *arguments: Any) -> None:
        """Calls body(*arguments) as a case, if it was asked for."""
        if self.wants(name):
            with self.case(name):
                body(*arguments)

    def check(self, result: Any, reference: Any, most: float = 1e-2) -> float:
        """Raises ValueError if the relative norm error is above `most`; gives it."""
        error = relative_error(result, reference)
        if not error <= most:
            raise ValueError(f"relative error {error:.2e}, more than {most:.0e}: not timed")
        return error

    def time(
        self,
        contestant: str,
        call: Callable[[], Any],
        *,
        bytes: float = 0,
        flops: float = 0,
        calls: int = 1,
        seconds: float = 0.15,
        graph: bool = True,
        note: str = "",
    ) -> float:
        """Times a call, which does the work `calls` times, and prints its line; gives milliseconds, NaN if it failed.

        `bytes` and `flops` are of one time. A contestant's name that starts with "Ingot" is Ingot: others are compared with its fastest.
        """
        try:
            median, least = milliseconds(call, seconds=0.05 if self.options.quick else seconds, graph=graph)
        except Exception as error:
            if contestant.startswith("Ingot"):
                raise
            print(f"{self._case:44} {contestant:22} cannot: {str(error).splitlines()[0][:90] if str(error) else type(error).__name__}", flush=True)
            self.records.append({"case": self._case, "contestant": contestant, "error": str(error)})
            return float("nan")
        median, least = median / calls, least / calls
        share = max(bytes / median * 1e3 / self.peaks["bytes_per_second"], flops / median * 1e3 / self.peaks["flops_per_second"])
        ours = [r["ms"] for r in self.records if r.get("case") == self._case and str(r.get("contestant", "")).startswith("Ingot") and "ms" in r]
        ratio = median / min(ours) if ours and not contestant.startswith("Ingot") else None
        self.records.append(
            {
                "case": self._case,
                "contestant": contestant,
                "ms": median,
                "least_ms": least,
                "bytes": bytes,
                "flops": flops,
                "share_of_peak": share,
                "over_ingot": ratio,
                "note": note,
            }
        )
        columns = [
            f"{median:9.4f}",
            f"{flops / median / 1e9:8.1f}" if flops else " " * 8,
            f"{bytes / median / 1e6:7.0f}" if bytes else " " * 7,
            f"{share:8.0%}" if share else " " * 8,
            f"{ratio:6.2f}x" if ratio else " " * 7,
        ]
        print(f"{self._case:44} {contestant:22} {' '.join(columns)} {note}", flush=True)
        return median

    def finish(self) -> None:
        """Writes the JSON file, if one was asked for, and exits: with 1 if a case failed."""
        if self.options.json is not None:
            self.options.json.parent.mkdir(parents=True, exist_ok=True)
            content = {"benchmark": self.name, "device": torch.cuda.get_device_name(), "torch": torch.__version__, "peaks": self.peaks}
            self.options.json.write_text(json.dumps({**content, "records": self.records}, indent=1) + "\n")
        sys.exit(1 if self.failures else 0)
