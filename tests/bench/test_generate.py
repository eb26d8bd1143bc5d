"""`ingot bench --generate` measures what it says; nothing here depends on how fast the machine is."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import ingot
from ingot.bench.generate import Case, Round, cases, measure, summary
from ingot.bench.generate.contestants import Ingot, cache_bytes, prompts
from ingot.cli.main import main
from ingot.errors import ExecutionError, InputError
from tests.cache import Case as SmallCase
from tests.generate.families import CONTEXT, save

#: Elements that a token takes in the caches of the small models: keys and values of three layers, two heads of 16.
TOKEN = 3 * 2 * 2 * 16


pytestmark = pytest.mark.xdist_group("bench-generate")  # one process compiles the models


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    ingot.compile(save("llama", folder / "model"), folder / "model.ingot", cache="f16")
    return folder / "model.ingot"


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistral")
    ingot.compile(save("mistral", folder / "model"), folder / "model.ingot", context=1000)
    return folder / "model.ingot"


@pytest.fixture
def llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in place of llama-cpp-python, which says in its errors what it was asked for."""
    (tmp_path / "llama_cpp.py").write_text(textwrap.dedent("""
        class Llama:
            def __init__(self, *, model_path, n_gpu_layers, n_ctx, n_batch, n_threads, n_threads_batch, verbose):
                assert open(model_path).read() == "gguf" and (n_gpu_layers, n_ctx, n_threads, n_threads_batch) == (0, 12, 1, 1)
            def n_vocab(self):
                return 50
            def generate(self, tokens, *, temp, repeat_penalty):
                assert (temp, repeat_penalty) == (0.0, 1.0) and all(0 <= t < 50 for t in tokens)
                if len(tokens) == 9:
                    raise RuntimeError("nine is too many")
                while True:
                    yield 1
    """))
    (tmp_path / "model.gguf").write_text("gguf")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("llama_cpp", None)
    return tmp_path / "model.gguf"


def manifest(context: int | None, kind: str = "decoder") -> dict[str, Any]:
    return {"generation": {"kind": kind}, "dims": [{"name": "batch", "max": None}, *([{"name": "context", "max": context}] if context else [])]}


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


# ---- Cases --------------------------------------------------------------------------------------------------


def test_cases_are_all_combinations_each_once() -> None:
    found = cases(manifest(100), [8, 16, 8], [4, 5], [1, 2])
    assert len(found) == len(set(found)) == 8 and set(found) == {Case(p, o, b) for p in (8, 16) for o in (4, 5) for b in (1, 2)}


@pytest.mark.parametrize(("context", "lengths"), [(None, {(16, 64), (128, 64), (512, 64)}), (4096, {(16, 64), (128, 64), (512, 64)}),
                                                  (192, {(16, 64), (128, 64)}), (191, {(16, 64)}), (100, {(16, 50)}), (2, {(1, 1)})])
def test_lengths_by_default_fit_the_context(context: int | None, lengths: set[tuple[int, int]]) -> None:
    found = {(case.prompt, case.output) for case in cases(manifest(context))}
    assert found == lengths
    assert context is None or all(case.context <= context for case in cases(manifest(context)))


def test_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"a prompt of 60 tokens and 41 after it need a context of 101; the artifact was compiled for 100"):
        cases(manifest(100), [60], [41])
    with pytest.raises(InputError, match="context of 1 token"):
        cases(manifest(1))


@pytest.mark.parametrize(("kind", "said"), [("translation", "a translator"), ("speech", "a model of speech"), ("", "not one")])
def test_what_is_no_language_model_is_refused(kind: str, said: str) -> None:
    with pytest.raises(InputError, match=f"this is {said}; compile one"):
        cases(manifest(10, kind))


def test_prompts_share_no_beginning() -> None:
    drawn = [prompt for seed in range(3) for prompt in prompts(Case(7, 1, 4), seed, 50)]
    assert len({prompt[0] for prompt in drawn}) == 12 and all(len(p) == 7 and min(p) >= 0 and max(p) < 50 for p in drawn)
    assert prompts(Case(7, 1, 4), 2, 50) == prompts(Case(7, 1, 4), 2, 50)


# ---- Figures ------------------------------------------------------------------------------------------------


def test_rates_are_of_all_texts_and_percentiles_of_all_rounds() -> None:
    rounds = [Round([0.1, 0.2], 0.2, [0.01, 0.03], 800), Round([0.3, 0.6], 0.6, [0.02, 0.02], 800), Round([0.1, 0.4], 0.4, [0.05, 0.05], 800)]
    found = summary(Case(10, 3, 2), rounds)
    assert found["runs"] == 3 and found["cache_bytes"] == 800
    assert found["time_to_first_token"] == pytest.approx(0.25)
    assert found["time_between_tokens_p50"] == pytest.approx(0.025)
    assert found["time_between_tokens_p95"] == found["time_between_tokens_p99"] == pytest.approx(0.05)
    assert found["prefill_tokens_per_second"] == pytest.approx(2 * 10 / 0.4)
    assert found["decode_tokens_per_second"] == pytest.approx(2 / 0.02)


def test_one_token_has_no_time_between_tokens() -> None:
    found = summary(Case(10, 1, 1), [Round([0.1], 0.1, [], None)])
    assert found["prefill_tokens_per_second"] == pytest.approx(100)
    assert all(found[key] is None for key in ("time_between_tokens_p50", "time_between_tokens_p99", "decode_tokens_per_second", "cache_bytes"))


