"""One function of a model between passes: the Relax module, and the weights that stand behind the function's last parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from ingot.importer import dims
from ingot.importer.weights import Weight, from_array
from ingot.passes.trace import bindings


@dataclass(frozen=True)
class Graph:
    """The function ``name`` of a module, ``main`` or a subgraph's; ``weights`` belong to its last parameters, in order."""

    mod: tvm.IRModule
    weights: tuple[Weight, ...]
    name: str = "main"

    @property
    def function(self) -> relax.Function:
        """The function."""
        return self.mod[self.name]

    def without_unused_weights(self) -> Graph:
        """The graph without the weight parameters that nothing reads."""
        old = self.function
        used = set(variables(old.body.body)) | {v for b in bindings(old) for v in variables(b.value)}
        count = len(old.params) - len(self.weights)
        kept = [(p, w) for p, w in zip(list(old.params)[count:], self.weights, strict=True) if p in used]
        if len(kept) == len(self.weights):
            return self
        function = relax.Function([*list(old.params)[:count], *(p for p, _ in kept)], old.body, old.ret_ty, old.is_pure, old.attrs)
        mod = tvm.IRModule(dict(self.mod.functions.items()))
        mod.update_func(mod.get_global_var(self.name), function)
        return Graph(mod, tuple(w for _, w in kept), self.name)


def each_function(mod: tvm.IRModule, weights: Mapping[str, tuple[Weight, ...]],
                  change: Callable[..., Graph], *arguments: Any) -> tuple[tvm.IRModule, dict[str, tuple[Weight, ...]]]:
    """Changes the functions that ``weights`` names, each by ``change(graph, *arguments)``; returns the module and their weights then.

    Each is given with all TIR functions and without the others, so that the time for many subgraphs grows with their number.
    """
    functions: dict[str, Any] = {}
    tir: dict[Any, Any] = {}
    for variable, function in mod.functions.items():
        if isinstance(function, relax.Function):
            functions[variable.name_hint] = variable, function
        else:
            tir[variable] = function
    changed: dict[str, tuple[Weight, ...]] = {}
    for name, own in weights.items():
        variable, function = functions[name]
        graph = change(Graph(tvm.IRModule({**tir, variable: function}), own, name), *arguments)
        changed[name] = graph.weights
        functions[name] = graph.mod.get_global_var(name), graph.function
        tir = {v: f for v, f in graph.mod.functions.items() if v.name_hint != name}
    return tvm.IRModule({**tir, **dict(functions.values())}), changed


#: What a pass does with one binding: emits something else and returns its variable, or None to keep it as it is.
Visit = Callable[["Rewriter", Any, Any], Any]


class Rewriter:
    """Rebuilds a function, binding by binding.

    ``visit(rewriter, variable, value)`` is called for each, with operands already replaced. Constants are found and made through
    :meth:`weight` and :meth:`constant`; what nothing uses afterwards is dropped, weights included.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        old = graph.function
        others = {gv: f for gv, f in graph.mod.functions.items() if gv.name_hint != graph.name}
        self.bb = relax.BlockBuilder(tvm.IRModule(others))
        count = len(old.params) - len(graph.weights)
        self.inputs = list(old.params)[:count]
        self.weights: dict[Any, Weight] = dict(zip(list(old.params)[count:], graph.weights, strict=True))
        self.uses = Counter(v for b in bindings(old) for v in variables(b.value))
        self.uses.update(variables(old.body.body))
        self.values: dict[Any, Any] = {}  # what each new variable was bound to
        self._replaced: dict[Any, Any] = {}
        self._replaces: dict[Any, Any] = {}
        self._made = 0
        self._hint = ""

    def run(self, visit: Visit) -> Graph:
        """The rebuilt graph."""
        old, name = self.graph.function, self.graph.name
        with self.bb.function(name):
            with self.bb.dataflow():
                for binding in bindings(old):
                    self._hint = binding.var.name
                    value = self.replaced(binding.value)
                    result = visit(self, binding.var, value) if not isinstance(binding, relax.MatchCast) else None
                    if isinstance(binding, relax.MatchCast):
                        result = self.match(value, binding.ty)
                    elif result is None:
                        result = self.emit(value)
                    self._replaced[binding.var] = result
                    self._replaces[result] = binding.var
                output = self.bb.emit_output(self.resolved(self.replaced(_result(old))))
            self.bb.emit_func_output(output, params=[*self.inputs, *self.weights])
        mod = self.bb.finalize()
        mod.update_func(mod.get_global_var(name), relax.analysis.remove_all_unused(mod[name]))
        return Graph(mod, tuple(self.weights.values()), name).without_unused_weights()

    def resolved(self, value: Any) -> Any:
        """An expression whose operands all exist; a pass that puts things off overrides it."""
        return value

    def match(self, value: Any, ty: Any) -> Any:
        """Binds a value whose type is stated; a pass that changes types overrides it."""
        return self.bb.match_cast(self.resolved(value), ty, self._hint)

    def replaced(self, value: Any) -> Any:
        """An expression with variables replaced by what they have become."""
        return tvm_ffi.structural_map(value, (relax.Var, lambda v: self._replaced.get(v, v)))

    def emit(self, value: Any) -> Any:
        """Binds a new variable, named after the imported node."""
        variable = self.bb.emit(value, self._hint)
        self.values[variable] = value
        return variable

    def replace(self, variable: Any, by: Any) -> None:
        """Lets bindings that are still to come read one new variable in place of another."""
        if variable in self._replaces:
            self._replaced[self._replaces[variable]] = by

    def used_once(self, variable: Any) -> bool:
        """Whether a variable of the old function is read by one binding only."""
        return self.uses[variable] == 1

    def made_for_one(self, variable: Any) -> bool:
        """Whether a variable of the new function stands for one of the old function that is read by one binding only."""
        return self.uses[self._replaces.get(variable)] == 1

    def function(self, function: Any, name: str) -> Any:
        """Adds a TIR function to the module."""
        return self.bb.add_func(function, name)

    def weight(self, expression: Any) -> Weight | None:
        """The constant behind an expression, or None."""
        if isinstance(expression, tvm.ir.GenericConst):
            return from_array("constant", expression.value.numpy())
        return self.weights.get(expression)

    def constant(self, weight: Weight) -> Any:
        """The variable of a new constant."""
        self._made += 1
        variable = relax.Var(f"folded_{self._made}", relax.TensorType([dims.expr(d) for d in weight.shape], weight.dtype))
        self.weights[variable] = weight
        return variable


def variables(value: Any) -> list[Any]:
    """The variables of an expression, in order, each as often as it stands there."""
    found: list[Any] = []

    def visit(variable: Any) -> Any:
        found.append(variable)
        return variable

    tvm_ffi.structural_map(value, (relax.Var, visit))
    return found


def _result(function: relax.Function) -> Any:
    """The expression that a function returns, without the variable that holds it."""
    result = function.body.body
    last = bindings(function)[-1] if bindings(function) else None
    return last.value if last is not None and last.var.same_as(result) else result
