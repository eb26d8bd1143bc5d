"""Relax → the program of an artifact (docs/format.md, "Program"): values, expressions over dimensions, and steps in order."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from ingot.artifact.write import manifest_dtype
from ingot.errors import InternalError
from ingot.importer.module import Imported
from ingot.importer.weights import Weight, from_array
from ingot.lower.cpu.abi import is_buffer, signature
from ingot.lower.cpu.schedule import Scheduled
from ingot.lower.cuda.kernel import Generated
from ingot.lower.expressions import Expressions
from ingot.passes.graph import variables
from ingot.passes.pipeline import Optimized
from ingot.passes.trace import bindings

#: Of kernels that can change caches in place: the inputs that their first outputs are then; -1 is none.
IN_PLACE: dict[str, tuple[int, ...]] = {"rotary_cache": (0, 1, -1, 8, 9), "tensor_scatter": (0,)}


class WeightTable:
    """The weights of an artifact in order, each once: equal small constants share an entry."""

    def __init__(self) -> None:
        self.weights: list[Weight] = []
        self._by_identity: dict[int, int] = {}
        self._by_content: dict[tuple[str, tuple[int, ...], int, bytes], int] = {}

    def add(self, weight: Weight) -> int:
        """The index of a weight."""
        if id(weight) not in self._by_identity:
            self._by_identity[id(weight)] = len(self.weights)
            self.weights.append(weight)
        return self._by_identity[id(weight)]

    def add_constant(self, array: np.ndarray, dtype: str) -> int:
        """The index of a small constant."""
        content = array.tobytes()
        key = (dtype, array.shape, zlib.crc32(content), content)
        if key not in self._by_content:
            weight = from_array(f"constant_{len(self._by_content)}", array)
            weight.dtype = dtype
            self._by_content[key] = self.add(weight)
        return self._by_content[key]


@dataclass(eq=False)
class _Pending:
    """A result whose shape is stated by the match_cast that follows."""

    dtype: str
    ndim: int
    index: int | None = None


@dataclass
class _FunctionBuilder:
    """Translates one Relax function."""

    name: str
    program: ProgramBuilder
    expressions: Expressions = field(default_factory=Expressions)
    values: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, int] = field(default_factory=dict)
    bound: dict[Any, Any] = field(default_factory=dict)  # a Relax variable → value index, _Pending, list of them, or dimensions
    caches: set[int] = field(default_factory=set)  # the parameters that are changed in place
    unbound: list[tuple[dict[str, Any], Any, _Pending]] = field(default_factory=list)

    # ---- Values -------------------------------------------------------------------------------------------

    def new_value(self, ty: relax.TensorType) -> int:
        self.values.append({"dtype": _dtype(ty), "shape": [self.expressions.add(d) for d in ty.shape.values]})
        return len(self.values) - 1

    def value(self, expression: Any) -> int:
        """The value index of an operand."""
        if isinstance(expression, tvm.ir.GenericConst):
            array = expression.value.numpy()
            index = self.new_value(expression.ty)
            self.weights[str(index)] = self.program.weights.add_constant(array, _dtype(expression.ty))
            return index
        found = self.bound[expression]
        if isinstance(found, _Pending):
            self.settle(found, None)
            found = found.index
        if not isinstance(found, int):
            raise InternalError(f"{self.name}: {expression} is not a tensor")
        return found

    def settle(self, pending: _Pending, ty: relax.TensorType | None) -> None:
        """Gives a pending result its value: with the shape that a match_cast states, or with fresh symbols."""
        if pending.index is None:
            shape = ([self.expressions.add(d) for d in ty.shape.values] if ty is not None
                     else [self.expressions.add(tirx.Var("unused", "int64")) for _ in range(pending.ndim)])
            self.values.append({"dtype": pending.dtype, "shape": shape})
            pending.index = len(self.values) - 1

    # ---- Bindings -----------------------------------------------------------------------------------------

    def build(self, function: relax.Function, parameters: list[Weight | None], nodes: list[tuple[int, ...]]) -> dict[str, Any]:
        inputs = []
        for parameter, weight in zip(function.params, parameters, strict=True):
            index = self.new_value(parameter.ty)
            self.bound[parameter] = index
            if weight is None:
                inputs.append(index)
            else:
                self.weights[str(index)] = self.program.weights.add(weight)
        waiting = self.check(self.program.imported.checks.get(self.name, []))
        for position, binding in executable_order(function):
            count = len(self.steps)
            self.bind(binding)
            waiting = self.check(waiting)
            for step in self.steps[count:]:
                step["node"] = ", ".join(self.program.imported.nodes[n] for n in (nodes[position] if position < len(nodes) else ()))
        outputs = [self.value(e) for e in self.flatten(function.body.body)]
        for step, pendings in self.program.pending_outputs.pop(self.name, []):
            for pending in pendings:
                self.settle(pending, None)
            step["outputs"] = [p.index for p in pendings]
        return {"name": self.name, "symbols": self.expressions.symbols, "exprs": self.expressions.table, "values": self.values,
                "inputs": inputs, "outputs": outputs, "weights": self.weights, "steps": self.steps}

    def check(self, checks: list[tuple[Any, str]]) -> list[tuple[Any, str]]:
        """Emits the checks whose symbols are known, before anything relies on them; the others are returned."""
        waiting = []
        for condition, message in checks:
            if all(self.expressions.is_declared(v) for v in tirx.analysis.undefined_vars(condition)):
                self.steps.append({"op": "check", "expr": self.expressions.add(condition), "message": message})
            else:
                waiting.append((condition, message))
        return waiting

    def flatten(self, expression: Any) -> list[Any]:
        """The tensors of a function's result."""
        if isinstance(expression, relax.Tuple):
            return [leaf for f in expression.fields for leaf in self.flatten(f)]
        if isinstance(expression, relax.Var) and isinstance(self.bound.get(expression), list):
            names = []
            for item in self.bound[expression]:
                proxy = relax.Var("item", relax.AnyType())
                self.bound[proxy] = item
                names.append(proxy)
            return names
        return [expression]

    def bind(self, binding: Any) -> None:
        value = binding.value
        if isinstance(binding, relax.MatchCast):
            self.match(binding)
        elif isinstance(value, relax.Call):
            self.call(binding.var, value)
        elif isinstance(value, relax.Tuple):
            self.bound[binding.var] = [self.operand(f) for f in value.fields]
        elif isinstance(value, relax.TupleGetItem):
            self.bound[binding.var] = self.bound[value.tuple_value][value.index]
        elif isinstance(value, tvm.ir.GenericConst):
            self.bound[binding.var] = self.value(value)
        elif isinstance(value, relax.ShapeExpr):
            self.bound[binding.var] = list(value.values)
        else:
            self.bound[binding.var] = self.bound[value]

    def operand(self, expression: Any) -> Any:
        return self.value(expression) if isinstance(expression, tvm.ir.GenericConst) else self.bound[expression]

    def match(self, binding: relax.MatchCast) -> None:
        found = self.bound[binding.value]
        if isinstance(binding.ty, relax.ShapeType):
            self.match_shape(binding, found)
            return
        if isinstance(found, _Pending):
            if found.index is None:
                self.settle(found, binding.ty)
                self.bound[binding.var] = found.index
                return
            found = found.index
        result = self.new_value(binding.ty)
        self.steps.append({"op": "view", "input": found, "output": result})
        self.bound[binding.var] = result

    def match_shape(self, binding: relax.MatchCast, found: Any) -> None:
        symbols = list(binding.ty.values)
        if isinstance(found, dict):  # dimensions that a to_dims step reads
            found["ints"] = [self.expressions.declare(s) for s in symbols]
            return
        for symbol, value in zip(symbols, found, strict=True):
            if isinstance(symbol, tirx.Var) and not self.expressions.is_declared(symbol):
                self.expressions.define(symbol, self.expressions.add(value))

    def call(self, variable: Any, call: relax.Call) -> None:
        operator = call.op
        name = operator.global_symbol if isinstance(operator, relax.ExternFunc) else operator.name if isinstance(operator, tvm.ir.Op) else ""
        if name == "relax.call_tir":
            self.call_tir(variable, call)
        elif name == "relax.reshape":
            source = self.value(call.args[0])
            self.bound[variable] = self.new_value(variable.ty)
            self.steps.append({"op": "view", "input": source, "output": self.bound[variable]})
        elif name == "relax.call_pure_packed":
            self.external(variable, call.args[0].global_symbol, list(call.args[1:]), list(call.ty_args))
        else:
            raise InternalError(f"{self.name}: {name or operator} was not lowered")

    def call_tir(self, variable: Any, call: relax.Call) -> None:
        function = self.program.mod[call.args[0]]
        scalars = [a for a in call.args[1].fields if tvm.ir.is_prim_expr(a)]
        arguments = [self.value(a) for a in call.args[1].fields if not tvm.ir.is_prim_expr(a)]
        types = list(call.ty_args[0].fields) if isinstance(call.ty_args[0], relax.TupleType) else [call.ty_args[0]]
        outputs = [self.new_value(t) for t in types]
        solved = self.dimensions(function, arguments + outputs, scalars)
        symbols = signature(function).symbols
        step = {"op": "call", "function": call.args[0].name_hint, "inputs": arguments, "outputs": outputs, "dims": [solved[s] for s in symbols]}
        scheduled = self.program.kernels.get(call.args[0].name_hint)
        if isinstance(scheduled, Generated) and scheduled.extras:
            step["outputs"] = [*outputs, *(self.left(buffer, {s: solved[s] for s in symbols}) for buffer in scheduled.extras)]
        if scheduled is not None:
            step["kernel"] = scheduled.kernel
            if scheduled.operations:
                count = self.expressions.row("const", scheduled.operations)
                for extent in self.values[outputs[0]]["shape"]:
                    count = self.expressions.row("mul", count, extent)
                step["flops"] = count
        self.steps.append(step)
        self.bound[variable] = outputs if isinstance(call.ty_args[0], relax.TupleType) else outputs[0]

    def left(self, buffer: Any, symbols: dict[Any, int]) -> int:
        """The value of a buffer that one kernel of a function leaves for the next; ``symbols`` are the expressions of the function's."""
        for symbol, row in symbols.items():
            self.expressions.define(symbol, row)
        self.values.append({"dtype": manifest_dtype(str(buffer.ty.dtype)), "shape": [self.expressions.add(d) for d in buffer.ty.shape]})
        return len(self.values) - 1

    def dimensions(self, function: tirx.PrimFunc, values: list[int], scalars: list[Any]) -> dict[Any, int]:
        """The expressions of a TIR function's symbols, solved from the shapes of its arguments."""
        taken = signature(function)
        solved: dict[Any, int] = {}
        for buffer, value in zip(taken.buffers, values, strict=True):
            for extent, row in zip(buffer.ty.shape, self.values[value]["shape"], strict=True):
                if isinstance(extent, tirx.Var):
                    solved.setdefault(extent, row)
        given = [p for p in function.params if not is_buffer(p)]
        for parameter, scalar in zip(given, scalars, strict=True):
            solved[parameter] = self.expressions.add(scalar)
        missing = [s for s in taken.symbols if s not in solved]
        if missing:
            raise InternalError(f"{self.name}: the dimension {missing[0]} of {function.attrs} is not an argument")
        return solved

    # ---- Builtins, kernels, control flow --------------------------------------------------------------------

    def external(self, variable: Any, symbol: str, arguments: list[Any], types: list[Any]) -> None:
        if symbol == "ingot.builtin.let":
            self.bound[variable] = list(arguments[0].values)
            return
        if symbol == "ingot.builtin.view":  # the match_cast that follows states the type
            self.bound[variable] = self.value(arguments[0].fields[0])
            return
        if symbol == "ingot.builtin.to_dims":
            step: dict[str, Any] = {"op": "builtin", "name": "to_dims", "inputs": [self.value(arguments[0].fields[0])], "outputs": [], "ints": []}
            self.steps.append(step)
            self.bound[variable] = step
            return
        results = _pendings(types[0])
        build: Callable[..., dict[str, Any]] = _CONTROL.get(symbol, _FunctionBuilder.kernel)
        step = build(self, symbol, arguments)
        self.steps.append(step)
        self.program.pending_outputs.setdefault(self.name, []).append((step, results))
        self.bound[variable] = results if isinstance(types[0], relax.TupleType) else results[0]

    def kernel(self, symbol: str, arguments: list[Any]) -> dict[str, Any]:
        kind, _, name = symbol.removeprefix("ingot.").partition(".")
        tensors, dimensions, ints, floats = arguments
        inputs = [-1 if isinstance(t, relax.Tuple) else self.value(t) for t in tensors.fields]
        # The main function's inputs are its first values.
        kept = [i if 0 <= i < len(inputs) and inputs[i] in self.caches else -1 for i in IN_PLACE.get(name, ())]
        while kept and kept[-1] < 0:
            kept.pop()
        marks: dict[str, Any] = {"in_place": kept} if kept else {}
        if kind == "kernel" and self.program.host is not None and self.program.host(name):
            marks["host"] = True
        return {"op": kind, "name": name, "inputs": inputs, **marks,
                "dims": [self.expressions.add(d) for d in dimensions.values], "ints": [int(_number(i)) for i in ints.fields],
                "floats": [float(f.value.numpy()) for f in floats.fields]}

    def if_(self, symbol: str, arguments: list[Any]) -> dict[str, Any]:
        condition, then_captured, else_captured, then_name, else_name = arguments
        return {"op": "if", "condition": self.value(condition.fields[0]), "then": self.program.function_index(str(then_name.value)),
                "else": self.program.function_index(str(else_name.value)), "then_inputs": [self.value(v) for v in then_captured.fields],
                "else_inputs": [self.value(v) for v in else_captured.fields]}

    def loop(self, symbol: str, arguments: list[Any]) -> dict[str, Any]:
        control, carried, captured, body = arguments
        trip_count, condition = (-1 if isinstance(c, relax.Tuple) else self.value(c) for c in control.fields)
        return {"op": "loop", "trip_count": trip_count, "condition": condition, "body": self.program.function_index(str(body.value)),
                "carried": [self.value(v) for v in carried.fields], "inputs": [self.value(v) for v in captured.fields]}


