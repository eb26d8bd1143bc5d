"""The file of tuning results: which machine measured which problem, what was chosen, and every time that was measured.

JSON, for people to read and to share::

    {"format": "ingot tuning", "version": 1,
     "machines": [{"target": "cpu:x86-64-v3", "cpu": "AMD EPYC", "threads": 2,
                   "problems": {"matmul, ?x128, 768>3072, float32": {"choice": "tile 6x16", "microseconds": {"tile 6x16": 2630.5, ...}}}}]}
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingot.artifact.write import replacing
from ingot.errors import CompileError, FileError, MissingFileError

FORMAT = "ingot tuning"
#: Raised when schedules change so much that old measurements mislead.
VERSION = 1


@dataclass(frozen=True)
class Machine:
    """Where measurements hold: a target's name, a CPU's, and the number of threads."""

    target: str
    cpu: str
    threads: int


@dataclass(frozen=True)
class Result:
    """What was chosen for a problem, and the microseconds of each candidate by its name."""

    choice: str
    microseconds: Mapping[str, float]


#: Results by problem (``Problem.key()``), by machine.
Results = dict[Machine, dict[str, Result]]


def read(path: Path) -> Results:
    """The results in a file.

    Raises:
        MissingFileError: There is no such file.
        FileError: It cannot be read or is not a file of tuning results, or one of another version.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(f"there is no file '{path}' of tuning results; --tune makes it") from None
    except OSError as error:
        raise FileError(f"the tuning results '{path}' cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise _malformed(path, f"it is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise _malformed(path, f"it does not say \"format\": \"{FORMAT}\"")
    if document.get("version") != VERSION:
        raise FileError(f"the tuning results '{path}' are of version {document.get('version')!r}; this Ingot reads version {VERSION}: measure again, "
                        "into another file, with --tune --tune-file")
    machines = _typed(path, document, "machines", list)
    found: Results = {}
    for entry in machines:
        machine = Machine(_typed(path, entry, "target", str), _typed(path, entry, "cpu", str), _typed(path, entry, "threads", int))
        results = found.setdefault(machine, {})
        for problem, result in _typed(path, entry, "problems", dict).items():
            times = _typed(path, result, "microseconds", dict)
            if not all(isinstance(t, (int, float)) and not isinstance(t, bool) and t > 0 for t in times.values()):
                raise _malformed(path, f"the microseconds of '{problem}' are not all positive numbers")
            results[problem] = Result(_typed(path, result, "choice", str), {str(k): float(t) for k, t in times.items()})
    return found


def merge(path: Path, machine: Machine, results: Mapping[str, Result]) -> None:
    """Adds a machine's results to a file, replacing those of the same problems; makes the file if there is none.

    Compiles that merge at once wait for one another, so none loses what another has written; readers see the file before or after.
    """
    path = path.resolve()  # a link stays one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent):
            found = read(path) if path.exists() else {}
            found.setdefault(machine, {}).update(results)
            with replacing(path) as file:
                file.write(_encode(found))
    except MissingFileError:
        raise
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"the tuning results '{path}' cannot be written: {error.strerror}; name another place with --tune-file") from None


def select(path: Path, results: Results, wanted: Machine) -> tuple[Machine, dict[str, Result]] | None:
    """The results for a machine that does not measure: its own, else those of the one other CPU that measured the target.

    Of several numbers of threads the wanted one is taken, else the largest.

    Raises:
        CompileError: Several other CPUs have measured the target, and which of them the artifact is for is not known.
    """
    of_target = [m for m in results if m.target == wanted.target]
    cpus = sorted({m.cpu for m in of_target})
    if not cpus:
        return None
    if wanted.cpu not in cpus and len(cpus) > 1:
        raise CompileError(f"the tuning results '{path}' hold {wanted.target} for {', '.join(cpus)}, but not for this machine's {wanted.cpu}: "
                           "give a file with one of them")
    cpu = wanted.cpu if wanted.cpu in cpus else cpus[0]
    machine = max((m for m in of_target if m.cpu == cpu), key=lambda m: (m.threads == wanted.threads, m.threads))
    return machine, results[machine]


def _encode(results: Results) -> bytes:
    machines = [{"target": m.target, "cpu": m.cpu, "threads": m.threads,
                 "problems": {k: {"choice": r.choice, "microseconds": dict(r.microseconds)} for k, r in sorted(problems.items())}}
                for m, problems in sorted(results.items(), key=lambda item: (item[0].target, item[0].cpu, item[0].threads))]
    return (json.dumps({"format": FORMAT, "version": VERSION, "machines": machines}, indent=1, ensure_ascii=False) + "\n").encode()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, which needs no file of its own; where the file system has no locks, nothing is held."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _typed(path: Path, entry: Any, field: str, kind: type) -> Any:
    value = entry.get(field) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        names = {list: "a list", dict: "an object", str: "a text", int: "a whole number"}
        raise _malformed(path, f"it has no \"{field}\" that is {names[kind]}, where one is expected")
    return value


def _malformed(path: Path, why: str) -> FileError:
    return FileError(f"'{path}' is not a file of tuning results: {why}; delete it, or name another with --tune-file")
