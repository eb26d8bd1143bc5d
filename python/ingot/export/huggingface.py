"""A Hugging Face directory (``config.json`` and safetensors) → ONNX. Only files of the directory are read, never a hub."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ingot.errors import CompileError, FileError, MissingFileError, UnsupportedError
from ingot.export.exported import Exported
from ingot.export.saved import saved_tensors
from ingot.export.torch import DynamicShapes, export_module

_TEXT = {0: "batch", 1: "sequence"}
_EXAMPLE_BATCH, _EXAMPLE_LENGTH = 2, 16
#: Results that are not for a caller of one forward pass.
_LEFT_OUT = {"loss", "past_key_values", "hidden_states", "attentions", "cross_attentions", "encoder_hidden_states",
             "encoder_attentions", "decoder_hidden_states", "decoder_attentions", "encoder_last_hidden_state"}


def export_directory(directory: str | Path, folder: str | Path) -> Exported:
    """Exports what the directory's model is for: a sentence encoder with its pooling, or the model of ``config.json``.

    Raises:
        FileError: The directory or one of its files is missing.
        CompileError: PyTorch cannot export the model, or a file contradicts another.
    """
    from ingot.export.sentence import export_sentence_encoder, is_sentence_encoder

    directory = Path(directory)
    return export_sentence_encoder(directory, folder) if is_sentence_encoder(directory) else export_huggingface(directory, folder)


def export_huggingface(directory: str | Path, folder: str | Path) -> Exported:
    """Exports the model that ``config.json`` names in ``architectures``, with every input its task needs.

    Encoders, classifiers and decoders (one step, without a cache) take ``input_ids`` and ``attention_mask`` of
    [batch, sequence]; vision models ``pixel_values`` [batch, channels, height, width]; speech models ``input_features`` or
    ``input_values``; encoder-decoders also ``decoder_input_ids``.

    Raises:
        FileError: The directory or one of its files is missing.
        UnsupportedError: The model needs code of its own, or inputs of several kinds.
        CompileError: PyTorch cannot export the model.
    """
    directory = Path(directory)
    model = load(directory)
    signature = inputs_of(model, directory)
    selected = Selected(model, signature.inputs)
    exported = export_module(selected, signature.inputs, folder, dynamic_shapes=signature.axes, output_names=selected.names)
    return described(exported, model, directory)


def load(directory: Path) -> torch.nn.Module:
    """The directory's model in float32 and evaluation mode, its weights read from safetensors or from what torch.save wrote.

    Layers that are quantized there stay so.
    """
    config = read_json(directory / "config.json")
    if config.get("auto_map"):
        raise UnsupportedError(f"{directory}: config.json asks for Python code of its own (auto_map), which Ingot does not run; "
                               "load the model yourself and give ingot.compile the module and example inputs")
    names = config.get("architectures") or []
    if not names:
        raise CompileError(f"{directory / 'config.json'}: 'architectures' is missing, so the class of the model is not known")
    import transformers

    model_class = getattr(transformers, names[0], None)
    if model_class is None:
        raise UnsupportedError(f"{directory}: transformers {transformers.__version__} has no class '{names[0]}'")
    if config.get("quantization_config"):
        from ingot.export.quantized import load_quantized

        return load_quantized(directory, config, model_class)
    if any(directory.glob("*.safetensors")) or (directory / "model.safetensors.index.json").is_file():
        model, found = instantiated(directory, model_class, use_safetensors=True)
    else:
        tensors = {name: tensor for part in saved_tensors(directory) for name, tensor in part.items()}
        model, found = instantiated(directory, model_class, state_dict=tensors)
    missing = sorted(found["missing_keys"])
    if missing:  # transformers would go on with random numbers
        raise CompileError(f"{directory}: {len(missing)} weights of {names[0]} are not in its files, such as '{missing[0]}'")
    loaded: torch.nn.Module = model.eval()
    return loaded


def instantiated(directory: Path, model_class: Any, **weights: Any) -> tuple[Any, dict[str, Any]]:
    """The architecture of the directory's config.json in float32, and what was found of its weights: those of the directory, or a ``state_dict``."""
    from safetensors import SafetensorError

    with _silent():
        try:
            settings = model_class.config_class.from_pretrained(directory, local_files_only=True)
            if hasattr(settings, "quantization_config"):
                del settings.quantization_config
            # Attention written out as matmul and softmax gives a third fewer nodes than what the exporter makes of the fused operator.
            model, found = model_class.from_pretrained(None if "state_dict" in weights else directory, config=settings, local_files_only=True,
                                                       dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **weights)
        except OSError as error:
            raise FileError(f"{directory}: {_first_line(error)}") from error
        except (ValueError, RuntimeError, SafetensorError) as error:
            raise CompileError(f"{directory}: {model_class.__name__} cannot be loaded: {_first_line(error)}") from error
    return model, found


