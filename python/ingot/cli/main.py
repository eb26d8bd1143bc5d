"""Finds the command and turns Ingot's errors into one line on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ingot import _version
from ingot.cli import bench, compile, doctor, generate, inspect, kernels, run, verify
from ingot.errors import IngotError

COMMANDS = (compile, run, generate, inspect, verify, bench, kernels, doctor)

_EPILOG = """\
exit codes:
  0    it worked
  1    an error, explained on stderr (INGOT_DEBUG=1 shows where it came from)
  2    the command line is wrong
  3    verify: the outputs differ from the framework's by more than the tolerance
  130  interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        code: int = options.execute(options)
        sys.stdout.flush()
        return code
    except IngotError as error:
        if os.environ.get("INGOT_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `ingot inspect … | head` closed its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    root = argparse.ArgumentParser(prog="ingot", description="Compiles ONNX and PyTorch models ahead of time, and runs them.", epilog=_EPILOG,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    root.add_argument("--version", action="version", version=f"ingot {_version.__version__}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return root
