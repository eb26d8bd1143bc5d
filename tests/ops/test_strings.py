"""Operators on strings against NumPy, Python and ONNX's reference evaluator, with symbolic extents."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from ingot.backend import IngotBackendRep, prepare
from ingot.errors import CompileError, ExecutionError, UnsupportedError

few = settings(max_examples=25, deadline=None, derandomize=True)
words = st.text("aBü😀", max_size=3)


def compiled(graph: str, opset: int = 21) -> IngotBackendRep:
    """A model from a graph in ONNX's textual syntax."""
    return prepare(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}, "ai.onnx.ml": 4, "com.microsoft": 1]>\n{graph}'))


def strings(values: Any) -> np.ndarray:
    """An array of str, however nested."""
    return np.array(values, object)


def table(rows: int, columns: int) -> np.ndarray:
    return np.array([[f"{r}·{c}" for c in range(columns)] for r in range(rows)], object).reshape(rows, columns)


#: A graph from x [n, m] (and other inputs) to y, the other inputs for n rows, and what NumPy makes of it.
MOVES: dict[str, tuple[str, Any, Any]] = {
    "Transpose": ("(string[n, m] x) => (string[m, n] y) { y = Transpose<perm = [1, 0]>(x) }", lambda n: (), lambda x: x.T),
    "Gather": ("(string[n, m] x, int64[k] i) => (string[k, m] y) { y = Gather(x, i) }", lambda n: (np.array([-1, 0, 0]),), lambda x, i: x[i]),
    "GatherElements": ("(string[n, m] x, int64[n, m] i) => (string[n, m] y) { y = GatherElements<axis = 1>(x, i) }",
                       lambda n: (np.zeros((n, 5), np.int64),), lambda x, i: np.take_along_axis(x, i, 1)),
    "GatherND": ("(string[n, m] x, int64[k, 2] i) => (string[k] y) { y = GatherND(x, i) }", lambda n: (np.array([[0, 1], [n - 1, 4]]),),
                 lambda x, i: x[tuple(i.T)]),
    "Concat": ("(string[n, m] x) => (string[p, m] y) { y = Concat<axis = 0>(x, x, x) }", lambda n: (), lambda x: np.concatenate([x, x, x])),
    "Slice": ("(string[n, m] x) => (string[p, m] y) { s = Constant<value_ints = [-1]>() e = Constant<value_ints = [-100]>() a = Constant<value_ints "
              "= [0]>() y = Slice(x, s, e, a, s) }", lambda n: (), lambda x: x[::-1]),
    "Tile": ("(string[n, m] x, int64[2] r) => (string[p, q] y) { y = Tile(x, r) }", lambda n: (np.array([2, 3]),), np.tile),
    "Expand": ("(string[n, m] x) => (string[2, n, m] y) { s = Constant<value_ints = [2, 1, 1]>() y = Expand(x, s) }", lambda n: (),
               lambda x: np.stack([x, x])),
    "Where": ('(string[n, m] x, bool[n, m] c) => (string[n, m] y) { o = Constant<value_string = "other">() y = Where(c, x, o) }',
              lambda n: (np.arange(5 * n).reshape(n, 5) % 3 == 0,), lambda x, c: np.where(c, x, "other")),
    "Reshape": ("(string[n, m] x) => (string[p] y) { s = Constant<value_ints = [-1]>() y = Reshape(x, s) }", lambda n: (), lambda x: x.ravel()),
    "Compress": ("(string[n, m] x, bool[n] c) => (string[p, m] y) { y = Compress<axis = 0>(x, c) }", lambda n: (np.arange(n) % 2 == 0,),
                 lambda x, c: x[c]),
    "Split": ("(string[n, m] x) => (string[n, 3] y, string[n, 2] z) { s = Constant<value_ints = [3, 2]>() y, z = Split<axis = 1>(x, s) }",
              lambda n: (), lambda x: x[:, :3]),
    "ArrayFeatureExtractor": ("(string[n, m] x, int64[k] i) => (string[n, k] y) { y = ai.onnx.ml.ArrayFeatureExtractor(x, i) }",
                              lambda n: (np.array([4, 0]),), lambda x, i: x[:, i]),
    "Pad": ('(string[n, m] x) => (string[p, q] y) { p = Constant<value_ints = [1, 0, 0, 2]>() v = Constant<value_string = "·">() y = Pad(x, p, v) }',
            lambda n: (), lambda x: np.pad(x, ((1, 0), (0, 2)), constant_values="·")),
    "Pad with nothing": ("(string[n, m] x, int64[4] p) => (string[p, q] y) { y = Pad(x, p) }", lambda n: (np.array([0, 1, 2, 0]),),
                         lambda x, p: np.pad(x, ((0, 2), (1, 0)), constant_values="")),
    "ScatterND": ("(string[n, m] x, int64[k, 1] i, string[k, m] u) => (string[n, m] y) { y = ScatterND(x, i, u) }",
                  lambda n: (np.array([[n - 1]]), strings([list("abcde")])), lambda x, i, u: np.concatenate([x[:-1], u])),
    "ScatterElements": ("(string[n, m] x, int64[n, k] i, string[n, k] u) => (string[n, m] y) { y = ScatterElements<axis = 1>(x, i, u) }",
                        lambda n: (np.full((n, 1), -1), strings([["new"]] * n)), lambda x, i, u: np.concatenate([x[:, :-1], u], 1)),
    "SequenceAt": ("(string[n, m] x) => (string[n, m] y) { s = SequenceConstruct(x, x) i = Constant<value_int = 1>() y = SequenceAt(s, i) }",
                   lambda n: (), lambda x: x),
}


