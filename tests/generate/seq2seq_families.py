"""Small encoder-decoder models of every family, with seeded weights, as their framework saves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tests.generate.families import Family

VOCABULARY = 300
PAD, END, START = 0, 1, 2
CONTEXT = 40
#: Several tokens that end a text, so that texts of random weights end now and then.
STOPS = [END, *range(40, 56)]

_TOKENS: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": END, "decoder_start_token_id": START}
_T5 = {**_TOKENS, "d_model": 64, "d_kv": 24, "d_ff": 136, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
_BART = {**_TOKENS, "d_model": 64, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
         "encoder_ffn_dim": 136, "decoder_ffn_dim": 120, "max_position_embeddings": CONTEXT, "scale_embedding": True, "bos_token_id": 3,
         "forced_eos_token_id": None}
#: Whisper's tokens as its vocabulary has them: end, start, two languages, two tasks, "no timestamps", and 101 timestamps of 0.02 s at the end.
SPEECH = {"end": 190, "start": 191, "en": 192, "de": 193, "translate": 194, "transcribe": 195, "no_timestamps": 198, "first_timestamp": 199}
_WHISPER = {"vocab_size": VOCABULARY, "pad_token_id": SPEECH["end"], "eos_token_id": SPEECH["end"], "bos_token_id": SPEECH["end"],
            "decoder_start_token_id": SPEECH["start"], "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 136, "decoder_ffn_dim": 120, "max_source_positions": 100,
            "max_target_positions": CONTEXT, "num_mel_bins": 80, "suppress_tokens": None, "begin_suppress_tokens": None}

FAMILIES: dict[str, Family] = {
    "t5": Family("T5ForConditionalGeneration", "T5Config", _T5),
    "t5_gated": Family("T5ForConditionalGeneration", "T5Config", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": Family("MT5ForConditionalGeneration", "MT5Config", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "marian": Family("MarianMTModel", "MarianConfig", {**_BART, "activation_function": "swish", "decoder_vocab_size": VOCABULARY}),
    "marian_apart": Family("MarianMTModel", "MarianConfig", {**_BART, "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 211}),
    "pegasus": Family("PegasusForConditionalGeneration", "PegasusConfig", {**_BART, "activation_function": "relu"}),
    "bart": Family("BartForConditionalGeneration", "BartConfig", {**_BART, "scale_embedding": False}),
    "mbart": Family("MBartForConditionalGeneration", "MBartConfig", _BART),
    "whisper": Family("WhisperForConditionalGeneration", "WhisperConfig", _WHISPER),
}
TRANSLATORS = [name for name in FAMILIES if name != "whisper"]


def build(name: str) -> Any:
    """A family's model. Biases and norms are random too, so that one that is left out shows."""
    import transformers

    family = FAMILIES[name]
    torch.manual_seed(0)
    model = getattr(transformers, family.model)(getattr(transformers, family.config)(**family.arguments)).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.requires_grad:
                continue  # sinusoidal positions, which some families do not save
            parameter.add_(torch.randn_like(parameter) * 0.05)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.add_(torch.randn_like(model.final_logits_bias) * 0.5)
    model.generation_config.max_length = CONTEXT
    model.generation_config.max_new_tokens = None
    model.generation_config.eos_token_id = STOPS
    model.generation_config.no_repeat_ngram_size = 2 if name == "t5" else 1  # random weights repeat themselves otherwise
    model.generation_config.repetition_penalty = 1.2
    if name == "whisper":
        settings = {
            "lang_to_id": {"<|en|>": SPEECH["en"], "<|de|>": SPEECH["de"]}, "no_timestamps_token_id": SPEECH["no_timestamps"],
            "is_multilingual": True, "task_to_id": {"translate": SPEECH["translate"], "transcribe": SPEECH["transcribe"]},
            "max_initial_timestamp_index": 50, "suppress_tokens": [7, 8, 9], "begin_suppress_tokens": [10, SPEECH["end"]],
            "eos_token_id": SPEECH["end"]}
        for setting, value in settings.items():
            setattr(model.generation_config, setting, value)
    return model


def save(name: str, folder: Path) -> Path:
    """The family's model as a directory."""
    build(name).save_pretrained(folder)
    return folder


def sources(count: int = 2) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token ids [count, 9] and how many of each row are real."""
    random = np.random.default_rng(1)
    return random.integers(3, 200, (count, 9)), np.array([9, 6, 1, 8][:count])


def sound(seconds: float, seed: int = 0) -> npt.NDArray[np.float32]:
    """Tones that rise and fall over noise, with silence in between."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16000)) / 16000
    tones = sum(np.sin(2 * np.pi * (f * time + 40 * np.sin(2 * np.pi * 0.7 * time))) for f in random.uniform(80, 4000, 5))
    return ((0.1 * tones + 0.01 * random.standard_normal(len(time))) * (np.sin(2 * np.pi * 0.9 * time) > -0.5)).astype(np.float32)


def extractor(bands: int, seconds: int) -> Any:
    """What makes features of sound for Whisper in transformers."""
    import transformers

    make: Any = transformers.WhisperFeatureExtractor
    return make(feature_size=bands, chunk_length=seconds)


def features(model: Any, audio: Sequence[npt.NDArray[np.float32]]) -> Any:
    """What transformers makes of sounds: [batch, bands, frames]."""
    make = extractor(model.config.num_mel_bins, model.config.max_source_positions // 50)
    return make(list(audio), sampling_rate=16000, return_tensors="pt").input_features


def logits(model: Any, ids: npt.NDArray[np.int64], source: npt.NDArray[np.int64] | None = None, counts: npt.NDArray[np.int64] | None = None,
           audio: Sequence[npt.NDArray[np.float32]] = ()) -> npt.NDArray[np.float32]:
    """What the framework gives for a source, or sounds, and tokens [batch, sequence]: [batch, sequence, vocabulary]."""
    if source is None or counts is None:
        given = {"input_features": features(model, audio)}
    else:
        mask = np.arange(source.shape[1])[None] < counts[:, None]
        given = {"input_ids": torch.from_numpy(source), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
    with torch.no_grad():
        found: npt.NDArray[np.float32] = model(**given, decoder_input_ids=torch.from_numpy(ids)).logits.float().numpy()
    return found
