"""What is reported of many timed runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Times of runs, in seconds; ``per_second`` is the number of runs in a second at the median."""

    runs: int
    median: float
    minimum: float
    p5: float
    p95: float
    p99: float
    per_second: float

    def as_dict(self) -> dict[str, float]:
        """JSON values."""
        return asdict(self)


def summarize(seconds: Sequence[float]) -> Summary:
    """The median and percentiles of at least one time."""
    times = np.asarray(seconds, np.float64)
    p5, median, p95, p99 = (float(p) for p in np.percentile(times, [5, 50, 95, 99]))
    return Summary(len(times), median, float(times.min()), p5, p95, p99, 1 / median if median > 0 else float("inf"))
