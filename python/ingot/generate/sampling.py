"""Choosing the next token from logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.errors import InputError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The steps are taken in this order.

    Attributes:
        repetition_penalty: Logits of tokens that the text holds are divided by it if they are positive, and multiplied otherwise (Keskar et al.,
            arXiv:1909.05858). 1 is none.
        presence_penalty: Subtracted from logits of tokens that were generated before.
        frequency_penalty: Subtracted once for each time that a token was generated.
        temperature: Logits are divided by it; 0 takes the likeliest token.
        top_k: Only the k likeliest tokens can be chosen; 0 is all.
        top_p: Only the fewest tokens whose probabilities add up to p (Holtzman et al., arXiv:1904.09751).
        min_p: Only tokens at least this share as likely as the likeliest (Nguyen et al., arXiv:2407.01082).
        seed: Of the random numbers; None takes one from the system.
        logprobs: How many of the likeliest tokens to report with their log probabilities, before temperature and filters; 0 is none.

    Raises:
        InputError: A number is outside its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logprobs: int = 0

    def __post_init__(self) -> None:
        ranges = {"temperature": (0, 1e6), "top_k": (0, 1 << 31), "top_p": (1e-9, 1), "min_p": (0, 1), "repetition_penalty": (1e-6, 1e6),
                  "presence_penalty": (-1e6, 1e6), "frequency_penalty": (-1e6, 1e6), "logprobs": (0, 1 << 31)}
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise InputError(f"{name} is {value}; it can be {least:g} to {most:g}")

    @property
    def penalizes(self) -> bool:
        """Whether logits are changed first by what the text holds."""
        return self.repetition_penalty != 1 or bool(self.presence_penalty or self.frequency_penalty)

    @property
    def settings(self) -> tuple[float, float, float, float]:
        """Temperature, top k, top p and min p, in the order of a model that chooses tokens itself."""
        return self.temperature, self.top_k, self.top_p, self.min_p


class Sampler:
    """Chooses tokens for one text: it remembers what the text holds, and its random numbers."""

    def __init__(self, sampling: Sampling, prompt: Array, vocabulary: int) -> None:
        self.sampling = sampling
        self.random = np.random.default_rng(sampling.seed)
        self._held = np.zeros(vocabulary, bool)
        self._held[prompt] = True
        self._generated = np.zeros(vocabulary, np.int64)

    def add(self, token: int) -> None:
        """Notes that a token was generated."""
        self._held[token] = True
        self._generated[token] += 1

    def choose(self, logits: Array, allowed: Array | None = None) -> int:
        """The next token.

        Args:
            logits: [vocabulary] float32; not changed.
            allowed: [vocabulary] bool: which tokens can be chosen; None: all.

        Raises:
            InputError: No token is allowed.
        """
        s = self.sampling
        scores = self._penalized(logits)
        if allowed is not None:
            if not allowed.any():
                raise InputError("the grammar allows no token here")
            scores = np.where(allowed, scores, -np.inf)
        if s.temperature == 0:
            return int(scores.argmax())
        tokens, probabilities = self._candidates(scores)
        ends = probabilities.cumsum()
        return int(tokens[np.searchsorted(ends / ends[-1], self.number(), side="right")])

    def number(self) -> float:
        """The random number of [0, 1) that chooses the next token, which float32 holds exactly; 0 at temperature 0, which needs none."""
        return math.floor(self.random.random() * 2**24) / 2**24 if self.sampling.temperature else 0.0

    def _penalized(self, logits: Array) -> Array:
        s = self.sampling
        if not s.penalizes:
            return logits
        scores: Array = logits.astype(np.float64)
        if s.repetition_penalty != 1:
            held = scores[self._held]
            scores[self._held] = np.where(held > 0, held / s.repetition_penalty, held * s.repetition_penalty)
        if s.presence_penalty or s.frequency_penalty:
            scores -= s.presence_penalty * (self._generated > 0) + s.frequency_penalty * self._generated
        return scores

    def _candidates(self, scores: Array) -> tuple[Array, Array]:
        """The tokens that can be chosen, likeliest first, and their probabilities."""
        s = self.sampling
        count = min(s.top_k or len(scores), len(scores))
        least = np.partition(scores, -count)[-count] if count < len(scores) else -np.inf
        tokens = np.flatnonzero(scores >= least)
        tokens = tokens[np.argsort(-scores[tokens], kind="stable")][:count]  # of equal ones the first
        chosen = scores[tokens].astype(np.float64)
        weights = np.exp((chosen - chosen[0]) / s.temperature)
        probabilities = weights / weights.sum()
        keep = np.cumsum(probabilities) - probabilities < s.top_p  # the one that crosses p is kept
        keep &= probabilities >= s.min_p * probabilities[0]
        keep &= probabilities > 0
        tokens, probabilities = tokens[keep], probabilities[keep]
        return tokens, probabilities / probabilities.sum()


def log_probabilities(logits: Array) -> Array:
    """The logarithm of the softmax of logits [..., vocabulary], in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
