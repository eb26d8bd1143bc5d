"""DeepSpeed's ZeRO checkpoints: parameters put together again from the partitions of their optimizers, as its own ``zero_to_fp32.py`` does.

A folder ``global_step<N>`` holds, for each process, a file of the optimizer (``zero_pp_rank_<rank>_mp_rank_00_optim_states.pt``) with its
partition of the parameters in float32, and files of the model (``*_model_states.pt``) with names and shapes of the parameters, and with buffers.
With stages 1 and 2 all parameters of a group lie one after another, cut into a partition for each process; with stage 3 each parameter is cut.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ingot.errors import CompileError, MissingFileError, UnsupportedError

_STEP = re.compile(r"global_step(\d+)$")
_OPTIMIZER = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt$")
_MODEL = re.compile(r"(?:zero_pp_rank_(\d+)_)?mp_rank_(\d+)_model_states\.pt$")
#: Where an optimizer keeps its partition: stages 1 and 2, and stage 3.
_FLAT, _CUT = "single_partition_of_fp32_groups", "fp32_flat_groups"


def find_zero(directory: Path) -> list[Path]:
    """The folder of a directory's checkpoint: that which the file ``latest`` names, or else of the last step; nothing if there is none."""
    latest = directory / "latest"
    if latest.is_file():
        folder = directory / Path(latest.read_text().strip()).name
        if not folder.is_dir():
            raise MissingFileError(f"{latest} names '{folder.name}', but there is no such folder beside it")
        return [folder]
    steps = [(int(found[1]), path) for path in directory.glob("global_step*") if (found := _STEP.match(path.name)) and path.is_dir()]
    return [max(steps)[1]] if steps else []


def zero_tensors(directory: Path, folder: Path, load: Callable[[Path], Any]) -> Iterator[Mapping[str, torch.Tensor]]:
    """The parameters and buffers of a checkpoint, one or those that share one at a time; parameters in float32.

    Args:
        directory: Where the checkpoint was asked for, for errors.
        folder: The checkpoint's folder.
        load: Reads a file of ``torch.save``.

    Raises:
        MissingFileError: A process's file is missing.
        UnsupportedError: The model was cut among processes too (tensor or pipeline parallelism).
        CompileError: The files contradict each other.
    """
    models = [load(path) for path in _ranks(folder, _MODEL)]
    if not models:
        raise MissingFileError(f"{folder}: there is no *_model_states.pt; a ZeRO checkpoint of DeepSpeed has one for all processes or one for each")
    first = models[0]
    if not isinstance(first, Mapping) or not isinstance(first.get("module"), Mapping):
        raise CompileError(f"{folder}: its *_model_states.pt hold no 'module', so they are not DeepSpeed's")
    optimizers = _ranks(folder, _OPTIMIZER)
    module = {name: t for name, t in first["module"].items() if isinstance(t, torch.Tensor)}
    if not optimizers:
        if len(models) > 1:
            raise MissingFileError(f"{folder}: there are no *_optim_states.pt, which hold the parameters of a ZeRO checkpoint of stage 3; Ingot "
                                   f"reads the whole folder, or what zero_to_fp32.py makes of it, in {directory}")
        yield module  # without ZeRO, or copied without its optimizer: the parameters as the model has them
        return
    partitions = [_partition(path, load(path), len(optimizers)) for path in optimizers]
    shared = _shared(first)
    buffers = set(first.get("buffer_names") or ())
    yield {name: t.float() if t.is_floating_point() else t for name, t in module.items() if name in buffers}
    whole = partitions[0].cut is None
    named = _frozen(models, whole)
    groups = first.get("param_shapes")
    if not groups:
        raise CompileError(f"{folder}: its *_model_states.pt hold no 'param_shapes'; DeepSpeed older than 0.3.17 wrote it")
    groups = [groups] if isinstance(groups, Mapping) else list(groups)
    named += _flat(groups, partitions, folder) if whole else _cut(groups, partitions, folder)
    for name, make in named:
        tensor = make()
        yield dict.fromkeys((name, *shared.get(name, ())), tensor)


_Named = tuple[str, Callable[[], torch.Tensor]]


@dataclass(frozen=True)
class _Partition:
    """A process's share: a vector for each group of parameters (stages 1 and 2), or vectors in which all parameters' parts follow each other."""

    flat: Sequence[torch.Tensor] = ()
    cut: Sequence[torch.Tensor] | None = None


