"""An artifact's program (docs/format.md, "Program") for a person: expressions, and what each step runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_INFIX = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "floormod": "%", "lt": "<", "le": "<=",
          "eq": "==", "ne": "!=", "and": "and", "or": "or"}


class Function:
    """One function of a program, to look at."""

    def __init__(self, function: Mapping[str, Any]) -> None:
        self._function = function
        self.steps: Sequence[Mapping[str, Any]] = function["steps"]

    def expression(self, index: int, outer: bool = True) -> str:
        """An integer expression as text."""
        operator, *operands = self._function["exprs"][index]
        if operator == "const":
            return str(operands[0])
        if operator == "sym":
            return str(self._function["symbols"][operands[0]])
        inner = [self.expression(operand, outer=False) for operand in operands]
        if operator in _INFIX:
            text = f"{inner[0]} {_INFIX[operator]} {inner[1]}" if outer else f"({inner[0]} {_INFIX[operator]} {inner[1]})"
            return text
        return f"{operator}({', '.join(inner)})"

    def value(self, index: int) -> str:
        """A value's type: ``float32[batch, 768]``."""
        value = self._function["values"][index]
        return f"{value['dtype']}[{', '.join(self.expression(e) for e in value['shape'])}]"

    def outputs(self, step: Mapping[str, Any]) -> list[str]:
        """The types of what a step gives."""
        indices = step.get("outputs", [step["output"]] if "output" in step else [])
        return [self.value(index) for index in indices if index >= 0]

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
