"""How fast whole language models generate text, beside llama.cpp and onnxruntime: docs/performance-generation.md.

    python -m benchmarks.generation FOLDER --measure [int4 int8 ...] [--runs 3] [--write]

FOLDER keeps the models, which are made when they are first needed (benchmarks/generation_models.py; 10 GB for all), and figures.json with what was
measured so far; `--measure` without names measures everything, one figure after the other, each in a process of its own; `--write` makes the page.
Needs llama-cpp-python, gguf, onnxruntime, torch and transformers.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np

import ingot
from benchmarks import llama_cpp, speech
from benchmarks.generation_models import LLAMA, WINDOW, Models
from ingot.bench.generate import Case, measure
from ingot.bench.generate.contestants import cache_bytes
from ingot.bench.process import Process
from ingot.runtime import Model, Session
from ingot.runtime.machine import machine, measure_bandwidth

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance-generation.md"
THREADS = 2
#: What the process may take beside weights and caches.
BESIDE = 150e6
#: Tokens of one run of a prompt.
PIECE = 512
#: Where a text is met again in the figure of rings.
PLACES = (WINDOW, WINDOW + PIECE, 6000, 12000, 20000)

HEAD = f"""# Performance of generated text

Written by `make bench-generation`. A Llama of 1.1 billion seeded parameters: {LLAMA['num_hidden_layers']} layers of {LLAMA['hidden_size']:,},
{LLAMA['num_attention_heads']} heads of {LLAMA['head_dim']} that share {LLAMA['num_key_value_heads']} of keys and values, feed-forward
{LLAMA['intermediate_size']:,}, vocabulary {LLAMA['vocab_size']:,}; caches in float16; {THREADS} threads. int4 is `--quantize int4:g32`, which has
as many bits as Q4_0; int8 is `--quantize int8`. Programs have a process each and take turns on the same prompts of random tokens; rates are of the
median round. What bandwidth allows is the time to read the weights that a token needs and its caches once, at the rate of plain reads that
take turns with the tokens.
Ratios are above 1 where Ingot is faster, or a bound is kept.
"""


@dataclass(frozen=True)
class Row:
    """A line of the page: what was measured, of Ingot and of what it is compared with, their ratio, and what that should be at least."""

    what: str
    ingot: str
    beside: str
    ratio: float
    aim: float


# ---- Figures ------------------------------------------------------------------------------------------------


def against_llama_cpp(models: Models, runs: int, *, kind: str, gguf: str, decode: float, prefill: float) -> list[Row]:
    """Rates with a prompt of 512 and 64 tokens after it, and the share of what bandwidth allows."""
    case = Case(512, 64, 1)
    path = models.path(f"{kind}.ingot")
    found = measure({"ingot": path, "llama.cpp": models.path(f"{gguf}.gguf")}, [case], threads=THREADS, runs=runs)[0]["contestants"]
    rows = []
    for what, rate, aim in (("decode after 512 tokens", "decode", decode), ("prefill of 512", "prefill", prefill)):
        own, peer = (found[name][f"{rate}_tokens_per_second"] for name in ("ingot", "llama.cpp"))
        rows.append(Row(f"{kind} against {gguf.upper()}: {what}", f"{own:.1f} tokens/s", f"llama.cpp {peer:.1f} tokens/s", own / peer, aim))
    return [*rows, of_bandwidth(path, kind, case.prompt, 4 * runs)]


def of_bandwidth(path: Path, kind: str, prompt: int, turns: int) -> Row:
    """The time to read what a token has to read, over the time of a generated token; plain reads take turns with 16 tokens at a time."""
    from ingot.generate import Batch, Options

    model = ingot.load(path, threads=THREADS)
    batch = Batch(model, 1, prompt + 16 * (turns + 2))
    tokens = [int(t) for t in np.random.default_rng(0).integers(0, batch.vocabulary, prompt)]
    batch.add(tokens, Options(max_new_tokens=16 * (turns + 1) + 1))
    batch.advance()  # the prompt
    least, spent = [], []
    for turn in range(turns + 1):
        times = []
        for _ in range(16):
            start = time.perf_counter()
            batch.advance()
            times.append(time.perf_counter() - start)
        if turn:  # the first turn plans memory and takes pages
            spent.append(float(np.median(times)))
            least.append(step_bytes(model, prompt + 16 * turn + 8) / measure_bandwidth(THREADS).median / 1e9)
    read = step_bytes(model, prompt + 16 * (turns + 1) // 2)
    middle = float(np.median(least))
    return Row(f"{kind}: decode after 512 tokens, of what bandwidth allows", f"{np.median(spent) * 1e3:.1f} ms a token",
               f"{middle * 1e3:.1f} ms for {read / 1e6:.0f} MB at {read / middle / 1e9:.1f} GB/s", float(np.median(np.array(least) / spent)), 0.85)


def step_bytes(model: Model, tokens: int) -> int:
    """What a token has to read: all weights but the embeddings, of which it reads one row, and the caches of so many tokens."""
    embeddings = [LLAMA["vocab_size"], LLAMA["hidden_size"]]
    tensors = model.manifest["weights"]["tensors"]
    read = [t["nbytes"] for t in tensors if t["shape"] != embeddings]
    if len(read) != len(tensors) - 1:
        raise ValueError(f"{model.path}: {len(tensors) - len(read)} weights have the shape {embeddings} of the embeddings; it should be one")
    return int(sum(read) + cache_bytes(model, tokens))


class Text:
    """One text of random tokens in a session of its own."""

    def __init__(self, session: Session, length: int = 0) -> None:
        self._session, self.length = session, length
        self._rng = np.random.default_rng(0)

    def run(self, count: int) -> float:
        """Goes on by so many tokens in one run; the seconds that it took."""
        inputs = {"input_ids": self._rng.integers(0, LLAMA["vocab_size"], (1, count)), "token_counts": np.array([count]),
                  "logits_at": np.array([[count - 1]])}
        start = time.perf_counter()
        self._session.run(inputs)
        self.length += count
        return time.perf_counter() - start

    def reach(self, length: int) -> None:
        """Goes on to so many tokens, in runs of a prompt's pieces."""
        while self.length < length:
            self.run(min(PIECE, length - self.length))

    def copy(self) -> Text:
        """Another one that goes on from here."""
        return Text(self._session.fork(), self.length)