@pytest.mark.parametrize("name", MOVES)
def test_what_moves_numbers_moves_strings(name: str) -> None:
    graph, others, expected = MOVES[name]
    model = compiled("g " + graph)
    for rows in (1, 4, 33):
        x, rest = table(rows, 5), others(rows)
        found = model.run([x, *rest])[0]
        assert found.shape == expected(x, *rest).shape
        assert found.tolist() == expected(x, *rest).tolist()


@few
@given(a=st.lists(words, min_size=1, max_size=4), b=st.lists(words, min_size=1, max_size=4))
def test_strings_are_compared_and_joined_by_broadcasting(a: list[str], b: list[str]) -> None:
    model = PAIRS
    x, y = strings(a).reshape(-1, 1), strings(b)
    equal, joined = model.run([x, y])
    assert equal.tolist() == [[p == q for q in b] for p in a]
    assert joined.tolist() == [[p + q for q in b] for p in a]


PAIRS = compiled("g (string[n, 1] x, string[m] y) => (bool[n, m] e, string[n, m] j) { e = Equal(x, y) j = StringConcat(x, y) }")


@few
@given(values=st.lists(words, min_size=1, max_size=9), ascending=st.booleans())
def test_unique_strings_with_their_places(values: list[str], ascending: bool) -> None:
    model = compiled(f"g (string[n] x) => (string[k] y, int64[k] i, int64[n] r, int64[k] c) {{ y, i, r, c = Unique<sorted = {int(ascending)}>(x) }}")
    found, first, inverse, counts = model.run([strings(values)])
    order = sorted(set(values), key=str.encode) if ascending else list(dict.fromkeys(values))
    assert found.tolist() == order
    assert first.tolist() == [values.index(v) for v in order]
    assert found[inverse].tolist() == values
    assert counts.tolist() == [values.count(v) for v in order]


def test_rows_of_strings_are_unique() -> None:
    model = compiled("g (string[n, m] x) => (string[k, m] y) { y = Unique<axis = 0>(x) }")
    x = strings([["b", "a"], ["a", "z"], ["b", "a"]])
    assert model.run([x])[0].tolist() == [["a", "z"], ["b", "a"]]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "int8", "uint8", "int32", "int64", "uint64", "bool"])
