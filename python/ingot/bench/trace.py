"""A profiled run as a Chrome trace, for chrome://tracing and ui.perfetto.dev."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Where an argument of an event comes from: its name in the trace → its key in a step of ``ingot bench --json``.
_ARGUMENTS = {"node": "node", "kernel": "runs", "flops": "flops", "bytes": "bytes", "GFLOP/s": "gflop_s", "GB/s": "gb_s", "roofline": "roofline"}
#: The trace has one process with one thread: steps run one after another, each on all threads of the model's pool.
_WHERE = {"pid": 1, "tid": 1}


def chrome_trace(found: Mapping[str, Any]) -> dict[str, Any]:
    """A trace of one run: each step is a complete event, in order, as long as its mean over the profiled runs.

    ``found`` is what ``ingot bench --json`` prints, with steps. Times are in microseconds. Arguments that are not known for a step are left out.
    """
    threads = found["threads"]
    events = [_metadata("process_name", f"{found['file']} ({found['target']})"),
              _metadata("thread_name", f"steps, each on {threads} thread{'s' if threads != 1 else ''}")]
    now = 0.0
    for step in found["steps"]:
        duration = step["seconds"] * 1e6
        arguments = {name: step[key] for name, key in _ARGUMENTS.items() if step[key] is not None}
        events.append({"ph": "X", "name": step["node"] or step["runs"], "cat": step["op"], "ts": now, "dur": duration, **_WHERE,
                       "args": {"step": step["step"], **arguments}})
        now += duration
    return {"traceEvents": events, "displayTimeUnit": "ms",
            "otherData": {"file": found["file"], "target": found["target"], "threads": threads, "profiled_runs": found["profiled_runs"]}}


def _metadata(kind: str, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, **_WHERE, "args": {"name": name}}