def _ranks(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """The folder's files of a kind in the order of processes."""
    matches = [(path, match) for path in sorted(folder.glob("*.pt")) if (match := pattern.match(path.name))]
    parallel = next((path for path, match in matches if int(match[2])), None)
    if parallel is not None:
        raise UnsupportedError(f"{parallel}: the model was cut among processes (tensor or pipeline parallelism); "
                               "convert the checkpoint with DeepSpeed's ds_to_universal.py or the trainer's own converter first")
    found = {int(match[1] or 0): path for path, match in matches}
    missing = sorted(set(range(len(found))) - set(found))
    if missing:
        raise MissingFileError(f"{folder}: of the files like {matches[0][0].name} that of process {missing[0]} is missing")
    return [found[rank] for rank in sorted(found)]


def _partition(path: Path, content: Any, count: int) -> _Partition:
    state = content.get("optimizer_state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or (_FLAT not in state and _CUT not in state):
        raise CompileError(f"{path}: it holds neither '{_FLAT}' nor '{_CUT}', so it is not of ZeRO's stages 1 to 3")
    wanted = state.get("partition_count", count)
    wanted = max(wanted) if isinstance(wanted, (list, tuple)) else wanted
    if wanted != count:
        raise MissingFileError(f"{path.parent}: there are {count} files *_optim_states.pt, but {wanted} processes wrote it; all are needed")
    vectors = state[_FLAT if _FLAT in state else _CUT]
    vectors = [vectors] if isinstance(vectors, torch.Tensor) else list(vectors)
    if not all(isinstance(v, torch.Tensor) and v.ndim == 1 for v in vectors):
        raise CompileError(f"{path}: its partitions are not vectors")
    return _Partition(flat=vectors) if _FLAT in state else _Partition(cut=vectors)


def _shared(model: Mapping[str, Any]) -> dict[str, list[str]]:
    """Other names of parameters, by those that they were saved under."""
    found: dict[str, list[str]] = {}
    given = model.get("shared_params") or {}
    for alias, name in given.items() if isinstance(given, Mapping) else given:
        found.setdefault(name, []).append(alias)
    return found


def _frozen(models: Sequence[Mapping[str, Any]], whole: bool) -> list[_Named]:
    """Parameters that no optimizer has: whole in the first file, or cut."""
    shapes = models[0].get("frozen_param_shapes") or {}

    def maker(name: str, shape: Sequence[int]) -> Callable[[], torch.Tensor]:
        parts = [m["frozen_param_fragments"][name].reshape(-1) for m in (models[:1] if whole else models)]
        return lambda: _span(parts, 0, math.prod(shape)).view(*shape)

    return [(name, maker(name, tuple(shape))) for name, shape in shapes.items()]


def _flat(groups: Sequence[Mapping[str, Any]], partitions: Sequence[_Partition], folder: Path) -> list[_Named]:
    """Parameters of stages 1 and 2: of a group one after another, all partitions put together."""
    if any(len(p.flat) != len(groups) for p in partitions):
        raise CompileError(f"{folder}: 'param_shapes' has {len(groups)} groups of parameters, but partitions have "
                           f"{', '.join(str(len(p.flat)) for p in partitions)}")
    named: list[_Named] = []
    for number, shapes in enumerate(groups):
        vectors = [p.flat[number] for p in partitions]
        offset = 0
        for name, shape in shapes.items():
            named.append((name, lambda v=vectors, o=offset, s=tuple(shape): _span(v, o, math.prod(s)).view(*s)))  # type: ignore[misc]
            offset += math.prod(shape)
        there, unit = sum(v.numel() for v in vectors), 2 * len(partitions)  # what DeepSpeed pads to
        if -(-offset // unit) != -(-there // unit):
            raise CompileError(f"{folder}: group {number} has parameters of {offset} numbers, but its partitions hold {there}")
    return named


def _cut(groups: Sequence[Mapping[str, Any]], partitions: Sequence[_Partition], folder: Path) -> list[_Named]:
    """Parameters of stage 3: of each a part, padded to equal ones, in each partition."""
    named: list[_Named] = []
    offset = 0
    for name, shape in ((n, tuple(s)) for shapes in groups for n, s in shapes.items()):
        size = -(-math.prod(shape) // len(partitions))

        def make(o: int = offset, n: int = size, s: tuple[int, ...] = shape) -> torch.Tensor:
            return torch.cat([_span(p.cut or (), o, n) for p in partitions])[: math.prod(s)].view(*s)

        named.append((name, make))
        offset += size
    there = {sum(v.numel() for v in p.cut or ()) for p in partitions}
    if there != {offset}:
        raise CompileError(f"{folder}: each partition should hold {offset} numbers of the parameters in 'param_shapes', but they hold "
                           f"{', '.join(map(str, sorted(there)))}")
    return named


def _span(vectors: Sequence[torch.Tensor], start: int, count: int) -> torch.Tensor:
    """Elements of vectors as if they were one: seen where they lie in one, copied where they do not."""
    parts, begin = [], 0
    for vector in vectors:
        low, high = max(start - begin, 0), min(start + count - begin, vector.numel())
        if low < high:
            parts.append(vector[low:high])
        begin += vector.numel()
    found = parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.empty(0)
    if found.numel() != count:
        raise CompileError(f"partitions of a ZeRO checkpoint end after {begin} numbers, before one of the parameters")
    return found