def test_casts_to_text_and_back_are_exact(dtype: str) -> None:
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    code = onnx.helper.np_dtype_to_tensor_dtype(kind)
    name = {"float16": "float16", "float32": "float", "float64": "double"}.get(dtype, dtype)
    model = compiled(f"g ({name}[n] x) => (string[n] t, {name}[n] y) {{ t = Cast<to = 8>(x) y = Cast<to = {code}>(t) }}")
    x = np.array([0, 1, 0.1, 100, 7]).astype(kind)
    text, back = model.run([x])
    assert text[:2].tolist() == ["0", "1"]
    assert back.dtype == kind
    assert back.tolist() == x.tolist()


def test_text_that_is_no_number_is_an_error_at_the_node() -> None:
    model = compiled("g (string[n] x) => (float[n] y) { y = Cast<to = 1>(x) }")
    with pytest.raises(ExecutionError, match=r"node y \(Cast\): 'one' is not text of float32"):
        model.run([strings(["1", "one"])])


KEYS: dict[str, Any] = {"int64s": [3, 1, 2], "floats": [0.5, -1.0, 2.0], "strings": ["b", "ü", "a"]}
KINDS = {"int64s": "int64", "floats": "float", "strings": "string"}
DEFAULTS = {"int64s": ("default_int64 = 9", 9), "floats": ("default_float = 9.0", 9.0), "strings": ('default_string = "?"', "?")}


def _attribute(values: list[Any]) -> str:
    return "[" + ", ".join(f'"{v}"' if isinstance(v, str) else str(v) for v in values) + "]"


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("values", KEYS)
def test_labels_of_any_type_become_labels_of_any_type(keys: str, values: str) -> None:
    default, other = DEFAULTS[values]
    model = compiled(f"g ({KINDS[keys]}[n, m] x) => ({KINDS[values]}[n, m] y) {{ y = ai.onnx.ml.LabelEncoder<keys_{keys} = {_attribute(KEYS[keys])}, "
                     f"values_{values} = {_attribute(KEYS[values])}, {default}>(x) }}")
    unknown = {"int64s": 7, "floats": 7.0, "strings": "seven"}[keys]
    kind = {"int64s": np.int64, "floats": np.float32, "strings": object}[keys]
    found = model.run([np.array([[*KEYS[keys], unknown]], kind)])[0]
    assert found.tolist() == [[*KEYS[values], other]]


def test_categories_become_numbers_and_names() -> None:
    attributes = 'cats_int64s = [5, 6], cats_strings = ["x", "ü"]'
    to_number = compiled(f"g (string[n] x) => (int64[n] y) {{ y = ai.onnx.ml.CategoryMapper<{attributes}, default_int64 = 0>(x) }}")
    to_name = compiled(f"g (int64[n] x) => (string[n] y) {{ y = ai.onnx.ml.CategoryMapper<{attributes}>(x) }}")
    assert to_number.run([strings(["ü", "x", ""])])[0].tolist() == [6, 5, 0]
    assert to_name.run([np.array([6, 5, 4])])[0].tolist() == ["ü", "x", "_Unused"]


def test_one_hot_rows_of_strings() -> None:
    graph = 'g (string[n, 1] x) => (float[n, 1, 3] y) {{ y = ai.onnx.ml.OneHotEncoder<cats_strings = ["b", "a", "ü"], zeros = {}>(x) }}'
    x = strings([["a"], ["ü"], ["unseen"]])
    assert compiled(graph.format(1)).run([x])[0].tolist() == [[[0, 1, 0]], [[0, 0, 1]], [[0, 0, 0]]]
    with pytest.raises(ExecutionError):
        compiled(graph.format(0)).run([x])


