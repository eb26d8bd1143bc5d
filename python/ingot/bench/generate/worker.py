"""One program in a process of its own: ``python -m ingot.bench.generate.worker NAME MODEL THREADS TARGET CONTEXT``.

Its first line on stdout says that the model is loaded. It answers each line on stdin, a case and a seed, with one line: a
:class:`ingot.bench.generate.Round`, or ``{"unsupported": why}``.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from dataclasses import asdict


def main() -> None:
    """Serves one program until stdin ends."""
    name, model, threads, target, context = sys.argv[1:6]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    from ingot.bench.generate.contestants import PROGRAMS, UnsupportedCaseError
    from ingot.bench.generate.sweep import Case

    def answer(value: object) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    contestant = PROGRAMS[name].load(model, int(threads), target or None, int(context))
    gc.disable()
    answer({"loaded": True})
    for line in sys.stdin:
        request = json.loads(line)
        seed = request.pop("seed")
        gc.collect()
        try:
            answer(asdict(contestant.run(Case(**request), seed)))
        except UnsupportedCaseError as error:
            answer({"unsupported": str(error)})


if __name__ == "__main__":
    main()
