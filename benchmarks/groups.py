"""What is measured: one row a group, each a table of docs/performance.md."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from ingot.bench.contestants import installed
from tests.models.zoo import ZOO

THREADS = tuple(dict.fromkeys((1, os.cpu_count() or 1)))


@dataclass(frozen=True)
class Group:
    """Models that are compared in one way.

    Attributes:
        title: The table's heading.
        about: What a reader of the table must know, in Markdown.
        models: Names of ``ZOO``.
        batches: Batch sizes.
        precision: What floats are asked to be computed in.
        quantized: Whether the model is quantized to int8 first (benchmarks/quantize.py).
        largest_error: How far two runtimes' outputs may be apart, as relative norm error.
    """

    title: str
    models: tuple[str, ...]
    batches: tuple[int, ...] = (1,)
    precision: str = "f32"
    quantized: bool = False
    largest_error: float = 1e-3
    about: str = ""


#: The errors: float32 sums in another order differ by 1e-5 at the most between any two of these runtimes, so 1e-3 leaves room for none that is
#: wrong. A bfloat16 is rounded by up to 2^-8 of its value, and such errors add up like a random walk over about a hundred layers: 10 * 2^-8.
#: An unsigned byte over 8 standard deviations of a tensor rounds by 8 / 255 / sqrt(12) of one, 0.9 %: 10 times that likewise.
GROUPS: dict[str, Group] = {
    "f32": Group("Batch 1, float32", tuple(ZOO)),
    "bf16": Group("Batch 1, bfloat16", tuple(ZOO), precision="bf16", largest_error=4e-2,
                  about="Float32 models in bfloat16: `ingot compile --precision bf16`, and OpenVINO's `INFERENCE_PRECISION_HINT`. onnxruntime has no "
                        "such choice on these CPUs."),
    "int8": Group("Batch 1, int8", ("resnet50", "bert_base"), quantized=True, largest_error=9e-2,
                  about="Quantized statically by `onnxruntime.quantization` to one file that all read: signed weights with a scale for each channel, "
                        "unsigned activations. In BERT-base the products with weights are quantized, the rest stays float32."),
    "batches": Group("Larger batches, float32", ("resnet50", "bert_base"), batches=(8, 32)),
}


@dataclass(frozen=True)
class Setting:
    """One comparison: a model of a group at a batch size with a number of threads."""

    group: str
    model: str
    batch: int
    threads: int

    def __str__(self) -> str:
        return f"{self.group}-{self.model}-batch{self.batch}-{self.threads}t"


def settings() -> Iterator[tuple[Setting, str]]:
    """Every comparison with each contestant that takes part in it."""
    for name, group in GROUPS.items():
        for model in group.models:
            for batch in group.batches:
                for threads in THREADS:
                    for contestant in installed(group.precision):
                        yield Setting(name, model, batch, threads), contestant
