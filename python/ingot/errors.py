"""Ingot's exceptions. Every error that a user can cause derives from :class:`IngotError` and says what would work."""

from __future__ import annotations

import os


class IngotError(Exception):
    """Base of every error that Ingot raises."""


class FileError(IngotError, OSError):
    """A file is missing or cannot be read."""


class MissingFileError(FileError, FileNotFoundError):
    """A file does not exist."""

    @staticmethod
    def if_missing(path: os.PathLike[str], error: FileError) -> FileError:
        """``error`` as a :class:`MissingFileError` if that is what it is about."""
        return error if os.path.lexists(path) else MissingFileError(str(error))


class ArtifactError(IngotError):
    """The file is not an artifact, is truncated, or fails a checksum."""


class VersionError(ArtifactError):
    """The artifact's format is newer or older than this library reads."""


class TargetError(IngotError):
    """The artifact has no code that this machine can run, or a target's name is unknown."""


class InputError(IngotError, ValueError):
    """An input's name, rank, extent, dtype, device or layout is wrong."""


class OutOfMemoryError(IngotError, MemoryError):
    """Memory ran out."""


class ExecutionError(IngotError, RuntimeError):
    """A node of the model failed while running; the session can be used again."""


class BusyError(IngotError, RuntimeError):
    """The session is running on another thread."""


class InternalError(IngotError, RuntimeError):
    """A defect of Ingot: please report it."""


class CompileError(IngotError):
    """A model cannot be compiled: it is malformed, or asks for something that does not exist."""


class PrecisionWarning(UserWarning):
    """A model computes in a type that is slower than another which may do."""


class UnsupportedError(CompileError):
    """A model is valid, but uses something that Ingot does not implement."""


class NeedsConstantError(UnsupportedError):
    """A value must be known while compiling, but depends on a model input (``input_name``, if it is one)."""

    def __init__(self, message: str, input_name: str | None = None) -> None:
        super().__init__(message)
        self.input_name = input_name
