"""Products with quantized weights by each instruction set of aarch64, under qemu, against float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingot.lower.cpu.quantized_weights import FORMATS, dequantized, groups_of, pack_codes, pack_groups
from tests.cuda.quantized_cases import beyond, make
from tests.kernels.quantized_matmul_cases import CASES, TABLES, Case, build, reference
from tests.levels import qemu
from tests.lower.build import relative_error
from tests.runtime.assemble import Artifact

pytestmark = pytest.mark.skipif(bool(qemu.missing()), reason=qemu.missing())

#: INGOT_ISA, and the least processor of qemu that has it.
INSTRUCTION_SETS = {"scalar": "cortex-a53", "neon": "cortex-a53", "neon_dotprod": "cortex-a76", "neon_i8mm": "max"}
#: float32 sums of up to 200 products.
TOLERANCE = 2e-6


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
@pytest.mark.parametrize("integers", [False, True], ids=["float32", "integers"])
@pytest.mark.parametrize(("kind", "group"), [("int8", 0), ("int8", 32), ("int4", 32), ("int4", 16), ("mxfp4", 32), ("nf4", 64)])
def test_products_with_quantized_weights(kind: str, group: int, integers: bool, instructions: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(group)
    form, columns, depth = FORMATS[kind], 37, 200
    codes = rng.integers(-128, 128, (columns, depth), np.int8) if kind == "int8" else rng.integers(0, 16, (columns, depth), np.uint8)
    scales = rng.uniform(0.01, 0.02, (columns, groups_of(depth, group))).astype(np.float32)
    zeros = rng.integers(-3, 4, scales.shape, np.int8) if kind.startswith("int") else None
    weights = dequantized(form, codes, scales.astype(np.float64), zeros, group)
    if kind == "nf4" and integers:  # the kernel's contract: multiples of 1/127
        levels = np.round(np.array(form.values) * 127) / 127
        weights = levels[codes] * np.repeat(scales.astype(np.float64), group, axis=1)[:, :depth]
    for rows in (1, 3, 19):
        # Multiples of a power of two up to 127 of it in every group: rounding them to int8 changes nothing.
        x = rng.integers(-127, 128, (rows, depth)).astype(np.float32) / 64
        x[:, ::16] = 127 / 64
        artifact = Artifact()
        arrays = [x, pack_codes(form, codes), pack_groups(scales), *([] if zeros is None else [pack_groups(zeros)])]
        inputs = [artifact.main.input(str(a.dtype), a.shape) for a in arrays]
        inputs += [-1] * (6 - len(inputs))
        artifact.main.outputs = [artifact.main.kernel("quantized_matmul", inputs, ("float32", (rows, columns)),
                                                      ints=[form.code, group, int(integers), group, 0])]
        found = qemu.run_assembled(artifact, arrays, [(np.float32, (rows, columns))], tmp_path, cpu=INSTRUCTION_SETS[instructions],
                                   instructions=instructions)[0]
        assert relative_error(found, x.astype(np.float64) @ weights.T) < TOLERANCE


@pytest.mark.parametrize("instructions", ["neon", "neon_dotprod", "neon_i8mm"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(case=st.one_of(CASES, TABLES))
def test_a_product_is_its_definition(case: Case, instructions: str, tmp_path: Path) -> None:
    data = make(case)
    artifact, arrays = build(case, data)
    declared = (data.x.dtype, (case.rows, case.columns))
    found = qemu.run_assembled(artifact, arrays, [declared], tmp_path, cpu=INSTRUCTION_SETS[instructions], instructions=instructions)[0]
    expected, bound = reference(case, data)
    assert (beyond(found, expected, bound) <= 0).all(), case
