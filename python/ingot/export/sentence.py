"""A sentence-transformers directory → ONNX, with the pooling and normalization of its ``modules.json`` in the graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ingot.errors import CompileError, UnsupportedError
from ingot.export.exported import Exported
from ingot.export.huggingface import described, inputs_of, load, read_json
from ingot.export.torch import export_module

_OUTPUT = "sentence_embedding"


def is_sentence_encoder(directory: str | Path) -> bool:
    """Whether a directory says how sentences are made of its model's token embeddings."""
    return (Path(directory) / "modules.json").is_file()


def export_sentence_encoder(directory: str | Path, folder: str | Path) -> Exported:
    """Exports a sentence encoder.

    Its inputs are ``input_ids``, ``attention_mask`` (and ``token_type_ids``) of [batch, sequence], its output is
    ``sentence_embedding`` of [batch, width].

    Raises:
        FileError: The directory or one of its files is missing.
        UnsupportedError: ``modules.json`` asks for a step that Ingot does not know.
        CompileError: PyTorch cannot export the model.
    """
    directory = Path(directory)
    steps = read_json(directory / "modules.json")
    kinds = [str(step.get("type", "")).rsplit(".", 1)[-1] for step in steps]
    if not kinds or kinds[0] != "Transformer":
        raise UnsupportedError(f"{directory}: modules.json must begin with a Transformer, but has {', '.join(kinds) or 'nothing'}")
    model = load(directory / steps[0].get("path", ""))
    heads: list[torch.nn.Module] = []
    for kind, step in zip(kinds[1:], steps[1:], strict=True):
        if kind not in _HEADS:
            raise UnsupportedError(f"{directory}: modules.json has a step '{kind}'; Ingot knows {', '.join(_HEADS)}")
        heads.append(_HEADS[kind](directory / step.get("path", "")))
    encoder = SentenceEncoder(model, heads)
    signature = inputs_of(model, directory)
    exported = export_module(encoder, signature.inputs, folder, dynamic_shapes=signature.axes, output_names=[_OUTPUT])
    exported.metadata["pooling"] = next((head.mode for head in heads if isinstance(head, Pooling)), None)
    return described(exported, model, directory)


class SentenceEncoder(torch.nn.Module):
    """A transformers encoder and the steps from its token embeddings to one embedding for each sentence."""

    exported_prefix = "model."

    def __init__(self, model: torch.nn.Module, heads: list[torch.nn.Module]) -> None:
        super().__init__()
        self.model = model
        self.heads = torch.nn.ModuleList(heads)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """The embedding of each sentence, [batch, width]."""
        embedding: torch.Tensor = self.model(**inputs, return_dict=True).last_hidden_state
        for head in self.heads:
            embedding = head(embedding, inputs["attention_mask"])
        return embedding


class Pooling(torch.nn.Module):
    """Token embeddings [batch, sequence, width] → [batch, width]; padding (mask 0) does not count."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pools over the sequence."""
        if self.mode == "cls":
            return tokens[:, 0]
        weights = mask.unsqueeze(-1).to(tokens.dtype)
        if self.mode == "max":
            return tokens.masked_fill(weights == 0, torch.finfo(tokens.dtype).min).amax(1)
        count = weights.sum(1).clamp(min=1e-9)  # as sentence-transformers: a sentence of no token gives zeros
        total = (tokens * weights).sum(1)
        return total / (count.sqrt() if self.mode == "mean_sqrt_len_tokens" else count)


class Normalize(torch.nn.Module):
    """Scales each embedding to length 1."""

    def forward(self, embedding: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[batch, width] → [batch, width]."""
        return torch.nn.functional.normalize(embedding, p=2.0, dim=1)


class Dense(torch.nn.Module):
    """A linear layer after pooling."""

    def __init__(self, linear: torch.nn.Linear, activation: torch.nn.Module) -> None:
        super().__init__()
        self.linear = linear
        self.activation = activation

    def forward(self, embedding: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[batch, width] → [batch, other width]."""
        result: torch.Tensor = self.activation(self.linear(embedding))
        return result


def _pooling(folder: Path) -> torch.nn.Module:
    settings = read_json(folder / "config.json")
    named = settings.get("pooling_mode")
    modes = [named] if isinstance(named, str) else [key.removeprefix("pooling_mode_") for key, value in settings.items()
                                                    if key.startswith("pooling_mode_") and value is True]
    modes = [{"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}.get(mode, mode) for mode in modes]
    if len(modes) != 1 or modes[0] not in ("cls", "mean", "max", "mean_sqrt_len_tokens"):
        raise UnsupportedError(f"{folder}: pooling {' and '.join(modes) or 'of no kind'}; Ingot knows one of cls, mean, max, mean_sqrt_len_tokens")
    return Pooling(modes[0])


def _dense(folder: Path) -> torch.nn.Module:
    from safetensors.torch import load_file

    settings = read_json(folder / "config.json")
    name = str(settings.get("activation_function", "torch.nn.modules.linear.Identity")).rsplit(".", 1)[-1]
    activations: dict[str, Callable[[], torch.nn.Module]] = {
        "Identity": torch.nn.Identity, "Tanh": torch.nn.Tanh, "ReLU": torch.nn.ReLU, "GELU": torch.nn.GELU}
    if name not in activations:
        raise UnsupportedError(f"{folder}: activation '{name}'; Ingot knows {', '.join(activations)}")
    linear = torch.nn.Linear(settings["in_features"], settings["out_features"], bias=settings.get("bias", True))
    weights: dict[str, Any] = {k.removeprefix("linear."): v for k, v in load_file(folder / "model.safetensors").items()}
    try:
        linear.load_state_dict(weights)
    except RuntimeError as error:
        raise CompileError(f"{folder}: the weights do not fit config.json: {error}") from error
    return Dense(linear, activations[name]())


_HEADS: dict[str, Callable[[Path], torch.nn.Module]] = {"Pooling": _pooling, "Normalize": lambda folder: Normalize(), "Dense": _dense}
