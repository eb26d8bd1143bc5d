"""What is shipped: a wheel that runs with NumPy only, and holds a CMake package for C and C++.

The CMake package in an install tree of its own is what tests/levels/qemu.py builds for aarch64.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from tests.cache import Case

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("package")]


def run(*command: object, **options: object) -> str:
    """Runs a command; returns what it printed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


@pytest.fixture(scope="session")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the working tree, made in the build folder of `make setup`: what has been compiled there is not compiled again."""
    folder = tmp_path_factory.mktemp("wheel")
    (root / "build").mkdir(exist_ok=True)
    with FileLock(str(root / "build" / "wheel.lock")):
        run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, root)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds what the wheel does."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_runs_an_artifact_with_numpy_only(wheel: Path, small: Case, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for entry in ("numpy", "numpy.libs"):
        installed = Path(str(metadata.distribution("numpy").locate_file(entry)))
        if installed.exists():
            shutil.copytree(installed, site / entry)
    code = (f"import ingot, numpy as np; model = ingot.load({str(small.artifact)!r}); "
            f"y = model.run(dict(np.load({str(small.folder / 'inputs-3.npz')!r})))['y']; "
            f"np.testing.assert_allclose(y, np.load({str(small.folder / 'outputs-3.npz')!r})['y'], rtol=1e-5, atol=1e-6); print(ingot.__file__)")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    assert run(python, "-c", code, env=environment, cwd=tmp_path).strip().startswith(str(site))
    assert "agrees" in run(python, "-m", "ingot", "verify", small.artifact, env=environment, cwd=tmp_path)


def test_the_wheel_requires_numpy_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    required = [line for line in text.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert [line.split()[1].split(">")[0].split("=")[0] for line in required] == ["numpy"]


def test_the_libraries_that_an_application_ships_stay_below_10_mb(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        libraries = {i.filename: i.file_size for i in archive.infolist() if ".so" in i.filename}
    assert libraries and sum(libraries.values()) < 10_000_000, libraries


@pytest.fixture(scope="session")
def example(root: Path, unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds an example against the headers, the library and the CMake package in the wheel; the folder with its programs."""

    @functools.cache
    def build(language: str) -> Path:
        folder = tmp_path_factory.mktemp(language)
        run("cmake", "-S", root / "examples" / language, "-B", folder, f"-DCMAKE_PREFIX_PATH={unpacked / 'ingot'}", env=_with_tools())
        run("cmake", "--build", folder, env=_with_tools())
        return folder

    return build


def test_the_c_example_builds_with_find_package_and_computes_the_same(example: Callable[[str], Path], small: Case, tmp_path: Path) -> None:
    program = example("c") / "ingot-run"
    np.save(tmp_path / "x.npy", small.inputs(3)["x"])
    small.inputs(3)["x"].tofile(tmp_path / "x.bin")
    for given in (f"x={tmp_path}/x.npy", f"x=3,8={tmp_path}/x.bin"):
        run(program, small.artifact, given, f"y={tmp_path}/y.bin", f"count={tmp_path}/count.bin")
        np.testing.assert_allclose(np.fromfile(tmp_path / "y.bin", np.float32).reshape(3, 4), small.expected(3)["y"], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(np.fromfile(tmp_path / "count.bin", np.int64), small.expected(3)["count"])


def test_the_cpp_example_builds_with_find_package_and_runs(example: Callable[[str], Path], small: Case, tmp_path: Path) -> None:
    small.inputs(3)["x"].tofile(tmp_path / "x.bin")
    shown = run(example("cpp") / "ingot-run", small.artifact, f"x=3,8={tmp_path}/x.bin").splitlines()
    printed = {line.split(" ")[0]: line.partition("]:")[2].split() for line in shown}
    assert [int(c) for c in printed["count"]] == small.expected(3)["count"].tolist()
    assert "y [3, 4]:" in shown[0]


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_an_example_says_what_is_wrong_and_ends(example: Callable[[str], Path], tmp_path: Path, language: str) -> None:
    done = subprocess.run([str(example(language) / "ingot-run"), str(tmp_path / "no.ingot")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "INGOT_ERROR_FILE" in done.stderr and "no.ingot" in done.stderr


def _with_tools() -> dict[str, str]:
    """The environment with this Python's cmake and ninja on the path."""
    return {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
