"""Embeds sentences with a compiled sentence encoder; needs numpy, tokenizers and ingot, nothing else.

python examples/python/embed.py encoder.ingot tokenizer.json "A first sentence." "A second one."
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

import ingot


class Encoder:
    """A compiled sentence encoder and its tokenizer."""

    def __init__(self, artifact: Path, tokenizer: Path, threads: int = 0, longest: int = 256) -> None:
        self.model = ingot.load(artifact, threads=threads)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_truncation(longest)
        self._tokenizer.enable_padding()

    def tokenize(self, sentences: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
        """The model's inputs for some sentences, each [sentences, tokens of the longest]."""
        encoded = self._tokenizer.encode_batch(list(sentences))
        parts = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        arrays = {name: np.array([getattr(e, part) for e in encoded], np.int64) for name, part in parts.items()}
        return {info.name: arrays[info.name] for info in self.model.inputs}

    def embed(self, sentences: Sequence[str]) -> npt.NDArray[Any]:
        """Embeddings of length 1, [sentences, width]."""
        return self.model.run(self.tokenize(sentences))["sentence_embedding"]


def similarity_table(sentences: Sequence[str], embeddings: npt.NDArray[Any]) -> str:
    """The cosine of each pair of sentences."""
    cosines = embeddings @ embeddings.T
    lines = ["      " + " ".join(f"{j + 1:>6}" for j in range(len(sentences)))]
    for i, sentence in enumerate(sentences):
        lines.append(f"  {i + 1:>3} " + " ".join(f"{c:6.3f}" for c in cosines[i]) + f"   {sentence}")
    return "\n".join(lines)


def main() -> None:
    """Prints the similarity table of the sentences."""
    parser = argparse.ArgumentParser(description="Embeds sentences and prints how similar they are.")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("tokenizer", type=Path, help="tokenizer.json")
    parser.add_argument("sentences", nargs="+")
    arguments = parser.parse_args()
    embeddings = Encoder(arguments.artifact, arguments.tokenizer).embed(arguments.sentences)
    print(similarity_table(arguments.sentences, embeddings))


if __name__ == "__main__":
    main()
