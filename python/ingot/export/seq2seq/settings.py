"""What an artifact says of generating text with an encoder-decoder model (docs/format.md): of generation_config.json, or else of config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ingot.errors import UnsupportedError
from ingot.export.seq2seq.audio import RATE
from ingot.export.seq2seq.families import Seq2seq

#: Settings that are passed on, with what they are unless a file says otherwise.
_SETTINGS: dict[str, Any] = {"num_beams": 1, "length_penalty": 1.0, "early_stopping": False, "num_return_sequences": 1, "no_repeat_ngram_size": 0,
                             "repetition_penalty": 1.0, "forced_bos_token_id": None, "forced_eos_token_id": None, "suppress_tokens": None,
                             "begin_suppress_tokens": None, "bad_words_ids": None, "max_length": None, "max_new_tokens": None}
#: What changes which tokens come, and what Ingot lacks.
_REFUSED = {"encoder_no_repeat_ngram_size": 0, "num_beam_groups": 1, "diversity_penalty": 0.0, "min_length": 0, "penalty_alpha": None,
            "encoder_repetition_penalty": 1.0, "sequence_bias": None, "exponential_decay_length_penalty": None}


def generation_entry(directory: Path, config: Any, model: Seq2seq) -> dict[str, Any]:
    """The manifest's entry.

    Raises:
        UnsupportedError: A setting is not supported, or there is no token to start with.
    """
    from transformers import GenerationConfig

    path = directory / "generation_config.json"
    given = GenerationConfig.from_pretrained(directory, local_files_only=True) if path.is_file() else GenerationConfig.from_model_config(config)
    for name, usual in _REFUSED.items():
        value = getattr(given, name, usual)
        if value is not None and value != usual:
            raise UnsupportedError(f"generation_config.json has {name} = {value}, which is not supported; leave it out")
    start = given.decoder_start_token_id if given.decoder_start_token_id is not None else getattr(config, "decoder_start_token_id", None)
    if start is None:
        start = given.bos_token_id
    if start is None:
        raise UnsupportedError("neither generation_config.json nor config.json has a decoder_start_token_id, so there is no token to start with")
    stop = given.eos_token_id
    settings = {name: getattr(given, name, None) for name in _SETTINGS}
    entry = {"kind": "translation" if model.audio is None else "speech", "vocabulary": model.vocabulary,
             "source_vocabulary": int(getattr(config, "vocab_size", model.vocabulary)), "context": model.context,
             "source_context": model.source_context, "start_tokens": _listed(start), "stop_tokens": _listed(stop),
             "source_end": _listed(getattr(config, "eos_token_id", None))[:1],
             "settings": {name: _SETTINGS[name] if value is None else value for name, value in settings.items()}}
    if model.audio is not None:
        # transformers' class leaves out what it does not know of a file that was made from a config.json.
        known = json.loads(path.read_text()) if path.is_file() else {}
        entry["speech"] = {"rate": RATE, "seconds": model.audio.seconds, "languages": known.get("lang_to_id") or {},
                           "tasks": known.get("task_to_id") or {}, "no_timestamps": known.get("no_timestamps_token_id"),
                           "most_initial_timestamp": known.get("max_initial_timestamp_index"), "forced": known.get("forced_decoder_ids") or []}
    return entry


def _listed(tokens: Any) -> list[int]:
    if tokens is None:
        return []
    return [int(t) for t in tokens] if isinstance(tokens, (list, tuple)) else [int(tokens)]
