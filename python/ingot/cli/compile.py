"""``ingot compile``: a model becomes one .ingot file."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from ingot.cli import modules, options, printing, quantization
from ingot.errors import CompileError


def add(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser("compile", help="compile a model into one .ingot file", description="Compiles a model into one .ingot file.")
    command.add_argument("model", metavar="MODEL", help="an .onnx file, a Hugging Face directory (config.json and weights), or "
                         "module:callable, which returns (torch module, example inputs)")
    command.add_argument("-o", "--output", required=True, metavar="OUT.ingot", help="the file to write; it appears only when it is whole")
    command.add_argument("--import", action="append", dest="imports", default=[], metavar="MODULE", help="import a module, or run a file.py, first: "
                         "it says with ingot.onnx_op and ingot.torch_op what operators of one's own mean (docs/operators.md)")
    command.add_argument("--target", action="append", metavar="NAME", help="cpu (this machine, the default), cpu:x86-64-v3, cpu:x86-64-v4, "
                         "cpu:aarch64, or one with extensions such as cpu:x86-64-v4+vnni+bf16 or cpu:aarch64+dotprod+i8mm; for NVIDIA GPUs "
                         "cuda:sm_80, sm_86, sm_89 or sm_90, several as in cuda:sm_80+sm_90, or cuda for all; several go into one "
                         "file, and the best that a machine can run is loaded")
    command.add_argument("--precision", metavar="TYPE", help="f32; bf16 or f16, which keep weights in 16 bits and add up in float32 (bf16 multiplies "
                         "in bfloat16 where the CPU does; on a GPU, what lies between products has 16 bits too); tf32, which rounds what a GPU "
                         "multiplies to 10 bits of fraction; default: the model's own types")
    command.add_argument("--quantize", metavar="SCHEME", help="quantize the weights of matrix products: int8, int4, uint4, nf4 or mxfp4, "
                         "with a group as in int4:g128 and an arithmetic as in int8:float; with --calibration int8 quantizes convolutions "
                         "too; kept:int8 and kept:float are for weights that "
                         "are quantized in the model (docs/quantization.md)")
    command.add_argument("--quantize-include", action="append", metavar="PATTERN", help="quantize only what has such a name, of an ONNX node or a "
                         "weight; * and ? stand for any text")
    command.add_argument("--quantize-exclude", action="append", metavar="PATTERN", help="do not quantize what has such a name")
    command.add_argument("--calibration", action="append", metavar="FILE", help="for --quantize: real inputs by name (.npz), or text (.txt) for a "
                         "language model; layers are then quantized by GPTQ, or by --quantize-method; several files are several cases")
    command.add_argument("--quantize-method", metavar="METHOD", help="nearest, gptq, gptq-ordered, awq, awq+gptq, awq+gptq-ordered, smoothquant, "
                         "smoothquant:0.7 or smoothquant+gptq (default: gptq with --calibration, else nearest)")
    command.add_argument("--quantize-report", metavar="FILE.json", help="where to write what each layer and the model lost, which the artifact holds "
                         "too (default: beside it, OUT.quantization.json)")
    command.add_argument("--shape", action="append", type=options.shape, metavar="NAME=1,3,224,224",
                         help="fix or name the extents of an input: NAME=batch,3,H,W")
    command.add_argument("--bound", action="append", type=options.assignments, metavar="batch=32",
                         help="the largest extent of a symbolic dimension; memory is then planned once")
    command.add_argument("--samples", type=options.count, metavar="N", help="reference samples to store for `ingot verify` (default: 1; 0 for a "
                         "language model's directory)")
    command.add_argument("--state", action="append", type=options.pair, metavar="INPUT=OUTPUT", help="a session remembers: the output of one run is "
                         "the input of the next (default: what is named past_… and present_…)")
    command.add_argument("--no-states", action="store_true", help="keep past_… and present_… as inputs and outputs")
    command.add_argument("--context", type=options.positive, metavar="N", help="for a language model's directory: the most tokens that its caches "
                         "hold (default: what it was trained for)")
    command.add_argument("--cache", metavar="TYPE", help="for a language model's directory: the type of its caches, f32 (default), f16, bf16, int8, "
                         "or for GPUs fp8")
    command.add_argument("--window", type=options.positive, metavar="N", help="for a language model's directory: layers see N tokens at most, in "
                         "memory that stays the same however long a text becomes")
    command.add_argument("--sinks", type=options.count, metavar="N", help="how many of a text's first tokens stay in sight beside --window, as in "
                         "StreamingLLM (default: 0)")
    command.add_argument("--name", help="the model's name in the artifact (default: from its file)")
    command.add_argument("--tune", action="store_true", help="measure the best candidates for each matrix product and convolution on this machine, "
                         "and use the fastest; results are remembered")
    command.add_argument("--tune-file", metavar="FILE.json", help="where --tune remembers results (default: ingot/tuning.json in the user's cache "
                         "folder); without --tune, results to use, measuring nothing")
    command.add_argument("--tune-threads", type=options.positive, metavar="N", help="threads to measure with (default: one for each core)")
    command.add_argument("--verbose", action="store_true", help="say what each pass did")
    command.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    from ingot.compiler import compile

    if arguments.quantize_report and not arguments.quantize:
        raise CompileError("--quantize-report is about --quantize, which was not given")
    model, inputs = arguments.model, None
    for name in arguments.imports:
        modules.import_module(name)
    if is_callable(model):
        from ingot.export.spec import load_callable

        model, inputs = load_callable(model)
    with printing.warnings(), printing.progress() as progress:
        report = compile(model, arguments.output, target=arguments.target or "cpu", precision=arguments.precision,
                         quantize=arguments.quantize, quantize_include=arguments.quantize_include or (),
                         quantize_exclude=arguments.quantize_exclude or (),
                         calibration=quantization.cases(arguments.calibration) if arguments.calibration else None,
                         quantize_method=arguments.quantize_method,
                         shapes=dict(arguments.shape) if arguments.shape else None, bounds=options.merged(arguments.bound) or None,
                         states={} if arguments.no_states else dict(arguments.state) if arguments.state else None, context=arguments.context,
                         cache=arguments.cache, window=arguments.window, sinks=arguments.sinks, samples=arguments.samples, inputs=inputs,
                         name=arguments.name, tune=arguments.tune, tune_file=arguments.tune_file, tune_threads=arguments.tune_threads,
                         progress=progress)
    for line in report.log:
        if arguments.verbose or ": tune: " in line:
            print(line)
    printing.table(["stage", "time"], [*((stage, printing.duration(t)) for stage, t in report.timings.items()),
                                       ("total", printing.duration(sum(report.timings.values())))], right=[1])
    if report.quantization is not None:
        quantization.summary(report.quantization)
        beside = Path(arguments.quantize_report or report.path.with_suffix(".quantization.json"))
        quantization.write(report.quantization, beside)
        print(f"{beside}: what each layer and the model lost")
    print(f"{report.path}: {printing.size(report.size)}, {', '.join(report.targets)}")
    return 0


def is_callable(model: str) -> bool:
    """Whether MODEL names a callable rather than a file: ``package.module:callable``."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", model) is not None and not os.path.exists(model)
