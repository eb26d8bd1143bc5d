"""One contestant in a process of its own: ``python -m ingot.bench.worker NAME MODEL THREADS PRECISION INPUTS.npz``.

It answers each line on stdin, ``{"runs": n}``, with one line on stdout: the seconds of n runs. The first line that it
writes says how long loading took and what it computes in; with ``{"outputs": "file.npz"}`` it writes the outputs of one run.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np


def main() -> None:
    """Serves one contestant until stdin ends."""
    name, model, threads, precision, inputs_path = sys.argv[1:6]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    from ingot.bench.contestants import load

    with np.load(inputs_path) as stored:
        inputs = {key: stored[key] for key in stored.files}

    def answer(value: object) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    start = time.perf_counter()
    loaded = load(name, model, int(threads), precision)
    answer({"load": time.perf_counter() - start, "precision": loaded.precision})
    run = loaded.run
    for line in sys.stdin:
        request = json.loads(line)
        if "outputs" in request:
            np.savez(request["outputs"], *(np.asarray(output) for output in run(inputs)))
            answer({"done": True})
            continue
        times = []
        for _ in range(request["runs"]):
            start = time.perf_counter()
            run(inputs)
            times.append(time.perf_counter() - start)
        answer({"seconds": times})


if __name__ == "__main__":
    main()
