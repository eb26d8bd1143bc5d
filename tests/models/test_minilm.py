"""The trained sentence encoder, one artifact, on sentences of every length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import ingot
from tests.cache import Case
from tests.models.zoo import minilm_directory

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("minilm")]

LENGTHS = [*range(1, 33), *range(36, 257, 4), *range(10, 130, 10)][:99] + [256]
BATCHES = [1, 2, 32, 5, 16, 31, 13]  # 100 sentences in all


def batches() -> Iterator[dict[str, np.ndarray]]:
    """100 sentences of 1 to 256 tokens in batches of 1 to 32, padded to the longest of each batch."""
    rng = np.random.default_rng(0)
    lengths = rng.permutation(LENGTHS)
    assert len(lengths) == sum(BATCHES) == 100 and lengths.min() == 1 and lengths.max() == 256
    start = 0
    for count in BATCHES:
        own = lengths[start : start + count]
        start += count
        mask = (np.arange(own.max()) < own[:, None]).astype(np.int64)
        yield {"input_ids": rng.integers(1000, 30000, mask.shape) * mask, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


@pytest.fixture(scope="module")
def pytorch() -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """PyTorch's embeddings."""
    import torch

    from ingot.export.huggingface import load
    from ingot.export.sentence import Normalize, Pooling, SentenceEncoder

    encoder = SentenceEncoder(load(minilm_directory()), [Pooling("mean"), Normalize()]).eval()

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            return encoder(**{name: torch.from_numpy(array) for name, array in inputs.items()}).numpy()

    return run


def test_embeddings_of_100_sentences_of_1_to_256_tokens_agree_with_pytorch(
        zoo: Callable[[str], Case], pytorch: Callable[[dict[str, np.ndarray]], np.ndarray]) -> None:
    model = ingot.load(zoo("minilm").artifact)
    smallest = 1.0
    for inputs in batches():
        actual, expected = model.run(inputs)["sentence_embedding"].astype(np.float64), pytorch(inputs).astype(np.float64)
        cosines = (actual * expected).sum(1) / (np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1))
        smallest = min(smallest, float(cosines.min()))
    assert smallest >= 0.99999


def test_padding_does_not_change_a_sentence(zoo: Callable[[str], Case]) -> None:
    model = ingot.load(zoo("minilm").artifact)
    ids = np.random.default_rng(1).integers(1000, 30000, (1, 12))
    alone = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    padded = {name: np.pad(array, ((0, 0), (0, 20))) for name, array in alone.items()}
    np.testing.assert_allclose(model.run(padded)["sentence_embedding"], model.run(alone)["sentence_embedding"], atol=1e-5)


def sentences(page: str, count: int, root: Path) -> Iterator[dict[str, np.ndarray]]:
    """Lines of a page of the documentation as tokens, eight at a time."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm_directory())
    lines = [line.strip() for line in (root / "docs" / page).read_text().splitlines() if len(line.strip()) > 40][:count]
    for start in range(0, count, 8):
        tokens = tokenizer(lines[start : start + 8], padding=True, return_tensors="np")
        ids, mask = (np.asarray(tokens[name]).astype(np.int64) for name in ("input_ids", "attention_mask"))
        yield {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def test_quantized_embeddings_of_sentences_point_where_pytorchs_do(
        zoo: Callable[[str], Case], pytorch: Callable[[dict[str, np.ndarray]], np.ndarray], root: Path, tmp_path: Path) -> None:
    evaluated = [(inputs, pytorch(inputs).astype(np.float64)) for inputs in sentences("architecture.md", 64, root)]

    def cosine(quantize: str, calibration: list[dict[str, np.ndarray]] | None = None) -> float:
        report = ingot.compile(zoo("minilm").onnx, tmp_path / "minilm.ingot", quantize=quantize, calibration=calibration)
        assert report.quantization is not None and len(report.quantization["layers"]) == 36  # six of each of six encoder layers
        model = ingot.load(tmp_path / "minilm.ingot")
        return float(np.mean([(model.run(inputs)["sentence_embedding"] * expected).sum(1) for inputs, expected in evaluated]))  # of length 1

    assert cosine("int8") >= 0.999
    calibrated = cosine("int4", list(sentences("format.md", 96, root)))
    assert 1 - calibrated < 0.6 * (1 - cosine("int4"))


def test_a_session_keeps_up_as_shapes_change(zoo: Callable[[str], Case]) -> None:
    model = ingot.load(zoo("minilm").artifact)
    rng = np.random.default_rng(2)
    cases = []
    for batch, length in ((1, 8), (4, 40), (1, 8), (2, 100), (4, 40)):
        ids = rng.integers(1000, 30000, (batch, length))
        cases.append({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
    with model.session() as session:
        together = [session.run(inputs)["sentence_embedding"].copy() for inputs in cases]
    for inputs, embedding in zip(cases, together, strict=True):
        np.testing.assert_allclose(embedding, model.run(inputs)["sentence_embedding"], atol=1e-6)
