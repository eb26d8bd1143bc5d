"""The attention kernel for NEON under qemu: the cases of tests/kernels/test_attention.py, against the same bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from tests.kernels.attention_cases import AXES, CASES, PAGES, RING, Case, build, make, numpy_type, reference
from tests.levels import qemu

pytestmark = pytest.mark.skipif(bool(qemu.missing()), reason=qemu.missing())


def check(case: Case, folder: Path, instructions: str) -> None:
    data = make(case)
    artifact, arrays = build(case, data)
    shape = (case.batch, case.queries, case.heads, case.value_size)
    axes = AXES[case.layouts[3]]
    declared = (numpy_type(case.dtype), tuple(shape[axis] for axis in axes))
    outputs = qemu.run_assembled(artifact, arrays, [declared], folder, cpu="cortex-a53", instructions=instructions)
    found = outputs[0].transpose(np.argsort(axes)).astype(np.float64)
    expected, bound = reference(case, data)
    assert np.isfinite(found).all()
    assert (np.abs(found - expected) <= bound).all(), f"{np.abs(found - expected).max()} where {bound.max()} may be: {case}"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(case=CASES)
def test_attention_is_its_definition(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path, "neon")


@pytest.mark.parametrize("instructions", ["neon", "scalar"])
@pytest.mark.parametrize("case", [
    Case(batch=2, queries=33, keys=33, kv_heads=3, size=64, value_size=64, scale=0.125, mask="float32", mask_axes=(True, False, False, True)),
    Case(queries=57, keys=140, kv_heads=1, group=4, size=72, value_size=80, scale=0.0884, right=0, at_end=True),
    Case(queries=1, keys=600, kv_heads=3, size=64, value_size=64, layouts=(1, 1, 1, 1), dtype="bfloat16"),
    Case(queries=20, keys=50, size=37, value_size=41, softcap=30.0, dtype="float16", mask="bool"),
    Case(queries=30, keys=90, kv_heads=2, size=24, value_size=24, layouts=(1, 2, 1, 1), lengths=True, batch=2),
    Case(queries=1, keys=600, kv_heads=2, group=4, size=37, value_size=64, cache="int8", storage=PAGES, page_size=20, slopes=True),
    Case(queries=11, keys=200, kv_heads=2, size=24, value_size=41, cache="int8", storage=RING, sink_keys=4, left=99, right=0, at_end=True,
         sinks=True),
], ids=["bert", "llama", "decode", "half", "lengths", "pages", "ring"])
def test_shapes_of_models(case: Case, instructions: str, tmp_path: Path) -> None:
    check(case, tmp_path, instructions)
