"""The cases of a sweep, and their measurement: every program runs each case in its turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ingot.bench.process import Process
from ingot.errors import InputError

#: What is measured unless somebody says otherwise, as far as it fits the context.
PROMPTS, OUTPUTS, BATCHES = (16, 128, 512), (64,), (1, 4)


@dataclass(frozen=True)
class Case:
    """``batch`` texts that start together, with prompts of ``prompt`` tokens, and ``output`` tokens to generate for each."""

    prompt: int
    output: int
    batch: int

    @property
    def context(self) -> int:
        """The tokens of one text."""
        return self.prompt + self.output


@dataclass(frozen=True)
class Round:
    """A case once, in seconds.

    Attributes:
        first: From the start to each text's first token, whatever it waited for: [batch].
        prefill: Until all texts have their first token.
        between: Of the tokens after it, from one to the next, all texts together: [output - 1].
        cache_bytes: What the texts take in caches at the end; None where the program does not say.
    """

    first: Sequence[float]
    prefill: float
    between: Sequence[float]
    cache_bytes: int | None


def cases(manifest: Mapping[str, Any], prompts: Sequence[int] | None = None, outputs: Sequence[int] | None = None,
          batches: Sequence[int] | None = None) -> list[Case]:
    """All combinations. Lengths by default are those of :data:`PROMPTS` and :data:`OUTPUTS` that fit the context, shorter ones if none does.

    Raises:
        InputError: The artifact is no language model, or a length that was asked for does not fit its context.
    """
    kind = (manifest.get("generation") or {}).get("kind")
    if kind != "decoder":
        raise InputError("--generate measures language models, and this is " + {
            "translation": "a translator", "speech": "a model of speech"}.get(str(kind), "not one") +
            "; compile one from a Hugging Face directory of a decoder")
    bound = {d["name"]: d["max"] for d in manifest["dims"]}.get("context")
    most = int(bound) if bound is not None else None
    if most is not None and most < 2:
        raise InputError("the artifact was compiled for a context of 1 token: there is no room for one after the prompt; compile it with --context 2 "
                         "or more")
    outputs = outputs or [o for o in OUTPUTS if most is None or o <= most // 2] or [max(1, (most or 0) // 2)]
    prompts = prompts or [p for p in PROMPTS if most is None or p + max(outputs) <= most] or [max(1, (most or 0) - max(outputs))]
    found = [Case(prompt, output, batch) for prompt in dict.fromkeys(prompts) for output in dict.fromkeys(outputs)
             for batch in dict.fromkeys(batches or BATCHES)]
    for case in found:
        if most is not None and case.context > most:
            raise InputError(f"a prompt of {case.prompt} tokens and {case.output} after it need a context of {case.context}; the artifact was "
                             f"compiled for {most} (ingot compile --context)")
    return found


def measure(programs: Mapping[str, str | Path], found: Sequence[Case], *, threads: int, target: str | None = None, runs: int = 3, warmup: int = 1,
            said: Callable[[str], None] = lambda _: None) -> list[dict[str, Any]]:
    """Measures each case ``runs`` times in each program (``programs``: its name → its model file), after ``warmup`` that are not counted.

    Returns:
        For each case its lengths, and ``contestants``: name → :func:`summary`, or ``{"unsupported": why}``.

    Raises:
        ExecutionError: A program failed; the message has what it wrote.
    """
    context = max(case.context for case in found)
    results = []
    with ExitStack() as stack:
        workers = {name: stack.enter_context(_worker(name, path, threads, target, context)) for name, path in programs.items()}
        for worker in workers.values():
            worker.answer()
        for case in found:
            said(f"prompt {case.prompt}, output {case.output}, batch {case.batch}")
            rounds: dict[str, list[Round]] = {name: [] for name in workers}
            refused: dict[str, str] = {}
            for turn in range(warmup + runs):
                for name in list(workers) if turn % 2 == 0 else list(reversed(workers)):
                    if name in refused:
                        continue
                    answer = workers[name].ask({**asdict(case), "seed": turn})
                    if "unsupported" in answer:
                        refused[name] = answer["unsupported"]
                    elif turn >= warmup:
                        rounds[name].append(Round(**answer))
            results.append({**asdict(case), "contestants": {
                name: {"unsupported": refused[name]} if name in refused else summary(case, rounds[name]) for name in workers}})
    return results


def summary(case: Case, rounds: Sequence[Round]) -> dict[str, Any]:
    """JSON values of a case's rounds: times in seconds, rates in tokens per second by the median round.

    ``time_to_first_token`` is the median over texts and rounds, percentiles of the time between tokens are over all of them; those and the decode
    rate are None where a text has one token.
    """
    between = [t for r in rounds for t in r.between]
    bytes_ = rounds[-1].cache_bytes
    return {"runs": len(rounds), "time_to_first_token": float(np.median([t for r in rounds for t in r.first])),
            **{f"time_between_tokens_p{p}": float(np.percentile(between, p)) if between else None for p in (50, 95, 99)},
            "prefill_tokens_per_second": case.batch * case.prompt / float(np.median([r.prefill for r in rounds])),
            "decode_tokens_per_second": case.batch / float(np.median([np.mean(r.between) for r in rounds])) if between else None,
            "cache_bytes": bytes_}


def _worker(name: str, path: str | Path, threads: int, target: str | None, context: int) -> Process:
    return Process(name, ["-m", "ingot.bench.generate.worker", name, str(path), str(threads), target or "", str(context)], threads)
