"""Whisper in Ingot and in onnxruntime, each in a process of its own: ``python -m benchmarks.speech PROGRAM FOLDER THREADS``.

The folder is that of benchmarks/generation_models.py. A process answers each line on stdin, a number of tokens, with the seconds that these took from
30 s of sound on, and with the tokens. onnxruntime is given the features of the sound.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import ingot
from benchmarks.generation_models import Models
from ingot.bench.process import Process

Transcribe = Callable[[int], list[int]]


def measure(models: Models, threads: int, runs: int, tokens: int) -> dict[str, float]:
    """Median seconds of each program, which take turns.

    Raises:
        ValueError: The programs write different tokens.
    """
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Process(name, ["-m", "benchmarks.speech", name, str(models.folder), str(threads)], threads))
                   for name in PROGRAMS}
        warm = {name: worker.ask({"tokens": tokens})["tokens"] for name, worker in workers.items()}
        if len({json.dumps(found) for found in warm.values()}) > 1:
            raise ValueError(f"the programs write different tokens: {warm}")
        for turn in range(runs):
            for name in list(workers) if turn % 2 else list(reversed(workers)):
                times[name].append(workers[name].ask({"tokens": tokens})["seconds"])
    return {name: float(np.median(found)) for name, found in times.items()}


def _sound(samples: int) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(0).standard_normal(samples) * 0.1).astype(np.float32)


def _ingot(models: Models, threads: int) -> Transcribe:
    from ingot.generate import Options, Transcriber

    transcriber = Transcriber(ingot.load(models.path("whisper.ingot"), threads=threads))
    sound = _sound(transcriber.window)

    def run(count: int) -> list[int]:
        text = transcriber.add(sound, Options(max_new_tokens=count))
        transcriber.run()
        return list(text.tokens)

    return run


def _onnxruntime(models: Models, threads: int) -> Transcribe:
    from benchmarks.whisper_onnx import Pair
    from ingot.generate import Transcriber

    transformers: Any = import_module("transformers")
    config = json.loads((models.path("whisper") / "config.json").read_text())
    asked = Transcriber(ingot.load(models.path("whisper.ingot"), threads=1))
    start, samples = asked.start(), asked.window
    extractor = transformers.WhisperFeatureExtractor(feature_size=config["num_mel_bins"])
    features = extractor(_sound(samples), sampling_rate=asked.rate, return_tensors="np").input_features.astype(np.float32)
    pair = Pair(models.path("whisper_onnx"), threads)
    return lambda count: pair.generate(features, start, count)


PROGRAMS: Mapping[str, Callable[[Models, int], Transcribe]] = {"ingot": _ingot, "onnxruntime": _onnxruntime}


def main(name: str, folder: str, threads: str) -> None:
    """Serves one program until stdin ends."""
    run = PROGRAMS[name](Models(Path(folder)), int(threads))
    for line in sys.stdin:
        count = json.loads(line)["tokens"]
        start = time.perf_counter()
        tokens = run(count)
        print(json.dumps({"seconds": time.perf_counter() - start, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
