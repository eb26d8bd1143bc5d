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
    command.add_argument("--per-op", action="store_true", help="also the time of each step, and its share of what this machine can do")
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
    from ingot.runtime.machine import measure_bandwidth, measure_fma

    session.profiling = True
    for _ in range(runs):
        session.run(inputs)
    nanoseconds, counted = session.profile()
    program = next(t for t in model.manifest["targets"] if t["name"] == model.target)["program"]
    main, names = functions_of(program)[0], names_of(program)
    total = sum(nanoseconds) or 1
    symbols = {extent: given for info in model.inputs for extent, given in zip(info.shape, inputs[info.name].shape, strict=True)
               if isinstance(extent, str)}
    peak, bandwidth = measure_fma(model.threads) * 1e9, measure_bandwidth(model.threads) * 1e9
    steps = []
    for i, (step, spent) in enumerate(zip(main.steps, nanoseconds, strict=True)):
        seconds = spent * 1e-9 / max(counted, 1)
        flops = main.evaluate(step["flops"], symbols) if "flops" in step else None
        traffic = main.traffic(step, symbols) if step["op"] in ("call", "kernel") else None
        least = max((flops or 0) / peak, (traffic or 0) / bandwidth)
        steps.append({"step": i, "runs": main.runs(step, names), "node": step.get("node", ""), "seconds": seconds, "share": spent / total,
                      "flops": flops, "bytes": traffic, "roofline": least / seconds if least and seconds else None})
    return steps


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
        rows = [(printing.duration(s["seconds"]), f"{s['share']:.1%}", _rate(s["flops"], s["seconds"]), _rate(s["bytes"], s["seconds"]),
                 f"{s['roofline']:.0%}" if s["roofline"] else "", s["step"], s["runs"], s["node"]) for s in steps]
        printing.table(["time", "share", "GFLOP/s", "GB/s", "of roofline", "step", "runs", "from"], rows, right=range(6))
        print("\nof roofline: the time that the measured peak and bandwidth of this machine would take, over the time taken; what the caches hold "
              "of operands may take less")


def _rate(amount: int | None, seconds: float) -> str:
    return f"{amount / seconds / 1e9:.1f}" if amount and seconds else ""
