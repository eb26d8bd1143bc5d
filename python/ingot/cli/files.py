"""Arrays from and to files: .npy, .npz and images."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingot.errors import FileError, InputError, MissingFileError

IMAGES = (".png", ".jpg", ".jpeg")
_CHANNELS = (1, 3, 4)
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_NUMPY_KINDS = "biufc"


class Normalization:
    """What becomes of pixels in 0…1: ``(pixel - mean) / std``, for each channel or all alike."""

    def __init__(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        self.mean, self.std = list(mean or [0.0]), list(std or [1.0])
        if 0.0 in self.std:
            raise InputError("--std holds a 0, by which nothing can be divided")

    @property
    def is_identity(self) -> bool:
        """Whether pixels stay as they are."""
        return not any(self.mean) and all(s == 1 for s in self.std)

    def __call__(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Normalizes [..., channels]."""
        for name, values in (("--mean", self.mean), ("--std", self.std)):
            if len(values) not in (1, pixels.shape[-1]):
                raise InputError(f"{name} has {len(values)} values, but the image has {pixels.shape[-1]} channels")
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return np.asarray((pixels - mean) / std, np.float32)


def read_inputs(given: Sequence[str], infos: Sequence[Any], normalization: Normalization) -> dict[str, npt.NDArray[Any]]:
    """The arrays of ``--input NAME=FILE`` (or ``FILE``), for inputs with ``name``, ``dtype`` and ``shape``.

    Several images for one input become a batch. Without a name, an .npz gives its arrays by their names, and any other
    file is for the model's one input.
    """
    by_name = {info.name: info for info in infos}
    arrays: dict[str, npt.NDArray[Any]] = {}
    images: dict[str, list[Path]] = {}
    for text in given:
        name, path = _split(text, by_name)
        if name is None and path.suffix.lower() == ".npz":
            for key, array in _read_npz(path).items():
                _known(key, by_name)
                arrays[key] = array
            continue
        if name is None:
            if len(by_name) != 1:
                raise InputError(f"'{text}' does not say which input it is for; write NAME={text}, NAME one of {', '.join(by_name)}")
            name = next(iter(by_name))
        _known(name, by_name)
        if path.suffix.lower() in IMAGES:
            images.setdefault(name, []).append(path)
        else:
            arrays[name] = _read_array(path, name)
    for name, paths in images.items():
        arrays[name] = _read_images(paths, by_name[name], normalization)
    return arrays


def write_outputs(path: Path, outputs: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes arrays to an .npz by name, or one array to an .npy. Types that NumPy lacks become float32; strings NumPy's own (str)."""
    arrays = {name: _storable(array) for name, array in outputs.items()}
    try:
        if path.suffix.lower() == ".npy":
            if len(arrays) != 1:
                raise InputError(f"{path}: an .npy file holds one array, but the model has {len(arrays)} outputs; write an .npz")
            np.save(path, next(iter(arrays.values())))
        elif path.suffix.lower() == ".npz":
            np.savez(path, **arrays)  # type: ignore[arg-type]
        else:
            raise InputError(f"{path}: outputs are written as .npz or .npy")
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error


def _storable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype.kind == "O":  # an array of objects would be a pickle, which is not read again
        return array.astype(np.str_)
    return array if array.dtype.kind in _NUMPY_KINDS else array.astype(np.float32)


def _split(text: str, known: Mapping[str, Any]) -> tuple[str | None, Path]:
    """NAME=FILE apart. A name may hold an '=', as a file may: the longest known name wins."""
    for name in sorted(known, key=len, reverse=True):
        if text.startswith(name + "="):
            return name, Path(text[len(name) + 1 :])
    name, equals, path = text.partition("=")
    return (name, Path(path)) if equals and not Path(text).exists() else (None, Path(text))


def _known(name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise InputError(f"the model has no input '{name}'; its inputs are {', '.join(known)}")


def _read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    loaded = _load(path)
    with loaded:
        return {key: loaded[key] for key in loaded.files}


def _read_array(path: Path, name: str) -> npt.NDArray[Any]:
    if path.suffix.lower() == ".npz":
        arrays = _read_npz(path)
        if name in arrays:
            return arrays[name]
        if len(arrays) == 1:
            return next(iter(arrays.values()))
        raise InputError(f"{path} holds {', '.join(arrays) or 'no array'}; none is called '{name}'")
    if path.suffix.lower() != ".npy":
        raise InputError(f"{path}: inputs are read from .npy, .npz, {', '.join(IMAGES)}")
    array: npt.NDArray[Any] = _load(path)
    return array


def _load(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a valid {path.suffix} file: {error}") from error


def _read_images(paths: Sequence[Path], info: Any, normalization: Normalization) -> npt.NDArray[Any]:
    layout = _layout(info)
    pictures = [_read_image(path, info, layout, normalization) for path in paths]
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise InputError(f"the images for '{info.name}' have different sizes, {', '.join(map(str, sorted(shapes)))}: one batch needs one size")
    if "N" in layout:
        return np.stack(pictures)
    if len(pictures) != 1:
        raise InputError(f"input '{info.name}' takes one image, but {len(pictures)} are given")
    return pictures[0]


def _layout(info: Any) -> str:
    """Which axes of an input are batch, channels, height and width."""
    shape = list(info.shape)
    for layout in ("NCHW", "NHWC", "CHW", "HWC"):
        if len(layout) == len(shape) and shape[layout.index("C")] in _CHANNELS:
            return layout
    raise InputError(f"input '{info.name}' has the shape [{', '.join(map(str, shape))}], which is not that of an image: "
                     "an image is [batch, channels, height, width] or [batch, height, width, channels] with 1, 3 or 4 channels")


def _read_image(path: Path, info: Any, layout: str, normalization: Normalization) -> npt.NDArray[Any]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise InputError(f"{path}: reading images needs Pillow: pip install pillow") from None
    extents = dict(zip(layout, info.shape, strict=True))
    channels = extents["C"]
    try:
        with Image.open(path) as opened:
            image = opened.convert(_MODES[channels])
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such file") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"{path} is not an image that Pillow can read: {error}") from error
    width, height = (extents[axis] if isinstance(extents[axis], int) else own for axis, own in zip("WH", image.size, strict=True))
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    raw = np.asarray(image, np.uint8).reshape(height, width, channels)
    dtype = np.dtype(info.dtype)
    if dtype.kind == "f":
        pixels: npt.NDArray[Any] = normalization(raw.astype(np.float32) / np.float32(255)).astype(dtype)
    elif normalization.is_identity:
        pixels = raw.astype(dtype)
    else:
        raise InputError(f"input '{info.name}' holds {dtype}, which --mean and --std cannot be applied to")
    return np.ascontiguousarray(pixels.transpose(["HWC".index(axis) for axis in layout.replace("N", "")]))
