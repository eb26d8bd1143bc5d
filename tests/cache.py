"""Exported and compiled models under build/test-cache, each made once: by the first test that asks, for all processes.

The folder's name holds a hash of the sources that decide the content, so a change of the compiler compiles again and a change of a test
does not.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "test-cache"
BATCHES = (1, 3)
_EXPORT = ("python/ingot/export", "tests/models/zoo.py", "tests/models/densenet.py", "tests/cache.py")
_COMPILE = (*_EXPORT, "python/ingot/compiler.py", "python/ingot/importer", "python/ingot/passes", "python/ingot/lower", "python/ingot/quantize",
            "python/ingot/artifact")


@dataclass(frozen=True)
class Case:
    """A model on disk: its ONNX file, its artifact, and for some batch sizes inputs and the framework's outputs."""

    name: str
    folder: Path
    artifact: Path

    @property
    def onnx(self) -> Path:
        """The exported model."""
        return self.folder / "model.onnx"

    def inputs(self, batch: int) -> dict[str, np.ndarray]:
        """Inputs of a batch of this size."""
        return _read(self.folder / f"inputs-{batch}.npz")

    def expected(self, batch: int) -> dict[str, np.ndarray]:
        """What PyTorch makes of them."""
        return _read(self.folder / f"outputs-{batch}.npz")


def zoo_case(name: str) -> Case:
    """A model of the zoo."""
    folder = exported(name)
    return Case(name, folder, compiled(name, folder / "model.onnx", folder))


def exported(name: str) -> Path:
    """The folder with a zoo model's ONNX file, inputs and PyTorch's outputs."""

    def make(folder: Path) -> None:
        from ingot.export import export_directory, export_module
        from tests.models.zoo import ZOO

        model = ZOO[name]()
        if model.directory is not None:
            found = export_directory(model.directory, folder)
        else:
            assert model.module is not None
            found = export_module(model.module, model.inputs, folder, dynamic_shapes=model.dynamic_shapes, output_names=model.output_names)
        for batch in BATCHES:
            inputs = model.batch(batch)
            np.savez(folder / f"inputs-{batch}.npz", **inputs)
            np.savez(folder / f"outputs-{batch}.npz", **found.reference(inputs))
        (folder / "metadata.json").write_text(json.dumps({**found.metadata, "reference": found.reference_name, "messages": found.messages}))

    return _once(f"export-{_hash(_EXPORT)}", name, make)


def compiled(name: str, onnx_file: Path, samples: Path | None = None) -> Path:
    """The artifact of an ONNX file."""

    def make(folder: Path) -> None:
        import ingot

        inputs = _read(samples / f"inputs-{BATCHES[0]}.npz") if samples else None
        ingot.compile(onnx_file, folder / f"{name}.ingot", name=name, inputs=inputs)

    return _once(f"compile-{_hash(_COMPILE)}", name, make) / f"{name}.ingot"


def small_model() -> Case:
    """See the fixture ``small``."""

    def make(folder: Path) -> None:
        import torch

        from ingot.export import export_module

        found = export_module(Small(), torch.randn(2, 8, generator=torch.Generator().manual_seed(0)), folder, output_names=["y", "count"])
        for batch in BATCHES:
            inputs = {"x": np.random.default_rng(batch).standard_normal((batch, 8), np.float32)}
            np.savez(folder / f"inputs-{batch}.npz", **inputs)
            np.savez(folder / f"outputs-{batch}.npz", **found.reference(inputs))

    import torch

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.linear = torch.nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = torch.relu(self.linear(x))
            return y, (x > 0).to(torch.int64).sum(1)

    folder = _once(f"export-{_hash(_EXPORT)}", "small", make)
    return Case("small", folder, compiled("small", folder / "model.onnx", folder))


def made(kind: str, name: str, sources: tuple[str, ...], make: Callable[[Path], None]) -> Path:
    """A folder that ``make`` filled; a change of the compiler or of ``sources`` fills another one."""
    return _once(f"{kind}-{_hash((*_COMPILE, *sources))}", name, make)


def _once(kind: str, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that ``make`` filled, in this run of the suite or an earlier one."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / kind / name
    with FileLock(str(CACHE / f"{name}.lock")):
        if not folder.exists():
            for stale in CACHE.glob(f"{kind.partition('-')[0]}-*/{name}"):
                shutil.rmtree(stale)
            unfinished = CACHE / f"{kind}-{name}-{os.getpid()}.part"
            unfinished.mkdir()
            try:
                make(unfinished)
                folder.parent.mkdir(exist_ok=True)
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return folder


@functools.cache
def _hash(paths: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        full = ROOT / path
        for file in sorted(full.rglob("*.py")) if full.is_dir() else [full]:
            if file.exists():
                digest.update(str(file.relative_to(ROOT)).encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return {key: stored[key] for key in stored.files}
