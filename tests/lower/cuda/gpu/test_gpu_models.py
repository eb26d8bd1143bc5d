"""Small models of every kind on a real GPU, through the C ABI: generated code, kernels and the program around them.

On a machine that has Ingot and nvcc: ``make cuda``, ``python -m tests.runtime.gpu.make`` and ``python -m tests.lower.cuda.gpu.make``; on one with a
GPU, NumPy and PyTorch: ``python3 -m pytest --confcutdir=tests/lower/cuda/gpu tests/lower/cuda/gpu``.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.gpu.library import Library

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[4]
BUILT = ROOT / "build" / "cuda"
CUDA_LIBRARY = Path(os.environ.get("INGOT_CUDA_LIBRARY", BUILT / "libingot_cuda.so"))
NAMES = sorted(p.stem for p in (BUILT / "models").glob("*.ingot"))

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)
if not NAMES or not (BUILT / "runtime/libingot.so").exists() or not CUDA_LIBRARY.exists():
    pytest.skip("not built: see above", allow_module_level=True)


@pytest.fixture(scope="module")
def library() -> Library:
    os.environ["INGOT_CUDA_LIBRARY"] = str(CUDA_LIBRARY)
    return Library(BUILT / "runtime/libingot.so")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_gives_what_its_definition_says(library: Library, name: str) -> None:
    session = library.load(BUILT / "models" / f"{name}.ingot").session()
    with np.load(BUILT / "models" / f"{name}.npz") as file:
        cases = dict(file)
    tolerance = float(cases.pop("tolerance"))
    # Runs of the same shapes are captured and replayed; a decoder remembers, and takes its steps once.
    for _ in range(1 if name.startswith("decoder") else 3):
        for index in sorted({int(key.partition(":")[0]) for key in cases}):
            session.run(*(cases[f"{index}:in:{i}"] for i in range(sum(k.startswith(f"{index}:in:") for k in cases))))
            for output in range(sum(k.startswith(f"{index}:out:") for k in cases)):
                expected, found = cases[f"{index}:out:{output}"], session.output(output)
                assert found.shape == expected.shape
                if found.dtype.kind in "iub":
                    np.testing.assert_array_equal(found, expected)
                else:
                    wide = expected.astype(np.float64)
                    error = np.linalg.norm(found.astype(np.float64) - wide) / max(float(np.linalg.norm(wide)), 1e-30)
                    assert error <= tolerance, (index, output, error)