def single(texts: Sequence[Text], turns: int) -> list[float]:
    """Seconds of a token of each text: the median of 16 in each turn. Texts take turns, so that all meet the machine in the same state."""
    times: list[list[float]] = [[] for _ in texts]
    for turn in range(turns + 1):
        for text, found in zip(texts, times, strict=True):
            spent = [text.run(1) for _ in range(16)]
            found += spent if turn else []  # the first turn plans memory and takes pages
    return [float(np.median(found)) for found in times]


def context(models: Models, runs: int) -> list[Row]:
    """Decoding behind 4,096 tokens, to that behind 512."""
    model = ingot.load(models.path("int4.ingot"), threads=THREADS)
    session = model.session()
    session.set_dimension("batch", 1)
    session.set_dimension("context", 4608)
    far = Text(session)
    far.reach(512)
    near = far.copy()
    far.reach(4096)
    before, after = single([near, far], runs + 1)
    read = step_bytes(model, 512) / step_bytes(model, 4096)
    return [Row("int4: decode after 4,096 tokens, for the bytes of a token", f"{after * 1e3:.1f} ms a token",
                f"after 512: {before * 1e3:.1f} ms, {read:.2f} of the bytes", before / after / read, 0.8)]


def ring(models: Models, runs: int) -> list[Row]:
    """One text of 20,000 tokens with a sliding window. Copies of it stay where it is met again; what these take is not counted as its memory.

    Memory is the process's own: not the pages of the artifact, of which every new token may touch a row of the embeddings. It counts from when
    all slots of the ring have been used: those of the window, and of a prompt's piece beside it.
    """
    model = ingot.load(models.path("window.ingot"), threads=THREADS)
    session = model.session()
    session.set_dimension("batch", 1)
    text = Text(session)
    copies: list[Text] = []
    memory: list[int] = []
    of_copies = 0
    for place in PLACES:
        text.reach(place)
        memory.append(status("RssAnon") - of_copies)
        copies.append(text.copy())
        copies[-1].run(1)
        of_copies = status("RssAnon") - memory[-1]
    times = single(copies, runs + 1)
    name = f"int4, window of {WINDOW:,}"
    first = f"after {PLACES[0]:,}"
    rows = [Row(f"{name}: time of a token after {place:,}", f"{spent * 1e3:.1f} ms", f"{first}: {times[0] * 1e3:.1f} ms", times[0] / spent, 0.95)
            for place, spent in zip(PLACES[1:], times[1:], strict=True)]
    return [*rows, Row(f"{name}: memory after {PLACES[-1]:,} tokens", f"{memory[-1] / 1e6:.1f} MB",
                       f"after {PLACES[1]:,}: {memory[1] / 1e6:.1f} MB ({first}: {memory[0] / 1e6:.1f} MB)", memory[1] / memory[-1], 0.99)]


