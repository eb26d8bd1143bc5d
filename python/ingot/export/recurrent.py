"""Recurrent layers in PyTorch's newer exporter: their shapes for any number of steps, and layers that it does not know."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch


def _states_alike(x: Any, hx: Any, params: Any, has_biases: bool, num_layers: int, dropout: float, train: bool, bidirectional: bool,
                  batch_first: bool) -> tuple[Any, ...]:
    """Tensors of the shapes that a recurrent layer gives: of all steps [.., .., directions * width], then of the last states."""
    states = hx if isinstance(hx, (list, tuple)) else [hx]
    width = states[0].shape[-1] * (2 if bidirectional else 1)
    return x.new_empty((*x.shape[:-1], width)), *(torch.empty_like(state) for state in states)


@contextlib.contextmanager
def any_number_of_steps() -> Iterator[None]:
    """Has PyTorch find the shapes of recurrent layers without unrolling them.

    It finds them by the layers' decompositions, which take as many steps as the example has: with another number the shapes are wrong, and
    two directions fail. The layers themselves are exported as they are; only their shapes are asked for.
    """
    from torch._C import DispatchKey
    from torch._decomp import decomposition_table

    key = DispatchKey.CompositeImplicitAutograd
    aten = torch.ops.aten
    operators: list[Any] = [aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input]
    tables: list[tuple[Any, Any, Any]] = [(decomposition_table, operator, operator) for operator in operators]
    tables += [(operator.py_kernels, key, operator) for operator in operators]
    before = [(table, entry, operator, table[entry]) for table, entry, operator in tables if entry in table]
    for table, entry, operator, _ in before:
        table[entry] = _states_alike
        operator._dispatch_cache.clear()
    try:
        yield
    finally:
        for table, entry, operator, value in before:
            table[entry] = value
            operator._dispatch_cache.clear()


def _rnn(activation: str) -> Callable[..., Any]:
    def export(x: Any, hx: Any, params: Sequence[Any], has_biases: bool, num_layers: int, dropout: float, train: bool, bidirectional: bool,
               batch_first: bool) -> Any:
        from onnxscript import opset20

        op: Any = opset20  # it takes lists for tensors of integers
        directions = 2 if bidirectional else 1
        each = 4 if has_biases else 2
        x = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x
        last = []
        for layer in range(num_layers):
            mine = [params[(layer * directions + d) * each:][:each] for d in range(directions)]

            def together(position: int, mine: Sequence[Any] = mine) -> Any:
                return op.Concat(*(op.Unsqueeze(parameters[position], [0]) for parameters in mine), axis=0)

            first = op.Slice(hx, [layer * directions], [(layer + 1) * directions], [0])
            bias = op.Concat(together(2), together(3), axis=1) if has_biases else None
            y, state = op.RNN(x, together(0), together(1), bias, None, first, activations=[activation] * directions,
                              direction="bidirectional" if bidirectional else "forward", hidden_size=int(mine[0][1].shape[1]))
            x = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, -1])
            last.append(state)
        return op.Transpose(x, perm=[1, 0, 2]) if batch_first else x, op.Concat(*last, axis=0) if len(last) > 1 else last[0]

    return export


def layers() -> dict[Any, Callable[..., Any]]:
    """Exports of recurrent layers that PyTorch has none of, for its table of translations."""
    return {torch.ops.aten.rnn_tanh.input: _rnn("Tanh"), torch.ops.aten.rnn_relu.input: _rnn("Relu")}
