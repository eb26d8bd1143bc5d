"""What a measurement says: times by setting and contestant, the machine and its limits, versions, what Ingot refused to compile."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.groups import GROUPS, Setting
from ingot.cli import doctor
from ingot.runtime.machine import machine

_NAMES = {"ingot": "Ingot", "openvino": "OpenVINO"}
#: (group, model) → why. Filled while benchmarks run.
_REFUSED: dict[tuple[str, str], str] = {}


def name_of(contestant: str) -> str:
    """A contestant's name as its authors write it."""
    return _NAMES.get(contestant, contestant)


def refuse(group: str, model: str, reason: str) -> None:
    """Remembers that Ingot takes no part in a comparison."""
    _REFUSED[group, model] = reason


def refused(group: str, model: str) -> str:
    """Why Ingot takes no part."""
    return _REFUSED[group, model]


def surroundings() -> dict[str, Any]:
    """What `make bench` adds to its JSON report as ``ingot``."""
    return {"machine": machine(), "measured": doctor.measure(), "versions": doctor.versions(),
            "refused": [{"group": group, "model": model, "reason": reason} for (group, model), reason in _REFUSED.items()]}


@dataclass
class Results:
    """JSON reports of `make bench`, read back; of what several of them hold, the last counts.

    Attributes:
        date: When the last was measured, as ISO 8601 writes a day.
        around: Its :func:`surroundings`.
        times: For each setting and contestant: medians in seconds and what else the benchmark noted.
        refused: (group, model) → why Ingot does not compile it.
    """

    date: str = ""
    around: dict[str, Any] = field(default_factory=dict)
    times: dict[Setting, dict[str, dict[str, Any]]] = field(default_factory=dict)
    refused: dict[tuple[str, str], str] = field(default_factory=dict)

    def settings(self, group: str) -> list[Setting]:
        """What was measured of a group, in the order of its table."""
        order = GROUPS[group].models
        return sorted((s for s in self.times if s.group == group), key=lambda s: (s.threads, s.batch, order.index(s.model)))

    def peers(self, settings: Sequence[Setting]) -> list[str]:
        """The other runtimes that were measured."""
        return sorted({name for setting in settings for name in self.times[setting]} - {"ingot"})

    def ratio(self, setting: Setting, peer: str) -> float | None:
        """How many times as long a peer takes as Ingot, or None where one of the two was not measured."""
        found = self.times[setting]
        return found[peer]["median"] / found["ingot"]["median"] if {peer, "ingot"} <= set(found) else None

    def best_ratio(self, setting: Setting) -> float | None:
        """The least of :meth:`ratio` over the peers."""
        return min((r for peer in self.peers([setting]) if (r := self.ratio(setting, peer)) is not None), default=None)


def read(sources: Sequence[Path]) -> Results:
    """Reads the JSON reports of one or several runs of `make bench` on one machine."""
    results = Results()
    for source in sources:
        report = json.loads(source.read_text(encoding="utf-8"))
        results.date, results.around = report["datetime"][:10], report["ingot"]
        for bench in report["benchmarks"]:
            noted = bench["extra_info"]
            if "setting" not in noted:
                continue  # a kernel's: `ingot kernels bench` has a report of its own
            setting = Setting(**noted["setting"])
            results.times.setdefault(setting, {})[noted["contestant"]] = noted
            if noted["contestant"] == "ingot":
                results.refused.pop((setting.group, setting.model), None)
        results.refused.update({(r["group"], r["model"]): r["reason"] for r in results.around["refused"]})
    return results