def footprint(models: Models, runs: int) -> list[Row]:
    """Loading an artifact that the page cache holds, and the memory of this process, which then generates with it."""
    from ingot.generate import Batch, Options

    path = models.path("int4.ingot")
    ingot.load(path, threads=THREADS, verify=True)  # reads the file into the page cache
    times = []
    for _ in range(3 * runs):
        start = time.perf_counter()
        model = ingot.load(path, threads=THREADS)
        times.append(time.perf_counter() - start)
    batch = Batch(model, 1, 1024)
    batch.add([int(t) for t in np.random.default_rng(0).integers(0, batch.vocabulary, 512)], Options(max_new_tokens=64))
    batch.run()
    weights = sum(t["nbytes"] for t in model.manifest["weights"]["tensors"])
    caches, peak = cache_bytes(model, 512 + 64), status("VmHWM")
    load = float(np.median(times))
    return [Row("int4: load, warm", f"{load * 1e3:.1f} ms", "bound 50 ms", 0.05 / load, 1),
            Row("int4: peak memory of a process, 512 tokens and 64", f"{peak / 1e6:.0f} MB",
                f"weights {weights / 1e6:.0f} MB, caches {caches / 1e6:.0f} MB, and 150 MB", (weights + caches + BESIDE) / peak, 1)]


