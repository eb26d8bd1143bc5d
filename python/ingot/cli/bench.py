"""``ingot bench``: how long one run takes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ingot.cli import options, printing
from ingot.cli.program import functions_of, names_of


def add(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser("bench", help="measure the time of one run: median and percentiles",
                                  description="Measures the time of one run. Inputs are the stored sample's where the extents fit, else synthesized.")
    options.add_artifact(command)
    command.add_argument("--dims", action="append", type=options.assignments, metavar="batch=1,seq=128",
                         help="extents of symbolic dimensions (default: the sample's, else 1)")
    command.add_argument("--warmup", type=options.count, default=3, metavar="N", help="runs before the measured ones (default: 3)")
    command.add_argument("--runs", type=options.positive, metavar="N", help="measured runs (default: as many as fit in 2 seconds, at least 5)")
    command.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    command.add_argument("--per-op", action="store_true", help="also the time of each step")
    options.add_machine(command)
    command.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    from ingot.bench import bench_inputs, summarize, time_runs
    from ingot.runtime import Artifact, Model

    artifact = Artifact.open(arguments.artifact)
    dims = options.known_dims(options.merged(arguments.dims), artifact.manifest["dims"])
    inputs = bench_inputs(artifact, dims)
    model = Model.load(arguments.artifact, threads=arguments.threads, target=arguments.target)
    with model.session() as session:
        summary = summarize(time_runs(lambda: session.run(inputs), warmup=arguments.warmup, runs=arguments.runs))
        steps = _profile(session, model, inputs, summary.runs) if arguments.per_op else None
    found = {"file": arguments.artifact, "target": model.target, "threads": model.threads,
             "inputs": {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in inputs.items()},
             "warmup": arguments.warmup, "seconds": summary.as_dict()}
    if steps is not None:
        found["steps"] = steps
    if arguments.json:
        printing.as_json(found)
    else:
        _print(found)
    return 0


def _profile(session: Any, model: Any, inputs: Mapping[str, Any], runs: int) -> list[dict[str, Any]]:
    """The mean seconds of each step of the main function, over runs of their own: timing each step slows a run down."""
    session.profiling = True
    for _ in range(runs):
        session.run(inputs)
    nanoseconds, counted = session.profile()
    program = next(t for t in model.manifest["targets"] if t["name"] == model.target)["program"]
    main, names = functions_of(program)[0], names_of(program)
    total = sum(nanoseconds) or 1
    return [{"step": i, "runs": main.runs(step, names), "node": step.get("node", ""), "seconds": spent * 1e-9 / max(counted, 1),
             "share": spent / total}
            for i, (step, spent) in enumerate(zip(main.steps, nanoseconds, strict=True))]


def _print(found: Mapping[str, Any]) -> None:
    print(f"{found['file']}: {found['target']}, {found['threads']} thread{'s' if found['threads'] != 1 else ''}")
    printing.fields({name: f"{i['dtype']} {printing.shape(i['shape'])}" for name, i in found["inputs"].items()})
    seconds = found["seconds"]
    times = [printing.duration(seconds[key]) for key in ("median", "minimum", "p5", "p95", "p99")]
    printing.table(["runs", "median", "min", "p5", "p95", "p99", "runs/s"], [(seconds["runs"], *times, f"{seconds['per_second']:.4g}")],
                   right=range(7))
    if "steps" in found:
        printing.heading("time of each step, largest first")
        steps = sorted(found["steps"], key=lambda s: -s["seconds"])
        printing.table(["time", "share", "step", "runs", "from"],
                       [(printing.duration(s["seconds"]), f"{s['share']:.1%}", s["step"], s["runs"], s["node"]) for s in steps], right=[0, 1, 2])
