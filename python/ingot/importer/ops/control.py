"""If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax, te

from ingot.importer import dims, subgraph
from ingot.importer.context import Context
from ingot.importer.dims import Dim
from ingot.importer.graph import nodes_of
from ingot.importer.ops.indexing import axis_of
from ingot.importer.ops.move import concat, window_of
from ingot.importer.registry import find, onnx_op
from ingot.importer.subgraph import Parameter, Subgraph
from ingot.importer.values import AnyValue, MapValue, MissingValue, SequenceValue, Value, like, tensors_of

_MOST_UNROLLED = 1024  # iterations; a loop over sequences that runs more often is refused


@onnx_op("If")
def if_(cx: Context, condition: Value, *, then_branch: onnx.GraphProto, else_branch: onnx.GraphProto) -> tuple[AnyValue, ...]:
    known = condition.array
    if known is not None:
        return tuple(subgraph.import_in_place(cx, then_branch if np.asarray(known).reshape(-1)[0] else else_branch))
    branches = [subgraph.import_subgraph(cx, graph) for graph in (then_branch, else_branch)]
    for i, (a, b) in enumerate(zip(branches[0].results, branches[1].results, strict=True)):
        if type(a) is not type(b) or len(tensors_of(a)) != len(tensors_of(b)):
            raise cx.needs_constant(condition, f"the branches give {_kind(a)} and {_kind(b)} for output {i}, so that the condition")
    outputs = [_either(cx, condition, pair, branches) for pair in zip(*(b.tensors() for b in branches), strict=True)]
    for branch in branches:
        subgraph.add(branch)
    arguments = [relax.Tuple([condition.expr]), *(relax.Tuple([v.expr for v in b.captured]) for b in branches),
                 *(tvm.ir.StringImm(b.name) for b in branches)]
    results = iter(subgraph.call(cx, "ingot.if", arguments, outputs))
    return tuple(like(r, results) for r in branches[0].results)


def _kind(value: AnyValue) -> str:
    if isinstance(value, SequenceValue):
        return f"a sequence of {len(value.items)}"
    return "nothing" if isinstance(value, MissingValue) else "a map" if isinstance(value, MapValue) else "a tensor"


def _either(cx: Context, condition: Value, results: Sequence[Value], branches: Sequence[Subgraph]) -> tuple[list[Dim | None], str]:
    """The shape and dtype of a result that is either of two."""
    a, b = results
    if a.dtype != b.dtype or a.ndim != b.ndim:
        raise cx.needs_constant(
            condition, f"the branches give {a.dtype} {dims.text(a.shape)} and {b.dtype} {dims.text(b.shape)}, so that the condition")
    shape = []
    for extents in zip(a.shape, b.shape, strict=True):
        one, other = (branch.outer_extent(extent) for branch, extent in zip(branches, extents, strict=True))
        shape.append(one if one is not None and other is not None and dims.equal(one, other) else None)
    return shape, a.dtype


@onnx_op("Loop", sequences=True)
def loop(cx: Context, trip_count: Value | None = None, condition: Value | None = None, *carried: AnyValue,
         body: onnx.GraphProto) -> tuple[AnyValue, ...]:
    tensors = [v for v in carried if isinstance(v, Value)]
    if len(tensors) < len(carried) or _uses_sequences(cx, body):
        return _unrolled(cx, trip_count, condition, list(carried), body)

    def bind(inner: Context, given: list[Value]) -> list[AnyValue]:
        return [given[0], inner.constant(np.array(True)), *given[2:]]  # the body runs only while the condition holds

    return tuple(_loop(cx, trip_count, condition, tensors, body, bind))


def _uses_sequences(cx: Context, graph: onnx.GraphProto) -> bool:
    operators = (find(n.domain, n.op_type, cx.module.opsets.get("", 1)) for n in nodes_of(graph) if n.op_type not in ("Identity", "Loop"))
    return any(o is not None and o.sequences for o in operators)


def _loop(cx: Context, trip_count: Value | None, condition: Value | None, carried: list[Value], body: onnx.GraphProto,
          bind: subgraph.Bind) -> list[Value]:
    built, shapes = _import_body(cx, carried, body, bind)
    always = (condition is None or _is_true(condition)) and _is_true(built.results[0])
    known = None if trip_count is None or not always else trip_count.known_elements()
    iterations = None if known is None else dims.maximum(dims.dim(known.ravel()[0]), 0)
    outputs: list[tuple[Sequence[Dim | None], str]] = [(s, v.dtype) for s, v in zip(shapes, carried, strict=True)]
    outputs += [([iterations, *map(built.outer_extent, s.shape)], s.dtype) for s in built.tensors()[1 + len(carried):]]
    if not outputs:
        return []
    subgraph.add(built)
    control = [relax.Tuple([]) if v is None else v.expr for v in (trip_count, condition)]
    arguments = [relax.Tuple(control), relax.Tuple([v.expr for v in carried]), relax.Tuple([v.expr for v in built.captured]),
                 tvm.ir.StringImm(built.name)]
    return subgraph.call(cx, "ingot.loop", arguments, outputs)


def _is_true(value: AnyValue) -> bool:
    array = value.array if isinstance(value, Value) else None
    return array is not None and bool(np.asarray(array).reshape(-1)[0])


def _import_body(cx: Context, carried: list[Value], body: onnx.GraphProto, bind: subgraph.Bind) -> tuple[Subgraph, list[list[Dim | None]]]:
    """Imports a loop's body, and finds the extents of carried values that stay the same; others become symbols of the body."""
    shapes: list[list[Dim | None]] = [list(v.shape) for v in carried]
    while True:
        parameters = [Parameter("int64", ()), Parameter("bool", ()), *(Parameter(v.dtype, tuple(s)) for v, s in zip(carried, shapes, strict=True))]
        built = subgraph.import_subgraph(cx, body, parameters, bind)
        if any(not isinstance(r, Value) for r in built.results) or len(built.results) < 1 + len(carried):
            raise cx.error(f"the body gives {len(built.results)} results, of which the first {1 + len(carried)} must be tensors")
        changed = False
        for i, (before, after) in enumerate(zip(built.parameters[2:], built.tensors()[1:], strict=False)):
            if before.dtype != after.dtype or before.ndim != after.ndim:
                raise cx.error(f"carried value {i} is {before.dtype} {dims.text(before.shape)} before an iteration and "
                               f"{after.dtype} {dims.text(after.shape)} after it; dtype and rank must stay the same")
            for axis, (a, b) in enumerate(zip(before.shape, after.shape, strict=True)):
                if shapes[i][axis] is not None and not dims.equal(a, b):
                    shapes[i][axis] = None
                    changed = True
        if not changed:
            return built, shapes


