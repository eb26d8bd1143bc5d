"""Kernels on strings against Python's own: re, str.split, str.lower, sorted."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ingot
from ingot.errors import ExecutionError
from ingot.importer.regex import RegexError, compile_pattern
from tests.runtime.assemble import Artifact

few = settings(max_examples=200, deadline=None, derandomize=True)
letters = st.text("abc", max_size=8)
anything = st.lists(st.text(max_size=6), max_size=6)  # all of Unicode but surrogates, which no UTF-8 has


def array(values: Any) -> np.ndarray:
    result = np.empty(len(values), object)
    result[:] = values
    return result


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Models of one kernel each, by what they do: all that a kernel takes are inputs."""
    loaded: dict[str, ingot.Model] = {}

    def load(name: str, inputs: list[tuple[str, list[Any]]], *outputs: tuple[str, list[Any]], ints: tuple[int, ...] = ()) -> ingot.Model:
        key = f"{name}{inputs}{outputs}{ints}"
        if key not in loaded:
            symbols = [d for _, shape in inputs for d in shape if isinstance(d, str)]
            artifact = Artifact(dims=list(dict.fromkeys(symbols)))
            main = artifact.main
            results = main.kernel(name, [main.input(*i) for i in inputs], *outputs, ints=ints)
            main.outputs = results if isinstance(results, list) else [results]
            loaded[key] = artifact.load(tmp_path_factory.mktemp(name))
        return loaded[key]

    return load


PROGRAM: list[tuple[str, list[Any]]] = [("string", ["n"]), ("int64", ["k", 3]), ("int64", ["r", 2])]


def full_match(kernels: Any, pattern: str, texts: list[str]) -> list[bool]:
    program = compile_pattern(pattern)
    model = kernels("regex_full_match", PROGRAM, ("bool", ["n"]))
    return [bool(b) for b in model.run([array(texts), program.instructions, program.ranges])["y0"]]


