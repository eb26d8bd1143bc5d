"""Whisper's log-mel spectrogram (Radford et al., arXiv:2212.04356) as nodes of a graph: audio in, features out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingot.export.decoder.pieces import Pieces
from ingot.export.seq2seq.families import Audio

RATE = 16_000
_WINDOW, _HOP = 400, 160  # samples: 25 ms every 10 ms
_HIGHEST = 8000.0  # Hz
_FLOOR = 1e-10
_RANGE = 8.0  # powers of ten below the loudest


def spectrogram(graph: Pieces, audio: str, front: Audio) -> str:
    """Features [clips, bands, frames] of audio [clips, samples]: silence is added up to the seconds that the model hears.

    Windows are Hann's, each centered at its frame, and beyond its ends the sound is mirrored. Spectra are a convolution with cosines and sines:
    3,000 frames of 201 frequencies are 1 GFLOP of an encoder's 20 and more.
    """
    node, constant = graph.node, graph.constant
    samples = front.seconds * RATE
    frames = samples // _HOP
    length = node("Shape", audio, start=1, end=2)
    silence = node("Concat", constant([0, 0, 0]), node("Sub", constant([samples]), length), axis=0)
    whole = node("Pad", audio, silence)
    # The last frame, which is centered behind the last sample, is left out.
    mirrored = node("Pad", whole, constant([0, _WINDOW // 2, 0, (frames - 1) * _HOP + _WINDOW // 2 - samples]), mode="reflect")
    turns = np.outer(np.arange(_WINDOW // 2 + 1), np.arange(_WINDOW)) % _WINDOW * (2 * np.pi / _WINDOW)
    hann = 0.5 - 0.5 * np.cos(np.arange(_WINDOW) * (2 * np.pi / _WINDOW))
    waves = np.concatenate([np.cos(turns) * hann, np.sin(turns) * hann])[:, None]  # [402, 1, 400]
    parts = node("Conv", node("Unsqueeze", mirrored, constant([1])), constant(waves, np.float32), name="/spectrum", strides=[_HOP])
    squares = node("Mul", parts, parts)
    # The sum over cosine and sine of a frequency, and over the frequencies of a band, is one product.
    filters = np.tile(mel_filters(front.bands), 2)[:, :, None]  # [bands, 402, 1]
    power = node("Conv", squares, constant(filters, np.float32), name="/bands")
    logarithm = node("Mul", node("Log", node("Max", power, constant(_FLOOR, np.float32))), constant(1 / np.log(10.0), np.float32))
    loudest = node("ReduceMax", logarithm, constant([1, 2]), keepdims=1)
    limited = node("Max", logarithm, node("Sub", loudest, constant(_RANGE, np.float32)))
    return str(node("Mul", node("Add", limited, constant(4.0, np.float32)), constant(0.25, np.float32)))


def mel_filters(bands: int) -> npt.NDArray[np.float64]:
    """[bands, frequencies] float64: triangles between frequencies that Slaney's mel scale spaces evenly, each of area 1."""
    def hertz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        # Linear up to 1 kHz, which is 15; from there 27 steps are a factor of 6.4.
        return np.asarray(np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27)))

    highest = 15 + np.log(_HIGHEST / 1000) * 27 / np.log(6.4)
    edges = hertz(np.linspace(0, highest, bands + 2))
    frequencies = np.linspace(0, RATE / 2, _WINDOW // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    return np.asarray(np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None])
