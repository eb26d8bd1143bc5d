"""Calls of the kernel ``quantized_matmul`` on the CPU, and their definition in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

import ingot
from ingot.lower.cpu.quantized_weights import ACTIVATIONS, FORMATS, pack_codes, pack_groups
from tests.cuda.quantized_cases import Call, Data, finished, weights
from tests.runtime.assemble import Artifact

_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
FEATURES = {"scalar": (), "avx2": ("avx2", "fma", "f16c"), "avx_vnni": ("avx2", "fma", "f16c", "avx_vnni"), "avx512": _AVX512,
            "avx512_vnni": (*_AVX512, "avx512_vnni"), "amx": (*_AVX512, "avx512_vnni", "avx512_bf16", "amx_int8"),
            "neon": ("asimd",), "neon_dotprod": ("asimd", "asimddp"), "neon_i8mm": ("asimd", "asimddp", "i8mm")}
INSTRUCTION_SETS = [name for name, needed in FEATURES.items() if set(needed) <= set(ingot.machine()["features"])]
UNIT = 2.0**-24  # the rounding error of float32
#: What codes of nf4 stand for where products are of integers.
NF4_IN_INTEGERS = tuple(float(v) for v in np.round(np.array(FORMATS["nf4"].values) * 127) / 127)


@dataclass(frozen=True)
class Case(Call):
    """``integers``: rows of X are rounded to int8, each group of ``x_group`` of them by a scale of its own."""

    integers: bool = True
    x_group: int = 0


def rounded(case: Case, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What X is rounded to, and by how much that may differ: numbers about halfway between integers may go either way in float32."""
    size = case.x_group or max(case.depth, 1)
    count = -(-case.depth // size)
    flat = np.zeros((x.shape[0], count * size))
    flat[:, : case.depth] = x
    padded = flat.reshape(x.shape[0], count, size)
    scale = np.abs(padded).max(axis=-1, keepdims=True, initial=0) / 127
    ratio = padded / np.where(scale == 0, 1, scale)
    doubt = np.abs(np.abs(ratio - np.floor(ratio)) - 0.5) < 127 * 4 * UNIT  # four roundings of a number of up to 127
    values, doubts = (a.reshape(flat.shape)[:, : case.depth] for a in (np.round(ratio) * scale, doubt * scale))
    return values, doubts


def reference(case: Case, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Y by the definition, and a bound of what float32 may add to it in rounding errors."""
    in_integers = NF4_IN_INTEGERS if case.integers and case.format == "nf4" else ()
    w, magnitude = weights(case, data, in_integers, apart=True)
    x = data.x.astype(np.float64)
    x, doubt = rounded(case, x) if case.integers else (x, np.zeros_like(x))
    # A sum of K products errs by K + 6 roundings of the sum of magnitudes: of the product, its scales, zeros and the bias.
    sums = x @ w.T
    bound = doubt @ np.abs(w).T + (case.depth + 6) * UNIT * (np.abs(x) @ magnitude.T)
    return finished(case, data, sums, bound, UNIT)


def build(case: Case, data: Data) -> tuple[Artifact, list[np.ndarray]]:
    """An artifact that calls the kernel, and its inputs."""
    kind = FORMATS[case.format]
    artifact = Artifact()
    main = artifact.main
    x = main.input(case.dtype, data.x.shape)
    inputs = [x, artifact.weight(main, pack_codes(kind, data.codes), "codes"), artifact.weight(main, pack_groups(data.scales), "scales"),
              artifact.weight(main, pack_groups(data.zeros), "zeros") if data.zeros is not None else -1,
              artifact.weight(main, data.bias, "bias") if data.bias is not None else -1]
    arrays = [data.x]
    if data.residual is not None:
        inputs.append(main.input(case.dtype, data.residual.shape))
        arrays.append(data.residual)
    ints = [kind.code, case.group, int(case.integers), case.x_group, ACTIVATIONS[case.activation]]
    main.outputs = [main.kernel("quantized_matmul", inputs, (case.dtype, (case.rows, case.columns)), ints=ints)]
    return artifact, arrays


GROUPS = st.sampled_from([0, 16, 32, 64, 128, 256, 2048])
CASES = st.builds(
    Case,
    rows=st.one_of(st.integers(0, 14), st.integers(15, 160)), columns=st.one_of(st.integers(0, 40), st.integers(41, 300)),
    depth=st.one_of(st.integers(0, 70), st.integers(71, 1200)), format=st.sampled_from(["int8", "int4"]), group=GROUPS, integers=st.booleans(),
    x_group=GROUPS, activation=st.sampled_from(["", "", *ACTIVATIONS]), scales=st.sampled_from(["float32", "float16", "bfloat16", "uint8"]),
    zeros=st.sampled_from([None, "int8", "float32"]), bias=st.booleans(), residual=st.booleans(),
    dtype=st.sampled_from(["float32", "float32", "float16", "bfloat16"]), seed=st.integers(0, 2**32 - 1),
)
TABLES = st.builds(replace, CASES, format=st.sampled_from(["mxfp4", "nf4"]), zeros=st.none())
