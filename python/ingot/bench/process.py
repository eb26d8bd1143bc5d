"""A process of its own for each contestant: it is asked by one line of JSON and answers by one."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ingot.errors import ExecutionError

if TYPE_CHECKING:
    from typing_extensions import Self


def cpus(threads: int) -> set[int]:
    """One logical CPU of each of the first ``threads`` cores that this process may use; all that it may use if there are not as many cores.

    Cores of a shared machine differ from one second to the next, by what their neighbours do: contestants that take turns on the same cores
    meet the same conditions.
    """
    allowed = sorted(os.sched_getaffinity(0))
    of_core: dict[str, int] = {}
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        of_core.setdefault(siblings.read_text() if siblings.exists() else str(cpu), cpu)
    return set(list(of_core.values())[:threads]) if 0 < threads <= len(of_core) else set(allowed)


class Process:
    """Python with ``arguments`` on as many cores as threads (:func:`cpus`), as a context manager.

    Libraries that count threads by themselves are told how many there are.

    Args:
        name: What it is called in an error.
        arguments: Of the interpreter.
        threads: With how many threads its contestant runs.
        environment: More variables.
    """

    def __init__(self, name: str, arguments: Sequence[str], threads: int, environment: Mapping[str, str] | None = None) -> None:
        self._name = name
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  (closed with the process, in __exit__)
        variables = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **(environment or {})}
        self._process = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                                         text=True, env=variables)
        os.sched_setaffinity(self._process.pid, cpus(threads))  # while it still loads its interpreter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, with something unread
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for the answer.

        Raises:
            ExecutionError: The process has stopped; the message has what it wrote.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer is reported with what the process wrote
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Waits for a line that the process writes."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            written = self._errors.read().strip().splitlines()
            raise ExecutionError(f"{self._name} stopped with exit code {self._process.returncode}:\n" + "\n".join(written[-8:]))
        answer: dict[str, Any] = json.loads(line)
        return answer
