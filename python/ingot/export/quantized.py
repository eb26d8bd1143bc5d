"""Hugging Face directories whose weights GPTQ or AWQ quantized: the float architecture, with linear layers that keep their integers.

A layer is exported as onnxruntime's operator MatMulNBits, from which the importer makes the kernel ``quantized_matmul``: no float form of it is
ever in memory, but for the framework's own results, for which each layer computes it as it is called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from ingot.errors import CompileError, FileError, MissingFileError, UnsupportedError
from ingot.export.packed import FP8, PARTS, PackedLinear, Settings, blocks_of, settings_of, unpack


class QuantizedLinear(torch.nn.Module):
    """A linear layer, x float [..., K] → [..., N], of a quantized matrix."""

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    order: torch.Tensor | None

    def __init__(self, packed: PackedLinear, bias: torch.Tensor | None) -> None:
        super().__init__()
        blocks = blocks_of(packed)
        self.depth, self.columns, self.bits, self.group = blocks.depth, blocks.columns, blocks.bits, blocks.group
        self.attributes = blocks.attributes
        for name, array in (("codes", blocks.codes), ("scales", blocks.scales), ("zeros", blocks.zeros), ("order", blocks.order)):
            self.register_buffer(name, None if array is None else torch.from_numpy(array))
        self.bias = None if bias is None else torch.nn.Parameter(bias.detach().float(), requires_grad=False)

    def weight_floats(self) -> torch.Tensor:
        """The matrix [N, K], columns in the order of the codes."""
        codes = _fields(self.codes, self.bits).reshape(self.columns, -1, self.group).float()
        blocks = codes.shape[1]
        zeros = 2.0 ** (self.bits - 1) if self.zeros is None else _fields(self.zeros, self.bits)[:, :blocks, None].float()
        return ((codes - zeros) * self.scales[..., None]).reshape(self.columns, -1)[:, : self.depth]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product, plus the bias."""
        if self.order is not None:
            x = x.index_select(-1, self.order)  # indexing would be exported as two transposes and a GatherND
        if not torch.compiler.is_exporting():
            return torch.nn.functional.linear(x, self.weight_floats().to(x.dtype), self.bias)
        shape = (*x.shape[:-1], self.columns)
        y: torch.Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::MatMulNBits", (x, self.codes, self.scales, self.zeros), dict[str, Any](self.attributes),
            dtype=x.dtype, shape=shape, version=1)
        return y if self.bias is None else y + self.bias


def load_quantized(directory: Path, config: Mapping[str, Any], model_class: Any) -> torch.nn.Module:
    """The directory's model, in evaluation mode: float32, its quantized linear layers as :class:`QuantizedLinear`.

    Args:
        directory: Holds ``model.safetensors``, or several files and ``model.safetensors.index.json``.
        config: The content of ``config.json``, with a ``quantization_config``.
        model_class: The class of transformers that ``config.json`` names.

    Raises:
        UnsupportedError: The method, bits or packing are none that Ingot reads.
        FileError: There are no safetensors files.
        CompileError: Tensors are missing or do not fit the model.
    """
    from ingot.export.huggingface import instantiated

    settings = settings_of(config["quantization_config"], str(directory / "config.json"))
    if settings.method == FP8:
        raise UnsupportedError(f"{directory}: weights in fp8 are read for language models alone, and {model_class.__name__} is none that Ingot knows")
    with ExitStack() as opened:
        tensors = _tensors(directory, opened)
        layers = {name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")}
        if not layers:
            raise CompileError(f"{directory}: config.json says that weights are quantized by {settings.text}, but no tensor is named *.qweight")
        packed = {f"{layer}.{part}" for layer in layers for part in PARTS}
        floats = {name: file.get_tensor(name) for name, file in tensors.items() if name not in packed}
        model, found_floats = instantiated(directory, model_class, state_dict=floats)
        missing = set(found_floats["missing_keys"])
        expected = {f"{_resolved(model, layer, directory)}.weight" for layer in layers}
        lost = sorted(missing - expected)
        if lost:
            raise CompileError(f"{directory}: {len(lost)} weights of {model_class.__name__} are not in its safetensors files, such as '{lost[0]}'")
        orders: dict[bytes, torch.Tensor] = {}
        for layer in sorted(layers):
            found = {part: tensors[f"{layer}.{part}"].get_tensor(f"{layer}.{part}") for part in PARTS if f"{layer}.{part}" in tensors}
            bias = floats.get(f"{layer}.bias")
            _replace(model, _resolved(model, layer, directory), settings, found, bias, f"{directory}: {layer}", orders)
    return model.eval()


def _tensors(directory: Path, opened: ExitStack) -> dict[str, Any]:
    """The open file of each tensor."""
    from safetensors import SafetensorError, safe_open

    index = directory / "model.safetensors.index.json"
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    except (ValueError, KeyError, AttributeError) as error:
        raise CompileError(f"{index}: not an index of safetensors files: {error}") from error
    found: dict[str, Any] = {}
    for name in names:
        path = directory / Path(name).name
        if not path.is_file():
            raise MissingFileError(f"{directory}: there is no {path.name}; quantized weights are read from safetensors only")
        try:
            file = opened.enter_context(safe_open(path, framework="pt"))
            found.update(dict.fromkeys(file.keys(), file))
        except (SafetensorError, OSError) as error:
            raise FileError(f"{path}: not a whole safetensors file: {error}") from error
    return found


def _resolved(model: torch.nn.Module, layer: str, directory: Path) -> str:
    """The name that a layer of the checkpoint has in the model: the same, or with the prefix of the base model more or less."""
    modules = dict(model.named_modules())
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for name in (layer, prefix + layer, layer.removeprefix(prefix)):
        if name in modules:
            return name
    raise CompileError(f"{directory}: the quantized weight '{layer}' belongs to no layer of {type(model).__name__}")


def _replace(model: torch.nn.Module, name: str, settings: Settings, parts: Mapping[str, torch.Tensor], bias: torch.Tensor | None, where: str,
             orders: dict[bytes, torch.Tensor]) -> None:
    """Puts a quantized layer in the place of a float one."""
    parent, _, last = name.rpartition(".")
    old = model.get_submodule(name)
    weight = getattr(old, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        raise CompileError(f"{where}: its weight is quantized, but {type(old).__name__} is no linear layer")
    # A torch Linear stores [N, K]; GPT-2's Conv1D [K, N].
    depth, columns = (weight.shape[1], weight.shape[0]) if isinstance(old, torch.nn.Linear) else tuple(weight.shape)
    arrays = {key: (t.float() if t.is_floating_point() else t).numpy() for key, t in parts.items()}
    own = getattr(old, "bias", None)
    made = QuantizedLinear(unpack(settings, arrays, depth, columns, where), own if isinstance(own, torch.Tensor) else bias)
    if made.order is not None:  # layers that read one tensor have one order: it is then permuted once
        made.order = orders.setdefault(made.order.numpy().tobytes(), made.order)
    setattr(model.get_submodule(parent), last, made)


def _fields(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes as MatMulNBits packs them, with the padding."""
    return packed if bits == 8 else torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