@dataclass(frozen=True)
class Signature:
    """Example inputs by name, and their symbolic axes."""

    inputs: dict[str, Any]
    axes: DynamicShapes


def inputs_of(model: Any, directory: Path) -> Signature:
    """The inputs that one forward pass of a model takes."""
    config = model.config
    parameters = inspect.signature(model.forward).parameters
    main = model.main_input_name
    if (main == "input_ids" and "pixel_values" in parameters) or (main == "pixel_values" and "input_ids" in parameters):
        raise UnsupportedError(f"{directory}: {type(model).__name__} takes text and images; "
                               "give ingot.compile the module and example inputs instead of the directory")
    builders = {"input_ids": _text, "pixel_values": _image, "input_features": _audio_features, "input_values": _audio_samples}
    if main not in builders:
        raise UnsupportedError(f"{directory}: {type(model).__name__} takes '{main}', for which Ingot has no example; "
                               "give ingot.compile the module and example inputs instead of the directory")
    inputs, axes = builders[main](config, parameters, directory)
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = torch.randint(0, config.vocab_size, (_EXAMPLE_BATCH, _EXAMPLE_LENGTH - 3), generator=_random())
        axes["decoder_input_ids"] = {0: "batch", 1: "decoder_sequence"}
    return Signature(inputs, axes)


def _text(config: Any, parameters: Any, directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    shape = (_EXAMPLE_BATCH, _EXAMPLE_LENGTH)
    mask = torch.ones(shape, dtype=torch.int64)
    mask[1:, _EXAMPLE_LENGTH - 5:] = 0
    inputs = {"input_ids": torch.randint(0, config.vocab_size, shape, generator=_random())}
    if "attention_mask" in parameters:
        inputs["attention_mask"] = mask
    if "token_type_ids" in parameters and getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.zeros(shape, dtype=torch.int64)
    return inputs, dict.fromkeys(inputs, _TEXT)


def _image(config: Any, parameters: Any, directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    height, width = _image_size(config, directory)
    pixels = torch.randn((_EXAMPLE_BATCH, getattr(config, "num_channels", 3), height, width), generator=_random())
    return {"pixel_values": pixels}, {"pixel_values": {0: "batch"}}


def _image_size(config: Any, directory: Path) -> tuple[int, int]:
    size = getattr(config, "image_size", None)
    preprocessor = directory / "preprocessor_config.json"
    if size is None and preprocessor.exists():
        settings = read_json(preprocessor)
        size = settings.get("crop_size") or settings.get("size")
    if isinstance(size, dict):
        edge = int(size.get("shortest_edge") or 224)
        return int(size.get("height") or edge), int(size.get("width") or edge)
    if isinstance(size, (list, tuple)):
        return int(size[0]), int(size[1])
    return (int(size), int(size)) if size else (224, 224)


def _audio_features(config: Any, parameters: Any, directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    frames = 2 * getattr(config, "max_source_positions", 1500)  # Whisper's first convolutions halve the length
    features = torch.randn((_EXAMPLE_BATCH, getattr(config, "num_mel_bins", 80), frames), generator=_random())
    return {"input_features": features}, {"input_features": {0: "batch"}}


def _audio_samples(config: Any, parameters: Any, directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    samples = torch.randn((_EXAMPLE_BATCH, 16000), generator=_random())
    return {"input_values": samples}, {"input_values": {0: "batch", 1: "samples"}}


class Selected(torch.nn.Module):
    """A transformers model that returns a tuple of the tensors a caller wants; ``names`` are their names."""

    exported_prefix = "model."

    def __init__(self, model: torch.nn.Module, example: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self._fixed = {"return_dict": True}
        if "use_cache" in inspect.signature(model.forward).parameters:
            self._fixed["use_cache"] = False
        with torch.no_grad():
            result = model(**example, **self._fixed)
        self.names = [name for name, value in result.items() if isinstance(value, torch.Tensor) and name not in _LEFT_OUT]

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The wanted results, in the order of ``names``."""
        result = self.model(**inputs, **self._fixed)
        return tuple(result[name] for name in self.names)


def described(exported: Exported, model: torch.nn.Module, directory: Path) -> Exported:
    """``exported`` with what is known of the transformers model in its metadata."""
    import transformers

    return replace(exported, metadata={**exported.metadata, "framework": "transformers", "framework_version": transformers.__version__,
                                       "class": type(model).__name__, "directory": directory.name})


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    if not path.parent.is_dir():
        raise MissingFileError(f"{path.parent}: there is no such directory")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(f"{path.parent}: there is no {path.name}, which a Hugging Face directory must have") from None
    except ValueError as error:
        raise CompileError(f"{path}: not valid JSON: {error}") from error


def _random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps transformers from looking for a network and from drawing progress bars."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    offline = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        if offline is None:
            del os.environ["HF_HUB_OFFLINE"]
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
