"""What `ingot bench` writes beside its tables: a Chrome trace and a page."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ingot.bench.page import html_page
from ingot.bench.roofline import roofline_svg
from ingot.bench.trace import chrome_trace
from ingot.cli.main import main
from ingot.runtime import machine
from tests.cache import Case

_EMPTY = {"meta", "br", "link", "circle", "line", "polyline"}


class Document(HTMLParser):
    """Holds a page's text by element, and fails where tags do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in _EMPTY:
            assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)


def step(number: int, **known: Any) -> dict[str, Any]:
    return {"step": number, "op": "call", "runs": f"f{number}: matmul", "node": f"MatMul n{number}", "seconds": 1e-3, "share": 0.5, "flops": None,
            "bytes": None, "gflop_s": None, "gb_s": None, "roofline": None, **known}


def profile(*steps: dict[str, Any]) -> dict[str, Any]:
    times = dict.fromkeys(("median", "minimum", "p5", "p95", "p99"), 2e-3)
    return {"file": "m.ingot", "target": "cpu:x86-64-v3", "threads": 2, "inputs": {"x": {"dtype": "float32", "shape": [1, 8]}}, "warmup": 3,
            "seconds": {"runs": 5, "per_second": 500.0, **times}, "profiled_runs": 5, "measured": {"fma_gflop_s": 200.0, "bandwidth_gb_s": 25.0},
            "steps": list(steps)}


def bench(case: Case, capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main(["bench", str(case.artifact), "--json", "--runs", "3", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_trace_holds_each_step_in_order_as_long_as_the_json_says(small: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(small, capsys, "--trace", tmp_path / "t.json", "--dims", "batch=3", "--threads", 1, "--warmup", 0)
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert {e["name"] for e in events if e["ph"] == "M"} == {"process_name", "thread_name"}
    complete = [e for e in events if e["ph"] == "X"]
    assert len(complete) == len(found["steps"]) == len(events) - 2
    assert [e["args"]["step"] for e in complete] == [s["step"] for s in found["steps"]]
    assert sum(e["dur"] for e in complete) == pytest.approx(1e6 * sum(s["seconds"] for s in found["steps"]))
    for before, after in itertools.pairwise(complete):
        assert after["ts"] == pytest.approx(before["ts"] + before["dur"])
    product = next(e for e in complete if "matmul" in e["args"]["kernel"])
    assert product["args"]["flops"] == 2 * 3 * 8 * 4
    assert product["args"]["GFLOP/s"] == pytest.approx(product["args"]["flops"] / product["dur"] / 1e3)
    assert product["args"]["GB/s"] == pytest.approx(product["args"]["bytes"] / product["dur"] / 1e3)
    assert all({"pid", "tid", "name"} <= set(e) for e in events) and 0 < product["args"]["roofline"] < 1


def test_a_trace_leaves_out_what_is_not_known() -> None:
    event = chrome_trace(profile(step(0)))["traceEvents"][-1]
    assert event["args"] == {"step": 0, "node": "MatMul n0", "kernel": "f0: matmul"}
    assert chrome_trace(profile(step(0, node="")))["traceEvents"][-1]["name"] == "f0: matmul"


def test_a_page_holds_every_step_and_needs_nothing_else(small: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(small, capsys, "--html", tmp_path / "p.html", "--dims", "batch=3")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    document = Document(page)
    assert "://" not in page and not any({"src", "srcset"} & set(a) for _, a in document.attributes)
    assert all(a["href"].startswith("#") for _, a in document.attributes if "href" in a)  # type: ignore[union-attr]
    cells = document.text["td"]
    assert {s["runs"] for s in found["steps"]} <= set(cells) and {s["node"] for s in found["steps"] if s["node"]} <= set(cells)
    rows = [a["id"] for tag, a in document.attributes if tag == "tr" and "id" in a]
    assert rows == [f"step-{s['step']}" for s in found["steps"]]
    shown = [s for s in found["steps"] if s["flops"] and s["bytes"]]
    assert shown and sum(tag == "circle" for tag, _ in document.attributes) == len(shown)
    assert machine()["model"] in document.text["dd"]


def test_names_that_look_like_markup_stay_text() -> None:
    hostile = '<script>alert("1")</script> & $title'
    page = html_page(profile(step(0, node=hostile, flops=100, bytes=10, gflop_s=1e-4, gb_s=1e-5)) | {"file": "<b>.ingot"}, {"<i>": "<u>"})
    document = Document(page)
    assert hostile in document.text["td"] and len(document.text["script"]) == 1
    assert not {"b", "i", "u"} & {tag for tag, _ in document.attributes}


def test_a_page_without_counted_operations_shows_the_roof_alone() -> None:
    document = Document(html_page(profile(step(0, op="builtin"), step(1)), {}))
    assert not any(tag == "circle" for tag, _ in document.attributes) and any(tag == "polyline" for tag, _ in document.attributes)
    assert any("100.0% of the time" in text for text in document.text["p"])


def test_a_circle_s_area_is_the_share_of_time_and_none_leaves_the_picture() -> None:
    counted = [step(i, share=share, flops=flops, bytes=nbytes, seconds=seconds, gb_s=nbytes / seconds / 1e9)
               for i, (share, flops, nbytes, seconds) in enumerate([(0.8, 10**9, 10**4, 1e-2), (0.2, 10, 10**9, 1.0)])]
    svg = roofline_svg(counted, 200.0, 25.0)
    circles = [tuple(map(float, found)) for found in re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)" r="([\d.]+)"', svg)]
    assert (circles[0][2] / circles[1][2]) ** 2 == pytest.approx(4, rel=0.02)  # radii are written with one decimal
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())  # type: ignore[union-attr]
    assert all(0 < x < width and 0 < y < height for x, y, _ in circles)


@pytest.mark.parametrize(("name", "message"), [
    ("nowhere/t.json", "there is no directory"), (".", "it is a directory"), ("small.ingot", "which would be overwritten")])
@pytest.mark.parametrize("option", ["--trace", "--html"])
def test_a_file_that_cannot_be_written_is_an_error_before_anything_is_measured(
        small: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, name: str, message: str) -> None:
    target = small.artifact if name == "small.ingot" else tmp_path / name
    before = small.artifact.read_bytes()
    assert main(["bench", str(small.artifact), "--runs", "1", option, str(target)]) == 1
    captured = capsys.readouterr()
    assert message in captured.err and "median" not in captured.out
    assert small.artifact.read_bytes() == before


def test_a_full_disk_is_an_error_that_names_the_file(small: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(small.artifact), "--runs", "1", "--trace", "/dev/full"]) == 1
    assert "/dev/full cannot be written: No space left" in capsys.readouterr().err


def test_one_file_cannot_be_both(small: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(small.artifact), "--trace", str(tmp_path / "x"), "--html", str(tmp_path / "x")]) == 1
    assert "give each a file of its own" in capsys.readouterr().err


def test_written_files_are_named_beside_the_tables(small: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, page = tmp_path / "t.json", tmp_path / "p.html"
    assert main(["bench", str(small.artifact), "--runs", "2", "--trace", str(trace), "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert f"wrote {trace}" in out and f"wrote {page}" in out and "of roofline" in out
    assert trace.exists() and page.exists()
