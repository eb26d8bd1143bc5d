"""Files of tuning results: what is written is read again, several writers lose nothing, and whatever else is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.errors import CompileError, FileError, MissingFileError
from ingot.tune import file
from ingot.tune.file import Machine, Result

HERE = Machine("cpu:x86-64-v3", "Some CPU", 2)
texts = st.text(max_size=20)
results = st.builds(Result, texts, st.dictionaries(texts, st.floats(1e-3, 1e9), max_size=4))


@settings(max_examples=50, deadline=None)
@given(machines=st.dictionaries(st.builds(Machine, texts, texts, st.integers(1, 512)), st.dictionaries(texts, results, max_size=4), max_size=4))
def test_what_was_merged_is_read_again(tmp_path_factory: pytest.TempPathFactory, machines: file.Results) -> None:
    path = tmp_path_factory.mktemp("tuning") / "deep" / "tuning.json"
    for machine, found in machines.items():
        file.merge(path, machine, found)
    assert not machines or file.read(path) == machines


def test_newer_results_replace_older_ones_of_the_same_problem_only(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    file.merge(path, HERE, {"a": Result("tile 2x8", {}), "b": Result("tile 3x8", {})})
    file.merge(path, HERE, {"b": Result("tile 4x8", {"tile 4x8": 1.5})})
    assert file.read(path) == {HERE: {"a": Result("tile 2x8", {}), "b": Result("tile 4x8", {"tile 4x8": 1.5})}}
    assert [p.name for p in tmp_path.iterdir()] == ["tuning.json"]  # no locks, no temporary files


def test_processes_that_merge_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    program = ("import sys\nfrom pathlib import Path\nfrom ingot.tune import file\nfor i in range(10):\n"
               "    file.merge(Path(sys.argv[1]), file.Machine('t', 'c', 1), {f'{sys.argv[2]} {i}': file.Result('tile 2x8', {})})\n")
    writers = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in "ab"]
    assert [w.wait() for w in writers] == [0, 0]
    assert sorted(file.read(path)[Machine("t", "c", 1)]) == sorted(f"{name} {i}" for name in "ab" for i in range(10))


def entry(**changes: object) -> dict[str, object]:
    return {"target": "t", "cpu": "c", "threads": 1, "problems": {"p": {"choice": "tile 2x8", "microseconds": {"tile 2x8": 1.0}}}, **changes}


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", "\x00", "[" * 5000, '{"format": "something else"}',
    json.dumps({"format": "ingot tuning", "version": 1}),
    json.dumps({"format": "ingot tuning", "version": 1, "machines": [3]}),
    *(json.dumps({"format": "ingot tuning", "version": 1, "machines": [entry(**changes)]}) for changes in (
        {"target": 1}, {"cpu": None}, {"threads": "2"}, {"threads": True}, {"problems": []}, {"problems": {"p": 1}},
        {"problems": {"p": {"choice": "x"}}},
        {"problems": {"p": {"choice": "x", "microseconds": {"x": "fast"}}}}, {"problems": {"p": {"choice": "x", "microseconds": {"x": -1}}}}))])
def test_a_malformed_file_is_refused_by_name_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tuning.json"
    path.write_text(text)
    with pytest.raises(FileError, match=r"tuning\.json' is not a file of tuning results: .*--tune-file"):
        file.read(path)
    with pytest.raises(FileError, match=r"tuning\.json"):
        file.merge(path, HERE, {})
    assert path.read_text() == text


def test_a_file_of_another_version_or_none_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    path.write_text(json.dumps({"format": "ingot tuning", "version": 2, "machines": []}))
    with pytest.raises(FileError, match="version 2; this Ingot reads version 1: measure again"):
        file.read(path)
    with pytest.raises(MissingFileError, match=r"no file '.*missing\.json'.*--tune makes it"):
        file.read(tmp_path / "missing.json")


def test_a_machines_own_results_come_before_those_of_another(tmp_path: Path) -> None:
    mine, theirs = {"p": Result("tile 2x8", {})}, {"p": Result("tile 3x8", {})}
    other = Machine(HERE.target, "Other CPU", 2)
    third = Machine(HERE.target, "Third CPU", 2)
    path = tmp_path / "tuning.json"
    assert file.select(path, {Machine("cpu:aarch64", "Some CPU", 2): mine}, HERE) is None
    assert file.select(path, {HERE: mine, other: theirs}, HERE) == (HERE, mine)
    assert file.select(path, {other: theirs}, HERE) == (other, theirs)
    with pytest.raises(CompileError, match=r"tuning\.json.*Other CPU, Third CPU.*Some CPU"):
        file.select(path, {other: theirs, third: theirs}, HERE)


def test_results_for_the_wanted_number_of_threads_come_first(tmp_path: Path) -> None:
    found = {Machine("t", "c", n): {"p": Result(f"tile {n}x8", {})} for n in (2, 4, 8)}
    assert file.select(tmp_path, found, Machine("t", "c", 4)) == (Machine("t", "c", 4), found[Machine("t", "c", 4)])
    assert file.select(tmp_path, found, Machine("t", "c", 3)) == (Machine("t", "c", 8), found[Machine("t", "c", 8)])
