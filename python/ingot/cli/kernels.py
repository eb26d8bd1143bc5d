"""``ingot kernels``: the library's kernels, and how fast they are beside others'."""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.cli import doctor, options, printing
from ingot.errors import FileError, InputError

if TYPE_CHECKING:
    from ingot.bench.kernels.problem import Problem

_FLAGS = ("causal",)
_STDOUT = Path("-")


def add(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser("kernels", help="list the library's kernels, and benchmark them beside other runtimes'",
                                  description="The library's kernels, and how fast they are beside other runtimes'.")
    subcommands = command.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_list(subcommands)
    _add_bench(subcommands)


def _add_list(commands: Any) -> None:
    command = commands.add_parser("list", help="list the kernels, their instruction sets, and what can be benchmarked",
                                  description="Lists the library's kernels with the instruction sets that this machine can run, and the kernels "
                                              "that can be benchmarked, with who computes them.")
    command.add_argument("--module", action="append", default=[], metavar="FILE", help="a Python file or a shared library with kernels of one's own")
    command.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    command.set_defaults(execute=execute_list)


def _add_bench(commands: Any) -> None:
    command = commands.add_parser(
        "bench", help="benchmark kernels alone, beside other runtimes'",
        description="Measures kernels alone: each contestant in a process of its own, taking turns in one run, on the same inputs. A result is "
                    "compared with a float64 reference before it is timed.",
        epilog="Without a kernel, all are measured; without --shape, the shapes that 'ingot kernels list' shows. See docs/kernels-bench.md.")
    command.add_argument("kernel", nargs="?", metavar="KERNEL", help="quantized_matmul, attention, or one's own (default: all)")
    command.add_argument("--shape", action="append", metavar="SHAPE", help="quantized_matmul: MxKxN; attention: B,S,T,Hq,Hkv,D. May be repeated")
    command.add_argument("--dtype", action="append", metavar="TYPE[,TYPE]",
                         help="quantized_matmul: int8, int4:g32, mxfp4, nf4:g64; attention: f32, bf16, f16")
    for flag in _FLAGS:
        command.add_argument(f"--{flag}", action="store_true", help="attention: a query sees no later key; the last one sees the last key")
    command.add_argument("--threads", type=_counts, default=(0,), metavar="N[,N]", help="numbers of threads; 0, the default, is one for each core")
    command.add_argument("--paths", action="store_true", help="also Ingot's kernels with each instruction set that this machine has, by itself")
    command.add_argument("--only", action="append", default=[], metavar="NAME",
                         help="measure these contestants alone; 'torch' is all of torch's. May be repeated")
    command.add_argument("--module", action="append", default=[], metavar="FILE", help="a Python file or a shared library with kernels of one's own")
    command.add_argument("--rounds", type=options.positive, default=6, metavar="N", help="turns of each contestant (default: 6)")
    command.add_argument("--seconds", type=_seconds, default=0.2, metavar="S", help="how long a turn is, about (default: 0.2)")
    command.add_argument("--sets", type=options.positive, metavar="N", help="copies of weights and caches that are used in turn (default: as "
                         "many as exceed the last-level cache; 1 measures with warm caches)")
    for name, text in (("json", "the results as JSON; - is the terminal, instead of tables"), ("csv", "the results as a table of text"),
                       ("html", "a page with tables and a roofline"), ("png", "a picture of the roofline (needs matplotlib)")):
        command.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {text}")
    command.set_defaults(execute=execute_bench)


def execute_list(arguments: argparse.Namespace) -> int:
    """Runs ``ingot kernels list``."""
    from ingot.bench.kernels import registry
    from ingot.runtime import kernels

    for module in arguments.module:
        registry.load_module(module)
    found = {"kernels": kernels(), "benchmarks": [
        {"name": k.name, "about": k.about, "shapes": k.shapes, "dtypes": k.dtypes, "flags": list(k.flags),
         "presets": [" ".join((s, d, *f)) for s, d, f in k.presets],
         "contestants": [c.name for c in registry.contestants(k.name, paths=True)]} for k in registry.KERNELS.values()]}
    if arguments.json:
        printing.as_json(found)
        return 0
    print("kernels")
    printing.table(["name", "instruction sets", "contract"],
                   [(k["name"], " ".join(k["instruction_sets"]), textwrap.shorten(k["contract"], 90, placeholder=" …")) for k in found["kernels"]])
    for benchmark in found["benchmarks"]:
        printing.heading(f"ingot kernels bench {benchmark['name']}: {benchmark['about']}")
        printing.fields({"--shape": benchmark["shapes"], "--dtype": benchmark["dtypes"],
                         "flags": " ".join(f"--{f}" for f in benchmark["flags"]) or "none",
                         "presets": "; ".join(benchmark["presets"]) or "none", "contestants": ", ".join(benchmark["contestants"])})
    return 0


def execute_bench(arguments: argparse.Namespace) -> int:
    """Runs ``ingot kernels bench``."""
    from ingot.bench.kernels import registry
    from ingot.bench.kernels.harness import Options, measure
    from ingot.runtime import machine

    for module in arguments.module:
        registry.load_module(module)
    written = {name: path for name in _WRITERS if (path := getattr(arguments, name))}
    _check_written(written)
    problems = _problems(arguments)
    threads = tuple(dict.fromkeys(count or int(machine()["threads"]) for count in arguments.threads))
    with printing.progress() as progress:
        found = measure(problems, Options(threads, arguments.rounds, arguments.seconds, arguments.sets, arguments.paths, tuple(arguments.only),
                                          tuple(arguments.module)), progress)
    for name, path in written.items():
        _WRITERS[name](path, found)
    if written.get("json") != _STDOUT:
        _print(found)
        for path in written.values():
            print(f"wrote {path}")
    return 0


def _problems(arguments: argparse.Namespace) -> list[Problem]:
    """What the command line asks for."""
    from ingot.bench.kernels import registry

    if arguments.kernel is None and (arguments.shape or arguments.dtype):
        raise InputError(f"--shape and --dtype are those of a kernel: name one before them; there are {', '.join(registry.KERNELS)}")
    flags = tuple(flag for flag in _FLAGS if getattr(arguments, flag))
    dtypes = [d for text in arguments.dtype or () for d in text.split(",") if d]
    kernels = [registry.find_kernel(arguments.kernel)] if arguments.kernel else list(registry.KERNELS.values())
    asked: list[tuple[str, str, str, tuple[str, ...]]] = []
    for kernel in kernels:
        if arguments.shape:
            asked += [(kernel.name, s, d, flags) for d in dtypes or kernel.default_dtypes for s in arguments.shape]
        else:
            presets = dict.fromkeys((s, d or dtype, f) for s, dtype, f in kernel.presets for d in dtypes or [""])
            asked += [(kernel.name, *preset) for preset in presets if not flags or preset[2] == flags]
    if not asked:
        raise InputError(f"{kernels[0].name} has no presets of that kind: give a shape with --shape, {kernels[0].shapes}")
    return [registry.problem(*one) for one in asked]


def _write_json(path: Path, found: Mapping[str, Any]) -> None:
    text = json.dumps(found, indent=2)
    if path == _STDOUT:
        print(text)
    else:
        _write(path, lambda: path.write_text(text + "\n", encoding="utf-8"))


def _write_csv(path: Path, found: Mapping[str, Any]) -> None:
    from ingot.bench.kernels.table import csv_text

    _write(path, lambda: path.write_text(csv_text(found), encoding="utf-8"))


def _write_html(path: Path, found: Mapping[str, Any]) -> None:
    from ingot.bench.kernels.page import html_page

    _write(path, lambda: path.write_text(html_page(found, doctor.described(found["machine"])), encoding="utf-8"))


def _write_png(path: Path, found: Mapping[str, Any]) -> None:
    from ingot.bench.kernels.picture import draw

    _write(path, lambda: draw(path, found))


def _write(path: Path, make: Callable[[], object]) -> None:
    try:
        make()
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error


_WRITERS: Mapping[str, Callable[[Path, Mapping[str, Any]], None]] = {"json": _write_json, "csv": _write_csv, "html": _write_html, "png": _write_png}


def _check_written(written: Mapping[str, Path]) -> None:
    """Raises before anything is measured where a file that is asked for could not be written."""
    for path in written.values():
        if path == _STDOUT and written.get("json") == _STDOUT:
            continue
        if os.path.isdir(path) or not os.path.isdir(path.parent):
            raise FileError(f"{path} cannot be written: " + ("it is a directory" if os.path.isdir(path) else f"there is no directory {path.parent}"))
    if "png" in written:
        from ingot.bench.kernels.picture import need_matplotlib

        need_matplotlib()


def _print(found: Mapping[str, Any]) -> None:
    from ingot.bench.kernels import table

    for limits in found["measured"]:
        print(table.limits_text(limits))
    for case in found["cases"]:
        printing.heading(table.title(case))
        rows = [row for row in case["contestants"] if row["status"] == "ok"]
        if rows:
            texts = [[text(row) for text in table.COLUMNS.values()] for row in rows]
            printing.table(list(table.COLUMNS), texts, right=range(1, len(table.COLUMNS) - 1))
        for row in case["contestants"]:
            if row["status"] != "ok":
                print(f"  {row['name']} {'is WRONG and was not timed' if row['status'] == 'wrong' else 'is left out'}: {row['reason']}")
    print("\nof roofline: the least time that the peak or the bandwidth of the same turn allows, over the time taken; the median of the turns")


def _counts(text: str) -> Sequence[int]:
    return [options.count(part) for part in text.split(",")]


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds such as 0.2")
    return value