atoms = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", "\\w", "\\b", "^", "$", "(?i:A)", "\\x61", "[a-b-]", "[]a]"])
patterns = st.recursive(atoms, lambda inner: st.one_of(
    st.tuples(inner, inner).map("".join), st.tuples(inner, inner).map("|".join).map("(?:{})".format),
    st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,}", "*?", "+?"])).map(lambda t: f"({t[0]}){t[1]}")), max_leaves=8)


@few
@given(pattern=patterns, texts=st.lists(letters, min_size=1, max_size=8))
@example(pattern="(a*)*b", texts=["aab", "b", "a"])
def test_a_pattern_matches_what_pythons_re_matches(kernels: Any, pattern: str, texts: list[str]) -> None:
    assert full_match(kernels, pattern, texts) == [re.fullmatch(pattern.replace("$", "\\Z"), t) is not None for t in texts]


@pytest.mark.parametrize(("pattern", "matching", "other"), [
    (r"\pL+\d*", "Ünï42", "4a"), (r"[[:upper:][:digit:]_]+", "A_1", "a"), (r"(?i)straße", "STRAßE", "STRASSE"), (r"(?s).+", "a\nb", ""),
    (r"(?i:a(b)(?-i:C))D", "aBCD", "abcd"), (r"\x{1F600}?\.", "😀.", "😀😀."), (r"[^\W\d]+", "abc", "a1"), (r"(?P<user>\w+)@\w+", "a@b", "a@"),
    (r"\Bx|\Bé", "é", "x"), (r"a{,2}", "a{,2}", "a"),
])
def test_the_syntax_is_that_of_re2(kernels: Any, pattern: str, matching: str, other: str) -> None:
    assert full_match(kernels, pattern, [matching, other]) == [True, False]


@pytest.mark.parametrize(("pattern", "why"), [
    (r"(a)\1", "more than linear time"), ("(?=a)b", "more than linear time"), ("(?<!a)b", "more than linear time"), ("(?m)^a", "flag 'm'"),
    ("a**", "one repetition after another"), ("*a", "nothing to repeat"), ("(a", "does not end"), ("a)", "unmatched"), ("[a", "ends too early"),
    ("a{2,1}", "up to 1000"), ("x{1001}", "up to 1000"), ("((x{100}){100}){100}", "repetitions multiply"), (r"\p{Greek}", "scripts"),
    (r"\Qa\E", r"\Q is not supported"), ("[b-a]", "does not ascend"), ("[[:no:]]", "no class"), ("(" * 200, "inside one another"), ("\\", "ends too"),
])
def test_what_a_pattern_may_not_hold_is_named_while_compiling(pattern: str, why: str) -> None:
    with pytest.raises(RegexError, match=re.escape(why)):
        compile_pattern(pattern)


@few
@given(pattern=st.text("ab[](){}*+?|\\^$.:-,12pLx", max_size=10))
def test_any_pattern_is_compiled_or_refused(pattern: str) -> None:
    with contextlib.suppress(RegexError):
        assert compile_pattern(pattern).instructions[-1].tolist() == [0, 0, 0]


@few
@given(rows=st.lists(st.tuples(st.integers(-1, 6), st.integers(-2, 9), st.integers(-2, 9)), min_size=1, max_size=8),
       texts=st.lists(letters, max_size=3))
def test_a_damaged_program_gives_an_error_or_an_answer(kernels: Any, rows: list[tuple[int, int, int]], texts: list[str]) -> None:
    model = kernels("regex_full_match", PROGRAM, ("bool", ["n"]))
    with contextlib.suppress(ExecutionError):
        assert len(model.run([array(texts), np.array([*rows, (0, 0, 0)], np.int64), np.array([[97, 98], [120, 121]])])["y0"]) == len(texts)


def test_a_pattern_that_backtracking_never_ends_on_takes_linear_time(kernels: Any) -> None:
    assert full_match(kernels, "(a*)*(a|aa)+b", ["a" * 20_000, "a" * 20_000 + "b"]) == [False, True]


@few
@given(texts=st.lists(st.text("ab1 ,é", max_size=12), max_size=5), least=st.integers(1, 2), between=st.booleans())
def test_tokens_are_the_longest_matches_or_what_lies_between(kernels: Any, texts: list[str], least: int, between: bool) -> None:
    program = compile_pattern("a|ab|[ab1é]+[1]" if not between else "[ ,]+")
    model = kernels("tokenize", [*PROGRAM, ("string", [])], ("string", ["n", "m"]), ints=(int(between), least, 0))
    found = model.run([array(texts), program.instructions, program.ranges, np.array("#", object)])["y0"]
    expected = [[t for t in (re.split("[ ,]+", text) if between else re.findall("[ab1é]+1|ab|a", text)) if len(t) >= least] for text in texts]
    assert [[t for t in row if t != "#"] for row in found.tolist()] == expected
    assert found.shape[1] == max(map(len, expected), default=0)


@few
@given(texts=anything, delimiter=st.sampled_from(["", "a", "ab", " ", "é"]), most=st.integers(-1, 3), filler=st.text("ab é\u2003", max_size=9))
def test_strings_split_as_pythons_do(kernels: Any, texts: list[str], delimiter: str, most: int, filler: str) -> None:
    texts = [*texts, filler]
    model = kernels("string_split", [("string", ["n"]), ("string", [])], ("string", ["n", "m"]), ("int64", ["n"]), ints=(most,))
    parts, counts = model.run([array(texts), np.array(delimiter, object)]).values()
    expected = [t.split(delimiter or None, most) for t in texts]
    assert counts.tolist() == [len(e) for e in expected]
    assert parts.tolist() == [e + [""] * (max(map(len, expected)) - len(e)) for e in expected]


def cased(text: str, change: Any) -> str:
    """Characters whose mapping is several stay, and a sigma is one wherever it stands."""
    return "".join(changed if len(changed := change(c)) == 1 else c for c in text)


@few
@given(texts=anything, case=st.integers(0, 2), exact=st.booleans(), stopwords=st.lists(st.text(max_size=2), max_size=3))
@example(texts=["ÀÉ", "straße", "ΣΑΣ", "ⅷ", "ꭰ", "𐐀"], case=1, exact=False, stopwords=["àé"])
@example(texts=["ÀÉ", "straße", "ŉ", "ⅷ", "ꭰ", "𐐨"], case=2, exact=True, stopwords=["ⅷ"])
def test_words_are_normalized(kernels: Any, texts: list[str], case: int, exact: bool, stopwords: list[str]) -> None:
    model = kernels("string_normalize", [("string", ["n"]), ("string", ["k"])], ("string", ["m"]), ints=(case, int(exact)))
    found = model.run([array(texts), array(stopwords)])["y0"].tolist()
    key = (lambda t: t) if exact else (lambda t: cased(t, str.lower))
    kept = [t for t in texts if key(t) not in {key(s) for s in stopwords}]
    change = (str, str.lower, str.upper)[case]
    assert found == ([cased(t, change) for t in kept] or ([""] if stopwords else []))


def test_every_character_has_its_case(kernels: Any) -> None:
    text = [chr(c) for c in range(0x11000) if not 0xD800 <= c < 0xE000]
    for case, change in ((1, str.lower), (2, str.upper)):
        model = kernels("string_normalize", [("string", ["n"])], ("string", ["m"]), ints=(case, 1))
        assert model.run([array(text)])["y0"].tolist() == [cased(c, change) for c in text]


@few
@given(texts=anything, keys=st.lists(st.text(max_size=3), max_size=5))
def test_places_among_sorted_strings(kernels: Any, texts: list[str], keys: list[str]) -> None:
    texts, keys = texts + keys[:1], sorted(set(keys), key=str.encode)
    lookup = kernels("string_lookup", [("string", ["n"]), ("string", ["k"])], ("int64", ["n"]))
    assert lookup.run([array(texts), array(keys)])["y0"].tolist() == [keys.index(t) if t in keys else len(keys) for t in texts]
    ranks, different = kernels("string_rank", [("string", ["n"])], ("int64", ["n"]), ("string", ["m"])).run([array(texts)]).values()
    assert different.tolist() == sorted(set(texts), key=str.encode)
    assert different[ranks].tolist() == texts


@few
@given(values=st.lists(st.floats(allow_nan=True), max_size=5))
def test_numbers_survive_as_text(kernels: Any, values: list[float]) -> None:
    numbers = np.array(values, np.float64)
    text = kernels("number_to_string", [("float64", ["n"])], ("string", ["n"])).run([numbers])["y0"]
    back = kernels("string_to_number", [("string", ["n"])], ("float64", ["n"])).run([text])["y0"]
    np.testing.assert_array_equal(back, numbers)


@pytest.mark.parametrize(("dtype", "text", "number"), [
    ("int64", " -17\n", -17), ("int64", "9223372036854775807", 2**63 - 1), ("uint8", "+255", 255), ("float32", "-.5e1", -5.0),
    ("float32", "1e-60", 0.0),
    ("float64", "." + "0" * 400 + "1e2", 0.0),
    ("float64", "1" + "0" * 400 + "e-2", np.inf), ("float64", "0.001e400", np.inf), ("float64", "-12e-99999999999999999999", 0.0),
    ("float32", "-1e60", -np.inf), ("float32", "Infinity", np.inf), ("float16", "0.1", np.float16(0.1)), ("bool", "True", True), ("bool", "0", False),
])
def test_text_becomes_a_number(kernels: Any, dtype: str, text: str, number: Any) -> None:
    found = kernels("string_to_number", [("string", ["n"])], (dtype, ["n"])).run([array([text])])["y0"]
    assert found.dtype == np.dtype(dtype)
    assert found[0] == number


@pytest.mark.parametrize(("dtype", "text"), [("int64", "1.5"), ("int64", "9223372036854775808"), ("uint8", "-1"), ("uint8", "256"), ("float32", ""),
                                             ("float32", "1 2"), ("float32", "+-1"), ("bool", "yes"), ("float32", "0x10"), ("float64", "x" * 100)])
def test_text_that_says_no_number_is_shown(kernels: Any, dtype: str, text: str) -> None:
    model = kernels("string_to_number", [("string", ["n"])], (dtype, ["n"]))
    with pytest.raises(ExecutionError, match="is not text of " + dtype) as caught:
        model.run([array(["1", text])])
    assert f"'{text[:60]}" in str(caught.value)


@pytest.mark.parametrize(("name", "inputs", "outputs", "ints"), [
    ("string_equal", [("int64", ["n"]), ("string", ["n"])], [("bool", ["n"])], ()),
    ("string_concat", [("string", ["n"]), ("string", ["m"])], [("string", ["n"])], ()),
    ("string_concat", [("string", ["n"]), ("string", ["n"])], [("float64", ["n"])], ()),
    ("string_lookup", [("string", ["n"]), ("string", ["n"])], [("int32", ["n"])], ()),
    ("string_normalize", [("string", ["n", "m"])], [("string", ["n", "m"])], (0, 0)),
    ("tfidf", [("int64", ["n"]), ("string", ["m"]), ("int64", ["k", 3])], [("float32", [4])], (0, 1, 1, 0)),
    ("tfidf", [("string", ["n"]), ("string", ["m"]), ("int64", ["k", 2])], [("float32", [4])], (0, 1, 1, 0)),
])
def test_a_kernel_refuses_what_it_is_not_made_for(tmp_path: Path, name: str, inputs: Any, outputs: Any, ints: tuple[int, ...]) -> None:
    artifact = Artifact(dims=["n", "m", "k"])
    artifact.main.outputs = [artifact.main.kernel(name, [artifact.main.input(*i) for i in inputs], *outputs, ints=ints)]
    extents = {"n": 2, "m": 3, "k": 4}
    given_ = [np.zeros([d if isinstance(d, int) else extents[d] for d in shape], dtype) if dtype != "string"
              else np.full([d if isinstance(d, int) else extents[d] for d in shape], "a", object) for dtype, shape in inputs]
    with pytest.raises(ExecutionError):
        artifact.load(tmp_path).run(given_)
