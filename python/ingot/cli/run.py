"""``ingot run``: one run of an artifact on files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ingot.cli import files, options, printing


def add(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser("run", help="run a compiled model on .npy, .npz, .png or .jpg files",
                                  description="Runs a compiled model once on arrays or images from files.")
    options.add_artifact(command)
    command.add_argument("--input", action="append", default=[], metavar="NAME=FILE", help="an input: .npy, .npz, .png, .jpg; the name may be "
                         "left out for a model of one input and for an .npz that holds all; several images become a batch")
    command.add_argument("--output", type=Path, metavar="OUT.npz", help="where outputs go (.npz, or .npy for one output)")
    command.add_argument("--mean", type=options.numbers, metavar="M[,M,M]", help="subtracted from pixels, which are 0 to 1 (default: 0)")
    command.add_argument("--std", type=options.numbers, metavar="S[,S,S]", help="pixels are divided by it (default: 1)")
    options.add_machine(command)
    command.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    from ingot.runtime import Model

    model = Model.load(arguments.artifact, threads=arguments.threads, target=arguments.target)
    inputs = files.read_inputs(arguments.input, model.inputs, files.Normalization(arguments.mean, arguments.std))
    outputs = model.run(inputs)
    if arguments.output:
        files.write_outputs(arguments.output, outputs)
    types = {info.name: info.dtype for info in model.outputs}
    printing.table(["output", "dtype", "shape", "values"], [(name, types[name], printing.shape(array.shape), _preview(array))
                                                            for name, array in outputs.items()])
    return 0


def _preview(array: np.ndarray[Any, Any], most: int = 6) -> str:
    flat = array.ravel()[:most]
    if array.dtype.kind in "biu":
        shown = " ".join(str(value) for value in flat)
    elif array.dtype.kind == "O":
        shown = " ".join(repr(value) for value in flat)
    else:
        shown = " ".join(f"{complex(value):.5g}" if array.dtype.kind == "c" else f"{float(value):.5g}" for value in flat)
    return shown + (" …" if array.size > most else "")
