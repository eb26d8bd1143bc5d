"""``ingot bench``: how long one run takes, or how fast a language model generates text."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ingot.cli import doctor, options, printing
from ingot.cli.program import functions_of, names_of
from ingot.errors import FileError, InputError


def add(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser("bench", help="measure the time of one run: median and percentiles, or of generated text",
                                  description="Measures the time of one run. Inputs are the stored sample's where the extents fit, else synthesized. "
                                  "With --generate it measures a language model's text: the time to the first token and between tokens.")
    options.add_artifact(command)
    command.add_argument("--dims", action="append", type=options.assignments, metavar="batch=1,seq=128",
                         help="extents of symbolic dimensions (default: the sample's, else 1)")
    command.add_argument("--warmup", type=options.count, metavar="N", help="runs before the measured ones (default: 3, or 1 with --generate)")
    command.add_argument("--runs", type=options.positive, metavar="N", help="measured runs (default: as many as fit in 2 seconds, at least 5; with "
                         "--generate 3 of each case)")
    command.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    command.add_argument("--per-op", action="store_true", help="also the time of each step, and its share of what this machine can do")
    command.add_argument("--trace", type=Path, metavar="FILE.json", help="write the steps of one run as a Chrome trace, for ui.perfetto.dev or "
                         "chrome://tracing; implies --per-op")
    command.add_argument("--html", type=Path, metavar="FILE.html", help="write a page with the machine, the times, a roofline and a table of steps; "
                         "implies --per-op")
    options.add_machine(command)
    generate = command.add_argument_group("with --generate", "Lengths and sizes by default are some that fit the artifact's context; all "
                                          "combinations are measured, each on new prompts of random tokens.")
    generate.add_argument("--generate", action="store_true", help="measure how fast a language model generates text")
    generate.add_argument("--prompt-lengths", type=options.lengths, metavar="16,128,512", help="tokens of a prompt")
    generate.add_argument("--output-lengths", type=options.lengths, metavar="64", help="tokens to generate")
    generate.add_argument("--batch-sizes", type=options.lengths, metavar="1,4", help="texts at once")
    generate.add_argument("--peer", action="append", default=[], metavar="llama.cpp=FILE.gguf", help="another program, on its own model, in turn "
                          "with Ingot: llama.cpp through llama-cpp-python")
    generate.add_argument("--png", type=Path, metavar="FILE.png", help="write the figures as plots, with matplotlib")
    command.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    _check_together(arguments)
    return _generated(arguments) if arguments.generate else _timed(arguments)


#: What only one of the two kinds of measurements has: the attribute, and the option.
_OF_RUNS = {"dims": "--dims", "per_op": "--per-op", "trace": "--trace", "html": "--html"}
_OF_GENERATE = {"prompt_lengths": "--prompt-lengths", "output_lengths": "--output-lengths", "batch_sizes": "--batch-sizes", "peer": "--peer",
                "png": "--png"}


def _check_together(arguments: argparse.Namespace) -> None:
    """Raises where an option was given that means nothing beside the others."""
    for attribute, option in (_OF_RUNS if arguments.generate else _OF_GENERATE).items():
        if getattr(arguments, attribute):
            raise InputError(f"{option} is about single runs; leave it out with --generate" if arguments.generate else
                             f"{option} is about generated text; give --generate too")


def _generated(arguments: argparse.Namespace) -> int:
    """Measures generated text."""
    from ingot.bench.generate import COLUMNS, EXPLAINED, cases, draw, measure, need_matplotlib, peer, rows
    from ingot.runtime import Artifact, Model

    artifact = Artifact.open(arguments.artifact)
    _check_written(arguments)
    if arguments.png:
        need_matplotlib()
    programs = {"ingot": arguments.artifact, **dict(peer(text) for text in arguments.peer)}
    found = cases(artifact.manifest, arguments.prompt_lengths, arguments.output_lengths, arguments.batch_sizes)
    model = Model.load(arguments.artifact, threads=arguments.threads, target=arguments.target)  # says what is wrong before processes start
    target, threads = model.target, model.threads
    del model
    with printing.progress() as progress:
        measured = measure(programs, found, threads=threads, target=target, runs=arguments.runs or 3,
                           warmup=1 if arguments.warmup is None else arguments.warmup, said=lambda case: progress("measure", None, case))
    title = f"{arguments.artifact}: {target}, {threads} thread{'s' if threads != 1 else ''}"
    if arguments.png:
        _saved(arguments.png, lambda path: draw(path, measured, title))
    if arguments.json:
        printing.as_json({"file": arguments.artifact, "target": target, "threads": threads, "programs": programs, "cases": measured})
        return 0
    print(title)
    printing.table(COLUMNS, rows(measured), right=[0, 1, 2, *range(4, len(COLUMNS))])
    print(f"\n{EXPLAINED}")
    if arguments.png:
        print(f"wrote {arguments.png}")
    return 0


def _timed(arguments: argparse.Namespace) -> int:
    """Measures single runs."""
    from ingot.bench import bench_inputs, summarize, time_runs
    from ingot.runtime import Artifact, Model

    warmup = 3 if arguments.warmup is None else arguments.warmup
    artifact = Artifact.open(arguments.artifact)
    _check_written(arguments)
    dims = options.known_dims(options.merged(arguments.dims), artifact.manifest["dims"])
    inputs = bench_inputs(artifact, dims)
    model = Model.load(arguments.artifact, threads=arguments.threads, target=arguments.target)
    with model.session() as session:
        summary = summarize(time_runs(lambda: session.run(inputs), warmup=warmup, runs=arguments.runs))
        found = {"file": arguments.artifact, "target": model.target, "threads": model.threads,
                 "inputs": {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in inputs.items()},
                 "warmup": warmup, "seconds": summary.as_dict()}
        if arguments.per_op or arguments.trace or arguments.html:
            found.update(_profile(session, model, inputs, summary.runs))
    written = _write(arguments, found)  # before anything is printed: `ingot bench … | head` may end there
    if arguments.json:
        printing.as_json(found)
    else:
        _print(found)
        for path in written:
            print(f"wrote {path}")
    return 0


def _check_written(arguments: argparse.Namespace) -> None:
    """Raises before anything is measured where a file that is asked for could not be written."""
    artifact, written = Path(arguments.artifact).resolve(), [path for path in (arguments.trace, arguments.html, arguments.png) if path]
    for path in written:
        if os.path.isdir(path):  # os.path's answer is no where a directory above may not be read; Path's methods raise
            raise FileError(f"{path} cannot be written: it is a directory; name a file in it")
        if not os.path.isdir(path.parent):
            raise FileError(f"{path} cannot be written: there is no directory {path.parent}")
        if not os.access(path if os.path.exists(path) else path.parent, os.W_OK):
            raise FileError(f"{path} cannot be written: permission denied")
        if path.resolve() == artifact:
            raise InputError(f"{path} is the artifact, which would be overwritten; name another file")
    if len({path.resolve() for path in written}) < len(written):
        raise InputError(f"--trace and --html both name {arguments.html}; give each a file of its own")


def _write(arguments: argparse.Namespace, found: Mapping[str, Any]) -> list[Path]:
    """Writes the files that are asked for."""
    from ingot.bench.page import html_page
    from ingot.bench.trace import chrome_trace
    from ingot.runtime import machine

    made: dict[Path | None, Callable[[], str]] = {
        arguments.trace: lambda: json.dumps(chrome_trace(found), indent=1),
        arguments.html: lambda: html_page(found, {**doctor.described(machine()), **_versions()}),
    }
    wanted = {path: make for path, make in made.items() if path}
    for path, make in wanted.items():
        text = make()
        _saved(path, partial(Path.write_text, data=text, encoding="utf-8"))
    return list(wanted)


def _saved(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file; raises an error that names it where that fails."""
    try:
        write(path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error


def _versions() -> dict[str, str]:
    """What of ``ingot doctor``'s versions decides how a compiled model runs."""
    found = doctor.versions()
    return {"versions": ", ".join(f"{name} {found[name]}" for name in ("ingot", "python", "numpy") if found[name])}


def _profile(session: Any, model: Any, inputs: Mapping[str, Any], runs: int) -> dict[str, Any]:
    """The mean seconds of each step of the main function, over runs of their own (timing each step slows a run down), and the machine's limits."""
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
    limits = {"fma_gflop_s": measure_fma(model.threads).best, "bandwidth_gb_s": measure_bandwidth(model.threads).best}
    steps = []
    for i, (step, spent) in enumerate(zip(main.steps, nanoseconds, strict=True)):
        seconds = spent * 1e-9 / max(counted, 1)
        flops = main.evaluate(step["flops"], symbols) if "flops" in step else None
        traffic = main.traffic(step, symbols) if step["op"] in ("call", "kernel") else None
        least = max((flops or 0) / limits["fma_gflop_s"], (traffic or 0) / limits["bandwidth_gb_s"]) * 1e-9
        steps.append({"step": i, "op": step["op"], "runs": main.runs(step, names), "node": step.get("node", ""), "seconds": seconds,
                      "share": spent / total, "flops": flops, "bytes": traffic, "gflop_s": _rate(flops, seconds), "gb_s": _rate(traffic, seconds),
                      "roofline": least / seconds if least and seconds else None})
    return {"profiled_runs": counted, "measured": limits, "steps": steps}


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
        rows = [(printing.duration(s["seconds"]), f"{s['share']:.1%}", _decimal(s["gflop_s"]), _decimal(s["gb_s"]),
                 f"{s['roofline']:.0%}" if s["roofline"] else "", s["step"], s["runs"], s["node"]) for s in steps]
        printing.table(["time", "share", "GFLOP/s", "GB/s", "of roofline", "step", "runs", "from"], rows, right=range(6))
        print("\nof roofline: the time that the measured peak and bandwidth of this machine would take, over the time taken; what the caches hold "
              "of operands may take less")


def _rate(amount: int | None, seconds: float) -> float | None:
    """10^9 in a second."""
    return amount / seconds / 1e9 if amount and seconds else None


def _decimal(rate: float | None) -> str:
    return f"{rate:.1f}" if rate else ""
