"""An artifact's program (docs/format.md, "Program") for a person: expressions, and what each step runs."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_INFIX = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "floormod": "%", "lt": "<", "le": "<=",
          "eq": "==", "ne": "!=", "and": "and", "or": "or"}

_EVALUATE: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "floordiv": operator.floordiv, "floormod": operator.mod, "lt": operator.lt,
    "le": operator.le, "eq": operator.eq, "ne": operator.ne, "min": min, "max": max, "not": operator.not_,
    "and": lambda a, b: a and b, "or": lambda a, b: a or b, "select": lambda c, a, b: a if c else b,
}


class Function:
    """One function of a program, to look at."""

    def __init__(self, function: Mapping[str, Any]) -> None:
        self._function = function
        self.steps: Sequence[Mapping[str, Any]] = function["steps"]

    def expression(self, index: int, outer: bool = True) -> str:
        """An integer expression as text."""
        name, *operands = self._function["exprs"][index]
        if name == "const":
            return str(operands[0])
        if name == "sym":
            return str(self._function["symbols"][operands[0]])
        inner = [self.expression(operand, outer=False) for operand in operands]
        if name in _INFIX:
            text = f"{inner[0]} {_INFIX[name]} {inner[1]}" if outer else f"({inner[0]} {_INFIX[name]} {inner[1]})"
            return text
        return f"{name}({', '.join(inner)})"

    def evaluate(self, index: int, symbols: Mapping[str, int]) -> int | None:
        """An integer expression's value, or None if it depends on a symbol that is not given."""
        name, *operands = self._function["exprs"][index]
        if name == "const":
            return int(operands[0])
        if name == "sym":
            return symbols.get(self._function["symbols"][operands[0]])
        inner = [self.evaluate(operand, symbols) for operand in operands]
        return None if any(v is None for v in inner) else int(_EVALUATE[name](*inner))

    def nbytes(self, index: int, symbols: Mapping[str, int]) -> int | None:
        """A value's size in bytes, or None if its shape depends on a symbol that is not given."""
        value = self._function["values"][index]
        extents = [self.evaluate(e, symbols) for e in value["shape"]]
        digits = re.search(r"\d+", value["dtype"])
        bits = int(digits[0]) if digits else 128 if value["dtype"] == "string" else 8  # a string's address and size
        return None if any(e is None for e in extents) else math.prod(e for e in extents if e is not None) * max(bits, 8) // 8

    def traffic(self, step: Mapping[str, Any], symbols: Mapping[str, int]) -> int | None:
        """The bytes that a step reads and writes at the least: its operands and results, each once."""
        sizes = [self.nbytes(v, symbols) for v in dict.fromkeys([*step.get("inputs", ()), *step.get("outputs", ())]) if v >= 0]
        return None if any(size is None for size in sizes) else sum(size for size in sizes if size is not None)

    def value(self, index: int) -> str:
        """A value's type: ``float32[batch, 768]``."""
        value = self._function["values"][index]
        return f"{value['dtype']}[{', '.join(self.expression(e) for e in value['shape'])}]"

    def outputs(self, step: Mapping[str, Any]) -> list[str]:
        """The types of what a step gives."""
        indices = step.get("outputs", [step["output"]] if "output" in step else [])
        return [self.value(index) for index in indices if index >= 0]

    def launches(self, step: Mapping[str, Any], entry: Mapping[str, Any]) -> list[dict[str, Any]]:
        """How the kernels of a step's function are launched (docs/format.md, "CUDA"): each launch with its grid as text."""
        symbols = [self.expression(d, outer=False) for d in step["dims"]]
        inner = Function({"exprs": entry["exprs"], "symbols": symbols, "steps": []})
        return [{**launch, "grid": [inner.expression(e) for e in launch["grid"]]} for launch in entry["launches"]]

    def runs(self, step: Mapping[str, Any], names: Sequence[str]) -> str:
        """What a step runs: a generated function and its schedule, a kernel, control flow."""
        operation = step["op"]
        if operation == "call":
            return f"{step['function']}: {step['kernel']}" if step.get("kernel") else str(step["function"])
        if operation in ("builtin", "kernel"):
            name = f"{operation} {step['name']}"
            return f"{name}: {step['kernel']}" if step.get("kernel") else name
        if operation == "if":
            return f"if: {names[step['then']]} or {names[step['else']]}"
        if operation == "loop":
            return f"loop: {names[step['body']]}"
        if operation == "check":
            return f"check {self.expression(step['expr'])}"
        return str(operation)


def functions_of(program: Mapping[str, Any]) -> list[Function]:
    """The functions of a target's program; the first is the model."""
    return [Function(function) for function in program["functions"]]


def names_of(program: Mapping[str, Any]) -> list[str]:
    """The names of a program's functions."""
    return [function["name"] for function in program["functions"]]
