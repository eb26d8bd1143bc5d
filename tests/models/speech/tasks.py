"""Models of speech: Whisper and wav2vec 2.0 by their transformers configurations, and an LSTM with CTC; seeded weights.

They are narrow, shallow and hear little where that changes no operator. Whisper-tiny's encoder at its real size is in ``tests/models/zoo.py``.
"""

from __future__ import annotations

import numpy as np
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC, WhisperConfig, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from tests.models.agreement import Decoder, Inputs, Results, Task, padding, tokens
from tests.models.speech.networks import LstmCtc

FRAMES = 120  # Whisper's are 3,000: half a minute, whatever is said in it
WHISPER = {"vocab_size": 320, "d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
           "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_mel_bins": 80, "max_source_positions": FRAMES // 2, "max_target_positions": 64,
           "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "use_cache": False}
# The two kinds of wav2vec 2.0: base normalizes the first convolution over time, large normalizes each layer, and before attention; here
# it also has three convolutions less, which makes it quick to compile.
WAV2VEC = {"vocab_size": 32, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128, "conv_dim": (32,) * 7,
           "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True, "conv_dim": (32,) * 4, "conv_stride": (5, 2, 2, 2),
         "conv_kernel": (10, 3, 3, 2)}


def heard(batch: int, length: int) -> Inputs:
    return {"input_features": np.random.default_rng([batch, length]).standard_normal((batch, 80, FRAMES), np.float32)}


def written(batch: int, length: int) -> Inputs:
    rng = np.random.default_rng([batch, length, 1])
    return {"encoder_hidden_states": rng.standard_normal((batch, FRAMES // 2, 64), np.float32), "decoder_input_ids": tokens(batch, length, 320)}


def sound(batch: int, length: int) -> Inputs:
    return {"input_values": np.random.default_rng([batch, length]).standard_normal((batch, length), np.float32)}


def masked_sound(batch: int, length: int) -> Inputs:
    return sound(batch, length) | {"attention_mask": padding(batch, length, shorter=length // 4)}


def bands(batch: int, length: int) -> Inputs:
    return {"features": np.random.default_rng([batch, length]).standard_normal((batch, length, 40), np.float32)}


WRITTEN = {"encoder_hidden_states": {0: "batch"}, "decoder_input_ids": {0: "batch", 1: "sequence"}}
SOUND = {"input_values": {0: "batch", 1: "samples"}}
MASKED = SOUND | {"attention_mask": {0: "batch", 1: "samples"}}
SAMPLES = ((2, 4000), (1, 4000), (3, 5170))
LABELS = {"outputs": ["logits"], "labels": ("logits",)}

TASKS: dict[str, Task] = {
    "whisper-encoder": Task(lambda: Results(WhisperEncoder(WhisperConfig(**WHISPER)), "last_hidden_state"), heard, {"input_features": {0: "batch"}},
                            ["last_hidden_state"], shapes=((2, FRAMES), (1, FRAMES), (3, FRAMES)), attention=1),
    "whisper-decoder": Task(lambda: Decoder(WhisperForConditionalGeneration(WhisperConfig(**WHISPER))), written, WRITTEN, **LABELS, attention=2,
                            extended=("dynamo",)),
    "wav2vec2-base": Task(lambda: Results(Wav2Vec2ForCTC(Wav2Vec2Config(**WAV2VEC)), "logits"), sound, SOUND, **LABELS, shapes=SAMPLES, attention=1,
                          extended=("dynamo",)),
    "wav2vec2-large": Task(lambda: Results(Wav2Vec2ForCTC(Wav2Vec2Config(**{**WAV2VEC, **LARGE})), "logits"), masked_sound, MASKED, **LABELS,
                           shapes=SAMPLES, attention=1, exporters=("dynamo",)),
    "lstm-ctc": Task(LstmCtc, bands, {"features": {0: "batch", 1: "frames"}}, ["log_probabilities"], ("log_probabilities",),
                     shapes=((2, 41), (1, 41), (3, 100))),
}