def _unrolled(cx: Context, trip_count: Value | None, condition: Value | None, carried: list[AnyValue],
              body: onnx.GraphProto) -> tuple[AnyValue, ...]:
    """A loop over sequences, one iteration after the other in place: how often it runs must be known."""
    most = cx.ints(trip_count, "the trip count of a loop over sequences")
    going = condition is None or bool((cx.ints(condition, "the condition of a loop over sequences") or [0])[0])
    scans: list[list[Value]] = []
    iteration = 0
    while going and (most is None or iteration < most[0]):
        if iteration == _MOST_UNROLLED:
            raise cx.error(f"a loop over sequences would run more than {_MOST_UNROLLED} times")
        again, *results = subgraph.import_in_place(cx, body, [cx.constant(iteration, "int64"), cx.constant(np.array(True)), *carried])
        going = bool((cx.ints(_tensor(cx, again), "the condition of a loop over sequences") or [0])[0])
        carried = results[:len(carried)]
        scans.append([_tensor(cx, r) for r in results[len(carried):]])
        iteration += 1
    if not scans and len(body.output) > 1 + len(carried):
        raise cx.error("a loop over sequences that never runs has scan results of unknown shape")
    return (*carried, *[_stack(cx, list(rows), 0) for rows in zip(*scans, strict=True)])


def _tensor(cx: Context, value: AnyValue) -> Value:
    if not isinstance(value, Value):
        raise cx.error(f"the body gives {_kind(value)} where a tensor is needed")
    return value


def _stack(cx: Context, values: list[Value], axis: int) -> Value:
    return concat(cx, *[cx.reshape(v, [*v.shape[:axis], 1, *v.shape[axis:]]) for v in values], axis=axis)


