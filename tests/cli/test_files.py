"""`ingot run` reads .npy, .npz and images into a model's inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ingot.cli.files import Normalization, read_inputs, write_outputs
from ingot.errors import FileError, InputError


@dataclass(frozen=True)
class Info:
    name: str
    dtype: str
    shape: tuple[int | str, ...]


X = Info("x", "float32", ("batch", 4))
PLAIN = Normalization(None, None)


def image(path: Path, width: int = 6, height: int = 4) -> np.ndarray:
    """Writes a random image; its pixels [height, width, 3]."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_npy_is_for_the_named_input_or_the_only_one(tmp_path: Path) -> None:
    array = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.save(tmp_path / "a.npy", array)
    for given in (f"x={tmp_path}/a.npy", f"{tmp_path}/a.npy"):
        np.testing.assert_array_equal(read_inputs([given], [X], PLAIN)["x"], array)
    with pytest.raises(InputError, match="which input"):
        read_inputs([f"{tmp_path}/a.npy"], [X, Info("y", "float32", (1,))], PLAIN)


def test_npz_gives_inputs_by_their_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones(3), y=np.zeros(2))
    infos = [X, Info("y", "float64", (2,))]
    assert set(read_inputs([f"{tmp_path}/a.npz"], infos, PLAIN)) == {"x", "y"}
    assert read_inputs([f"y={tmp_path}/a.npz"], infos, PLAIN)["y"].shape == (2,)
    with pytest.raises(InputError, match="no input 'y'"):
        read_inputs([f"{tmp_path}/a.npz"], [X], PLAIN)


def test_an_image_becomes_channels_first_or_last_in_0_to_1(tmp_path: Path) -> None:
    pixels = image(tmp_path / "a.png")
    first = read_inputs([f"x={tmp_path}/a.png"], [Info("x", "float32", ("batch", 3, "h", "w"))], PLAIN)["x"]
    np.testing.assert_allclose(first, pixels.transpose(2, 0, 1)[None] / 255, rtol=1e-6)
    assert first.flags.c_contiguous
    last = read_inputs([f"x={tmp_path}/a.png"], [Info("x", "float32", (1, "h", "w", 3))], PLAIN)["x"]
    np.testing.assert_allclose(last, pixels[None] / 255, rtol=1e-6)
    single = read_inputs([f"x={tmp_path}/a.png"], [Info("x", "uint8", (3, "h", "w"))], PLAIN)["x"]
    np.testing.assert_array_equal(single, pixels.transpose(2, 0, 1))
    gray = read_inputs([f"x={tmp_path}/a.png"], [Info("x", "float32", ("h", "w", 1))], PLAIN)["x"]
    assert gray.shape == (4, 6, 1)


def test_fixed_extents_resize_the_image_and_symbolic_ones_take_its_own(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    fixed = read_inputs([f"x={tmp_path}/a.jpg"], [Info("x", "float32", (1, 3, 8, 10))], PLAIN)["x"]
    assert fixed.shape == (1, 3, 8, 10)
    half = read_inputs([f"x={tmp_path}/a.jpg"], [Info("x", "float16", (1, 1, 8, "w"))], PLAIN)["x"]
    assert half.shape == (1, 1, 8, 6) and half.dtype == np.float16


def test_mean_and_std_normalize_each_channel(tmp_path: Path) -> None:
    pixels = image(tmp_path / "a.png")
    info = Info("x", "float32", ("n", 3, "h", "w"))
    got = read_inputs([f"x={tmp_path}/a.png"], [info], Normalization([0.1, 0.2, 0.3], [0.5, 0.25, 2.0]))["x"]
    np.testing.assert_allclose(got[0].transpose(1, 2, 0), (pixels / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0], atol=1e-5)
    with pytest.raises(InputError, match="2 values"):
        read_inputs([f"x={tmp_path}/a.png"], [info], Normalization([0.1, 0.2], None))
    with pytest.raises(InputError, match="--std"):
        Normalization(None, [0.0])


def test_several_images_become_a_batch_of_one_size(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "b.png", width=8)
    both = [f"x={tmp_path}/a.png", f"x={tmp_path}/b.png"]
    assert read_inputs(both, [Info("x", "float32", ("n", 3, 5, 5))], PLAIN)["x"].shape == (2, 3, 5, 5)
    with pytest.raises(InputError, match="different sizes"):
        read_inputs(both, [Info("x", "float32", ("n", 3, "h", "w"))], PLAIN)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "bad.npz").write_bytes(b"PK")
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "a.txt").write_text("1")
    np.save(tmp_path / "objects.npy", np.array([object()]), allow_pickle=True)
    picture = Info("x", "float32", (1, 3, 4, 4))
    for name, info in (("bad.npy", X), ("bad.npz", X), ("objects.npy", X), ("a.txt", X), ("bad.png", picture)):
        with pytest.raises(InputError, match=name):
            read_inputs([f"x={tmp_path}/{name}"], [info], PLAIN)
    for name in ("no.npy", "no.png"):
        with pytest.raises(FileError, match="no such file"):
            read_inputs([f"x={tmp_path}/{name}"], [picture], PLAIN)
    with pytest.raises(InputError, match="not that of an image"):
        read_inputs([f"x={tmp_path}/bad.png"], [X], PLAIN)
    with pytest.raises(InputError, match="no input 'z'"):
        read_inputs([f"z={tmp_path}/a.npy"], [X], PLAIN)


def test_outputs_are_written_by_name(tmp_path: Path) -> None:
    import ml_dtypes

    outputs = {"y": np.arange(3), "z": np.ones(2, ml_dtypes.bfloat16)}
    write_outputs(tmp_path / "out.npz", outputs)
    with np.load(tmp_path / "out.npz") as stored:
        np.testing.assert_array_equal(stored["y"], [0, 1, 2])
        assert stored["z"].dtype == np.float32
    write_outputs(tmp_path / "out.npy", {"y": outputs["y"]})
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), [0, 1, 2])
    with pytest.raises(InputError, match="one array"):
        write_outputs(tmp_path / "out.npy", outputs)
    with pytest.raises(InputError, match=r"\.npz or \.npy"):
        write_outputs(tmp_path / "out.txt", outputs)
    with pytest.raises(FileError, match="cannot be written"):
        write_outputs(tmp_path / "no" / "out.npz", outputs)
