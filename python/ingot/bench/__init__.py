"""The benchmark harness: ``ingot bench`` and ``benchmarks/`` measure with the same code.

Figures are medians over many runs in wall time. When several programs are compared, each has a process of its own (thread
pools disturb one another) and they take turns within one run, so that a machine that slows down slows all of them.
"""

from ingot.bench.compare import Comparison, compare
from ingot.bench.inputs import bench_inputs
from ingot.bench.statistics import Summary, summarize
from ingot.bench.timing import time_runs

__all__ = ["Comparison", "Summary", "bench_inputs", "compare", "summarize", "time_runs"]
