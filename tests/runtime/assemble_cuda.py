"""CUDA artifacts put together by hand, whose code is what tests/runtime/fake_cuda has; and the fake library itself."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ingot.runtime import _native
from tests.runtime.assemble import CODE, WEIGHTS, Artifact, Function, Shape, file_bytes

ROOT = Path(__file__).resolve().parents[2]
IMAGE = b"fake code"
#: Elements that a block of the generated functions computes.
BLOCK = 4


#: Of a function with one dimension: 5 is the number of blocks, 3 is 1.
EXPRS = [["sym", 0], ["const", BLOCK - 1], ["add", 0, 1], ["const", 1], ["const", BLOCK], ["floordiv", 2, 4]]


def function(*kernels: str) -> dict[str, Any]:
    """A generated function of these launches, each with a block for every BLOCK elements."""
    return {"exprs": EXPRS, "launches": [{"kernel": kernel, "grid": [5, 3, 3], "block": [BLOCK, 1, 1], "shared": 0} for kernel in kernels]}


FUNCTIONS = {
    "scale": function("scale_kernel"),
    "add": function("add_kernel"),
    "sum_of_squares": function("square_kernel", "sum_kernel"),
    "to_float": function("gather_kernel"),
    "checked": {**function("checked_kernel"), "checks": True},
    "less": {"exprs": [["const", 1]], "launches": [{"kernel": "less_kernel", "grid": [0, 0, 0], "block": [1, 1, 1], "shared": 0}]},
    "count": function("count_kernel"),
}


def call(body: Function, name: str, inputs: Sequence[int], *outputs: tuple[str, Shape], dims: Sequence[int] = ()) -> Any:
    """Adds a call of a generated function: its output, or a list of them."""
    results = [body.value(dtype, shape) for dtype, shape in outputs]
    body.step("call", function=name, inputs=list(inputs), outputs=results, dims=list(dims))
    return results[0] if len(results) == 1 else results


class CudaArtifact(Artifact):
    """An artifact with a CUDA target, and with ``cpu`` a CPU target of the same program behind it."""

    def __init__(self, dims: Sequence[str] = (), bounds: Mapping[str, int] | None = None, *, architectures: Sequence[int] = (90,),
                 ptx: int | None = None, cpu: bool = False) -> None:
        super().__init__(dims, bounds)
        self.gpus = {"architectures": list(architectures), "ptx": ptx}
        self.cpu = cpu
        self.functions_of_code: dict[str, Any] = FUNCTIONS
        self.states: list[dict[str, Any]] = []
        self.image = IMAGE

    def state(self, name: str, dtype: str, shape: Shape, **fields: Any) -> int:
        """A state, whose value is taken behind all inputs; what it becomes is given behind all outputs."""
        value = self.main.input(dtype, shape)
        row = self.main.values[value]
        self.states.append({"name": name, "dtype": row["dtype"], "shape": [self._text(e) for e in row["shape"]], "kind": "carry", **fields})
        return value

    def manifest(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        manifest = super().manifest()
        given, count = len(self.states), len(self.main.outputs) - len(self.states)
        if given:
            manifest["inputs"] = manifest["inputs"][:-given]
            manifest["outputs"] = manifest["outputs"][:count]
            manifest["states"] = self.states
        cpu = manifest["targets"][0]
        code = {"segment": 1, "size": len(self.image), **self.gpus, "functions": self.functions_of_code}
        cuda = {"name": "cuda:test", "arch": "cuda", "features": ["sm_90"], "code": code, "program": cpu["program"]}
        cpu["code"]["segment"] = 3
        manifest["targets"] = [cuda, cpu] if self.cpu else [cuda]
        return manifest

    def to_bytes(self, manifest: Mapping[str, Any] | None = None) -> bytes:
        """The file."""
        weights = b"".join(data + bytes(-len(data) % 64) for _, data in self.weights)
        return file_bytes(manifest or self.manifest(), [(CODE, self.image), (WEIGHTS, weights), (CODE, b"")])


def build_fake(folder: Path) -> Path:
    """Compiles tests/runtime/fake_cuda: the library's path."""
    library = folder / "libfake_cuda.so"
    include = Path(_native.__file__).resolve().parents[1] / "include"
    sources = [ROOT / "tests" / "runtime" / "fake_cuda" / "fake.cpp", ROOT / "runtime" / "src" / "error.cpp"]
    subprocess.run(["c++", "-std=c++20", "-O1", "-g", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden",
                    f"-I{ROOT / 'runtime' / 'src'}", f"-I{include}", *map(str, sources), "-o", str(library)], check=True)
    return library


class Fake:
    """The fake library, as tests look into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.fake_calls.restype = ctypes.c_int64
        self._library.fake_used_memory.restype = ctypes.c_uint64
        self._library.fake_limit_memory.argtypes = [ctypes.c_uint64]
        self._library.fake_stream.restype = ctypes.c_void_p
        self._library.fake_pending.restype = ctypes.c_int64
        self._library.fake_pending.argtypes = [ctypes.c_void_p]

    def calls(self, name: str) -> int:
        """How often a function of the table was called."""
        return int(self._library.fake_calls(name.encode()))

    def used(self) -> int:
        """Bytes of device memory in use."""
        return int(self._library.fake_used_memory())

    def limit(self, spare: int | None) -> None:
        """Leaves this many bytes of device memory, or plenty."""
        self._library.fake_limit_memory(1 << 40 if spare is None else self.used() + spare)

    def stream(self) -> int:
        """A stream of a caller's own."""
        return int(self._library.fake_stream())

    def pending(self, stream: int) -> int:
        """Work on a stream that nobody has waited for."""
        return int(self._library.fake_pending(stream))
