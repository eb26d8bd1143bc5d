"""A module's arguments and results as flat, named tensors, which is all that ONNX knows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils import _pytree as pytree

from ingot.errors import CompileError


class Arguments:
    """The arguments of one call of ``module.forward``: the tensors among them by name, everything else fixed.

    ``example`` is a tensor or array, a sequence of positional arguments, or a mapping of keyword arguments; arguments may
    nest tensors in tuples, lists and dicts. A tensor is called after its parameter; one inside a container also after its
    place in it (``state_0``).
    """

    def __init__(self, module: torch.nn.Module, example: Any) -> None:
        self.args, self.kwargs = _call(example)
        named = _bind(module, self.args, self.kwargs)
        leaves, self._tree = pytree.tree_flatten((tuple(self.args), dict(self.kwargs)))
        names = [name for value, prefix in named for name in _leaf_names(value, prefix)]
        self._leaves = [_tensor(leaf) for leaf in leaves]
        self._places = [i for i, leaf in enumerate(self._leaves) if isinstance(leaf, torch.Tensor)]
        self.names = _unique([names[i] for i in self._places])
        if not self.names:
            raise CompileError("the example inputs hold no tensor: a model needs at least one tensor as its input")

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The tensors, in the order of ``names``."""
        return [self._leaves[i] for i in self._places]

    def rename(self, names: Sequence[str]) -> None:
        """Gives the tensors other names."""
        if len(names) != len(self.names):
            raise CompileError(f"{len(names)} input names were given, but the model has {len(self.names)} inputs: {', '.join(self.names)}")
        self.names = list(names)

    def rebuild(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments with other tensors in place of these."""
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self._tree)
        return args, kwargs


class Flat(torch.nn.Module):
    """A module whose forward takes tensors only and returns a tuple of tensors only."""

    def __init__(self, module: torch.nn.Module, arguments: Arguments) -> None:
        super().__init__()
        self.module = module
        self.arguments = arguments

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The tensors among the module's results, in order."""
        args, kwargs = self.arguments.rebuild(tensors)
        return tuple(tensor for _, tensor in named_results(self.module(*args, **kwargs)))


def named_results(result: Any, prefix: str = "") -> list[tuple[str, torch.Tensor]]:
    """The tensors in what a module returned, by name: ``output``, ``output_0``, or a mapping's keys."""
    if isinstance(result, torch.Tensor):
        return [(prefix or "output", result)]
    if isinstance(result, Mapping):
        items = [(f"{prefix}_{key}" if prefix else str(key), value) for key, value in result.items()]
    elif isinstance(result, (tuple, list)):
        items = [(f"{prefix or 'output'}_{i}", value) for i, value in enumerate(result)]
    else:
        items = []
    return [named for name, value in items for named in named_results(value, name)]


def to_numpy(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A tensor as an array of its own; bfloat16 becomes ml_dtypes' bfloat16."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        array: npt.NDArray[Any] = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    else:
        array = tensor.numpy()
    copied: npt.NDArray[Any] = array.copy()
    return copied


def to_torch(array: npt.NDArray[Any]) -> torch.Tensor:
    """An array as a tensor of its own."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def _call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, (torch.Tensor, np.ndarray)):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), {str(name): value for name, value in example.items()}
    if isinstance(example, Sequence) and not isinstance(example, str):
        return tuple(example), {}
    raise CompileError(f"example inputs are a tensor, a sequence of arguments or a dict of keyword arguments, not {type(example).__name__}")


def _bind(module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[Any, str]]:
    """Each argument, positional ones first, with the name of its parameter."""
    signature = inspect.signature(module.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise CompileError(f"the example inputs do not fit {type(module).__name__}.forward{signature}: {error}") from None
    positional: list[str] = []
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional += [f"{name}_{i}" for i in range(len(args) - len(positional))]
        elif parameter.kind is not parameter.KEYWORD_ONLY:
            positional.append(name)
    return [*zip(args, positional, strict=False), *((value, name) for name, value in kwargs.items())]


def _leaf_names(value: Any, prefix: str) -> list[str]:
    names = []
    for path, _ in pytree.tree_flatten_with_path(value)[0]:
        keys = [str(getattr(key, "key", getattr(key, "idx", key))) for key in path]
        names.append("_".join([prefix, *keys]))
    return names


def _tensor(leaf: Any) -> Any:
    return to_torch(leaf) if isinstance(leaf, np.ndarray) else leaf


def _unique(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result