def test_texts_start_in_turn_and_go_on_together(llama: Path) -> None:
    contestant = Ingot(str(llama), 1, None, CONTEXT)
    for case in (Case(9, 5, 3), Case(9, 5, 3), Case(150, 10, 1), Case(4, 1, 2)):
        found = contestant.run(case, 0)
        assert len(found.first) == case.batch and list(found.first) == sorted(found.first) and found.first[0] > 0
        assert found.prefill == found.first[-1] and len(found.between) == case.output - 1 and all(t > 0 for t in found.between)
        assert found.cache_bytes == 2 * TOKEN * case.batch * (case.context - 1)  # float16; what the last token would add is never stored


def test_a_ring_holds_no_more_than_its_slots(mistral: Path) -> None:
    model = ingot.load(mistral)
    slots = 5 + 512 - 1  # a window, and a run of 512 tokens
    assert cache_bytes(model, 100) == 4 * TOKEN * 100
    assert cache_bytes(model, 900) == 4 * TOKEN * slots
    found = Ingot(str(mistral), 2, None, 1000).run(Case(600, 3, 1), 0)
    assert found.cache_bytes == 4 * TOKEN * slots and len(found.between) == 2


# ---- Programs -----------------------------------------------------------------------------------------------


def test_programs_take_turns_and_one_that_cannot_says_why(llama: Path, llama_cpp: Path) -> None:
    said: list[str] = []
    found = measure({"ingot": llama, "llama.cpp": llama_cpp}, [Case(8, 4, 1), Case(8, 4, 2)], threads=1, runs=2, warmup=0, said=said.append)
    assert said == ["prompt 8, output 4, batch 1", "prompt 8, output 4, batch 2"]
    one, two = (case["contestants"] for case in found)
    assert [case["batch"] for case in found] == [1, 2]
    assert one["ingot"]["runs"] == one["llama.cpp"]["runs"] == two["ingot"]["runs"] == 2
    assert one["ingot"]["cache_bytes"] == 2 * TOKEN * 11 and one["llama.cpp"]["cache_bytes"] is None
    assert two["llama.cpp"] == {"unsupported": "llama-cpp-python runs one text at a time"}


def test_a_program_that_fails_is_an_error_with_what_it_wrote(llama_cpp: Path) -> None:
    with pytest.raises(ExecutionError, match=r"llama\.cpp stopped with exit code 1(.|\n)*nine is too many"):
        measure({"llama.cpp": llama_cpp}, [Case(9, 3, 1)], threads=1, runs=1)


# ---- The command --------------------------------------------------------------------------------------------


def test_the_command_prints_json_and_draws(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "out.png"
    assert run("bench", "--generate", llama, "--prompt-lengths", "3,20", "--output-lengths", "1,4", "--batch-sizes", "2", "--runs", 1, "--warmup", 0,
               "--threads", 1, "--json", "--png", picture) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["threads"] == 1 and found["file"] == str(llama)
    assert [(c["prompt"], c["output"], c["batch"]) for c in found["cases"]] == [(3, 1, 2), (3, 4, 2), (20, 1, 2), (20, 4, 2)]
    assert all(c["contestants"]["ingot"]["time_to_first_token"] > 0 for c in found["cases"])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_a_table(llama: Path, llama_cpp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", llama, "--generate", "--prompt-lengths", 8, "--output-lengths", 4, "--batch-sizes", "1,2", "--runs", 1, "--threads", 1,
               "--peer", f"llama.cpp={llama_cpp}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(", 1 thread")
    assert lines[1].split() == ["prompt", "output", "batch", "program", "first", "token", "p50", "p95", "p99", "prefill/s", "decode/s", "caches"]
    assert [line.split()[:4] for line in lines[2:6]] == [["8", "4", b, p] for b in "12" for p in ("ingot", "llama.cpp")]
    assert lines[5].endswith("llama-cpp-python runs one text at a time")
    assert "the median time from the start" in lines[-1]


@pytest.mark.parametrize(("options", "said"), [
    (["--generate", "--dims", "batch=2"], "--dims is about single runs"),
    (["--generate", "--html", "x.html"], "--html is about single runs"),
    (["--prompt-lengths", "8"], "--prompt-lengths is about generated text; give --generate too"),
    (["--png", "x.png"], "--png is about generated text"),
    (["--generate", "--peer", "other=x"], "they are llama.cpp=FILE.gguf"),
    (["--generate", "--peer", "llama.cpp"], "is not a program and its model"),
    (["--generate", "--prompt-lengths", "200"], f"the artifact was compiled for {CONTEXT}"),
    (["--generate", "--png", "nowhere/x.png"], "there is no directory nowhere"),
])
def test_options_that_do_not_fit_are_errors(llama: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", llama, *options) == 1
    assert said in capsys.readouterr().err


def test_a_peer_that_is_not_there_is_an_error(llama: Path, llama_cpp: Path, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "--generate", llama, "--peer", "llama.cpp=none.gguf") == 1
    assert "there is no file none.gguf" in capsys.readouterr().err
    monkeypatch.setattr("ingot.bench.generate.contestants.util.find_spec", lambda name: None)
    assert run("bench", "--generate", llama, "--peer", f"llama.cpp={llama_cpp}") == 1
    assert "pip install llama-cpp-python" in capsys.readouterr().err


def test_a_model_that_generates_nothing_is_refused(small: SmallCase, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "--generate", small.artifact) == 1
    assert "compile one from a Hugging Face directory" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "0", "8,", "8,x", "-1"])
def test_a_list_of_lengths_has_whole_numbers(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("bench", "--generate", "a.ingot", f"--prompt-lengths={text}")
    assert "is not a list of whole numbers" in capsys.readouterr().err
