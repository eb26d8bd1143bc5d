"""TIR expressions and statements as CUDA C++.

Values of float16, bfloat16 and the 8-bit floats are computed as float: loads widen, stores and casts round. Indices are int64.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tvm import s_tir, tirx
from tvm.ir import Call
from tvm.ir.expr import TensorLoad

from ingot.errors import InternalError
from ingot.lower.cpu.nest import constant, product

#: What elements are stored as.
STORED = {
    "float64": "double", "float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16", "float8_e4m3fn": "__nv_fp8_e4m3",
    "float8_e5m2": "__nv_fp8_e5m2", "int64": "int64_t", "int32": "int32_t", "int16": "int16_t", "int8": "int8_t", "uint64": "uint64_t",
    "uint32": "uint32_t", "uint16": "uint16_t", "uint8": "uint8_t", "bool": "bool",
}
#: Those that are computed as float.
NARROW = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
_BYTES = {"float64": 8, "int64": 8, "uint64": 8, "float32": 4, "int32": 4, "uint32": 4, "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2}

_BINARY: tuple[tuple[Any, str], ...] = (
    (tirx.Add, "+"), (tirx.Sub, "-"), (tirx.Mul, "*"), (tirx.Div, "/"), (tirx.Mod, "%"), (tirx.LT, "<"), (tirx.LE, "<="), (tirx.GT, ">"),
    (tirx.GE, ">="), (tirx.EQ, "=="), (tirx.NE, "!="), (tirx.And, "&&"), (tirx.Or, "||"), (tirx.BitwiseAnd, "&"), (tirx.BitwiseOr, "|"),
    (tirx.BitwiseXor, "^"), (tirx.LShift, "<<"), (tirx.RShift, ">>"),
)
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=", "&&", "||")
#: Calls that are a function of C with one name for double, and the same with an f for float.
_MATH = frozenset((
    "exp", "exp2", "exp10", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan",
    "asinh", "acosh", "atanh", "atan2", "pow", "fmod", "floor", "ceil", "trunc", "nearbyint", "fabs", "erf", "copysign", "hypot", "nextafter",
    "rsqrt", "fma", "ldexp", "remainder"))
#: A function of an index and the extent of an axis: the place on the axis. An index that is out of range is reported (prelude.cuh).
WITHIN = "ingot_within"
_OTHER_NAMES = {"round": "nearbyint"}  # TVM's round: ties to even
_BITWISE = {"bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", "shift_left": "<<", "shift_right": ">>"}


def nbytes(dtype: str) -> int:
    """The size of an element."""
    return _BYTES.get(dtype, 1)


def stored(dtype: str) -> str:
    """The C++ type that elements of a dtype are stored as.

    Raises:
        InternalError: There is none.
    """
    if dtype not in STORED:
        raise InternalError(f"generated CUDA code has no type for {dtype}")
    return STORED[dtype]


def computed(dtype: str) -> str:
    """The C++ type that a dtype is computed in."""
    return "float" if dtype in NARROW else stored(dtype)


def dtype_of(expression: Any) -> str:
    """The dtype of an expression."""
    return str(expression.ty.dtype)


def is_within(node: Any) -> bool:
    """Whether an expression is the place of an index on an axis."""
    return isinstance(node, Call) and getattr(node.op, "name", "").endswith("call_pure_extern") and str(node.args[0].value) == WITHIN


def horner(indices: Sequence[Any], shape: Sequence[Any]) -> Any:
    """The position of an element in a C-contiguous buffer, as an expression."""
    position: Any = tirx.IntImm("int64", 0)
    for index, extent in zip(indices, shape, strict=True):
        position = position * extent + index
    return position


class Emitter:
    """The statements of one kernel, written line by line.

    ``names`` are what variables are called; ``loaders`` what becomes of loads from some buffers; ``pointers`` where the others are.
    """

    def __init__(self, pointers: dict[Any, str]) -> None:
        self.pointers = pointers
        self.names: dict[Any, str] = {}
        self.loaders: dict[Any, Callable[[Any], str]] = {}
        self.lines: list[str] = []
        self.conditions: list[Any] = []  # those under which the expression at hand is evaluated
        self.inside: set[Any] = set()  # variables with names that are known in an inner block only
        self._made = 0

    # ---- Statements ---------------------------------------------------------------------------------------------

    def put(self, line: str) -> None:
        """A line of code."""
        self.lines.append(line)

    def fresh(self, name: str) -> str:
        """A name that is used nowhere else."""
        self._made += 1
        kept = "".join(c if c.isalnum() else "_" for c in name)
        return f"{kept if kept[:1].isalpha() else 'x' + kept}_{self._made}"

    def let(self, name: str, text: str, kind: str = "int64_t") -> str:
        """A named value."""
        known = self.fresh(name)
        self.put(f"const {kind} {known} = {text};")
        return known

    @contextlib.contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Braces around statements."""
        self.put(f"{head} {{")
        yield
        self.put("}")

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[list[str]]:
        """Lines that are collected apart."""
        kept, self.lines = self.lines, []
        collected = self.lines
        try:
            yield collected
        finally:
            self.lines = kept

    def loop(self, variable: Any, extent: Any) -> contextlib.AbstractContextManager[None]:
        """A loop of a variable from 0."""
        name = self.names[variable] = self.fresh(variable.name)
        return self.block(f"for (int64_t {name} = 0; {name} < {self.value(extent)}; ++{name})")

    def unravel(self, position: str, axes: Sequence[Any], extents: Sequence[Any]) -> None:
        """Names axes by the indices of a row-major position, divided in 32 bits where those are known to do."""
        count = product(extents)
        few = isinstance(count, int) and count < 2**31
        rest, axes, extents = position, list(axes), [constant(e) for e in extents]
        for number in reversed(range(len(axes))):
            axis, extent = axes[number], extents[number]
            if isinstance(extent, int) and extent == 1:
                self.names[axis] = "0L"
            elif number == 0 or all(isinstance(e, int) and e == 1 for e in extents[:number]):
                self.names[axis] = self.let(axis.name, rest)
            else:
                size = str(extent) if few else self.value(extent)
                self.names[axis] = self.let(axis.name, f"{'(int)' if few else ''}{rest} % {size}")
                rest = self.let("rest", f"{'(int)' if few else ''}{rest} / {size}", "int" if few else "int64_t")
                continue
            if self.names[axis] != "0L":
                self.names.update(dict.fromkeys(axes[:number], "0L"))
                return

    def store(self, buffer: Any, indices: Sequence[Any], value: str) -> None:
        """Stores a value that was computed."""
        at = self.value(horner(indices, buffer.ty.shape))
        self.put(f"{self.pointers[buffer]}[{at}] = {self.narrowed(value, str(buffer.ty.dtype))};")

    def narrowed(self, value: str, dtype: str) -> str:
        """A computed value as it is stored."""
        if dtype not in NARROW:
            return value
        rounded = f"Rounded<{stored(dtype)}>("  # a cast, whose text is a whole one: what is rounded is stored as it is
        return f"Narrow<{stored(dtype)}>({value.removeprefix(rounded)}" if value.startswith(rounded) else f"Narrow<{stored(dtype)}>({value})"

    # ---- Expressions --------------------------------------------------------------------------------------------

    def value(self, node: Any) -> str:
        """An expression in the type that its dtype is computed in."""
        if isinstance(node, int):
            return f"{node}L"
        if isinstance(node, tirx.Var):
            if node not in self.names:
                raise InternalError(f"generated CUDA code does not know the variable {node.name}")
            return self.names[node]
        if isinstance(node, (tirx.IntImm, tirx.FloatImm)):
            return self._number(node)
        if isinstance(node, TensorLoad):
            return self.load(node)
        if isinstance(node, tirx.Cast):
            return self._cast(node)
        if isinstance(node, (tirx.Max, tirx.Min)):
            return self._extreme(node)
        if isinstance(node, (tirx.FloorDiv, tirx.FloorMod)):
            return self._floor(node)
        if isinstance(node, tirx.Not):
            return f"!{self.value(node.a)}"
        if isinstance(node, tirx.BitwiseNot):
            return self._wrapped(f"~{self.value(node.a)}", node)
        if isinstance(node, tirx.Select):
            return self.choice(node.condition, node.true_value, node.false_value)
        if isinstance(node, tirx.Let):
            self.names[node.var] = self.let(node.var.name, self.value(node.value), computed(dtype_of(node.value)))
            self.inside.add(node.var)
            return self.value(node.body)
        if isinstance(node, Call):
            return self._call(node)
        for kind, operator in _BINARY:
            if isinstance(node, kind):
                return self._binary(node, operator)
        raise InternalError(f"generated CUDA code has no {type(node).__name__}: {node}")

    def load(self, node: Any) -> str:
        """An element of a buffer."""
        buffer = node.source
        if buffer in self.loaders:
            return self.loaders[buffer](node)
        if buffer not in self.pointers:
            raise InternalError(f"generated CUDA code does not know the buffer {buffer.name}")
        element = f"{self.pointers[buffer]}[{self.value(horner(node.indices, buffer.ty.shape))}]"
        return f"Wide({element})" if str(buffer.ty.dtype) in NARROW else element

    def choice(self, condition: Any, then: Any, otherwise: Any) -> str:
        """One of two values, of which only that one is computed."""
        test = self.value(condition)
        return f"({test} ? {self._under(condition, then)} : {self._under(tirx.Not(condition), otherwise)})"

    def _under(self, condition: Any, node: Any) -> str:
        self.conditions.append(condition)
        try:
            with self.elsewhere() as lines:
                result = self.value(node)
        finally:
            self.conditions.pop()
        return f"[&] {{ {' '.join(lines)} return {result}; }}()" if lines else result

    def _number(self, node: Any) -> str:
        dtype = dtype_of(node)
        value = node.value
        if dtype == "bool":
            return "true" if value else "false"
        if isinstance(node, tirx.FloatImm):
            text = "NAN" if math.isnan(value) else ("-" if value < 0 else "") + "INFINITY" if math.isinf(value) else float(value).hex()
            if text[-1].isdigit():
                return f"({text})" if dtype == "float64" else f"({text}f)"
            return f"(({computed(dtype)})({text}))"
        value = int(value)
        if dtype == "int64":
            return f"({value}L)" if value < 0 else f"{value}L" if value != -(2**63) else "INT64_MIN"
        if dtype == "uint64":
            return f"{value % 2**64}UL"
        if dtype == "uint32":
            return f"{value % 2**32}U"
        if dtype == "int32":
            return "INT32_MIN" if value == -(2**31) else f"({value})" if value < 0 else str(value)
        return f"(({stored(dtype)})({value}))"

    def _wrapped(self, text: str, node: Any) -> str:
        """An integer of less than 32 bits, which C++ computes in 32."""
        dtype = dtype_of(node)
        return f"(({stored(dtype)})({text}))" if dtype.endswith(("int8", "int16")) else f"({text})"

    def _binary(self, node: Any, operator: str) -> str:
        a, b = self.value(node.a), self.value(node.b) if operator not in ("&&", "||") else self._guarded(node, operator)
        if operator in _COMPARISONS:
            return f"({a} {operator} {b})"
        if operator == "%" and "float" in dtype_of(node):
            return f"fmod{'' if dtype_of(node) == 'float64' else 'f'}({a}, {b})"
        return self._wrapped(f"{a} {operator} {b}", node)

    def _guarded(self, node: Any, operator: str) -> str:
        """The second operand of && and ||, which is evaluated only if the first does not decide."""
        return self._under(node.a if operator == "&&" else tirx.Not(node.a), node.b)

    def _extreme(self, node: Any) -> str:
        """The second operand if one is NaN, as machines have it (passes/legalize.py relies on it)."""
        operator, kind = (">" if isinstance(node, tirx.Max) else "<"), computed(dtype_of(node))
        a, b = (self.let("m", self.value(e), kind) if not isinstance(e, (tirx.Var, tirx.IntImm, tirx.FloatImm)) else self.value(e)
                for e in (node.a, node.b))
        return f"({a} {operator} {b} ? {a} : {b})"

    def _floor(self, node: Any) -> str:
        divides = isinstance(node, tirx.FloorDiv)
        a, b = self.value(node.a), self.value(node.b)
        dtype = dtype_of(node)
        if "float" in dtype:
            of = "" if dtype == "float64" else "f"
            return f"floor{of}({a} / {b})" if divides else f"({a} - {b} * floor{of}({a} / {b}))"
        if dtype.startswith("uint") or (self.is_natural(node.a) and self.is_natural(node.b)):
            return self._wrapped(f"{a} {'/' if divides else '%'} {b}", node)
        return self._wrapped(f"{'FloorDiv' if divides else 'FloorMod'}({a}, {b})", node)

    def is_natural(self, node: Any) -> bool:
        """Whether an integer is known not to be negative: indices and extents are not."""
        if isinstance(node, tirx.IntImm):
            return int(node) >= 0
        if isinstance(node, tirx.Var):
            return dtype_of(node) == "int64" and node not in self.signed
        if isinstance(node, (tirx.Add, tirx.Mul, tirx.FloorDiv, tirx.Div, tirx.Min)):
            return self.is_natural(node.a) and self.is_natural(node.b)
        if isinstance(node, tirx.Max):
            return self.is_natural(node.a) or self.is_natural(node.b)
        if isinstance(node, (tirx.FloorMod, tirx.Mod)):
            return self.is_natural(node.b) and (isinstance(node, tirx.FloorMod) or self.is_natural(node.a))
        if isinstance(node, tirx.Select):
            return self.is_natural(node.true_value) and self.is_natural(node.false_value)
        return is_within(node)

    #: Variables of int64 that may be negative: integers which a function is given, unlike extents and positions.
    signed: frozenset[Any] = frozenset()

    def _cast(self, node: Any) -> str:
        source, target = dtype_of(node.value), dtype_of(node)
        value = self.value(node.value)
        if target == "bool":
            return f"({value} != 0)"
        if target in NARROW:
            wide = value if source in NARROW or source in ("float32", "float64") else f"((float)({value}))"
            return f"Rounded<{stored(target)}>({wide})" if source != target else value
        return f"(({computed(target)})({value}))"

    def _call(self, node: Any) -> str:
        name = getattr(node.op, "name", "").rpartition(".")[2]
        dtype = dtype_of(node)
        if name == "if_then_else":
            return self.choice(*node.args)
        if name == "reinterpret":
            inner = self.narrowed(self.value(node.args[0]), dtype_of(node.args[0]))
            bits = f"Bits<{stored(dtype)}>({inner})"
            return f"Wide({bits})" if dtype in NARROW else bits
        if name == "call_pure_extern":
            name = str(node.args[0].value).removesuffix("f") if "float" in dtype else str(node.args[0].value)
            arguments = list(node.args[1:])
        else:
            arguments = list(node.args)
        name = _OTHER_NAMES.get(name, name)
        texts = [self.value(a) for a in arguments]
        if name == "likely":
            return texts[0]
        if name == "isnan":
            return f"IsNan({texts[0]})"
        if name == "sigmoid":
            return f"Sigmoid({texts[0]})"
        if name == WITHIN:
            return f"Within({texts[0]}, {texts[1]}, fault, fault_step)"
        if name == "popcount":
            return f"(({computed(dtype)})PopCount((uint64_t)({texts[0]})))"
        if name in _BITWISE:
            return self._wrapped(f"{texts[0]} {_BITWISE[name]} {texts[1]}", node)
        if name == "bitwise_not":
            return self._wrapped(f"~{texts[0]}", node)
        if name == "large_uint_imm":
            return f"{(int(arguments[1].value) << 32) + int(arguments[0].value)}UL"
        if name in _MATH and "float" in dtype:
            return f"{name}{'' if dtype == 'float64' else 'f'}({', '.join(texts)})"
        raise InternalError(f"generated CUDA code has no function '{name}' of {dtype}")

    # ---- Whole loop nests, as they stand --------------------------------------------------------------------------

    def statement(self, node: Any) -> None:
        """A statement, loops one iteration after another."""
        if isinstance(node, tirx.SeqStmt):
            for inner in node.seq:
                self.statement(inner)
        elif isinstance(node, tirx.For):
            name = self.names[node.loop_var] = self.fresh(node.loop_var.name)
            start, extent = self.value(node.min), self.value(node.extent)
            with self.block(f"for (int64_t {name} = {start}; {name} < {start} + {extent}; ++{name})"):
                self.statement(node.body)
        elif isinstance(node, s_tir.SBlockRealize):
            self._block(node)
        elif isinstance(node, tirx.BufferStore):
            value = self.value(node.value)
            self.store(node.buffer, list(node.indices), value)
        elif isinstance(node, tirx.IfThenElse):
            with self.block(f"if ({self.value(node.condition)})"):
                self.statement(node.then_case)
            if node.else_case is not None:
                with self.block("else"):
                    self.statement(node.else_case)
        elif isinstance(node, tirx.Bind):
            self.names[node.var] = self.let(node.var.name, self.value(node.value), computed(dtype_of(node.value)))
        elif isinstance(node, tirx.Evaluate):
            pass
        else:
            raise InternalError(f"generated CUDA code has no statement {type(node).__name__}")

    def _block(self, node: Any) -> None:
        block = node.block
        for variable, value in zip(block.iter_vars, node.iter_values, strict=True):
            self.names[variable.var] = self.value(value)
        if block.init is not None:
            first = [f"{self.names[v.var]} == 0" for v in block.iter_vars if v.iter_type == tirx.IterVar.CommReduce]
            with self.block(f"if ({' && '.join(first) or 'true'})"):
                self.statement(block.init)
        with self.block(""):
            self.statement(block.body)
