"""How long tokens took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class GenerationStats:
    """Times of one text, in seconds.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        shared_tokens: Those of them that were in the cache already.
        generated_tokens: Tokens that came after it.
        chosen_by_model: Those of them that the model chose itself, so that its logits were not read.
        time_to_first_token: From the start of the prompt's first run to the first token.
        between_tokens: The time from each token to the next.
        cache_bytes: What the text takes in caches.
    """

    prompt_tokens: int = 0
    shared_tokens: int = 0
    generated_tokens: int = 0
    chosen_by_model: int = 0
    time_to_first_token: float = 0.0
    between_tokens: list[float] = field(default_factory=list)
    cache_bytes: int = 0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Tokens of the prompt that were run, by the time to the first token."""
        return (self.prompt_tokens - self.shared_tokens) / self.time_to_first_token if self.time_to_first_token else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens after the first, by the time that they took."""
        total = sum(self.between_tokens)
        return len(self.between_tokens) / total if total else 0.0

    def time_between_tokens(self, percentile: float) -> float:
        """A percentile (0 to 100) of the times between tokens; 0 if there is only one token."""
        return float(np.percentile(self.between_tokens, percentile)) if self.between_tokens else 0.0

    def entry(self) -> dict[str, Any]:
        """As JSON values."""
        return {"prompt_tokens": self.prompt_tokens, "shared_tokens": self.shared_tokens, "generated_tokens": self.generated_tokens,
                "chosen_by_model": self.chosen_by_model, "time_to_first_token": self.time_to_first_token,
                **{f"time_between_tokens_p{p}": self.time_between_tokens(p) for p in (50, 95, 99)},
                "prefill_tokens_per_second": self.prefill_tokens_per_second, "decode_tokens_per_second": self.decode_tokens_per_second,
                "cache_bytes": self.cache_bytes}
