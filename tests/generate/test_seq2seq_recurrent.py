"""Hidden states, memory tokens and state spaces that a session carries from run to run: in steps and at once, the results are those of PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

import ingot
from ingot.cli.main import main
from tests.generate.recurrent import VOCABULARY, RecurrentMemory, RecurrentTranslator, StateSpace, Windowed, seeded

WIDTH = 40
#: The tests of one kind go to one process, which compiles it once.
EACH = pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.xdist_group(f"translator-{kind}")) for kind in ("LSTM", "GRU")])
CARRIED = ("memory", "hidden", "cell")


def tokens(rows: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (rows, count))


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ingot.Model]:
    """A translator of LSTM or GRU: exported to ONNX, its states named on the command line."""

    @lru_cache
    def make(kind: str) -> ingot.Model:
        from ingot.export import export_module

        folder = tmp_path_factory.mktemp(kind)
        carried = {"memory": torch.zeros(2, 3, 2 * WIDTH), "hidden": torch.zeros(2, WIDTH), "cell": torch.zeros(2, WIDTH)}
        inputs = {"source_ids": torch.ones(2, 5, dtype=torch.int64), "token_ids": torch.ones(2, 4, dtype=torch.int64), **carried}
        axes = {"source_ids": {0: "batch", 1: "source"}, "token_ids": {0: "batch", 1: "sequence"}, "memory": {0: "batch", 1: "past"},
                "hidden": {0: "batch"}, "cell": {0: "batch"}}
        exported = export_module(seeded(lambda: RecurrentTranslator(kind)), inputs, folder, dynamic_shapes=axes,
                                 output_names=["logits", *(f"next_{name}" for name in CARRIED)])
        states = [argument for name in CARRIED for argument in ("--state", f"{name}=next_{name}")]
        assert main(["compile", str(exported.path), "-o", str(folder / "m.ingot"), "--samples", "0", *states]) == 0
        return ingot.load(folder / "m.ingot", threads=2)

    return make


@EACH
def test_a_recurrent_translator_reads_its_source_once_and_goes_on_token_by_token(kind: str, translator: Callable[[str], ingot.Model]) -> None:
    model = translator(kind)
    assert {(s.name, s.kind) for s in model.states} == {(name, "carry") for name in CARRIED}
    assert [i.name for i in model.inputs] == ["source_ids", "token_ids"]
    source, text = tokens(3, 11, 0), tokens(3, 9, 1)
    with torch.no_grad():
        expected = seeded(lambda: RecurrentTranslator(kind)).whole(torch.from_numpy(source), torch.from_numpy(text)).numpy()
    nothing = np.zeros((3, 0), np.int64)
    with model.session() as session:
        np.testing.assert_allclose(session.run(source_ids=source, token_ids=text)["logits"], expected, rtol=1e-4, atol=1e-5)
        for _ in range(2):  # a session that was reset has forgotten all of it
            session.reset()
            found = [session.run(source_ids=source, token_ids=text[:, :2].copy())["logits"]]
            assert session.state("memory").shape == (3, 11, 2 * WIDTH)
            found += [session.run(source_ids=nothing, token_ids=text[:, t:t + 1].copy())["logits"] for t in range(2, 9)]
            np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=1e-4, atol=1e-5)


@EACH
def test_greedy_text_of_a_recurrent_translator_is_that_of_pytorch(kind: str, translator: Callable[[str], ingot.Model]) -> None:
    module = seeded(lambda: RecurrentTranslator(kind))
    source = tokens(1, 7, 2)
    expected = [1]
    for _ in range(20):
        with torch.no_grad():
            expected.append(int(module.whole(torch.from_numpy(source), torch.tensor([expected]))[0, -1].argmax()))
    found = [1]
    with translator(kind).session() as session:
        for step in range(20):
            given = source if step == 0 else np.zeros((1, 0), np.int64)
            found.append(int(session.run(source_ids=given, token_ids=np.array([found[-1:]]))["logits"][0, -1].argmax()))
    assert found == expected


def test_memory_tokens_go_from_segment_to_segment(tmp_path: Path) -> None:
    module = seeded(RecurrentMemory)
    ingot.compile(module, tmp_path / "m.ingot", inputs={"input_ids": torch.ones(2, 6, dtype=torch.int64), "memory": torch.zeros(2, 4, 48)},
                  dynamic_shapes={"input_ids": {0: "batch", 1: "sequence"}, "memory": {0: "batch"}}, output_names=["logits", "next_memory"],
                  states={"memory": "next_memory"}, samples=0)
    model = ingot.load(tmp_path / "m.ingot", threads=2)
    memory = torch.zeros(3, 4, 48)
    with model.session() as session:
        for number, count in enumerate((12, 1, 30, 7)):
            ids = tokens(3, count, number)
            with torch.no_grad():
                expected, memory = module(torch.from_numpy(ids), memory)
            np.testing.assert_allclose(session.run(input_ids=ids)["logits"], expected.numpy(), rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(session.state("memory"), memory.numpy(), rtol=1e-4, atol=1e-4)
        before = session.run(input_ids=ids)["logits"]
        session.reset()
        after = session.run(input_ids=ids)["logits"]
    with torch.no_grad():
        np.testing.assert_allclose(after, module(torch.from_numpy(ids), torch.zeros(3, 4, 48))[0].numpy(), rtol=1e-4, atol=1e-4)
    assert np.abs(before - after).max() > 0.01  # what is remembered matters


def test_a_state_space_in_steps_is_that_of_the_whole_text(tmp_path: Path) -> None:
    module = seeded(StateSpace)
    names = list(module.nothing(1))
    ingot.compile(module, tmp_path / "m.ingot", inputs={"input_ids": torch.ones(2, 6, dtype=torch.int64), **module.nothing(2)},
                  dynamic_shapes={"input_ids": {0: "batch", 1: "sequence"}, **{name: {0: "batch"} for name in names}},
                  output_names=["logits", *(f"next_{name}" for name in names)], states={name: f"next_{name}" for name in names}, samples=0)
    model = ingot.load(tmp_path / "m.ingot", threads=2)
    ids = tokens(2, 40, 3)
    with torch.no_grad():
        expected = module(torch.from_numpy(ids), **module.nothing(2))[0].numpy()
    for cuts in ([40], [17, 40], list(range(1, 41)), [3, 4, 5, 29, 30, 40]):
        with model.session() as session:
            found = [session.run(input_ids=ids[:, a:b].copy())["logits"] for a, b in zip([0, *cuts], cuts, strict=False)]
        np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.xdist_group("translator-GRU")
def test_a_fork_of_hidden_states_goes_its_own_way(translator: Callable[[str], ingot.Model]) -> None:
    module = seeded(lambda: RecurrentTranslator("GRU"))
    source, text = tokens(2, 6, 4), tokens(2, 5, 5)
    nothing = np.zeros((2, 0), np.int64)
    with translator("GRU").session() as session:
        session.run(source_ids=source, token_ids=text)
        with session.fork() as other:
            for which, token in ((session, 7), (other, 8)):
                found = which.run(source_ids=nothing, token_ids=np.full((2, 1), token))["logits"]
                with torch.no_grad():
                    whole = module.whole(torch.from_numpy(source), torch.from_numpy(np.hstack([text, np.full((2, 1), token)])))
                np.testing.assert_allclose(found[:, 0], whole[:, -1].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", ["product", "convolution", "depthwise"])
def test_the_last_steps_are_carried_in_front_of_new_ones(layer: str, tmp_path: Path) -> None:
    module = seeded(lambda: Windowed(layer))
    ingot.compile(module, tmp_path / "m.ingot", inputs={"x": torch.randn(2, 6, 8), "taps": torch.zeros(2, 3, 8)},
                  dynamic_shapes={"x": {0: "batch", 1: "sequence"}, "taps": {0: "batch"}}, output_names=["y", "next_taps"],
                  states={"taps": "next_taps"}, samples=0)
    x = np.random.default_rng(0).standard_normal((3, 20, 8)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x), torch.zeros(3, 3, 8))[0].numpy()
    with ingot.load(tmp_path / "m.ingot", threads=2).session() as session:
        found = [session.run(x=x[:, a:b].copy())["y"] for a, b in ((0, 1), (1, 2), (2, 9), (9, 20))]
    if layer == "product":  # of the carried steps too: those of the first run are the ones that the whole has
        found = [found[0], *(part[:, 3:] for part in found[1:])]
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=1e-5, atol=1e-5)
