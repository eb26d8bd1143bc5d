"""Writes the artifacts of test_gpu.py, on a machine that has Ingot and nvcc: ``python -m tests.runtime.gpu.make [FOLDER]`` (build/cuda/runtime).

libingot itself goes there too. With libingot_cuda.so (``make cuda``) this is all that test_gpu.py needs on a machine with a GPU.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ingot.runtime import _native
from tests.runtime.assemble_cuda import ROOT, CudaArtifact, call
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
        subprocess.run(["nvcc", "-fatbin", "-O3", *codes, str(SOURCE), "-o", str(output)], check=True)
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


def main(folder: Path) -> None:
    """Writes everything."""
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
    shutil.copy2(Path(_native.__file__).resolve().parents[1] / "lib" / "libingot.so", folder / "libingot.so")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "cuda" / "runtime")