@onnx_op("Scan", since=9)
def scan(cx: Context, *inputs: Value, body: onnx.GraphProto, num_scan_inputs: int, scan_input_axes: list[int] | None = None,
         scan_input_directions: list[int] | None = None, scan_output_axes: list[int] | None = None,
         scan_output_directions: list[int] | None = None) -> tuple[Value, ...]:
    split = len(inputs) - num_scan_inputs
    if not 0 < num_scan_inputs <= len(inputs) or len(body.input) != len(inputs) or len(body.output) < split:
        raise cx.error(f"has {len(inputs)} inputs, {num_scan_inputs} of them to scan; the body takes {len(body.input)} and gives {len(body.output)}")
    states, scanned = list(inputs[:split]), list(inputs[split:])
    axes = [axis_of(cx, a, x.ndim) for a, x in zip(scan_input_axes or [0] * num_scan_inputs, scanned, strict=True)]
    backwards = scan_input_directions or [0] * num_scan_inputs
    count = scanned[0].shape[axes[0]]
    for x, axis in zip(scanned, axes, strict=True):
        if not dims.equal(x.shape[axis], count):
            cx.check(x.shape[axis] == count if isinstance(count, int) and isinstance(x.shape[axis], int)
                     else dims.expr(count).equal(dims.expr(x.shape[axis])), f"scan inputs have {count} and {x.shape[axis]} elements")

    def bind(inner: Context, given: list[Value]) -> list[AnyValue]:
        rows = [_row(inner, inner.adopt(x), axis, given[0], bool(back)) for x, axis, back in zip(scanned, axes, backwards, strict=True)]
        return [*given[2:], *rows]

    results = _loop(cx, cx.symbolic(count), None, states, _with_condition(body), bind)
    placed = [_placed(cx, r, axis, bool(back)) for r, axis, back in
              zip(results[split:], scan_output_axes or [0] * len(results[split:]), scan_output_directions or [0] * len(results[split:]), strict=True)]
    return (*results[:split], *placed)


def _with_condition(body: onnx.GraphProto) -> onnx.GraphProto:
    """A scan's body as a loop's: with a condition, which always holds, before its results."""
    name = "".join(["condition", *(o.name for o in body.output)])  # no result's own name
    graph = onnx.GraphProto()
    graph.CopyFrom(body)
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), name))
    results = list(graph.output)
    del graph.output[:]
    graph.output.extend([onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, []), *results])
    return graph


def _row(cx: Context, x: Value, axis: int, iteration: Value, backwards: bool) -> Value:
    """The element of a scan input that an iteration gets."""
    shape = [*x.shape[:axis], *x.shape[axis + 1:]]

    def compute(t: te.Tensor, at: te.Tensor) -> te.Tensor:
        def body(*i: Any) -> Any:
            step = dims.expr(x.shape[axis]) - 1 - at() if backwards else at()
            return t(*i[:axis], step, *i[axis:])

        return te.compute([dims.expr(d) for d in shape], body, name="row")

    return cx.te(compute, x, iteration, name="row")


def _placed(cx: Context, x: Value, axis: int, backwards: bool) -> Value:
    """A scan result, which is stacked along axis 0, as the node asks for it."""
    if backwards:
        x = window_of(cx, x, {0: (dims.dim(x.shape[0] - 1), x.shape[0], -1)})
    axis = axis_of(cx, axis, x.ndim)
    return cx.transpose(x, [*range(1, axis + 1), 0, *range(axis + 1, x.ndim)])


@onnx_op("Scan", since=8)
def scan_8(cx: Context, lengths: Value | None = None, *inputs: Value, body: onnx.GraphProto, num_scan_inputs: int,
           directions: list[int] | None = None) -> tuple[Value, ...]:
    batch = inputs[0].shape[0]
    if lengths is not None or not isinstance(batch, int) or batch == 0:
        raise cx.error("is supported without sequence lengths and for a batch that is known while compiling")
    run: Callable[..., tuple[Value, ...]] = scan
    rows = []
    for b in range(batch):
        parts = [cx.reshape(window_of(cx, x, {0: (b, 1, 1)}), x.shape[1:]) for x in inputs]
        rows.append(run(cx, *parts, body=body, num_scan_inputs=num_scan_inputs, scan_input_directions=directions))
    return tuple(_stack(cx, list(column), 0) for column in zip(*rows, strict=True))
