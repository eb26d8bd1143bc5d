"""Models of text: real architectures by their transformers configurations, seeded weights.

They are narrow and shallow where that changes no operator: widths, layers and vocabularies are numbers in the graph. BERT-base and MiniLM at
their real sizes are in ``tests/models/zoo.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)
from transformers.models.marian.modeling_marian import MarianEncoder

from tests.models.agreement import Decoder, Inputs, Results, Task, padding, tokens
from tests.models.text.networks import GruTranslator, LstmTranslator, Step, greedy

VOCABULARY = 320
BERT = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128, "num_labels": 5}
DISTILBERT = {"vocab_size": VOCABULARY, "dim": 64, "n_layers": 1, "n_heads": 4, "hidden_dim": 128, "num_labels": 5}
LLAMA = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 128, "use_cache": False}
# Dolly 2.0 is GPT-NeoX as Pythia trains it: rotary embedding of a quarter of each head, attention and MLP side by side.
DOLLY = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 256,
         "use_parallel_residual": True, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
         "use_cache": False}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 64, "use_cache": False}
T5 = {"vocab_size": VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "use_cache": False}
MARIAN = {"vocab_size": VOCABULARY, "d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
          "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 64, "pad_token_id": 0,
          "decoder_start_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": 2, "use_cache": False}


def text(batch: int, length: int, vocabulary: int = VOCABULARY) -> Inputs:
    return {"input_ids": tokens(batch, length, vocabulary), "attention_mask": padding(batch, length)}


def typed_text(batch: int, length: int) -> Inputs:
    """Pairs of sentences."""
    return text(batch, length) | {"token_type_ids": np.tile((np.arange(length) > length // 2).astype(np.int64), (batch, 1))}


def translated(batch: int, length: int, width: int = 64) -> Inputs:
    """What a decoder takes: the source's states, and a target of another length."""
    rng = np.random.default_rng([batch, length, 1])
    return {"encoder_hidden_states": rng.standard_normal((batch, length, width), np.float32), "attention_mask": padding(batch, length),
            "decoder_input_ids": tokens(batch, length // 2 + 1, VOCABULARY)}


def stepped(states: int) -> Any:
    def inputs(batch: int, length: int) -> Inputs:
        state = np.random.default_rng([batch, length, 2]).standard_normal((states, batch, 32), np.float32)
        return text(batch, length, 200) | {"token": tokens(batch, 1, 200)[:, 0], "state": state}

    return inputs


def bounded(batch: int, length: int) -> Inputs:
    return text(batch, length, 200) | {"most": np.array(2 * length)}


SENTENCE = {0: "batch", 1: "sequence"}
TEXT = {"input_ids": SENTENCE, "attention_mask": SENTENCE}
TYPED = TEXT | {"token_type_ids": SENTENCE}
TRANSLATED = {"encoder_hidden_states": SENTENCE, "attention_mask": SENTENCE, "decoder_input_ids": {0: "batch", 1: "target"}}
STEPPED = TEXT | {"token": {0: "batch"}, "state": {1: "batch"}}

LABELS = {"outputs": ["logits"], "labels": ("logits",)}
STATES = {"outputs": ["last_hidden_state"]}
# The newer exporter takes most of the time of these tests: of two heads of one model, or two kinds of one network, it exports one, and a network
# that is like another one of the table, layer by layer, is exported by it in `make test-all` alone.
OLDER = ("torchscript",)
NEWER = ("dynamo",)
TRANSLATION = {"outputs": ["tokens", "state"], "exporters": OLDER}

TASKS: dict[str, Task] = {
    "bert-classification": Task(lambda: Results(BertForSequenceClassification(BertConfig(**BERT)), "logits"), typed_text, TYPED, **LABELS,
                                attention=1),
    "bert-tokens": Task(lambda: Results(BertForTokenClassification(BertConfig(**BERT)), "logits"), typed_text, TYPED, **LABELS, attention=1,
                        exporters=OLDER),
    "distilbert-classification": Task(lambda: Results(DistilBertForSequenceClassification(DistilBertConfig(**DISTILBERT)), "logits"), text, TEXT,
                                      **LABELS, attention=1, exporters=OLDER),
    "distilbert-tokens": Task(lambda: Results(DistilBertForTokenClassification(DistilBertConfig(**DISTILBERT)), "logits"), text, TEXT, **LABELS,
                              attention=1, extended=NEWER),
    "gpt2": Task(lambda: Results(GPT2LMHeadModel(GPT2Config(**GPT2)), "logits"), text, TEXT, **LABELS, attention=1),
    "dolly": Task(lambda: Results(GPTNeoXForCausalLM(GPTNeoXConfig(**DOLLY)), "logits"), text, TEXT, **LABELS, attention=1, extended=NEWER),
    "llama": Task(lambda: Results(LlamaForCausalLM(LlamaConfig(**LLAMA)), "logits"), text, TEXT, **LABELS, attention=1),
    "t5-encoder": Task(lambda: Results(T5EncoderModel(T5Config(**T5)), "last_hidden_state"), text, TEXT, **STATES, attention=2),
    "t5-decoder": Task(lambda: Decoder(T5ForConditionalGeneration(T5Config(**T5))), translated, TRANSLATED, **LABELS, attention=4),
    "marian-encoder": Task(lambda: Results(MarianEncoder(MarianConfig(**MARIAN)), "last_hidden_state"), text, TEXT, **STATES, attention=1,
                           extended=NEWER),
    "marian-decoder": Task(lambda: Decoder(MarianMTModel(MarianConfig(**MARIAN))), translated, TRANSLATED, **LABELS, attention=2, extended=NEWER),
    "lstm-step": Task(lambda: Step(LstmTranslator()), stepped(2), STEPPED, ["scores", "next"], ("scores",), exporters=OLDER),
    "gru-step": Task(lambda: Step(GruTranslator()), stepped(1), STEPPED, ["scores", "next"], ("scores",), extended=NEWER),
    "lstm-translation": Task(lambda: greedy(LstmTranslator()), bounded, TEXT, **TRANSLATION),
    "gru-translation": Task(lambda: greedy(GruTranslator()), bounded, TEXT, **TRANSLATION),
}
