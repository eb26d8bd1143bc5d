"""Weights of a directory that ``torch.save`` wrote: Hugging Face's ``pytorch_model.bin``, DeepSpeed's ZeRO checkpoints, and Composer's.

Files are mapped, and read with ``weights_only``: nothing in them runs. An object of a class that PyTorch does not vouch for becomes a placeholder.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ingot.errors import CompileError, FileError, MissingFileError, UnsupportedError
from ingot.export.zero import find_zero, zero_tensors

Tensors = Mapping[str, torch.Tensor]

#: Where a file keeps its model: Composer, PyTorch Lightning, or nothing but the model. The first that fits is taken.
_PLACES: tuple[tuple[str, ...], ...] = (("state", "model"), ("state_dict",), ())
#: What programs that wrap a model put before all of its names: DistributedDataParallel, torch.compile, Lightning.
_WRAPPERS = ("module.", "_orig_mod.", "_forward_module.")
#: Beside weights, what transformers' Trainer and accelerate save of a training's state.
_OTHERS = ("optimizer", "scheduler", "scaler", "rng_state", "random_states", "training_args")

WHAT_IS_READ = ("*.safetensors (with model.safetensors.index.json if there are several), pytorch_model.bin (or several and "
                "pytorch_model.bin.index.json), a ZeRO checkpoint of DeepSpeed (global_step*/), or one *.pt of Composer or torch.save(state_dict)")


def saved_tensors(directory: Path) -> Iterator[Tensors]:
    """The directory's tensors by name, file by file or fewer at a time. They are mapped from files that may be unmapped when the next ones come.

    Raises:
        MissingFileError: There is no file that is read, or one that another names is missing.
        CompileError: A file is malformed.
        UnsupportedError: Weights lie in a way that is not read.
    """
    for find, read in _LAYOUTS:
        found = find(directory)
        if found:
            return read(directory, found)
    sharded = next((p for pattern in ("*.distcp", "*/*.distcp") for p in directory.glob(pattern)), None)
    if sharded is not None:
        raise UnsupportedError(f"{sharded.parent}: torch.distributed's shards (*.distcp) are not read; make one file of them with "
                               "`accelerate merge-weights`, or `python -m torch.distributed.checkpoint.format_utils dcp_to_torch`")
    raise MissingFileError(f"{directory}: there are no weights; Ingot reads {WHAT_IS_READ}")


def load_file(path: Path) -> Any:
    """What ``torch.save`` wrote, its tensors mapped from the file.

    A FileError says that there is none, a CompileError that it cannot be read.
    """
    if not path.is_file():
        raise MissingFileError(f"{path.parent}: there is no {path.name}")
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        placeholders: list[Any] = [(type("Placeholder", (_Placeholder,), {}), name) for name in unknown]
        with torch.serialization.safe_globals(placeholders):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise FileError(f"{path}: {error}") from error
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise CompileError(f"{path}: it holds more than tensors and plain objects{f', and asks for {named[1]}' if named else ''}, which is not run; "
                           "save the model's state_dict alone") from error
    except (RuntimeError, ValueError, EOFError, KeyError) as error:
        what = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CompileError(f"{path}: not a whole file of torch.save, or one from before PyTorch 1.6, which has to be loaded and saved again: "
                           f"{what}") from error


class _Placeholder:
    """Stands where a file has an object of a class that is not loaded. It takes whatever it is given, and keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


# ---- Layouts ------------------------------------------------------------------------------------------------


def _bin_files(directory: Path) -> list[Path]:
    index = directory / "pytorch_model.bin.index.json"
    if not index.is_file():
        return [p for p in (directory / "pytorch_model.bin",) if p.is_file()]
    try:
        names = sorted({Path(n).name for n in json.loads(index.read_text())["weight_map"].values()})
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CompileError(f"{index}: this is not an index of .bin files: {error}") from error
    missing = [n for n in names if not (directory / n).is_file()]
    if missing:
        raise MissingFileError(f"{directory}: {len(missing)} of the {len(names)} files in {index.name} are missing, such as '{missing[0]}'")
    return [directory / n for n in names]


def _pt_files(directory: Path) -> list[Path]:
    found = [p for pattern in ("*.pt", "*.pth") for p in sorted(directory.glob(pattern)) if not p.name.startswith(_OTHERS)]
    latest = [p for p in found if p.name.startswith("latest-")]
    return latest if len(found) > 1 and len(latest) == 1 else found


def _bins(_: Path, files: list[Path]) -> Iterator[Tensors]:
    for path in files:
        yield _state_dict(path)


def _pt(directory: Path, files: list[Path]) -> Iterator[Tensors]:
    if len(files) > 1:
        raise CompileError(f"{directory}: there are {len(files)} checkpoints ({', '.join(p.name for p in files[:4])}…), and it is not known which is "
                           "meant; leave one of them there")
    yield _state_dict(files[0])


def _zero(directory: Path, folders: list[Path]) -> Iterator[Tensors]:
    for tensors in zero_tensors(directory, folders[0], load_file):
        yield _unwrapped(tensors)


_LAYOUTS: tuple[tuple[Callable[[Path], list[Path]], Callable[[Path, list[Path]], Iterator[Tensors]]], ...] = (
    (_bin_files, _bins), (find_zero, _zero), (_pt_files, _pt))


def _state_dict(path: Path) -> Tensors:
    """The tensors of a file."""
    content = load_file(path)
    for place in _PLACES:
        inner = content
        for key in place:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        tensors = {str(k): v for k, v in inner.items() if isinstance(v, torch.Tensor)} if isinstance(inner, Mapping) else {}
        if tensors:
            # Composer's models of transformers are modules around them.
            return _unwrapped(tensors, "model.") if place == ("state", "model") else _unwrapped(tensors)
    places = ", ".join("->".join(repr(k) for k in p) for p in _PLACES if p)
    raise CompileError(f"{path}: there are no tensors by name in it, at the top or at {places}")


def _unwrapped(tensors: Tensors, *more: str) -> Tensors:
    """Tensors by names without what wrappers put before all of them."""
    for prefix in (*_WRAPPERS, *more):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name[len(prefix):]: tensor for name, tensor in tensors.items()}
    return tensors
