"""Whole networks small enough to emulate: a text encoder and an image classifier, with PyTorch in float64 as their reference."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from tests.levels.models import WINOGRAD, Feeds, Model
from tests.models.zoo import Field


def bert() -> Model:
    """Two layers of BERT with four heads of 16."""
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=99, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=136, max_position_embeddings=64,
                        attn_implementation="eager")
    module = Field(_seeded(BertModel, config, add_pooling_layer=False), "last_hidden_state")
    rng = np.random.default_rng(3)
    feeds = []
    for batch, length in ((2, 9), (1, 1), (3, 17)):
        mask = (np.arange(length) < rng.integers(1, length + 1, batch)[:, None]).astype(np.int64)
        feeds.append({"input_ids": rng.integers(0, 99, (batch, length)), "attention_mask": mask, "token_type_ids": np.zeros_like(mask)})
    shapes = {name: {0: "batch", 1: "sequence"} for name in feeds[0]}
    return _exported(module, feeds, shapes, ("attention", "matmul"))


def resnet() -> Model:
    """Two stages of ResNet's bottleneck blocks."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], num_labels=10)
    module = Field(_seeded(ResNetForImageClassification, config), "logits")
    rng = np.random.default_rng(4)
    feeds = [{"pixel_values": rng.standard_normal((batch, 3, 45, 45), np.float32)} for batch in (2, 1)]
    return _exported(module, feeds, {"pixel_values": {0: "batch"}}, ("convolution",))


def _seeded(build: Callable[..., torch.nn.Module], *arguments: Any, **options: Any) -> torch.nn.Module:
    """A module from a fixed seed, in evaluation mode; statistics of batch normalization are not the trivial 0 and 1."""
    torch.manual_seed(5)
    module = build(*arguments, **options)
    for child in module.modules():
        if isinstance(child, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(child.running_mean, 0.0, 0.1)
            torch.nn.init.uniform_(child.running_var, 0.5, 1.5)
    return module.eval()


def _exported(module: torch.nn.Module, feeds: Sequence[Feeds], shapes: dict[str, dict[int, str]], kernels: tuple[str, ...]) -> Model:
    def export() -> onnx.ModelProto:
        from ingot.export import export_module

        with tempfile.TemporaryDirectory() as folder:
            first = {name: torch.from_numpy(array) for name, array in feeds[0].items()}
            exported = export_module(module, first, Path(folder), dynamic_shapes=shapes, output_names=["y"])
            return onnx.load(str(exported.path))

    wide = copy.deepcopy(module).double()
    expected = []
    for feed in feeds:
        inputs = {n: torch.from_numpy(a.astype(np.float64) if a.dtype == np.float32 else a) for n, a in feed.items()}
        with torch.no_grad():
            expected.append({"y": wide(**inputs).numpy()})
    return Model(export, feeds, WINOGRAD, kernels, expected=expected)


#: Every network by name.
NETWORKS = {"bert": bert, "resnet": resnet}
