"""A small language model, trained on text that comes with Python, and how well its artifacts predict held-out text.

    python -m benchmarks.language_model [--directory DIR] [--steps 500] [--write]

The model is a Llama of 0.7 million parameters, trained for a few minutes on two cores, on texts of 256 tokens. Two tables in
docs/models/generation.md have its perplexity in each precision, and past 256 tokens: with all of the text in sight, with a sliding window, and with a
window and attention sinks (Xiao et al., StreamingLLM, arXiv:2309.17453).
"""

from __future__ import annotations

import argparse
import ast
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sysconfig import get_path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import ingot

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "models" / "generation.md"
BEGIN, END = "<!-- language_model begin -->", "<!-- language_model end -->"
SEED = 0
#: Tokens of a text in training.
TRAINED = 256
VOCABULARY = 1024
#: Rows and length of the held-out texts: eight times what was trained.
ROWS, LENGTH = 8, 8 * TRAINED
#: Where the parts of the second table end.
SPANS = (TRAINED, 2 * TRAINED, 4 * TRAINED, LENGTH)
SINKS = 4
_SHAPE: Mapping[str, Any] = {
    "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "vocab_size": VOCABULARY, "max_position_embeddings": TRAINED, "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 0,
    "rms_norm_eps": 1e-5}
_BATCH, _RATE, _WARM_UP = 8, 4e-3, 30

Tokens = np.ndarray[Any, np.dtype[np.int64]]
Losses = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Row:
    """A precision: what it is called, and the options of ``ingot.compile``."""

    name: str
    options: Mapping[str, Any]


PRECISIONS = (
    Row("f32", {}), Row("bf16 weights", {"precision": "bf16"}), Row("int8", {"quantize": "int8"}), Row("int4:g32", {"quantize": "int4:g32"}),
    Row("f32, f16 caches", {"cache": "f16"}), Row("f32, int8 caches", {"cache": "int8"}),
    Row("int4:g32, int8 caches", {"quantize": "int4:g32", "cache": "int8"}),
)


# ---- Text ---------------------------------------------------------------------------------------------------


def pages() -> tuple[list[str], list[str]]:
    """Python's language reference and the docstrings of its modules, in a seeded order: for training, and every tenth page held out."""
    found = sorted(set(_reference()) | set(_docstrings()))
    random.Random(SEED).shuffle(found)
    return [page for i, page in enumerate(found) if i % 10], found[::10]


def _reference() -> Iterator[str]:
    from pydoc_data.topics import topics

    yield from topics.values()


