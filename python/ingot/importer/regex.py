"""Regular expressions, compiled to programs of a nondeterministic automaton (``kernels/cpu/strings/strings.h``).

The syntax is RE2's, as ONNX asks for: literals, ``.``, classes with ranges, negation and POSIX names, ``\\d \\w \\s`` and their
complements (ASCII), ``\\pL`` and the other general categories, groups, alternation, ``* + ? {m,n}`` (lazy ones too: what matches
is the same), ``^ $ \\A \\z \\b \\B``, and the flags ``i`` and ``s``. What takes more than linear time (references back, looking around)
has no place in it; what is left out of it (scripts, the flags ``m`` and ``U``, ``\\Q...\\E``) is refused by name.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeAlias

import numpy as np

MATCH, JUMP, SPLIT, CHARACTER, ASSERT = range(5)
START, END, BOUNDARY, NO_BOUNDARY = range(4)

#: Inclusive ranges of code points, ascending and apart.
Ranges: TypeAlias = tuple[tuple[int, int], ...]

_LAST = sys.maxunicode
_MOST_REPEATS = 1000  # RE2's
_MOST_INSTRUCTIONS = 20_000  # a program takes each character of a string in at most so many steps
_PERL: dict[str, Ranges] = {
    "d": ((0x30, 0x39),),
    "w": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
    "s": ((0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20)),
}
_POSIX: dict[str, Ranges] = {
    "alnum": ((0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A)), "alpha": ((0x41, 0x5A), (0x61, 0x7A)), "ascii": ((0, 0x7F),),
    "blank": ((9, 9), (0x20, 0x20)), "cntrl": ((0, 0x1F), (0x7F, 0x7F)),
    "digit": _PERL["d"], "graph": ((0x21, 0x7E),), "lower": ((0x61, 0x7A),), "print": ((0x20, 0x7E),),
    "punct": ((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)), "space": ((9, 0x0D), (0x20, 0x20)), "upper": ((0x41, 0x5A),),
    "word": _PERL["w"], "xdigit": ((0x30, 0x39), (0x41, 0x46), (0x61, 0x66)),
}
_CONTROLS = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_ASSERTIONS = {"A": START, "z": END, "b": BOUNDARY, "B": NO_BOUNDARY}


class RegexError(ValueError):
    """A pattern that is malformed or outside of what is supported; the message says where and why."""


@dataclass(frozen=True)
class Program:
    """What a kernel gets: int64 arrays ``instructions`` [n, 3] and ``ranges`` [r, 2]."""

    instructions: np.ndarray
    ranges: np.ndarray


@dataclass(frozen=True)
class _Set:
    ranges: Ranges


@dataclass(frozen=True)
class _Assert:
    kind: int


@dataclass(frozen=True)
class _Sequence:
    parts: tuple[_Node, ...]


@dataclass(frozen=True)
class _Either:
    options: tuple[_Node, ...]


@dataclass(frozen=True)
class _Repeat:
    part: _Node
    least: int
    most: int | None


_Node: TypeAlias = "_Set | _Assert | _Sequence | _Either | _Repeat"


def compile_pattern(pattern: str) -> Program:
    """The program of a pattern.

    Raises:
        RegexError: The pattern is malformed, not supported, or too large.
    """
    emitter = _Emitter()
    emitter.emit(_Parser(pattern).parse())
    emitter.add(MATCH)
    ranges = np.asarray(emitter.ranges, np.int64).reshape(-1, 2)
    return Program(np.asarray(emitter.code, np.int64).reshape(-1, 3), ranges)


def union(*sets: Ranges) -> Ranges:
    """The code points that are in any of some sets."""
    merged: list[list[int]] = []
    for first, last in sorted(r for ranges in sets for r in ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    return tuple((a, b) for a, b in merged)


def complement(ranges: Ranges) -> Ranges:
    """All other code points."""
    edges = [-1, *(e for r in union(ranges) for e in r), _LAST + 1]
    return tuple((a + 1, b - 1) for a, b in zip(edges[::2], edges[1::2], strict=True) if a + 1 <= b - 1)


@cache
def _category(name: str) -> Ranges:
    """A general category: one letter for a group of them, or two."""
    return union(tuple((c, c) for c in range(_LAST + 1) if unicodedata.category(chr(c)).startswith(name)))


@cache
def _cases() -> dict[int, tuple[int, ...]]:
    """The other cases of each code point that has some."""
    same: dict[int, set[int]] = {}
    for c in range(_LAST + 1):
        for other in (chr(c).lower(), chr(c).upper()):
            if len(other) == 1 and ord(other) != c:
                same.setdefault(c, set()).add(ord(other))
                same.setdefault(ord(other), set()).add(c)
    return {c: tuple(sorted(others)) for c, others in same.items()}


def _in_any_case(ranges: Ranges) -> Ranges:
    inside = [(o, o) for c, others in _cases().items() if any(a <= c <= b for a, b in ranges) for o in others]
    return union(ranges, tuple(inside))


@dataclass
class _Parser:
    text: str
    at: int = 0
    any_case: bool = False
    dot_is_all: bool = False
    depth: int = 0

    def error(self, problem: str) -> RegexError:
        return RegexError(f"the pattern '{self.text}' at character {self.at}: {problem}")

    def peek(self, count: int = 1) -> str:
        return self.text[self.at:self.at + count]

    def take(self) -> str:
        if self.at >= len(self.text):
            raise self.error("ends too early")
        self.at += 1
        return self.text[self.at - 1]

    def accept(self, token: str) -> bool:
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def parse(self) -> _Node:
        node = self.alternation()
        if self.at < len(self.text):
            raise self.error("an unmatched )")
        return node

    def alternation(self) -> _Node:
        self.depth += 1
        if self.depth > 100:  # Python's own stack ends some way beyond
            raise self.error("more than 100 groups inside one another")
        flags = self.any_case, self.dot_is_all
        options = [self.sequence()]
        while self.accept("|"):
            options.append(self.sequence())
        self.any_case, self.dot_is_all = flags
        self.depth -= 1
        return options[0] if len(options) == 1 else _Either(tuple(options))

    def sequence(self) -> _Node:
        parts: list[_Node] = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.repeated(self.atom()))
        return parts[0] if len(parts) == 1 else _Sequence(tuple(parts))

    def repeated(self, node: _Node) -> _Node:
        bounds = self.bounds()
        if bounds is None:
            return node
        self.accept("?")  # lazily: another match is preferred, but the same strings match
        if self.bounds() is not None:
            raise self.error("one repetition after another; write (?:...) around the first")
        return _Repeat(node, *bounds)

    def bounds(self) -> tuple[int, int | None] | None:
        for token, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self.accept(token):
                return least, most
        end = self.text.find("}", self.at)
        if self.peek() != "{" or end < 0:
            return None
        low, comma, high = self.text[self.at + 1:end].partition(",")
        if not low.isdecimal() or not (high.isdecimal() or not high):
            return None  # braces that are no repetition stand for themselves
        self.at = end + 1
        least = int(low)
        limit = None if comma and not high else int(high or low)
        if max(least, limit or 0) > _MOST_REPEATS or (limit is not None and limit < least):
            raise self.error(f"a repetition of {low}{comma}{high}; it can be up to {_MOST_REPEATS}, the least first")
        return least, limit

    def atom(self) -> _Node:
        c = self.take()
        if c == "(":
            return self.group()
        if c == "[":
            return self.set_of(self.bracket())
        if c == ".":
            return _Set(((0, _LAST),) if self.dot_is_all else complement(((10, 10),)))
        if c in "^$":
            return _Assert(START if c == "^" else END)
        if c in "*+?":
            self.at -= 1
            raise self.error(f"nothing to repeat before {c}")
        if c == "\\" and self.peek() in _ASSERTIONS:
            return _Assert(_ASSERTIONS[self.take()])
        return self.set_of(self.escape() if c == "\\" else ((ord(c), ord(c)),))

    def set_of(self, ranges: Ranges) -> _Node:
        return _Set(_in_any_case(ranges) if self.any_case else ranges)

    def group(self) -> _Node:
        before = self.any_case, self.dot_is_all
        if self.accept("?"):
            if self.accept("P<") or (self.peek() == "<" and self.peek(2) not in ("<=", "<!")):
                end = self.text.find(">", self.at)
                if end < 0:
                    raise self.error("the name of a group does not end")
                self.at = end + 1
            elif self.peek() in ("=", "!", "<", "P", "("):
                raise self.error("looking around, conditions and references take more than linear time: they are not supported")
            elif self.flags() == ")":
                return _Sequence(())  # flags for what follows in the group around them
        node = self.alternation()
        self.any_case, self.dot_is_all = before
        if not self.accept(")"):
            raise self.error("a group does not end")
        return node

    def flags(self) -> str:
        """Reads ``i``, ``s`` and ``-``, and returns what ended them."""
        value = True
        while (c := self.take()) not in ":)":
            if c == "i":
                self.any_case = value
            elif c == "s":
                self.dot_is_all = value
            elif c == "-" and value:
                value = False
            else:
                raise self.error(f"the flag '{c}' is not supported; i and s are")
        return c

    def bracket(self) -> Ranges:
        negated = self.accept("^")
        found: Ranges = ()
        first = True
        while first or self.peek() != "]":
            first = False
            if self.accept("[:"):
                found = union(found, self.posix())
                continue
            low = self.member()
            if self.peek() == "-" and self.peek(2) not in ("-", "-]") and len(low) == 1 and low[0][0] == low[0][1]:
                self.at += 1
                high = self.member()
                if len(high) != 1 or high[0][0] != high[0][1] or high[0][0] < low[0][0]:
                    raise self.error("a range that does not ascend")
                low = ((low[0][0], high[0][0]),)
            found = union(found, low)
        self.at += 1
        if self.any_case:
            found = _in_any_case(found)
        return complement(found) if negated else found

    def posix(self) -> Ranges:
        end = self.text.find(":]", self.at)
        name = self.text[self.at:end] if end >= 0 else ""
        ranges = _POSIX.get(name.lstrip("^"))
        if ranges is None:
            raise self.error(f"there is no class '[:{name}:]'")
        self.at = end + 2
        return complement(ranges) if name.startswith("^") else ranges

    def member(self) -> Ranges:
        c = self.take()
        return self.escape() if c == "\\" else ((ord(c), ord(c)),)

    def escape(self) -> Ranges:
        c = self.take()
        if c.lower() in _PERL:
            return _PERL[c] if c.islower() else complement(_PERL[c.lower()])
        if c in _CONTROLS:
            return ((_CONTROLS[c], _CONTROLS[c]),)
        if c in "pP":
            return self.category(c == "P")
        if c == "x":
            digits = self.text[self.at + 1:self.text.find("}", self.at)] if self.peek() == "{" else self.peek(2)
            self.at += len(digits) + (2 if self.peek() == "{" else 0)
            try:
                code = int(digits, 16)
            except ValueError:
                code = _LAST + 1
            if code > _LAST:
                raise self.error("\\x is followed by two digits, or by up to six in braces")
            return ((code, code),)
        if c.isdecimal() or c.isalpha():
            raise self.error(f"\\{c} is not supported" + ("; references back take more than linear time" if c.isdecimal() else ""))
        return ((ord(c), ord(c)),)

    def category(self, negated: bool) -> Ranges:
        name = self.take()
        if name == "{":
            end = self.text.find("}", self.at)
            name = self.text[self.at:end]
            self.at = end + 1
        negated ^= name.startswith("^")
        ranges = _category(name.lstrip("^")) if 0 < len(name.lstrip("^")) <= 2 else ()
        if not ranges:
            raise self.error(f"there is no general category '{name}'; scripts are not supported")
        return complement(ranges) if negated else ranges


@dataclass
class _Emitter:
    code: list[tuple[int, int, int]] = field(default_factory=list)
    ranges: list[tuple[int, int]] = field(default_factory=list)
    _known: dict[Ranges, int] = field(default_factory=dict)

    def add(self, op: int, a: int = 0, b: int = 0) -> int:
        if len(self.code) >= _MOST_INSTRUCTIONS:
            raise RegexError(f"the pattern takes more than {_MOST_INSTRUCTIONS} steps: its repetitions multiply")
        self.code.append((op, a, b))
        return len(self.code) - 1

    def emit(self, node: _Node) -> None:
        if isinstance(node, _Set):
            if node.ranges not in self._known:
                self._known[node.ranges] = len(self.ranges)
                self.ranges += node.ranges
            self.add(CHARACTER, self._known[node.ranges], len(node.ranges))
        elif isinstance(node, _Assert):
            self.add(ASSERT, node.kind)
        elif isinstance(node, _Sequence):
            for part in node.parts:
                self.emit(part)
        elif isinstance(node, _Either):
            self.either(node.options)
        else:
            self.repeat(node)

    def either(self, options: Sequence[_Node]) -> None:
        jumps = []
        for option in options[:-1]:
            split = self.add(SPLIT)
            self.emit(option)
            jumps.append(self.add(JUMP))
            self.code[split] = (SPLIT, split + 1, len(self.code))
        self.emit(options[-1])
        for jump in jumps:
            self.code[jump] = (JUMP, len(self.code), 0)

    def repeat(self, node: _Repeat) -> None:
        for _ in range(node.least):
            self.emit(node.part)
        if node.most is None:
            split = self.add(SPLIT)
            self.emit(node.part)
            self.add(JUMP, split)
            self.code[split] = (SPLIT, split + 1, len(self.code))
            return
        splits = []
        for _ in range(node.most - node.least):
            splits.append(self.add(SPLIT))
            self.emit(node.part)
        for split in splits:
            self.code[split] = (SPLIT, split + 1, len(self.code))