_CONTROL: dict[str, Callable[..., dict[str, Any]]] = {"ingot.if": _FunctionBuilder.if_, "ingot.loop": _FunctionBuilder.loop}


def executable_order(function: relax.Function) -> list[tuple[int, Any]]:
    """A function's bindings with their positions, each after those that it depends on.

    TVM's fusion keeps the order of tensors, but not that of integers which are read at run time: a fused call may stand before the
    step that reads an extent of its result.
    """
    known = {symbol for parameter in function.params for symbol in _symbols(parameter.ty)}
    known.update(function.params)
    waiting = list(enumerate(bindings(function)))
    order: list[tuple[int, Any]] = []
    while waiting:
        ready = next((i for i, (_, b) in enumerate(waiting) if all(v in known for v in _needs(b))), None)
        if ready is None:
            return order + waiting  # the verifier of the program names what is missing
        position, binding = waiting.pop(ready)
        order.append((position, binding))
        known.add(binding.var)
        if isinstance(binding, relax.MatchCast):
            known.update(_symbols(binding.ty))
    return order


def _needs(binding: Any) -> list[Any]:
    """The variables and symbols that must be known before a binding."""
    needed = variables(binding.value)
    return needed if isinstance(binding, relax.MatchCast) else [*needed, *_symbols(binding.var.ty)]