@few
@given(data=st.data(), least=st.integers(1, 2), more=st.integers(0, 2), skipped=st.integers(0, 2), mode=st.sampled_from(["TF", "IDF", "TFIDF"]))
def test_n_grams_are_counted_as_the_reference_does(data: st.DataObject, least: int, more: int, skipped: int, mode: str) -> None:
    pool = [[(w,) for w in (1, 2, 3)], [(1, 2), (2, 2), (3, 1)], [(1, 2, 3), (2, 2, 2)]]
    flat = [w for grams in pool for gram in grams for w in gram]
    columns = data.draw(st.permutations(range(8)))
    node = onnx.helper.make_node("TfIdfVectorizer", ["x"], ["y"], mode=mode, min_gram_length=least, max_gram_length=min(least + more, 3),
                                 max_skip_count=skipped, ngram_counts=[0, 3, 9], ngram_indexes=columns, pool_int64s=flat,
                                 weights=[float(i + 1) / 4 for i in range(8)])
    rows = data.draw(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=3))
    x = np.array(rows, np.int64)
    expected = ReferenceEvaluator(_one(node, onnx.TensorProto.INT64)).run(None, {"x": x})[0]
    np.testing.assert_array_equal(prepare(_one(node, onnx.TensorProto.INT64)).run([x])[0], expected)
    names = np.array(["zero", "eins", "zwei", "trois"], object)
    del node.attribute[[a.name for a in node.attribute].index("pool_int64s")]
    node.attribute.append(onnx.helper.make_attribute("pool_strings", names[flat].tolist()))
    np.testing.assert_array_equal(prepare(_one(node, onnx.TensorProto.STRING)).run([names[x]])[0], expected)


def _one(node: onnx.NodeProto, kind: int) -> onnx.ModelProto:
    graph = onnx.helper.make_graph([node], "g", [onnx.helper.make_tensor_value_info("x", kind, ["n", "m"])],
                                   [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 8])])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])


def test_a_tokenizer_finds_or_separates() -> None:
    graph = 'g (string[n, m] x) => (string[n, m, k] y) {{ y = com.microsoft.Tokenizer<mark = {}, mincharnum = {}, pad_value = "#", {}>(x) }}'
    x = strings([["Ab c", "déf,g"], ["", ";"]])
    assert compiled(graph.format(0, 1, 'tokenexp = "[[:alpha:]]+"')).run([x])[0].tolist() == [[["Ab", "c", "#"], ["d", "f", "g"]], [["#"] * 3] * 2]
    assert compiled(graph.format(0, 2, 'separators = [" ", ",|;"]')).run([x])[0].tolist() == [[["Ab"], ["déf"]], [["#"], ["#"]]]
    marked = compiled(graph.format(1, 1, 'separators = [""]')).run([x])[0].tolist()
    assert marked[0][1] == ["\x02", *"déf,g", "\x03"] and marked[1][0] == ["\x02", "\x03", *"#" * 5]


@pytest.mark.parametrize(("graph", "message"), [
    ("(string[n] x) => (string[n] y) { y = Add(x, x) }", r"node 'y' \(Add, opset 21\): this operator does not take strings"),
    ("(string[n] x) => (string[n] y) { y = Relu(x) }", "does not take strings"),
    ("(string[n] x, float[n] z) => (bool[n] y) { y = Equal(x, z) }", "one input holds strings"),
    (r'(string[n] x) => (bool[n] y) { y = RegexFullMatch<pattern = "(?=a)">(x) }', "more than linear time"),
    ('(string[n] x) => (string[n] y) { y = StringNormalizer<case_change_action = "TITLE">(x) }', "NONE, LOWER, UPPER"),
    ('(float[n] x) => (int64[n] y) { y = ai.onnx.ml.LabelEncoder<keys_strings = ["a"], values_int64s = [1]>(x) }', "do not go with"),
])
def test_what_strings_cannot_do_is_an_error_while_compiling(graph: str, message: str) -> None:
    with pytest.raises((UnsupportedError, CompileError), match=message):
        compiled("g " + graph)
