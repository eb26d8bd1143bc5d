"""device.sh, the script for a machine with a GPU, as far as it can be tested without one: what it selects, and what it says of what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import harness
import pytest

FOLDER = Path(__file__).resolve().parent
TOOLS = ("memcheck", "racecheck")
ROWS = [tuple(line.split("|")) for line in (FOLDER / "sanitized.txt").read_text().splitlines() if not line.startswith("#")]


@pytest.fixture(scope="module")
def names() -> dict[str, list[str]]:
    """The names of all tests that a GPU runs, by file."""
    files = sorted({str(FOLDER / file) for _, file, _ in ROWS})
    command = [sys.executable, "-m", "pytest", f"--confcutdir={FOLDER}", "-p", "no:cacheprovider", "--collect-only", "-q", "-m", "not emulated"]
    done = subprocess.run([*command, *files], cwd=harness.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, list[str]] = defaultdict(list)
    for line in done.stdout.splitlines():
        path, _, name = line.partition("::")
        found[Path(path).name].append(name.lower())
    return found


@pytest.mark.parametrize(("tool", "file", "chosen"), ROWS, ids=lambda part: part.partition(" ")[0])
def test_each_alternative_of_what_is_sanitized_selects_a_test(names: dict[str, list[str]], tool: str, file: str, chosen: str) -> None:
    assert tool in TOOLS
    for alternative in chosen.split(" or "):
        words = alternative.lower().split(" and ")
        assert all(word.isidentifier() or word.isdigit() for word in words), f"'{alternative}' is not words with 'and' between them"
        assert any(all(word in name for word in words) for name in names[file]), f"'{alternative}' selects none of {file}"


def run(tmp_path: Path, *parts: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path / "results"), **environment}
    return subprocess.run([FOLDER / "device.sh", *parts], env=settings, capture_output=True, text=True, check=False)


def test_without_compute_sanitizer_sanitizing_is_a_failure(tmp_path: Path) -> None:
    done = run(tmp_path, "sanitize", SANITIZER="no-such-sanitizer")
    assert done.returncode == 1
    assert "sanitize: not done, there is no no-such-sanitizer: it comes with the CUDA toolkit" in done.stdout.partition("---- summary")[2]


#: What each part says of its scripts, which all end with this status: the lines of the summary, and the status of all.
ENDINGS = {
    ("models", "0"): ("models tests/runtime/gpu: 3 passed\nmodels tests/lower/cuda/gpu: 3 passed", 0),
    ("models", "1"): ("models tests/runtime/gpu: 3 passed\nmodels tests/lower/cuda/gpu: 3 passed", 1),
    ("models", "5"): ("models tests/runtime/gpu: skipped, there is no GPU\nmodels tests/lower/cuda/gpu: skipped, there is no GPU", 1),
    ("bench", "0"): ("bench models: ok", 0),
    ("bench", "77"): ("bench models: 3 passed", 0),
    ("bench", "124"): ("bench models: stopped after 7 s", 1),
    ("bench", "9"): ("bench models: failed (9)", 1),
}


@pytest.mark.parametrize(("part", "status"), ENDINGS)
def test_the_summary_says_how_each_part_ended(tmp_path: Path, part: str, status: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho 'SKIPPED [1] tests/test_it.py:29: there is no GPU'\necho 3 passed\nexit {status}\n")
    python.chmod(0o755)
    done = run(tmp_path, part, PYTHON=str(python), BENCH="models", MODEL_SECONDS="7")
    expected, code = ENDINGS[part, status]
    assert done.stdout.partition("---- summary")[2].partition("\n")[2] == expected + "\n"
    assert done.returncode == code


def test_models_are_skipped_where_they_were_not_asked_for(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ncase \"$*\" in *tests/cuda*) exit 0 ;; *-m\\ pytest*) exit 5 ;; *) exit 77 ;; esac\n")
    python.chmod(0o755)
    done = run(tmp_path, PYTHON=str(python))
    assert done.returncode == 0 and done.stdout.count("skipped, ") == 2


def test_a_part_that_there_is_not_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "test")
    assert (done.returncode, done.stderr) == (2, "device.sh: 'test' is none of tests, models, bench, sanitize\n")
