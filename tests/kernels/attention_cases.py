"""Calls of the attention kernel (attention_reference.py) on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import ingot
from tests.kernels.attention_reference import (
    AXES,
    CASES,
    PAGES,
    PLAIN,
    RING,
    UNIT,
    Case,
    Data,
    distances,
    make,
    numpy_type,
    reference,
    stored,
)
from tests.runtime.assemble import Artifact

__all__ = ["AXES", "CASES", "FEATURES", "INSTRUCTION_SETS", "PAGES", "PLAIN", "RING", "UNIT", "Case", "Data", "build", "check", "distances", "make",
           "numpy_type", "reference", "run"]

_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
FEATURES = {"scalar": (), "avx2": ("avx2", "fma", "f16c"), "avx512": _AVX512, "amx": (*_AVX512, "avx512_vnni", "avx512_bf16", "amx_bf16"),
            "neon": ("asimd",)}
INSTRUCTION_SETS = [name for name, needed in FEATURES.items() if set(needed) <= set(ingot.machine()["features"])]


def build(case: Case, data: Data) -> tuple[Artifact, list[np.ndarray]]:
    """An artifact that calls the kernel, and its inputs."""
    data = stored(case, data)
    artifact = Artifact()
    main = artifact.main
    arrays: list[np.ndarray] = []

    def add(array: np.ndarray) -> int:
        arrays.append(np.ascontiguousarray(array))
        return main.input(str(array.dtype), array.shape)

    inputs = [add(x.transpose(AXES[layout])) for x, layout in zip((data.q, data.k, data.v), case.layouts, strict=False)]
    optional = [data.mask, data.lengths, data.slopes, data.sinks, data.k_scales, data.v_scales, data.pages, data.ring,
                None if data.sink_q is None else data.sink_q.transpose(AXES[case.layouts[0]])]
    while optional and optional[-1] is None:
        optional.pop()
    inputs += [-1 if array is None else add(array) for array in optional]
    shape = (case.batch, case.queries, case.heads, case.value_size)
    output = main.kernel("attention", inputs, (case.dtype, [shape[axis] for axis in AXES[case.layouts[3]]]),
                         ints=[*case.layouts, case.left, case.right, case.at_end + 2 * case.rounds, case.sink_keys],
                         floats=[case.scale, case.softcap])
    main.outputs = [output]
    return artifact, arrays


def run(case: Case, data: Data, folder: Path, threads: int = 2) -> np.ndarray:
    """The kernel's output as [B, S, Hq, Dv]. It ran before on NaN, which then lie in its output's and its scratch memory."""
    artifact, arrays = build(case, data)
    model = artifact.load(folder, threads=threads)
    model.run([np.full_like(a, np.nan) if a.dtype.kind not in "bi" else a for a in arrays])
    output = np.asarray(model.run(arrays)["y0"])
    return output.transpose(np.argsort(AXES[case.layouts[3]]))


def check(case: Case, data: Data, folder: Path, threads: int = 2) -> None:
    """The kernel's output is the reference's, but for rounding errors."""
    expected, bound = reference(case, data, matrices=os.environ.get("INGOT_ISA") == "amx")
    found = run(case, data, folder, threads).astype(np.float64)
    assert np.isfinite(found).all()
    assert (np.abs(found - expected) <= bound).all(), f"{np.abs(found - expected).max()} where {bound.max()} may be: {case}"