def _docstrings() -> Iterator[str]:
    """Those of one module together, modules of the standard library without its tests."""
    library = Path(get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"} & set(path.relative_to(library).parts):
            continue
        nodes = ast.walk(ast.parse(path.read_bytes()))
        texts = [ast.get_docstring(n) for n in nodes if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
        page = "\n\n".join(text for text in texts if text)
        if len(page) > 200:
            yield page


def tokenizer(texts: Sequence[str]) -> Any:
    """A byte-level BPE of ``VOCABULARY`` tokens; token 0 ends a page."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<end>"], show_progress=False,
                                                        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return made


def tokens_of(made: Any, texts: Sequence[str]) -> Tokens:
    """All pages in a row, each with its end."""
    return np.array([t for encoded in made.encode_batch(list(texts)) for t in (*encoded.ids, 0)], np.int64)


# ---- Training -----------------------------------------------------------------------------------------------


def train(directory: Path, steps: int) -> None:
    """Trains the model and writes a Hugging Face directory with its tokenizer."""
    import transformers

    directory.mkdir(parents=True, exist_ok=True)
    texts, _ = pages()
    made = tokenizer(texts)
    data = torch.from_numpy(tokens_of(made, texts))
    torch.manual_seed(SEED)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_SHAPE))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {len(data):,} tokens of text, {steps * _BATCH * TRAINED:,} tokens of training", file=sys.stderr, flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, steps))
    for step in range(steps):
        starts = torch.randint(0, len(data) - TRAINED, (_BATCH,))
        batch = torch.stack([data[s:s + TRAINED + 1] for s in starts.tolist()])
        logits = model(batch[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}", file=sys.stderr, flush=True)
    model.save_pretrained(directory)
    made.save(str(directory / "tokenizer.json"))


def _pace(step: int, steps: int) -> float:
    """The share of the learning rate: it rises over the first steps, and falls with a cosine to a twentieth."""
    if step < _WARM_UP:
        return (step + 1) / _WARM_UP
    return 0.05 + 0.95 * 0.5 * (1 + float(np.cos(np.pi * (step - _WARM_UP) / max(1, steps - _WARM_UP))))


# ---- Perplexity ---------------------------------------------------------------------------------------------


def held_out(directory: Path) -> Tokens:
    """Held-out text [ROWS, LENGTH + 1]."""
    from tokenizers import Tokenizer

    tokens = tokens_of(Tokenizer.from_file(str(directory / "tokenizer.json")), pages()[1])
    if len(tokens) < ROWS * (LENGTH + 1):
        raise ValueError(f"the held-out text has {len(tokens):,} tokens; {ROWS * (LENGTH + 1):,} are wanted")
    return tokens[:ROWS * (LENGTH + 1)].reshape(ROWS, LENGTH + 1)


def losses(artifact: Path, tokens: Tokens) -> Losses:
    """What an artifact's loss is at each token after the first of rows [rows, n + 1]: [rows, n], in nats. A text runs in pieces of ``TRAINED``."""
    model = ingot.load(artifact)
    rows, length = tokens.shape[0], tokens.shape[1] - 1
    found = np.empty((rows, length))
    with model.session() as session:
        session.set_dimension("batch", rows)
        for start in range(0, length, TRAINED):
            part = np.ascontiguousarray(tokens[:, start:min(start + TRAINED, length)])
            count = part.shape[1]
            at = np.tile(np.arange(count), (rows, 1))
            logits = session.run({"input_ids": part, "token_counts": np.full(rows, count), "logits_at": at})["logits"]
            found[:, start:start + count] = _loss(torch.from_numpy(logits), tokens[:, start + 1:start + 1 + count])
    return found


def _loss(logits: torch.Tensor, targets: Tokens) -> Losses:
    loss = functional.cross_entropy(logits.flatten(0, 1).double(), torch.from_numpy(np.ascontiguousarray(targets)).flatten(), reduction="none")
    return loss.numpy().reshape(targets.shape)


def perplexity(found: Losses) -> float:
    """Of a mean loss."""
    return float(np.exp(found.mean()))


def compiled(directory: Path, folder: Path, options: Mapping[str, Any]) -> Path:
    """The directory's artifact."""
    path = folder / "model.ingot"
    ingot.compile(directory, path, samples=0, **options)
    return path


# ---- Attention sinks ----------------------------------------------------------------------------------------


class Streaming:
    """The model in PyTorch with a window and sinks, all of a text at once.

    What StreamingLLM computes token by token: a query at position p sees the first ``sinks`` tokens and the last ``window``, at the places
    that they have in a cache of so many slots. Only the distance to a sink differs from that in the text: the query's place is ``sinks + window - 1``
    at most.
    """

    def __init__(self, directory: Path, window: int, sinks: int) -> None:
        import transformers

        self._model = transformers.LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self._window, self._sinks = window, sinks

    @torch.no_grad()
    def losses(self, tokens: Tokens) -> Losses:
        """As :func:`losses`, for one row after the other."""
        return np.concatenate([_loss(self._logits(torch.from_numpy(row[None, :-1].copy())), row[None, 1:]) for row in tokens])

    def _logits(self, ids: torch.Tensor) -> torch.Tensor:
        core = self._model.model
        length = ids.shape[1]
        places = torch.arange(length)
        capped = places.clamp(max=self._sinks + self._window - 1)
        distance = places[:, None] - places[None, :]
        sunk = (places < self._sinks)[None, :] & (distance >= 0)
        seen = sunk | ((distance >= 0) & (distance < self._window))
        x = core.embed_tokens(ids)
        far, near = core.rotary_emb(x, capped[None]), core.rotary_emb(x, places[None])
        for layer in core.layers:
            own, normed = layer.self_attn, layer.input_layernorm(x)
            q, k, v = (f(normed).view(1, length, -1, own.head_dim).transpose(1, 2) for f in (own.q_proj, own.k_proj, own.v_proj))
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (_rotated(k, *near), v))
            scores = torch.where(sunk, _rotated(q, *far) @ k.mT, _rotated(q, *near) @ k.mT) * own.head_dim**-0.5
            attended = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v
            x = x + own.o_proj(attended.transpose(1, 2).reshape(1, length, -1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        logits: torch.Tensor = self._model.lm_head(core.norm(x))
        return logits


def _rotated(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cosines[:, None] + torch.cat((-second, first), -1) * sines[:, None]


# ---- Tables -------------------------------------------------------------------------------------------------


def precisions_table(directory: Path, folder: Path, tokens: Tokens) -> str:
    """Perplexity of texts of the trained length, in each precision."""
    pieces = np.concatenate([tokens[:, start:start + TRAINED + 1] for start in range(0, LENGTH, TRAINED)])
    lines = [f"Texts of {TRAINED} tokens, {pieces.shape[0] * TRAINED:,} tokens in all:", "",
             "| artifact | perplexity | to f32 | file |", "|---|---|---|---|"]
    first = 0.0
    for row in PRECISIONS:
        path = compiled(directory, folder, row.options)
        found = perplexity(np.concatenate([losses(path, pieces[start:start + ROWS]) for start in range(0, len(pieces), ROWS)]))
        first = first or found
        lines.append(f"| {row.name} | {found:.3f} | {found / first - 1:+.2%} | {path.stat().st_size / 1e6:.1f} MB |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def streaming_table(directory: Path, folder: Path, tokens: Tokens) -> str:
    """Perplexity of parts of long texts, with what is in sight of each token."""
    spans = list(zip((0, *SPANS), SPANS, strict=False))
    lines = [f"{ROWS} texts of {LENGTH:,} tokens, perplexity of these tokens of them:", "",
             "| in sight | " + " | ".join(f"{a + 1:,} to {b:,}" for a, b in spans) + " |", "|---|" + "---|" * len(spans)]

    def add(name: str, found: Losses) -> None:
        lines.append(f"| {name} | " + " | ".join(f"{perplexity(found[:, a:b]):.1f}" for a, b in spans) + " |")
        print(lines[-1], file=sys.stderr, flush=True)

    add("everything", losses(compiled(directory, folder, {"context": LENGTH}), tokens))
    for slots in (TRAINED // 4, TRAINED // 2, TRAINED):
        for sinks in (0, SINKS):
            window = slots - sinks
            found = losses(compiled(directory, folder, {"window": window, "sinks": sinks}), tokens)
            add(f"the first {sinks} and the last {window}" if sinks else f"the last {window}", found)
            expected = Streaming(directory, window, sinks).losses(tokens[:1])
            if not np.allclose(expected, found[:1], atol=1e-3):  # rounding of float32 over four layers; a token more or less in sight is beyond it
                raise ValueError(f"a window of {window}, {sinks} sinks: PyTorch's losses differ by up to {np.abs(expected - found[:1]).max():.2g}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Trains the model if there is none, measures, and prints the tables."""
    parser = argparse.ArgumentParser(description="Trains a small language model on text that comes with Python, and measures its artifacts.")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where the model is, or is written (default: a temporary folder)")
    parser.add_argument("--steps", type=int, default=500, help=f"steps of training, of {_BATCH} texts of {TRAINED} tokens (default: 500)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/models/generation.md")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        directory = given.directory or folder / "model"
        if not (directory / "config.json").is_file():
            train(directory, given.steps)
        tokens = held_out(directory)
        made = "\n\n".join((precisions_table(directory, folder, tokens), streaming_table(directory, folder, tokens)))
    print(made)
    return 0 if not given.write else _write(made)


def _write(made: str) -> int:
    page = PAGE.read_text()
    head, _, rest = page.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        print(f"{PAGE}: the markers {BEGIN} and {END} are missing", file=sys.stderr)
        return 1
    PAGE.write_text(f"{head}{BEGIN}\n{made}\n{END}{tail}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
