"""Operators on tensors of strings. Those that only move elements are a list in the registry."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.ops.cast import convert, dtype_of, to_strings
from ingot.importer.ops.indexing import scatter_elements as scatter_elements_of_numbers
from ingot.importer.ops.indexing import scatter_nd as scatter_nd_of_numbers
from ingot.importer.ops.indexing import unique as unique_numbers
from ingot.importer.ops.move import _pad as pad_by
from ingot.importer.ops.move import broadcast_to, concat
from ingot.importer.regex import RegexError, compile_pattern
from ingot.importer.registry import onnx_op
from ingot.importer.values import Value
from ingot.importer.weights import STRING, numpy_dtype

_CASES = {"NONE": 0, "LOWER": 1, "UPPER": 2}
_MODES = {"TF": 0, "IDF": 1, "TFIDF": 2}


def strings(cx: Context, values: Sequence[str] | str) -> Value:
    """A constant of strings."""
    return cx.constant(np.asarray(values, object))


def pick(cx: Context, table: Value, places: Value) -> Value:
    """The elements of a 1-D tensor of any type at int64 ``places``, which must be within it."""

    def compute(t: te.Tensor, at: te.Tensor) -> te.Tensor:
        return te.compute(at.shape, lambda *i: t(at(*i)), name="pick")

    return cx.wrap(cx.te(compute, table, places, name="pick"))


def _broadcast(cx: Context, a: Value, b: Value) -> tuple[Value, Value]:
    if a.dtype != STRING or b.dtype != STRING:
        raise cx.error("one input holds strings, the other does not")
    shape = cx.broadcast_shape(a.shape, b.shape)

    def spread(x: Value) -> Value:
        same = len(x.shape) == len(shape) and all(dims.equal(p, q) for p, q in zip(x.shape, shape, strict=True))
        return x if same else broadcast_to(cx, x, shape)

    return spread(a), spread(b)


@onnx_op("Equal", since=19, strings=True)
def equal(cx: Context, a: Value, b: Value) -> Value:
    a, b = _broadcast(cx, a, b)
    return cx.wrap(cx.kernel("string_equal", [a, b], [(a.shape, "bool")]))


@onnx_op("StringConcat", since=20, strings=True)
def string_concat(cx: Context, a: Value, b: Value) -> Value:
    a, b = _broadcast(cx, a, b)
    return cx.wrap(cx.kernel("string_concat", [a, b], [(a.shape, STRING)]))


@onnx_op("StringSplit", since=20, strings=True)
def string_split(cx: Context, x: Value, *, delimiter: str = "", maxsplit: int | None = None) -> tuple[Value, ...]:
    given = [x, strings(cx, delimiter)] if delimiter else [x]
    parts: tuple[Value, ...] = cx.kernel("string_split", given, [([*x.shape, None], STRING), (x.shape, "int64")],
                                         ints=[-1 if maxsplit is None else maxsplit])
    return parts


@onnx_op("StringNormalizer", since=10, strings=True)
def string_normalizer(cx: Context, x: Value, *, case_change_action: str = "NONE", is_case_sensitive: int = 0, locale: str = "",
                      stopwords: list[str] | None = None) -> Value:
    if case_change_action not in _CASES:
        raise cx.error(f"case_change_action is '{case_change_action}'; it is {', '.join(_CASES)}")
    if x.ndim not in (1, 2) or (x.ndim == 2 and not dims.equal(x.shape[0], 1) and stopwords):
        raise cx.error(f"takes strings of shape [n] or [1, n], not {dims.text(x.shape)}")
    case = _CASES[case_change_action]
    if not stopwords:  # nothing is taken out: each string by itself
        flat = cx.reshape(x, [dims.product(x.shape)])
        return cx.reshape(cx.wrap(cx.kernel("string_normalize", [flat], [(flat.shape, STRING)], ints=[case, 1])), x.shape)
    words = cx.reshape(x, [x.shape[-1]])
    kept = cx.wrap(cx.kernel("string_normalize", [words, strings(cx, stopwords)], [([None], STRING)], ints=[case, is_case_sensitive]))
    return kept if x.ndim == 1 else cx.reshape(kept, [1, kept.shape[0]])


def pattern_values(cx: Context, pattern: str) -> list[Value]:
    """The program of a regular expression as constants."""
    try:
        program = compile_pattern(pattern)
    except RegexError as error:
        raise cx.error(str(error)) from None
    return [cx.constant(program.instructions), cx.constant(program.ranges)]


@onnx_op("RegexFullMatch", since=20, strings=True)
def regex_full_match(cx: Context, x: Value, *, pattern: str) -> Value:
    return cx.wrap(cx.kernel("regex_full_match", [x, *pattern_values(cx, pattern)], [(x.shape, "bool")]))


@onnx_op("Tokenizer", domain="com.microsoft", strings=True)
def tokenizer(cx: Context, x: Value, *, mark: int, mincharnum: int, pad_value: str, separators: list[str] | None = None,
              tokenexp: str | None = None) -> Value:
    if bool(separators) == bool(tokenexp):
        raise cx.error("takes either separators or tokenexp")
    between = not tokenexp
    # An empty separator asks for characters.
    pattern = tokenexp or ("(?s:.)" if separators == [""] else "|".join(f"(?:{s})" for s in separators or []))
    between = between and separators != [""]
    return cx.wrap(cx.kernel("tokenize", [x, *pattern_values(cx, pattern), strings(cx, pad_value)], [([*x.shape, None], STRING)],
                             ints=[between, mincharnum, mark]))


@onnx_op("Cast", since=9, strings=True)
def cast_strings(cx: Context, x: Value, *, to: int, saturate: int = 1, round_mode: str = "up") -> Value:
    return from_strings(cx, x, dtype_of(cx, to))


@onnx_op("CastLike", since=15, strings=True)
def cast_like(cx: Context, x: Value, like: Value, *, saturate: int = 1, round_mode: str = "up") -> Value:
    return from_strings(cx, x, like.dtype) if x.dtype == STRING else to_strings(cx, x)


def from_strings(cx: Context, x: Value, dtype: str) -> Value:
    """The numbers that strings say, in a dtype."""
    if dtype == STRING:
        return x
    direct = numpy_dtype(dtype).kind in "biu" or dtype in ("float16", "float32", "float64", "bfloat16")
    number = cx.wrap(cx.kernel("string_to_number", [x], [(x.shape, dtype if direct else "float32")]))
    return convert(cx, number, dtype)


@onnx_op("Unique", since=11, strings=True)
def unique(cx: Context, x: Value, *, axis: int | None = None, sorted: int = 1) -> tuple[Value, ...]:
    ranks, different = cx.kernel("string_rank", [x], [(x.shape, "int64"), ([None], STRING)])
    values, *others = unique_numbers(cx, ranks, axis=axis, sorted=sorted)
    return (pick(cx, different, values), *others)


@onnx_op("Pad", since=11, strings=True)
def pad(cx: Context, x: Value, pads: Value, value: Value | None = None, axes: Value | None = None, *, mode: str = "constant") -> Value:
    return pad_by(cx, x, cx.dims(pads, "pads"), [a % x.ndim for a in cx.ints(axes, "axes") or range(x.ndim)], mode,
                  tirx.const(0, STRING), value)  # all bits 0 are an empty string


@onnx_op("ScatterElements", since=11, strings=True)
def scatter_elements(cx: Context, x: Value, indices: Value, updates: Value, *, axis: int = 0, reduction: str = "none") -> Value:
    return _scattered(cx, x, updates, reduction, lambda old, new: scatter_elements_of_numbers(cx, old, indices, new, axis=axis))


@onnx_op("ScatterND", since=11, strings=True)
def scatter_nd(cx: Context, x: Value, indices: Value, updates: Value, *, reduction: str = "none") -> Value:
    return _scattered(cx, x, updates, reduction, lambda old, new: scatter_nd_of_numbers(cx, old, indices, new))


def _scattered(cx: Context, x: Value, updates: Value, reduction: str, scatter: Callable[[Value, Value], Value]) -> Value:
    """Scatters where elements are to be found, in x or behind it in the updates, and picks them."""
    if reduction != "none" or updates.dtype != STRING:
        raise cx.error("strings are replaced by strings, and not reduced")
    flat = [cx.reshape(v, [dims.product(v.shape)]) for v in (x, updates)]

    def counted(shape: Sequence[dims.Dim], first: dims.Dim) -> Value:
        count = dims.product(shape)
        numbers = cx.te(lambda: te.compute([dims.expr(count)], lambda i: i + dims.expr(first), name="places"), name="places")
        return cx.reshape(cx.wrap(numbers), shape)

    places = scatter(counted(x.shape, 0), counted(updates.shape, flat[0].shape[0]))
    return pick(cx, concat(cx, *flat, axis=0), cx.wrap(places))


@onnx_op("TfIdfVectorizer", since=9, strings=True)
def tfidf_strings(cx: Context, x: Value, *, max_gram_length: int, max_skip_count: int, min_gram_length: int, mode: str, ngram_counts: list[int],
                  ngram_indexes: list[int], pool_int64s: list[int] | None = None, pool_strings: list[str] | None = None,
                  weights: list[float] | None = None) -> Value:
    if not pool_strings:
        raise cx.error("the input holds strings, but the pool does not")
    grams = _Grams(cx, [s.encode() for s in pool_strings], ngram_counts, ngram_indexes)
    vocabulary = strings(cx, [w.decode() for w in grams.words])
    return grams.count(cx, x, vocabulary, mode, min_gram_length, max_gram_length, max_skip_count, weights)


@onnx_op("TfIdfVectorizer", since=9)
def tfidf(cx: Context, x: Value, *, max_gram_length: int, max_skip_count: int, min_gram_length: int, mode: str, ngram_counts: list[int],
          ngram_indexes: list[int], pool_int64s: list[int] | None = None, pool_strings: list[str] | None = None,
          weights: list[float] | None = None) -> Value:
    if not pool_int64s:
        raise cx.error(f"the input holds {x.dtype}, but the pool does not")
    grams = _Grams(cx, pool_int64s, ngram_counts, ngram_indexes)
    return grams.count(cx, cx.cast(x, "int64"), cx.constant(grams.words, "int64"), mode, min_gram_length, max_gram_length, max_skip_count, weights)


class _Grams:
    """The n-grams of a pool as a tree: ``edges`` rows (node, word, column) lead to node row + 1, in the kernel's order."""

    def __init__(self, cx: Context, pool: Sequence[bytes] | Sequence[int], counts: Sequence[int], columns: Sequence[int]) -> None:
        self.words: list[Any] = sorted(set(pool))  # all of one type
        self.columns = max(columns, default=-1) + 1
        number = {word: i for i, word in enumerate(self.words)}
        paths: dict[tuple[int, ...], int] = {}  # to a column, or -1 for what only leads further
        bounds = [*counts, len(pool)]
        if any(a > b or a < 0 for a, b in itertools.pairwise(bounds)):
            raise cx.error(f"ngram_counts {list(counts)} do not divide a pool of {len(pool)}")
        gram = 0
        for length, (begin, end) in enumerate(itertools.pairwise(bounds), 1):
            if (end - begin) % length or gram + (end - begin) // length > len(columns):
                raise cx.error(f"{end - begin} words of the pool are no {length}-grams for ngram_indexes of {len(columns)}")
            for start in range(begin, end, length):
                path = tuple(number[w] for w in pool[start:start + length])
                for prefix in range(1, length):
                    paths.setdefault(path[:prefix], -1)
                paths[path] = columns[gram]
                gram += 1
        nodes: dict[tuple[int, ...], int] = {(): 0}
        self.edges: list[tuple[int, int, int]] = []
        for path in sorted(paths, key=lambda p: (len(p), p)):  # level by level, so that rows ascend
            self.edges.append((nodes[path[:-1]], path[-1], paths[path]))
            nodes[path] = len(self.edges)

    def count(self, cx: Context, x: Value, vocabulary: Value, mode: str, least: int, most: int, skipped: int, weights: list[float] | None) -> Value:
        """Emits the kernel."""
        if mode not in _MODES:
            raise cx.error(f"mode is '{mode}'; it is {', '.join(_MODES)}")
        if x.ndim not in (1, 2):
            raise cx.error(f"takes words of shape [n] or [b, n], not {dims.text(x.shape)}")
        if weights and len(weights) != self.columns:
            raise cx.error(f"there are {len(weights)} weights for {self.columns} columns")
        edges = cx.constant(np.asarray(self.edges, np.int64).reshape(-1, 3))
        given = [x, vocabulary, edges, *([cx.constant(weights, "float32")] if weights else [])]
        return cx.wrap(cx.kernel("tfidf", given, [([*x.shape[:-1], self.columns], "float32")], ints=[_MODES[mode], least, most, skipped]))
