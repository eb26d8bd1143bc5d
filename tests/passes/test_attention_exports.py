"""Attention in what PyTorch's exporters write of real architectures is the kernel's: once for each layer, and for each cross attention."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import ViTConfig, ViTForImageClassification

from tests.models.agreement import EXPORTERS, Inputs, Results, Task, cases, compare, compiled, kernel_calls
from tests.models.speech.tasks import TASKS as SPEECH
from tests.models.text.tasks import TASKS as TEXT

VIT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 64, "patch_size": 16,
       "num_labels": 5}


def images(batch: int, length: int) -> Inputs:
    return {"pixel_values": np.random.default_rng(batch).standard_normal((batch, 3, 64, 64), np.float32)}


VISION = {"vit": Task(lambda: Results(ViTForImageClassification(ViTConfig(**VIT)), "logits"), images, {"pixel_values": {0: "batch"}}, ["logits"],
                      ("logits",), shapes=((2, 64), (1, 64)), attention=2)}
SOURCES = {"tests/models/text": TEXT, "tests/models/speech": SPEECH, "tests/passes/test_attention_exports.py": VISION}
CASES = [case for source, tasks in SOURCES.items() for case in cases({name: task for name, task in tasks.items() if task.attention}, source)]


@pytest.mark.parametrize(("source", "name", "exporter"), CASES)
def test_every_layer_s_attention_is_the_kernel_s(source: str, name: str, exporter: str) -> None:
    task = SOURCES[source][name]
    artifact = compiled(task, name, exporter, source) / "model.ingot"
    assert kernel_calls(artifact, "attention") == task.attention


@pytest.mark.parametrize(("name", "exporter"), cases(VISION))
def test_a_vision_transformer_agrees_with_pytorch(name: str, exporter: str) -> None:
    compare(VISION[name], compiled(VISION[name], name, exporter, "tests/passes/test_attention_exports.py"))


def test_both_exporters_are_covered_for_the_architectures_that_people_export() -> None:
    covered = {(name.partition("-")[0], exporter) for tasks in SOURCES.values() for name, task in tasks.items() if task.attention
               for exporter in set(task.exporters) - set(task.extended)}
    assert covered >= {(name, exporter) for name in ("bert", "gpt2", "llama", "vit", "whisper", "t5") for exporter in EXPORTERS}
