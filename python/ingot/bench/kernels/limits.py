"""What the machine reaches, in a process of its own that takes turns with the contestants: ``python -m ingot.bench.kernels.limits THREADS``.

It answers each line on stdin, ``{"measure": [names of limits], "seconds": s}``, with one line on stdout: the median rate of each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping

from ingot.runtime import Rate, measure_bandwidth, measure_bf16, measure_fma, measure_int8

#: What is measured with a number of threads for some seconds: 10^9 bytes or operations a second.
LIMITS: Mapping[str, Callable[[int, float], Rate]] = {
    "bandwidth_gb_s": measure_bandwidth, "fma_gflop_s": measure_fma, "bf16_gflop_s": measure_bf16, "int8_gop_s": measure_int8}


def main() -> None:
    """Measures until stdin ends."""
    threads = int(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps({name: LIMITS[name](threads, request["seconds"]).median for name in request["measure"]}), flush=True)


if __name__ == "__main__":
    main()
