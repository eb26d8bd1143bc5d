"""Several texts at once in one session: each has a row of the caches, and a finished one makes room for the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ingot.errors import InputError
from ingot.generate.generation import Generation, Options
from ingot.generate.grammar import Grammar
from ingot.generate.text import Stream
from ingot.runtime.model import Model

Array = np.ndarray[Any, Any]

#: The next token of a text, by its row in a run and the number of a kept position, and the logits [vocabulary] that it was chosen from; None: the
#: model chose it. A text's tokens are asked for in order.
_Choose = Callable[[int, int], tuple[int, Array | None]]

_UNBOUNDED = 1 << 62
_CALLED = {"decoder": "language model", "translation": "translator", "speech": "model of speech"}


class Batch:
    """Generates texts with a language model.

    Args:
        model: An artifact of a language model (``ingot compile DIRECTORY``).
        rows: How many texts run at once.
        context: The most tokens of one text, prompt included; by default the model's bound.

    Raises:
        InputError: The model is not a language model, or the context is beyond its bound.
    """

    #: The kind of model that an artifact says that it is.
    kind = "decoder"

    def __init__(self, model: Model, rows: int = 1, context: int | None = None) -> None:
        generation = model.manifest.get("generation")
        if generation is None or generation.get("kind") != self.kind:
            raise InputError(f"{model.path}: this is not a {_CALLED[self.kind]} that text can be generated with; compile one from a Hugging Face "
                             "directory")
        # A model whose layers all have windows goes on for ever.
        bound = next((d["max"] for d in model.manifest["dims"] if d["name"] == "context"), _UNBOUNDED)
        if context is not None and not 1 <= context <= bound:
            raise InputError(f"a context of {context} tokens cannot be; the artifact was compiled for 1 to {bound} (--context)")
        if rows < 1:
            raise InputError(f"{rows} texts at once cannot be")
        self.model = model
        self.context: int = context or bound
        self.vocabulary: int = generation["vocabulary"]
        self.stop_tokens: tuple[int, ...] = tuple(generation["stop_tokens"])
        self.text = model.tokenizer
        self.session = model.session()
        self.session.set_dimension("batch", rows)
        if bound != _UNBOUNDED:
            self.session.set_dimension("context", self.context)
        self._chunk: int = generation.get("chunk", self.context)
        self._chooses = any(output.name == "tokens" for output in model.outputs)
        self._ring = any(state.kind == "ring" for state in model.states)
        self._active: list[Generation | None] = [None] * rows
        self._held: list[list[int]] = [[] for _ in range(rows)]  # the tokens that each row's caches hold
        self._next: list[int] = [0] * rows  # what each active row's next run starts with
        self._waiting: deque[Generation] = deque()
        self._bytes = slot_bytes(model)

    # ---- Public ---------------------------------------------------------------------------------------------

    def add(self, prompt: str | Sequence[int] | Sequence[Mapping[str, Any]], options: Options | None = None, *,
            json_schema: Mapping[str, Any] | str | None = None, grammar: str | None = None, regex: str | None = None) -> Generation:
        """A text to generate. It starts when a row is free.

        Args:
            prompt: A text, token ids, or messages for the model's chat template.
            options: What is asked of it.
            json_schema: The text is JSON of this schema.
            grammar: The text follows this grammar (Lark's notation).
            regex: The text matches this regular expression.

        Raises:
            InputError: The prompt is empty, longer than the context, or has tokens that do not exist; or an option is outside its range.
        """
        options = options or Options(stop_tokens=self.stop_tokens)
        tokens = self._tokens(prompt)
        if options.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {options.max_new_tokens}; it is at least 1")
        if options.lookup and (options.sampling.temperature != 0 or json_schema or grammar or regex):
            raise InputError("lookup drafts tokens for temperature 0 without a grammar only")
        definition = Grammar.definition(json_schema, grammar, regex)
        matcher = None
        if definition is not None:
            matcher = Grammar(definition, self._asset("tokenizer.json"), self.vocabulary, list(self.stop_tokens))
        made = Generation(self, tokens, options, Stream(self.text, options.stop), matcher, self.vocabulary)
        self._waiting.append(made)
        return made

    def advance(self) -> bool:
        """Starts a waiting text if there is room, or else goes on by a token with all that are active. Whether there was anything to do."""
        free = next((row for row, active in enumerate(self._active) if active is None), None)
        while self._waiting and self._waiting[0].done:
            self._waiting.popleft()
        if self._waiting and free is not None:
            self._start(self._waiting.popleft())
            return True
        if not any(self._active):
            return False
        drafting = [g for g in self._active if g is not None and g.options.lookup]
        if drafting and sum(g is not None for g in self._active) == 1:
            self._draft(self._active.index(drafting[0]))
        else:
            self._step()
        return True

    def run(self) -> None:
        """Generates all texts to their ends."""
        while self.advance():
            pass

    def release(self, generation: Generation) -> None:
        """Frees the row of a text that has ended; what its caches hold may serve a later prompt that starts the same."""
        if generation in self._active:
            row = self._active.index(generation)
            self._active[row] = None
            if len(self._held[row]) >= self.context:
                self._cut(row, self.context - 1)  # a row that is idle is still given a token, which is forgotten

    # ---- Rows -----------------------------------------------------------------------------------------------

    def _start(self, generation: Generation) -> None:
        prompt = generation.prompt
        row, shared = self._place(prompt)
        self._active[row] = generation
        generation.started(shared)
        try:
            self.session.select_rows(row, 1)
            for begin in range(shared, len(prompt), self._chunk):
                chunk = prompt[begin:begin + self._chunk]
                last = begin + len(chunk) == len(prompt)
                choose = self._run_to_choose([generation if last else None], [chunk], [len(chunk)], [[len(chunk) - 1]])
                self._held[row] += chunk
        except BaseException:
            self._active[row] = None
            self._forget(row)
            raise
        self._accept(row, *choose(0, 0))

    def _place(self, prompt: list[int]) -> tuple[int, int]:
        """A free row for a prompt, and how many of its tokens that row's caches hold."""
        common = [0 if self._ring else _common(held, prompt[:-1]) for held in self._held]
        free = [row for row, active in enumerate(self._active) if active is None]
        best = max(range(len(common)), key=lambda row: (common[row], row in free))
        row = best if best in free else min(free, key=lambda r: common[r])
        if not common[best]:
            row = min(free, key=lambda r: len(self._held[r]))
            self._forget(row)
            return row, 0
        if row != best:
            self.session.select_rows()
            self.session.copy_row(best, row)
            self._held[row] = list(self._held[best])
        self._cut(row, common[best])
        return row, common[best]

    def _cut(self, row: int, length: int) -> None:
        if length < len(self._held[row]):
            if self._ring:
                self._forget(row)
            else:
                self.session.truncate(length, row)
                del self._held[row][length:]

    def _forget(self, row: int) -> None:
        if self._held[row]:
            self.session.reset(row)
            self._held[row] = []

    # ---- Runs -----------------------------------------------------------------------------------------------

    def _run(self, tokens: list[list[int]], counts: list[int], at: list[list[int]]) -> Array:
        """Logits [rows, kept, vocabulary] of one run."""
        return self.session.run(self._inputs(tokens, counts, at))["logits"]

    def _inputs(self, tokens: list[list[int]], counts: list[int], at: list[list[int]]) -> dict[str, Array]:
        """The inputs of one run; one that chooses tokens takes the likeliest."""
        shape = np.shape(at)
        choice = {"sampling": np.zeros((*shape, 4), np.float32), "random": np.zeros(shape, np.float32)} if self._chooses else {}
        return {**self._source(len(tokens)), "input_ids": np.array(tokens, np.int64), "token_counts": np.array(counts, np.int64),
                "logits_at": np.array(at, np.int64), **choice}

    def _run_to_choose(self, texts: Sequence[Generation | None], tokens: list[list[int]], counts: list[int], at: list[list[int]]) -> _Choose:
        """One run, of rows of which some have texts that go on.

        If it can, the model chooses all their tokens: logits stay where they are. If one of the texts needs logits, all are read.
        """
        if not self._chooses or not all(text is None or text.plain for text in texts):
            return _from_logits(texts, self._run(tokens, counts, at))
        inputs = self._inputs(tokens, counts, at)
        for row, text in enumerate(texts):
            if text is not None:
                inputs["sampling"][row] = text.options.sampling.settings
                inputs["random"][row] = text.number()
        chosen = self.session.run(inputs, device={"logits": self.model.device})["tokens"]
        return lambda row, place: (int(chosen[row, place]), None)

    def _source(self, rows: int) -> dict[str, Array]:
        """More inputs of a run of some rows."""
        return {}

    def _step(self) -> None:
        rows = max(row for row, active in enumerate(self._active) if active is not None) + 1
        for row in range(rows):
            active = self._active[row]
            if active is not None and len(self._held[row]) >= self.context:
                active.out_of_context()
                self.release(active)
        active_rows = [row for row in range(rows) if self._active[row] is not None]
        if not active_rows:
            return
        self.session.select_rows(0, rows)
        counts = [int(row in active_rows) for row in range(rows)]
        choose = self._run_to_choose(self._active[:rows], [[self._next[row]] for row in range(rows)], counts, [[0]] * rows)
        for row in active_rows:
            self._held[row].append(self._next[row])
            self._accept(row, *choose(row, 0))

    def _draft(self, row: int) -> None:
        """A run that checks drafted tokens: those that greedy decoding would have chosen are kept."""
        active = self._active[row]
        assert active is not None
        held = [*self._held[row], self._next[row]]
        room = min(active.options.lookup, self.context - len(held))
        draft = _draft(held, room) if not self._ring else []
        if not draft:
            self._step()
            return
        self.session.select_rows(row, 1)
        tokens = [self._next[row], *draft]
        choose = self._run_to_choose([active], [tokens], [len(tokens)], [list(range(len(tokens)))])
        self._held[row] = [*held, *draft]
        for i in range(len(tokens)):
            token, logits = choose(0, i)
            self._accept(row, token, logits)
            if active.done or i == len(draft) or token != draft[i]:
                self._cut(row, len(held) + i)
                return

    def _accept(self, row: int, token: int, logits: Array | None) -> None:
        active = self._active[row]
        assert active is not None
        self._next[row] = token
        active.take(token, logits)
        active.stats.cache_bytes = self._cache_bytes(row)
        if active.done:
            self.release(active)

    def _cache_bytes(self, row: int) -> int:
        """What a row's text takes in caches."""
        return sum(size * min(len(self._held[row]), slots) for slots, size in self._bytes.items())

    # ---- Prompts --------------------------------------------------------------------------------------------

    def _tokens(self, prompt: str | Sequence[Any]) -> list[int]:
        if isinstance(prompt, str) or (len(prompt) > 0 and isinstance(prompt[0], Mapping)):
            if self.text is None:
                raise InputError(f"{self.model.path}: the artifact has no tokenizer, so the prompt has to be token ids")
            if isinstance(prompt, str):
                tokens = self.text.encode(prompt)
            else:
                tokens = self.text.encode(self.text.chat([m for m in prompt if isinstance(m, Mapping)]), special=False)
        else:
            tokens = [int(t) for t in prompt]
        if not tokens:
            raise InputError("the prompt is empty: it has no tokens")
        outside = next((t for t in tokens if not 0 <= t < self.vocabulary), None)
        if outside is not None:
            raise InputError(f"the prompt has token {outside}; the model's tokens are 0 to {self.vocabulary - 1}")
        if len(tokens) > self.context:
            raise InputError(f"the prompt has {len(tokens)} tokens, more than the context of {self.context}")
        return tokens

    def _asset(self, name: str) -> bytes:
        found = self.model.asset(name)
        if found is None:
            raise InputError(f"{self.model.path}: the artifact has no {name}, which grammars need")
        return found


def slot_bytes(model: Model) -> dict[int, int]:
    """Bytes that one step takes in the caches of one row, by how many steps these have room for: a ring takes no more."""
    bounds = {d["name"]: _UNBOUNDED if d["max"] is None else int(d["max"]) for d in model.manifest["dims"]}
    found: dict[int, int] = {}
    for axis in {axis for state in model.states if state.kind != "carry" for axis in state.shape[1:] if isinstance(axis, str)}:
        slots = bounds.get(axis, _UNBOUNDED)
        found[slots] = found.get(slots, 0) + step_bytes(model, axis)
    return found


def step_bytes(model: Model, axis: str = "") -> int:
    """Bytes that one step takes in the caches of one row, or in those whose dimension of steps has a name."""
    sizes = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
    return sum(sizes[s.dtype] * int(np.prod([d for d in s.shape if isinstance(d, int)])) for s in model.states
               if s.kind != "carry" and (not axis or axis in s.shape))


def _from_logits(texts: Sequence[Generation | None], logits: Array) -> _Choose:
    """Tokens that texts choose from logits [rows, kept, vocabulary]."""
    def choose(row: int, place: int) -> tuple[int, Array | None]:
        text, own = texts[row], logits[row, place]
        assert text is not None
        return text.choose(own), own

    return choose


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts have in common at the start."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


def _draft(tokens: Sequence[int], most: int) -> list[int]:
    """What followed the last occurrence of the text's last three, two or one tokens."""
    array = np.asarray(tokens)
    for size in (3, 2):
        if most < 1 or len(array) <= size:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(array[:-1], size)
        found = np.flatnonzero((windows == array[-size:]).all(axis=1))
        if len(found):
            begin = int(found[-1]) + size
            return [int(t) for t in array[begin:begin + most]]
    return []
