"""StreamingLLM (Xiao et al., arXiv:2309.17453) on a model of transformers, as it is defined: token by token, in float64.

A cache holds unrotated keys of the first tokens and of the last ones. At each step the one that is too old is dropped, and those that are left are
rotated to their places in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

Angles = Callable[[int, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class StreamingCache:
    """What transformers asks of a cache. ``kept`` says for each layer how many sinks and how many of the last tokens it keeps."""

    is_compileable = False

    def __init__(self, kept: Sequence[tuple[int, int]], angles: Angles | None) -> None:
        self._kept, self._angles = kept, angles
        self._keys: list[list[torch.Tensor]] = [[] for _ in kept]
        self._values: list[list[torch.Tensor]] = [[] for _ in kept]
        self.place = 0  # that of the token that is run

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes the new token's rotated key and value [1, heads, 1, size]; gives all that are left, keys at their places."""
        sinks, window = self._kept[layer]
        keys, values = self._keys[layer], self._values[layer]
        keys.append(self._turn(key, self.place, layer, back=True))
        values.append(value)
        if len(keys) > sinks + window:
            del keys[sinks], values[sinks]
        first = self.place + 1 - len(keys)  # where a layer keeps less than others, its last token has the others' place
        at = [i if i < sinks else first + i for i in range(len(keys))]
        return torch.cat([self._turn(k, p, layer) for k, p in zip(keys, at, strict=True)], 2), torch.cat(values, 2)

    def _turn(self, x: torch.Tensor, place: int, layer: int, back: bool = False) -> torch.Tensor:
        if self._angles is None:
            return x
        cosines, sines = self._angles(layer, torch.tensor([[place]]))
        size = cosines.shape[-1]
        a, b = x[..., :size].chunk(2, -1)
        half_cosines, half_sines = cosines[..., :size // 2], sines[..., :size // 2]
        if back:  # sines and cosines may have a factor
            length = half_cosines**2 + half_sines**2
            half_cosines, half_sines = half_cosines / length, -half_sines / length
        return torch.cat((a * half_cosines - b * half_sines, b * half_cosines + a * half_sines, x[..., size:]), -1)

    def get_seq_length(self, layer: int = 0) -> int:
        """How many tokens a layer holds."""
        return len(self._keys[layer])


def logits(model: Any, tokens: Sequence[int], window: int, sinks: int) -> np.ndarray:
    """What a model with a window and sinks gives at each of a text's tokens: [tokens, vocabulary]. Layers with a shorter window keep that."""
    run = stream(model, window, sinks)
    return np.stack([run(token) for token in tokens])


def greedy(model: Any, prompt: Sequence[int], count: int, window: int, sinks: int) -> list[int]:
    """The likeliest continuation."""
    run, found = stream(model, window, sinks), []
    for token in prompt:
        last = run(token)
    for _ in range(count):
        found.append(int(last.argmax()))
        last = run(found[-1])
    return found


def stream(model: Any, window: int, sinks: int) -> Callable[[int], np.ndarray]:
    """A function that takes a text's tokens one by one, and gives the logits behind each."""
    model = model.double()
    config, core = model.config, model.base_model
    own = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention" if own else "full_attention"] * config.num_hidden_layers
    windows = [own if kind == "sliding_attention" and own else window for kind in kinds]
    kept = [(sinks, window) if w >= window else (0, w) for w in windows]
    rotary = getattr(core, "rotary_emb", None)
    several = rotary is not None and isinstance(getattr(config, "rope_parameters", None), dict) and "full_attention" in config.rope_parameters

    def angles(layer: int, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        like = torch.zeros(1, dtype=torch.float64)
        found: tuple[torch.Tensor, torch.Tensor] = rotary(like, place, kinds[layer]) if several else rotary(like, place)
        return found

    cache = StreamingCache(kept, angles if rotary is not None else None)
    seen = 0

    @torch.no_grad()
    def run(token: int) -> np.ndarray:
        nonlocal seen
        # Positions that were learned are in the keys: they stay those of the text, as far as there are any.
        cache.place = min(seen, sinks + window - 1 if rotary is not None else config.max_position_embeddings - 1)
        seen += 1
        nothing = torch.zeros(1, 1, 1, 1, dtype=torch.float64)  # of masks: a token sees all that is kept
        mask: Any = dict.fromkeys(kinds, nothing) if len(set(kinds)) > 1 or several else nothing
        result = core(torch.tensor([[token]]), position_ids=torch.tensor([[cache.place]]), attention_mask=mask, cache=cache, use_cache=True)
        scores = model.get_output_embeddings()(result.last_hidden_state)[0, 0]
        cap = getattr(config, "final_logit_softcapping", None)
        found: np.ndarray = (scores if cap is None else cap * torch.tanh(scores / cap)).numpy()
        return found

    return run
