"""Writes the artifacts of test_gpu.py, and libingot, to build/cuda-models: ``python -m tests.runtime.gpu.make`` (``make cuda-models``).

With libingot_cuda.so (``make cuda``) this is all that test_gpu.py needs on a machine with a GPU.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from ingot.lower.cuda.nvcc import find_nvcc
from ingot.runtime import _native
from tests.runtime.assemble_cuda import CudaArtifact, call
from tests.runtime.gpu.library import LIBINGOT, MADE
from tests.runtime.test_cuda import branch, chain, checked
from tests.runtime.test_cuda_states import cached, growing

SOURCE = Path(__file__).with_name("functions.cu")
ARCHITECTURES = (80, 86, 89, 90)


def fatbin(architectures: tuple[int, ...] = ARCHITECTURES, ptx: int | None = 90) -> bytes:
    """The code of functions.cu for these GPUs."""
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    if ptx is not None:
        codes.append(f"-gencode=arch=compute_{ptx},code=compute_{ptx}")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "code.fatbin"
        subprocess.run([find_nvcc(), "-fatbin", "-O3", *codes, str(SOURCE), "-o", str(output)], check=True)
        return output.read_bytes()


def between() -> CudaArtifact:
    """A step of the CPU between two of the GPU."""
    artifact = CudaArtifact(["n"])
    main = artifact.main
    x = main.input("float32", ["n"])
    doubled = call(main, "scale", [x], ("float32", ["n"]), dims=[main.dim("n")])
    main.symbols.append("found")
    indices = main.value("int64", [1, "found"])
    main.step("kernel", name="nonzero", inputs=[doubled], outputs=[indices], host=True)
    main.outputs.append(call(main, "to_float", [indices], ("float32", [1, "found"]), dims=[main.dim("found")]))
    return artifact


def main() -> None:
    """Writes everything."""
    folder = MADE / "runtime"
    folder.mkdir(parents=True, exist_ok=True)
    code = fatbin()
    made = {"chain": chain(), "cached": cached(64), "growing": growing(), "branch": branch(), "between": between(),
            "checked": checked()}
    for name, artifact in made.items():
        artifact.image = code
        artifact.gpus = {"architectures": list(ARCHITECTURES), "ptx": 90}
        (folder / f"{name}.ingot").write_bytes(artifact.to_bytes())
    later = chain()
    later.image, later.gpus = fatbin((), 80), {"architectures": [], "ptx": 80}
    (folder / "ptx.ingot").write_bytes(later.to_bytes())
    older = chain()
    older.image, older.gpus = fatbin((75,), None), {"architectures": [75], "ptx": None}
    (folder / "older.ingot").write_bytes(older.to_bytes())
    shutil.copy2(Path(_native.__file__).resolve().parents[1] / "lib" / "libingot.so", LIBINGOT)


if __name__ == "__main__":
    main()
