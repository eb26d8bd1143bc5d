"""Which target of an artifact is chosen where there is no GPU, or another one, and what is said about it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ingot
from ingot.errors import ArtifactError, TargetError, VersionError
from tests.runtime.assemble_cuda import FUNCTIONS, ROOT, CudaArtifact, Fake, build_fake, call

#: What `make cuda` builds.
REAL = ROOT / "build" / "cuda" / "libingot_cuda.so"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Fake:
    return Fake(build_fake(tmp_path_factory.mktemp("fake")))


@pytest.fixture
def fake(library: Fake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setenv("INGOT_CUDA_LIBRARY", str(library.path))
    yield library
    library.limit(None)


def copying(**options: Any) -> CudaArtifact:
    """An artifact without generated code, that both targets can run."""
    artifact = CudaArtifact(**options)
    artifact.main.outputs.append(artifact.main.copy(artifact.main.input("float32", [3])))
    artifact.functions_of_code = {}
    return artifact


def scaling(**options: Any) -> CudaArtifact:
    artifact = CudaArtifact(**options)
    main = artifact.main
    main.outputs.append(call(main, "scale", [main.input("float32", [3])], ("float32", [3]), dims=[main.dim(3)]))
    return artifact


def written(artifact: CudaArtifact, folder: Path) -> Path:
    path = folder / "model.ingot"
    path.write_bytes(artifact.to_bytes())
    return path


def test_the_gpu_is_chosen_where_it_stands_first(fake: Fake, tmp_path: Path) -> None:
    path = written(copying(cpu=True), tmp_path)
    assert ingot.load(path).target == "cuda:test"
    assert ingot.Artifact(path).best_target == "cuda:test"
    on_cpu = ingot.load(path, target="cpu:test")
    assert (on_cpu.target, on_cpu.device) == ("cpu:test", "cpu")
    x = np.arange(3, dtype=np.float32)
    np.testing.assert_array_equal(on_cpu.run(x0=x)["y0"], x)
    np.testing.assert_array_equal(ingot.load(path).run(x0=x)["y0"], x)


@pytest.mark.parametrize(("wrong", "message"), [
    ("no_driver", "there is no NVIDIA driver"),
    ("old_driver", "the NVIDIA driver is too old: it is one for CUDA 11.4"),
    ("no_device", "there is no GPU 0; the driver shows 0"),
])
def test_without_a_usable_driver_code_for_the_cpu_runs_and_cuda_code_says_why_not(fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                                                  wrong: str, message: str) -> None:
    monkeypatch.setenv("INGOT_FAKE_CUDA", wrong)
    both = written(copying(cpu=True), tmp_path)
    assert ingot.load(both).target == "cpu:test"
    offer = "; load it with target 'cpu:test' to run on the CPU"
    with pytest.raises(TargetError, match=rf"model.ingot: target 'cuda:test' cannot run: {message}.*{offer}"):
        ingot.load(both, target="cuda:test")
    alone = written(copying(), tmp_path)
    with pytest.raises(TargetError, match=rf"none of its targets runs on this machine: cuda:test \(cannot run: {message}"):
        ingot.load(alone)
    with pytest.raises(TargetError, match=rf"target 'cuda:test' cannot run: {message}[^;]*(; the driver shows 0.*)?$"):
        ingot.load(alone, target="cuda:test")


def test_without_the_library_an_error_says_where_it_was_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INGOT_CUDA_LIBRARY", str(tmp_path / "none.so"))
    both = written(copying(cpu=True), tmp_path)
    assert ingot.load(both).target == "cpu:test"
    missing = r"need libingot_cuda, an optional library that was not found \(.*none\.so.*INGOT_CUDA_LIBRARY"
    with pytest.raises(TargetError, match=f"{missing}; load it with"):
        ingot.load(both, target="cuda:test")
    with pytest.raises(TargetError, match="none of its targets runs on this machine: cuda:test"):
        ingot.load(written(copying(), tmp_path))


def test_a_library_that_is_something_else_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "other.so"
    subprocess.run(["c++", "-shared", "-fPIC", "-x", "c++", "/dev/null", "-o", str(other)], check=True)
    monkeypatch.setenv("INGOT_CUDA_LIBRARY", str(other))
    with pytest.raises(TargetError, match=r"other\.so is not a libingot_cuda that this libingot knows: it has no 'ingot_cuda_device_v1'"):
        ingot.load(written(copying(), tmp_path))


@pytest.mark.parametrize(("architectures", "ptx", "gpu", "fits"), [
    ((90,), None, 0, True), ((80,), None, 0, False), ((80,), 80, 0, True), ((), 90, 0, True), ((), 90, 1, False), ((80,), None, 1, True),
    ((86,), None, 1, False), ((80, 90), 90, 1, True), ((80, 86, 89, 90), 90, 2, False), ((), None, 0, False),
])
def test_code_runs_on_the_gpus_that_it_is_for(fake: Fake, tmp_path: Path, architectures: tuple[int, ...], ptx: int | None, gpu: int,
                                              fits: bool) -> None:
    path = written(copying(architectures=architectures, ptx=ptx), tmp_path)
    if fits:
        assert ingot.load(path, gpu=gpu, target="cuda:test").device == f"cuda:{gpu}"
        return
    with pytest.raises(TargetError, match=rf"target 'cuda:test' has code for .*, and none for GPU {gpu} \(Fake, sm_\d+\): ") as error:
        ingot.load(path, gpu=gpu, target="cuda:test")
    found = str(error.value)
    assert ("Ingot compiles for sm_80 and later" in found) == (gpu == 2)
    assert (f"--target cuda:sm_{[90, 80, 75][gpu]}" in found) == (gpu != 2)
    assert all(f"sm_{a}" in found for a in architectures)


@pytest.mark.parametrize("gpu", [-1, 4, 1000])
def test_a_gpu_that_is_not_there_is_an_error(fake: Fake, tmp_path: Path, gpu: int) -> None:
    with pytest.raises(TargetError, match=rf"there is no GPU {gpu}; the driver shows 4"):
        ingot.load(written(copying(), tmp_path), gpu=gpu)


def test_weights_beyond_the_memory_are_an_error_that_says_how_much(fake: Fake, tmp_path: Path) -> None:
    artifact = CudaArtifact()
    main = artifact.main
    w = artifact.weight(main, np.zeros(1 << 20, np.float32))
    x = main.input("float32", [1 << 20])
    main.outputs.append(call(main, "add", [x, w], ("float32", [1 << 20]), dims=[main.dim(1 << 20)]))
    ingot.load(written(scaling(), tmp_path))  # the GPU is open
    path = written(artifact, tmp_path)
    fake.limit(1 << 21)
    with pytest.raises(ingot.errors.OutOfMemoryError, match=r"the weights: GPU 0 .*: cannot allocate 4194304 bytes; 2097152 of its"):
        ingot.load(path)
    fake.limit(None)
    assert ingot.load(path).device == "cuda:0"


def broken(**changes: Any) -> CudaArtifact:
    artifact = scaling()
    artifact.functions_of_code = {"scale": {**FUNCTIONS["scale"], **changes}}
    return artifact


def one(**changes: Any) -> list[dict[str, Any]]:
    return [{**FUNCTIONS["scale"]["launches"][0], **changes}]


@pytest.mark.parametrize(("artifact", "message"), [
    (broken(launches=one(kernel="nothing")), "the GPU's code has no kernel 'nothing'"),
    (broken(launches=one(block=[1024, 2, 1])), "a block has at most 1024 threads"),
    (broken(launches=one(block=[0, 1, 1])), "block"),
    (broken(launches=one(grid=[5, 3])), "expected three extents"),
    (broken(launches=one(grid=[5, 3, 6])), "grid"),
    (broken(launches=one(shared=-1)), "shared"),
    (broken(exprs=[["sym", 0], ["sym", 1], ["add", 0, 1], ["const", 1], ["const", 1], ["mul", 2, 4]]),
     "called with 1 dimensions, but its grids need 2"),
    (broken(exprs=[["later", 0]]), "there is no operator 'later'"),
])
def test_code_that_does_not_hold_together_is_refused(fake: Fake, tmp_path: Path, artifact: CudaArtifact, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        ingot.load(written(artifact, tmp_path))


def test_a_damaged_or_missing_part_of_the_code_is_refused(fake: Fake, tmp_path: Path) -> None:
    artifact = scaling()
    artifact.image = b"other code"
    with pytest.raises(ingot.errors.IngotError, match="device kernel image is invalid"):
        ingot.load(written(artifact, tmp_path))
    artifact = scaling()
    manifest = artifact.manifest()
    manifest["targets"][0]["code"]["size"] = 1 << 30
    (tmp_path / "model.ingot").write_bytes(artifact.to_bytes(manifest))
    with pytest.raises(ArtifactError, match="the code ends beyond its segment"):
        ingot.load(tmp_path / "model.ingot")
    data = bytearray(scaling().to_bytes())
    data[data.index(b"fake code")] ^= 1
    (tmp_path / "model.ingot").write_bytes(data)
    with pytest.raises(ArtifactError, match="its checksum differs"):
        ingot.load(tmp_path / "model.ingot")


def test_kernels_and_strings_that_no_gpu_has_are_refused(fake: Fake, tmp_path: Path) -> None:
    artifact = CudaArtifact()
    main = artifact.main
    main.outputs.append(main.kernel("nonzero", [main.input("float32", [3])], ("int64", [1, "n"])))
    with pytest.raises(VersionError, match="this version of libingot_cuda has no kernel 'nonzero'"):
        ingot.load(written(artifact, tmp_path))
    artifact = CudaArtifact()
    main = artifact.main
    main.outputs.append(main.kernel("reverse", [main.input("float32", [3])], ("float32", [3]), ints=[1]))
    with pytest.raises(ArtifactError, match=r"kernel 'reverse' is given 1 inputs, .* 1 ints .*it takes: \(x\) -> reversed"):
        ingot.load(written(artifact, tmp_path))
    artifact = CudaArtifact()
    artifact.main.outputs.append(artifact.main.copy(artifact.main.input("string", [3])))
    with pytest.raises(ArtifactError, match="a CUDA program has no strings"):
        ingot.load(written(artifact, tmp_path))


def test_the_options_of_older_callers_choose_the_first_gpu(fake: Fake, tmp_path: Path) -> None:
    import ctypes

    path = written(copying(), tmp_path)
    library = ctypes.CDLL(str(Path(ingot.runtime._native.__file__).parents[1] / "lib" / "libingot.so"))
    options = (ctypes.c_uint64 * 4)(24, 0, 0, 99)  # a struct that ends before `device`
    model, device = ctypes.c_void_p(), (ctypes.c_int32 * 2)()
    assert library.ingot_model_load(os.fsencode(path), options, ctypes.byref(model)) == 0
    assert library.ingot_model_device(model, device) == 0
    assert list(device) == [2, 0]
    library.ingot_model_free(model)


@pytest.mark.skipif(not REAL.exists(), reason="libingot_cuda is not built (make cuda)")
def test_the_real_library_says_that_there_is_no_driver(tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    path = written(copying(cpu=True), tmp_path)
    program = ("import sys, ingot\nprint(ingot.load(sys.argv[1]).target)\n"
               "try:\n    ingot.load(sys.argv[1], target='cuda:test')\nexcept ingot.errors.TargetError as error:\n    print(error)")
    done = subprocess.run([sys.executable, "-c", program, str(path)], env={**os.environ, "INGOT_CUDA_LIBRARY": str(REAL)}, capture_output=True,
                          text=True, check=True)
    assert done.stdout.splitlines()[0] == "cpu:test"
    assert "there is no NVIDIA driver (libcuda.so.1) on this machine" in done.stdout
    assert "load it with target 'cpu:test'" in done.stdout
