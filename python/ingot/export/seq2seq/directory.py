"""An encoder-decoder model of a Hugging Face directory, as one graph with caches whose weights are streamed from safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ingot.errors import CompileError, UnsupportedError
from ingot.export.decoder import ASSETS, CACHE_TYPES, config_of, quantization_of
from ingot.export.decoder.checkpoint import Checkpoint
from ingot.export.seq2seq.families import FAMILIES, Seq2seq
from ingot.export.seq2seq.graph import Seq2seqGraph
from ingot.export.seq2seq.marian import marian_tokenizer
from ingot.export.seq2seq.settings import generation_entry
from ingot.sources import Source

_CLASSES = ("ForConditionalGeneration", "MTModel", "WithLMHeadModel")


def is_seq2seq(directory: Path) -> bool:
    """Whether a directory holds an encoder-decoder model of a family that Ingot generates text with."""
    config = config_of(directory)
    generates = any(str(name).endswith(_CLASSES) for name in config.get("architectures") or [])
    return generates and config.get("model_type") in FAMILIES and not config.get("auto_map")


def export_seq2seq(directory: Path, folder: Path, context: int | None = None, cache: str | None = None) -> Source:
    """The directory's encoder and decoder as one model, with what the decoder reads of the source and its own caches as states.

    Args:
        directory: With ``config.json`` and weights, which GPTQ or AWQ may have quantized; a tokenizer travels along.
        folder: Where weights and a tokenizer are written that the directory has in another form; it has to be there until the artifact is.
        context: The most tokens of a source and of a text; by default as many as the model has positions for, or 512.
        cache: ``f32``, ``f16`` or ``bf16``.

    Raises:
        FileError: A file is missing.
        CompileError: A file is malformed, or an option does not exist.
        UnsupportedError: The model needs what Ingot does not have.
    """
    import transformers

    types = {name: dtype for name, dtype in CACHE_TYPES.items() if name not in ("int8", "fp8")}
    if cache is not None and cache not in types:
        raise CompileError(f"caches of an encoder-decoder model are {', '.join(types)}, not '{cache}'")
    config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
    try:
        model = _within(FAMILIES[config.model_type](config), directory, context)
        generation = generation_entry(directory, config, model)
    except UnsupportedError as error:
        raise UnsupportedError(f"{directory}: {error}") from error
    checkpoint = Checkpoint(directory, folder, quantization_of(directory))
    graph = Seq2seqGraph(model, checkpoint, types[cache or "f32"])
    built = graph.build()
    assets = {name: directory / name for name in ASSETS if (directory / name).is_file()}
    if "tokenizer.json" not in assets and config.model_type == "marian":
        written = marian_tokenizer(directory, folder)
        assets |= {} if written is None else {written.name: written}
    metadata = {"framework": "transformers", "class": (config.architectures or ["?"])[0], "family": config.model_type}
    return Source(built, directory.name, str(checkpoint.root), directory.name, metadata, reference=_Reference(directory),
                  reference_name=f"transformers {transformers.__version__}", examples=_example(model), states=graph.states, bounds=graph.bounds,
                  assets=assets, generation=generation, samples=0)


def _within(model: Seq2seq, directory: Path, context: int | None) -> Seq2seq:
    """The model with caches of a context."""
    if context is None:
        return model
    if context < 1 or (model.positions and context > model.context):
        raise CompileError(f"{directory}: a context of {context} tokens cannot be; the model has positions for 1 to {model.context}")
    # Whisper hears what it hears: only its text has a context.
    return replace(model, context=context, source_context=model.source_context if model.audio is not None else context)


def _example(model: Seq2seq) -> dict[str, Any]:
    """Inputs of one run: two sources, the second shorter, and the start of what is made of each."""
    random = np.random.default_rng(0)
    counts = [min(9, model.source_context), min(6, model.source_context)]
    source = {"audio": random.standard_normal((2, 16000)).astype(np.float32)} if model.audio is not None else \
        {"source_ids": random.integers(0, model.vocabulary, (2, counts[0])), "source_counts": np.array(counts)}
    steps = min(4, model.context)
    return {**source, "input_ids": random.integers(0, model.vocabulary, (2, steps)), "token_counts": np.array([steps, steps]),
            "logits_at": np.array([[steps - 1], [0]])}


class _Reference:
    """The model as transformers runs it, which is loaded when it is asked."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        from ingot.export.huggingface import load

        model: Any = load(self._directory)
        source: dict[str, Any]
        if "audio" in inputs:
            import transformers

            make: Any = transformers.WhisperFeatureExtractor
            extractor = make(feature_size=model.config.num_mel_bins, chunk_length=model.config.max_source_positions // 50)
            source = dict(extractor(list(np.asarray(inputs["audio"])), sampling_rate=16000, return_tensors="pt"))
        else:
            ids, counts = np.asarray(inputs["source_ids"]), np.asarray(inputs["source_counts"])
            mask = np.arange(ids.shape[1])[None] < counts[:, None]
            source = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
        with torch.no_grad():
            result = model(**source, decoder_input_ids=torch.from_numpy(np.asarray(inputs["input_ids"])), use_cache=False)
        return {"logits": np.take_along_axis(result.logits.float().numpy(), np.asarray(inputs["logits_at"])[:, :, None], axis=1)}
