"""What is measured: one row a group, each a table of docs/performance.md."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.operators import OPERATORS
from benchmarks.trees import TREES
from ingot.bench.contestants import installed
from tests.models.zoo import ZOO

THREADS = tuple(dict.fromkeys((1, os.cpu_count() or 1)))


@dataclass(frozen=True)
class Group:
    """Models that are compared in one way.

    Attributes:
        title: The table's heading.
        about: What a reader of the table must know, in Markdown.
        models: Names of ``ZOO`` or of ``TASKS`` (benchmarks/tasks.py).
        batches: Batch sizes.
        precision: What floats are asked to be computed in.
        quantized: How the model is quantized to int8 first (benchmarks/quantize.py): "static", to one file for all, or "dynamic" by each runtime's
            own means but OpenVINO's, which reads the static file; "" if not.
        largest_error: How far two runtimes' outputs may be apart, as relative norm error.
        peers: The other runtimes that take part; all that can compute in ``precision`` by default.
    """

    title: str
    models: tuple[str, ...]
    batches: tuple[int, ...] = (1,)
    precision: str = "f32"
    quantized: str = ""
    largest_error: float = 1e-3
    about: str = ""
    peers: tuple[str, ...] | None = None

    @property
    def contestants(self) -> list[str]:
        """Ingot and its peers, as far as they are installed."""
        return [name for name in installed(self.precision) if self.peers is None or name in ("ingot", *self.peers)]


#: The errors: float32 sums in another order differ by 1e-5 at the most between any two of these runtimes, so 1e-3 leaves room for none that is
#: wrong. A bfloat16 is rounded by up to 2^-8 of its value, and such errors add up like a random walk over about a hundred layers: 10 * 2^-8.
#: An unsigned byte over 8 standard deviations of a tensor rounds by 8 / 255 / sqrt(12) of one, 0.9 %: 10 times that likewise.
GROUPS: dict[str, Group] = {
    "f32": Group("Batch 1, float32", tuple(ZOO)),
    "bf16": Group("Batch 1, bfloat16", tuple(ZOO), precision="bf16", largest_error=4e-2,
                  about="Float32 models in bfloat16: `ingot compile --precision bf16`, and OpenVINO's `INFERENCE_PRECISION_HINT`. onnxruntime has no "
                        "such choice on these CPUs."),
    "int8": Group("Batch 1, int8", ("resnet50", "bert_base"), quantized="static", largest_error=9e-2,
                  about="Quantized statically by `onnxruntime.quantization` to one file that all read: signed weights with a scale for each channel, "
                        "unsigned activations. In BERT-base the products with weights are quantized, the rest stays float32."),
    "dynamic": Group("Batch 1, int8 by dynamic quantization", ("bert_base",), quantized="dynamic", largest_error=9e-2,
                     about="Weights in int8 with a scale for each channel, activations quantized while running: `ingot compile --quantize int8:row`, "
                           "with a scale for each row, and `onnxruntime.quantization.quantize_dynamic`, with one for all. OpenVINO runs the "
                           "statically quantized model."),
    "batches": Group("Larger batches, float32", ("resnet50", "bert_base"), batches=(8, 32)),
    "tasks": Group("Speech and detection", ("lstm_ctc", "faster_rcnn"), peers=("onnxruntime",),
                   about="A bidirectional LSTM with CTC's probabilities over 500 frames of speech; a Faster R-CNN (ResNet-50, up to 1,000 proposals, "
                         "90 classes) with all of its post-processing over an image of 480 x 640 pixels."),
    "trees": Group("Ensembles of trees", tuple(TREES), batches=(1, 1000), peers=("onnxruntime",),
                   about="scikit-learn's, of 20 features, by way of skl2onnx: 500 boosted trees of depth 6, and a forest of 200 whole trees. A batch "
                         "is of rows."),
    "operators": Group("Single operators", tuple(OPERATORS), peers=("onnxruntime",), about="Models of one operator each (benchmarks/operators.py)."),
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
                    for contestant in group.contestants:
                        yield Setting(name, model, batch, threads), contestant
