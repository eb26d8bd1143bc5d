"""One contestant in a process of its own: ``python -m ingot.bench.kernels.worker KERNEL CONTESTANT [MODULE …]``.

It answers each line on stdin with one line on stdout:

    {"load": problem, "threads": n, "sets": n}   makes it ready: {"arithmetic", "note"}, or {"unsupported": why}
    {"check": "reference.npy"}                   compares each set's result with the reference: see check.py
    {"warm_up": seconds}                         runs for a while: {"fastest": the least seconds of a run}
    {"runs": n}                                  the seconds of n runs, which take the sets in turn
    {"unload": true}                             lets go of everything
"""

from __future__ import annotations

import gc
import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ingot.bench.kernels import registry
from ingot.bench.kernels.check import difference
from ingot.bench.kernels.problem import ARITHMETICS, Contestant, Loaded, Problem, Setting, Unsupported

#: For about how long the sets' results are compared.
_CHECKED_SECONDS = 5.0


class Server:
    """Holds a contestant, and one problem at a time."""

    def __init__(self, contestant: Contestant) -> None:
        self._contestant = contestant
        self._problem: Problem | None = None
        self._inputs: Any = None
        self._loaded: Loaded | None = None
        self._sets, self._next = 1, 0

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Makes the contestant ready. Whatever it raises is why it takes no part."""
        self._problem = registry.problem(**request["load"])
        self._inputs = self._problem.inputs()
        self._sets, self._next = request["sets"], 0
        try:
            made = self._contestant.prepare(self._problem, self._inputs, Setting(request["threads"], self._sets))
            self._loaded = made if isinstance(made, Loaded) else Loaded(made)
            if self._loaded.arithmetic not in ARITHMETICS:
                raise Unsupported(f"its arithmetic is '{self._loaded.arithmetic}'; it can be {', '.join(ARITHMETICS)}")
            self._loaded.run(0)  # what cannot run says so here
        except Unsupported as reason:
            return {"unsupported": str(reason)}
        except Exception as error:
            return {"unsupported": f"it failed with {type(error).__name__}: " + textwrap.shorten(str(error) or "no message", 400, placeholder=" …")}
        return {"arithmetic": self._loaded.arithmetic, "note": self._loaded.note}

    def check(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The difference of the set whose result is worst, of all sets, or of the first and the last where more would take long."""
        assert self._problem is not None and self._loaded is not None
        loaded = self._loaded
        reference = np.load(request["check"]) if loaded.operands is None else self._problem.reference(loaded.operands)
        tolerance = self._problem.tolerance(loaded.arithmetic, self._inputs)
        end, found = time.perf_counter() + _CHECKED_SECONDS, []
        for which in range(self._sets):
            if which in (0, self._sets - 1) or time.perf_counter() < end:
                found.append(difference(as_array(loaded.run(which)), reference, tolerance))
        return max(found, key=lambda d: (bool(d.problem), d.row)).as_dict()

    def runs(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Times runs one by one."""
        assert self._loaded is not None
        run, times = self._loaded.run, []
        gc.disable()
        for _ in range(request["runs"]):
            which, self._next = self._next, (self._next + 1) % self._sets
            start = time.perf_counter_ns()
            run(which)
            times.append((time.perf_counter_ns() - start) * 1e-9)
        gc.enable()
        return {"seconds": times}

    def warm_up(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Runs for so many seconds, at least 3 times, and says how long the fastest run took."""
        end, fastest, count = time.perf_counter() + request["warm_up"], float("inf"), 0
        while count < 3 or time.perf_counter() < end:
            fastest, count = min(fastest, *self.runs({"runs": 1})["seconds"]), count + 1
        return {"fastest": fastest}

    def unload(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """Lets go of the problem."""
        self._problem = self._inputs = self._loaded = None
        gc.collect()
        return {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one request, which is named by its first key."""
        methods: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "load": self.load, "check": self.check, "warm_up": self.warm_up, "runs": self.runs, "unload": self.unload}
        return methods[next(iter(request))](request)


def as_array(result: Any) -> Any:
    """A result as an array that NumPy can compute with. NumPy has no bfloat16: PyTorch's is widened, and uint16 are its bits."""
    if type(result).__module__ == "torch":
        return result.float().numpy()
    return (result.astype(np.uint32) << 16).view(np.float32) if getattr(result, "dtype", None) == np.uint16 else result


def main() -> None:
    """Serves one contestant until stdin ends."""
    kernel, name, *modules = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    for module in modules:
        registry.load_module(module)
    server = Server(next(c for c in registry.contestants(kernel, paths=True) if c.name == name))
    for line in sys.stdin:
        answers.write(json.dumps(server.answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
