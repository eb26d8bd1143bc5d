"""Sound from WAV files."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ingot.errors import InputError

#: By bytes of a sample: how it is stored, what is silence, and what is loudest.
_SAMPLES = {1: ("u1", 128, 128), 2: ("<i2", 0, 1 << 15), 4: ("<i4", 0, 1 << 31)}


def read_wav(path: Path, rate: int = 16_000) -> npt.NDArray[np.float32]:
    """The samples of a file, -1 to 1; channels are averaged.

    Raises:
        InputError: It cannot be read, has samples of another kind than 8, 16 or 32 bits, or another rate.
    """
    try:
        with wave.open(str(path), "rb") as file:
            found, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
            data = file.readframes(file.getnframes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (wave.Error, EOFError) as error:
        raise InputError(f"{path}: this is not a WAV file of integers: {error}") from error
    if found != rate:
        raise InputError(f"{path}: the sound has {found} samples a second, the model takes {rate}; ffmpeg -i {path.name} -ar {rate} changes that")
    if width not in _SAMPLES:
        raise InputError(f"{path}: the sound has samples of {8 * width} bits; 8, 16 and 32 can be read")
    dtype, silence, loudest = _SAMPLES[width]
    samples = (np.frombuffer(data, dtype).astype(np.float64) - silence) / loudest
    return samples[:len(samples) // channels * channels].reshape(-1, channels).mean(axis=1).astype(np.float32)
