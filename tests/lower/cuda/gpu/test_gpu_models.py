"""Small models of every kind on a real GPU, through the C ABI: generated code, kernels and the program around them.

On a machine that has Ingot and nvcc: ``make cuda cuda-models``; on one with a GPU, NumPy and PyTorch: ``tests/cuda/device.sh models``, or
``python3 -m pytest --confcutdir=tests/lower/cuda/gpu tests/lower/cuda/gpu``.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.runtime.gpu.library import MADE, Library, missing

torch = pytest.importorskip("torch")

FOLDER = MADE / "small"
NAMES = sorted(p.stem for p in FOLDER.glob("*.ingot"))

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)
if lack := missing(FOLDER):
    pytest.skip(lack, allow_module_level=True)


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


@pytest.mark.parametrize("name", NAMES)
def test_a_model_gives_what_its_definition_says(library: Library, name: str) -> None:
    session = library.load(FOLDER / f"{name}.ingot").session()
    with np.load(FOLDER / f"{name}.npz") as file:
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