def _symbols(ty: Any) -> list[Any]:
    return [v for v in variables(ty) if isinstance(v, tirx.Var)] if ty is not None else []


class ProgramBuilder:
    """Translates a lowered module into a program; the functions of subgraphs follow the main one."""

    def __init__(self, optimized: Optimized, imported: Imported, kernels: Mapping[str, Scheduled | Generated], weights: WeightTable,
                 host: Callable[[str], bool] | None = None) -> None:
        """``host`` says which kernels run on the CPU although the code is for another device."""
        self.mod = optimized.mod
        self.rows = optimized.rows
        self.parameters = optimized.weights
        self.imported = imported
        self.trace = optimized.trace
        self.kernels = kernels
        self.weights = weights
        self.host = host
        self.pending_outputs: dict[str, list[tuple[dict[str, Any], list[_Pending]]]] = {}
        self._names = ["main"]

    def function_index(self, name: str) -> int:
        """The index of a function in the program, which is built later."""
        if name not in self._names:
            self._names.append(name)
        return self._names.index(name)

    def build(self) -> dict[str, Any]:
        """The program, as docs/format.md describes it."""
        functions: list[dict[str, Any]] = []
        while len(functions) < len(self._names):
            name = self._names[len(functions)]
            function = self.mod[name]
            builder = _FunctionBuilder(name, self)
            parameters: list[Weight | None] = [None] * len(function.params)
            own = self.parameters.get(name, ())
            parameters[len(parameters) - len(own):] = own
            if name == "main":
                for symbol in self.imported.symbols:
                    builder.expressions.declare(symbol)
                builder.caches = {i for i, s in enumerate(self.imported.states, len(self.imported.inputs)) if s.kind == "cache"}
            functions.append(builder.build(function, parameters, self.trace.get(name, [])))
        return {"functions": functions, **({"rows": self.rows} if self.rows is not None else {})}


def _pendings(ty: Any) -> list[_Pending]:
    fields = list(ty.fields) if isinstance(ty, relax.TupleType) else [ty]
    return [_Pending(_dtype(f), f.ndim) for f in fields]


def _dtype(ty: relax.TensorType) -> str:
    return manifest_dtype(str(ty.dtype))


def _number(value: Any) -> Any:
    return value.value if hasattr(value, "value") else value
