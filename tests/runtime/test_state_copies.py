"""Rows that are copied: whatever happens between copies, each row holds what a list of its steps says, in each of two caches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ingot

#: Two caches with a counter each, as a translator has them; outputs are the steps that they hold, and 0 behind them.
TWO = """
<ir_version: 10, opset_import: ["" : 24]>
g (float[batch, m, 1] source, int64[batch] source_count, float[batch, n, 1] text, int64[batch] text_count, int64[batch] source_length,
   int64[batch] text_length, float[batch, source_slots, 1] past_source, float[batch, text_slots, 1] past_text)
  => (float[batch, source_slots] held_source, float[batch, text_slots] held_text, int64[batch] next_source_length, int64[batch] next_text_length,
      float[batch, source_slots, 1] next_source, float[batch, text_slots, 1] next_text)
{
  zero = Constant<value = int64 {0}>()
  one = Constant<value = int64 {1}>()
  ones = Constant<value = int64[1] {1}>()
  twos = Constant<value = int64[1] {2}>()
  nothing = Constant<value = float {0}>()
  next_source = TensorScatter<axis=1>(past_source, source, source_length)
  next_text = TensorScatter<axis=1>(past_text, text, text_length)
  next_source_length = Add(source_length, source_count)
  next_text_length = Add(text_length, text_count)
  source_shape = Shape<start=1, end=2>(next_source)
  text_shape = Shape<start=1, end=2>(next_text)
  source_extent = Squeeze(source_shape)
  text_extent = Squeeze(text_shape)
  source_places = Range(zero, source_extent, one)
  text_places = Range(zero, text_extent, one)
  source_column = Unsqueeze(next_source_length, ones)
  text_column = Unsqueeze(next_text_length, ones)
  source_filled = Less(source_places, source_column)
  text_filled = Less(text_places, text_column)
  flat_source = Squeeze(next_source, twos)
  flat_text = Squeeze(next_text, twos)
  held_source = Where(source_filled, flat_source, nothing)
  held_text = Where(text_filled, flat_text, nothing)
}
"""
ROWS, SOURCE, TEXT = 4, 6, 24
CACHES = ("source", "text")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ingot.Model:
    folder = tmp_path_factory.mktemp("copies")
    states = {"source_length": "next_source_length", "text_length": "next_text_length", "past_source": "next_source", "past_text": "next_text"}
    ingot.compile(onnx.parser.parse_model(TWO), folder / "m.ingot", samples=0, states=states, bounds={"source_slots": SOURCE, "text_slots": TEXT})
    return ingot.load(folder / "m.ingot")


class Rows:
    """A session, and beside it what each row should hold."""

    def __init__(self, model: ingot.Model, folder: Path, random: np.random.Generator) -> None:
        self.session = model.session()
        self.session.set_dimension("batch", ROWS)
        self.expected: dict[str, list[list[float]]] = {name: [[] for _ in range(ROWS)] for name in CACHES}
        self._path = folder / "states"
        self._random = random
        self._next = 0.0

    def run(self, first: int, count: int, **given: list[list[float]]) -> None:
        """Rows from ``first`` on get new steps; behind a row's last one is padding."""
        self.session.select_rows(first, count)
        inputs: dict[str, np.ndarray] = {}
        for name in CACHES:
            new = given.get(name, [[]] * count)
            width = max(map(len, new))
            inputs[name] = np.array([[*row, *[-1.0] * (width - len(row))] for row in new], np.float32).reshape(count, width, 1)
            inputs[f"{name}_count"] = np.array([len(row) for row in new])
            for row, steps in enumerate(new, first):
                self.expected[name][row] = self.expected[name][row] + steps
        found = self.session.run(inputs)
        for name in CACHES:
            slots = SOURCE if name == "source" else TEXT
            wanted = [[*row, *[0.0] * (slots - len(row))] for row in self.expected[name][first:first + count]]
            np.testing.assert_array_equal(found[f"held_{name}"], np.array(wanted, np.float32))

    def steps(self, count: int) -> list[float]:
        self._next += count
        return [self._next - i for i in range(count)]

    def act(self) -> None:
        """One thing that sessions can do, drawn at random."""
        row, other = (int(i) for i in self._random.choice(ROWS, 2, replace=False))
        match self._random.choice(["encode", "decode", "copy", "reset", "cut", "fork", "file"], p=[0.15, 0.35, 0.3, 0.05, 0.05, 0.05, 0.05]):
            case "encode":
                self.session.select_rows()
                self.forget(row)
                self.run(row, 1, source=[self.steps(int(self._random.integers(1, SOURCE)))], text=[self.steps(1)])
            case "decode" if max(map(len, self.expected["text"])) < TEXT:
                self.run(0, ROWS, text=[self.steps(int(n)) for n in self._random.integers(0, 2, ROWS)])
            case "copy":
                self.session.copy_row(row, other)
                for name in CACHES:
                    self.expected[name][other] = list(self.expected[name][row])
            case "reset":
                self.session.reset(row)
                self.forget(row)
            case "cut":
                length = min(len(self.expected[name][row]) for name in CACHES)
                self.session.truncate(length, row=row)
                for name in CACHES:
                    del self.expected[name][row][length:]
            case "fork":
                forked = self.session.fork()
                self.session.close()
                self.session = forked
            case "file":
                self.session.save(self._path)
                self.session.load(self._path)

    def forget(self, row: int) -> None:
        self.session.reset(row)
        for name in CACHES:
            self.expected[name][row] = []


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_copied_rows_hold_what_was_copied_in_any_order_of_events(model: ingot.Model, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = Rows(model, tmp_path_factory.mktemp("files"), np.random.default_rng(seed))
    rows.run(0, ROWS, text=[rows.steps(1) for _ in range(ROWS)])
    for _ in range(25):
        rows.act()
    rows.run(0, ROWS)


def test_a_copy_after_a_state_was_changed_from_outside_is_a_whole_one(model: ingot.Model, tmp_path: Path) -> None:
    rows = Rows(model, tmp_path, np.random.default_rng(0))
    rows.run(0, ROWS, source=[[1.0, 2.0]] * ROWS, text=[[3.0]] * ROWS)
    rows.session.select_rows()
    rows.session.copy_row(0, 1)
    changed = rows.session.state("past_source")
    changed[0, 0] = 9.0
    rows.session.set_state("past_source", changed)
    rows.session.copy_row(0, 1)
    for row in (0, 1):
        rows.expected["source"][row] = [9.0, 2.0]
    rows.run(0, ROWS)
