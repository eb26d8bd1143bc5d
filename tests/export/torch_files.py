"""A model's weights in the files that training programs write with ``torch.save``, written here from the definitions of their formats."""

from __future__ import annotations

import argparse
import enum
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Tensors = Mapping[str, torch.Tensor]


class Stage(enum.IntEnum):
    """In place of a class of the training program, which is not there when its files are read."""

    gradients = 2


class Scaler:
    """The same, an object with a state."""

    def __init__(self) -> None:
        self.scale = 2.0


def one_file(tensors: Tensors, folder: Path) -> None:
    """As transformers wrote models before safetensors."""
    torch.save(dict(tensors), folder / "pytorch_model.bin")


def several_files(tensors: Tensors, folder: Path) -> None:
    """The same in files with an index, as zero_to_fp32.py writes them too."""
    names = sorted(tensors)
    files = {name: f"pytorch_model-{1 + i % 3:05}-of-00003.bin" for i, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({name: tensors[name].clone() for name in names if files[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": files}))


def composer(tensors: Tensors, folder: Path) -> None:
    """As Composer saves a HuggingFaceModel, with the state of a training beside it."""
    state = {"model": {f"model.{name}": tensor for name, tensor in tensors.items()}, "optimizers": {"AdamW": {"state": {0: torch.ones(3)}}},
             "timestamp": argparse.Namespace(batch=100), "scaler": Scaler()}
    torch.save({"state": state, "rng": [{"cuda": []}]}, folder / "ep1-ba100-rank0.pt")


def plain(tensors: Tensors, folder: Path) -> None:
    """``torch.save(model.state_dict())`` of a compiled model in DistributedDataParallel."""
    torch.save(OrderedDict((f"module._orig_mod.{name}", tensor) for name, tensor in tensors.items()), folder / "model.pt")


def deepspeed(stage: int, processes: int = 3, frozen: Sequence[str] = (), shared: Mapping[str, str] | None = None,
              prefix: str = "") -> Callable[[Tensors, Path], None]:
    """As DeepSpeed saves a training with ZeRO: the model in bfloat16, of which the optimizers' partitions have the numbers in float32.

    Parameters are in two groups, as for those with and without weight decay.
    """
    def save(tensors: Tensors, folder: Path) -> None:
        shared_names = dict(shared or {})
        own = {name: tensor for name, tensor in tensors.items() if name not in shared_names}
        trained = {name: tensor for name, tensor in own.items() if name not in frozen}
        groups = [[n for n, t in trained.items() if t.ndim > 1], [n for n, t in trained.items() if t.ndim == 1]]
        step = folder / "global_step20"
        step.mkdir()
        (folder / "latest").write_text("global_step20")
        (folder / "global_step5").mkdir()
        (folder / "optimizer.pt").write_bytes(b"")
        shapes = [OrderedDict((n, trained[n].shape) for n in group) for group in groups]
        for rank in range(processes):
            flat = [_partition(torch.cat([trained[n].reshape(-1) for n in group]), 2 * processes, rank, processes) for group in groups]
            parts = [_partition(trained[n].reshape(-1), processes, rank, processes) for group in groups for n in group]
            state: dict[str, Any] = {"zero_stage": Stage.gradients, "partition_count": processes if stage == 3 else [processes] * 2,
                                     "loss_scaler": Scaler(), "base_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(4)}}}}
            # Stage 3 has vectors of so many parameters each, at whose borders a parameter may be cut.
            state |= {"fp32_flat_groups": list(torch.cat(parts).split(1000))} if stage == 3 else {"single_partition_of_fp32_groups": flat}
            torch.save({"optimizer_state_dict": state, "ds_config": {"train_batch_size": 3}, "ds_version": "0.18.2"},
                       step / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
            model: dict[str, Any] = {
                "buffer_names": ["rotary"], "param_shapes": shapes, "shared_params": shared_names, "args": argparse.Namespace(),
                "module": {"rotary": torch.ones(2)} | ({} if stage == 3 else {n: t.bfloat16() for n, t in tensors.items()}),
                "frozen_param_shapes": OrderedDict((n, own[n].shape) for n in frozen),
                "frozen_param_fragments": {n: _partition(own[n].reshape(-1), processes, rank, processes) if stage == 3 else own[n] for n in frozen}}
            if stage == 3 or rank == 0:
                torch.save(model, step / f"{f'zero_pp_rank_{rank}_' if stage == 3 else ''}mp_rank_00_model_states.pt")

    return save


def _partition(vector: torch.Tensor, unit: int, rank: int, processes: int) -> torch.Tensor:
    """A process's share of a vector that is padded to a multiple of ``unit``."""
    size = math.ceil(len(vector) / unit) * unit // processes
    return torch.nn.functional.pad(vector, (0, size * processes - len(vector)))[rank * size:(rank + 1) * size].clone()
