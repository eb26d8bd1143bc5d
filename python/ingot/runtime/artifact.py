"""Artifact: what is in a file, without running anything of it."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from ingot.errors import FileError, MissingFileError, TargetError
from ingot.runtime import _native


class Artifact:
    """An ``.ingot`` file whose header, segment table and manifest were checked. Works for artifacts of any target."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._native = _native.Artifact(os.fspath(path))
        except FileError as error:
            raise MissingFileError.if_missing(self.path, error) from None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Artifact:
        """Opens a file: the same as the constructor."""
        return cls(path)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest (docs/format.md)."""
        manifest: dict[str, Any] = json.loads(self._native.manifest())
        return manifest

    @property
    def best_target(self) -> str | None:
        """The name of the target that loading it here would choose; None if this machine can run none of them."""
        try:
            return str(self._native.best_target())
        except TargetError:
            return None

    def verify(self) -> None:
        """Checks every byte of the file; an ArtifactError names the first segment or weight that differs."""
        self._native.verify()

    def segment(self, index: int) -> memoryview:
        """The mapped bytes of a segment, which keep the file open."""
        view: memoryview = self._native.segment(index)
        return view