def status(name: str) -> int:
    """A size of this process in bytes, as Linux names it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def together(models: Models, runs: int) -> list[Row]:
    """Eight texts at once."""
    found = measure({"ingot": models.path("int4.ingot")}, [Case(128, 48, 1), Case(128, 48, 8)], threads=THREADS, runs=runs)
    one, eight = (case["contestants"]["ingot"]["decode_tokens_per_second"] for case in found)
    return [Row("int4: eight texts at once after 128 tokens", f"{eight:.1f} tokens/s", f"one: {one:.1f} tokens/s", eight / one, 3.5)]


def whisper(models: Models, runs: int) -> list[Row]:
    """Half a minute of sound and 100 tokens."""
    own, peer = (found for found in speech.measure(models, THREADS, 2 * runs + 1, 100).values())
    return [Row("Whisper-tiny, f32: 30 s of sound, 100 tokens", f"{own * 1e3:.0f} ms from sound", f"onnxruntime {peer * 1e3:.0f} ms from features",
                peer / own, 1)]


def agreement(models: Models, runs: int) -> list[Row]:
    """Whether the files are the same model: logits of a prompt of 32 tokens."""
    tokens = [int(t) for t in np.random.default_rng(0).integers(0, LLAMA["vocab_size"], 32)]
    exact = llama_cpp.logits(models.path("f16.gguf"), tokens)
    rows = []
    for kind, gguf in (("int8", "q8_0"), ("int4", "q4_0")):
        own = llama_cpp.difference(llama_cpp.logits_of_artifact(models.path(f"{kind}.ingot"), tokens), exact)
        peer = llama_cpp.difference(llama_cpp.logits(models.path(f"{gguf}.gguf"), tokens), exact)
        rows.append(Row(f"{kind}: distance of logits from llama.cpp's in f16", f"{own:.2%}", f"llama.cpp {gguf.upper()} {peer:.2%}", peer / own, 0.8))
    return rows


@dataclass(frozen=True)
class Figure:
    """What is measured, and the models that are made before."""

    measure: Callable[[Models, int], list[Row]]
    models: Sequence[str]


FIGURES: Mapping[str, Figure] = {
    "int4": Figure(partial(against_llama_cpp, kind="int4", gguf="q4_0", decode=1.25, prefill=2), ("int4.ingot", "q4_0.gguf")),
    "int8": Figure(partial(against_llama_cpp, kind="int8", gguf="q8_0", decode=1.15, prefill=2), ("int8.ingot", "q8_0.gguf")),
    "context": Figure(context, ("int4.ingot",)),
    "together": Figure(together, ("int4.ingot",)),
    "footprint": Figure(footprint, ("int4.ingot",)),
    "ring": Figure(ring, ("window.ingot",)),
    "whisper": Figure(whisper, ("whisper.ingot", "whisper_onnx")),
    "agreement": Figure(agreement, ("f16.gguf", "q8_0.gguf", "q4_0.gguf", "int8.ingot", "int4.ingot")),
}


# ---- Page ---------------------------------------------------------------------------------------------------


def page(figures: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    measured = [figures[name] for name in FIGURES if name in figures]
    lines = [HEAD]
    for around in {json.dumps(m["around"]): m["around"] for m in measured}.values():
        lines += [f"- {key}: {value}" for key, value in around.items()]
    reached = sorted({f"{m['bandwidth']:.1f}" for m in measured})
    lines += [f"- Read bandwidth on {THREADS} threads: {', '.join(reached)} GB/s", "",
              "| figure | Ingot | beside | ratio | aim |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join((r["what"], r["ingot"], r["beside"], f"{r['ratio']:.2f}", f"{r['aim']:.2f}")) + " |"
              for m in measured for r in m["rows"]]
    return "\n".join(lines) + "\n"


def surroundings() -> dict[str, str]:
    """Machine, versions and day, by their headings on the page."""
    here = machine()
    peer: Any = import_module("llama_cpp")
    sets = [part.split("=")[0].strip() for part in peer.llama_print_system_info().decode().removeprefix("CPU :").split("|") if "= 1" in part]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("llama-cpp-python", "onnxruntime"))
    return {"Machine": f"{here['model']}, {here['logical_cpus']} logical CPUs; best target `{here['targets'][0]}`",
            "Versions": f"{versions}; llama.cpp is built with {', '.join(sets)}",
            "Measured on": dt.datetime.now(dt.timezone.utc).date().isoformat()}


def alone(models: Models, name: str, runs: int) -> dict[str, Any]:
    """Measures a figure in a process of its own; models are made before, in this one."""
    for model in FIGURES[name].models:
        models.path(model)
    with Process(name, ["-m", "benchmarks.generation", str(models.folder), "--alone", name, "--runs", str(runs)], THREADS) as process:
        return process.answer()


def main(arguments: Sequence[str]) -> int:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description="Measures how fast language models generate text.")
    parser.add_argument("folder", type=Path, help="where models and figures are kept")
    parser.add_argument("--measure", nargs="*", choices=FIGURES, metavar="FIGURE", help=f"which of {', '.join(FIGURES)} (default: all)")
    parser.add_argument("--runs", type=int, default=3, help="rounds that are counted (default: 3)")
    parser.add_argument("--write", action="store_true", help=f"write docs/{PAGE.name}")
    parser.add_argument("--alone", choices=FIGURES, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    models = Models(given.folder)
    if given.alone:
        rows = [row.__dict__ for row in FIGURES[given.alone].measure(models, given.runs)]
        print(json.dumps({"rows": rows, "bandwidth": measure_bandwidth(THREADS).best, "around": surroundings()}))
        return 0
    given.folder.mkdir(parents=True, exist_ok=True)
    kept = given.folder / "figures.json"
    figures: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in [] if given.measure is None else given.measure or FIGURES:
        figures[name] = alone(models, name, given.runs)
        kept.write_text(json.dumps(figures, indent=1))
        for r in figures[name]["rows"]:
            print(f"{r['what']}: {r['ingot']}; {r['beside']}; {r['ratio']:.2f} (aim {r['aim']:.2f})", flush=True)
    if given.write:
        PAGE.write_text(page(figures), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
