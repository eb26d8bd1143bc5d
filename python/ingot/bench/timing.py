"""Times a function."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable


def time_runs(run: Callable[[], object], *, warmup: int = 3, runs: int | None = None, seconds: float = 2.0, most: int = 10000) -> list[float]:
    """The seconds that each run took: ``runs`` of them, or as many as fit in ``seconds`` (at least 5, at most ``most``).

    The garbage collector is off meanwhile. Warm-up runs are not counted.
    """
    for _ in range(warmup):
        run()
    times: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        while len(times) < runs if runs is not None else len(times) < 5 or (time.perf_counter() < end and len(times) < most):
            start = time.perf_counter_ns()
            run()
            times.append((time.perf_counter_ns() - start) * 1e-9)
    finally:
        if collecting:
            gc.enable()
    return times
