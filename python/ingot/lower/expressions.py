"""Integer expressions of a program: TIR expressions over symbolic extents as a table (docs/format.md, "exprs")."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from ingot.errors import InternalError
from ingot.importer.dims import Dim

_OPERATORS: tuple[tuple[Any, str], ...] = (
    (tirx.Add, "add"), (tirx.Sub, "sub"), (tirx.Mul, "mul"), (tirx.FloorDiv, "floordiv"), (tirx.FloorMod, "floormod"),
    (tirx.Min, "min"), (tirx.Max, "max"), (tirx.LT, "lt"), (tirx.LE, "le"), (tirx.EQ, "eq"), (tirx.NE, "ne"), (tirx.And, "and"), (tirx.Or, "or"),
)
_SWAPPED: tuple[tuple[Any, str], ...] = ((tirx.GT, "lt"), (tirx.GE, "le"))


class Expressions:
    """The symbols and expressions of one function of a program."""

    def __init__(self) -> None:
        self.symbols: list[str] = []
        self.table: list[list[Any]] = []
        self._rows: dict[tuple[Any, ...], int] = {}
        self._symbols: dict[Any, int] = {}

    def declare(self, variable: Any) -> int:
        """The number of a symbol, which is new the first time its variable is seen."""
        if variable not in self._symbols:
            self._symbols[variable] = self.row("sym", len(self.symbols))
            self.symbols.append(_unique(variable.name, self.symbols))
        return self.table[self._symbols[variable]][1]

    def define(self, variable: Any, row: int) -> None:
        """Makes a variable another name of an expression."""
        self._symbols[variable] = row

    def is_declared(self, variable: Any) -> bool:
        """Whether a variable has been declared or defined."""
        return variable in self._symbols

    def row(self, operator: str, *operands: int) -> int:
        """The row of an expression, shared with earlier equal ones."""
        key = (operator, *operands)
        if key not in self._rows:
            self._rows[key] = len(self.table)
            self.table.append([operator, *operands])
        return self._rows[key]

    def add(self, value: Dim) -> int:
        """The row of a dimension, with rows for its parts."""
        if isinstance(value, (int, tirx.IntImm)):
            return self.row("const", int(value))
        if isinstance(value, tirx.Var):
            self.declare(value)
            return self._symbols[value]
        if isinstance(value, (tirx.Cast,)):
            return self.add(value.value)
        if isinstance(value, tirx.Not):
            return self.row("not", self.add(value.a))
        if isinstance(value, tirx.Select):
            return self.row("select", self.add(value.condition), self.add(value.true_value), self.add(value.false_value))
        for kind, name in _OPERATORS:
            if isinstance(value, kind):
                return self.row(name, self.add(value.a), self.add(value.b))
        for kind, name in _SWAPPED:
            if isinstance(value, kind):
                return self.row(name, self.add(value.b), self.add(value.a))
        raise InternalError(f"the dimension {value} ({type(value).__name__}) cannot be computed at run time")


def _unique(name: str, taken: list[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        candidate, count = f"{name}_{count}", count + 1
    return candidate
