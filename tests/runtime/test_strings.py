"""Tensors of strings at the C ABI: what is borrowed, what is owned, and what is refused."""

from __future__ import annotations

import ctypes
import itertools
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ingot
from ingot.errors import ArtifactError, IngotError, InputError
from tests.runtime.assemble import Artifact, Function

Load = Callable[..., ingot.Model]
TEXTS = ["", "a", "straße", "日本語", "😀", "with\0nul", "long " * 1000]


def array(values: Any) -> np.ndarray[Any, Any]:
    result = np.empty(len(values), object)
    result[:] = values
    return result


def stored(texts: list[bytes]) -> bytes:
    """Strings as docs/format.md says."""
    ends = np.cumsum([0, *map(len, texts)], dtype=np.uint64)
    return ends.tobytes() + b"".join(texts)


def weight(artifact: Artifact, function: Function, data: bytes, count: int) -> int:
    value = function.value("string", [count])
    function.weights[str(value)] = len(artifact.weights)
    offset = sum(len(d) + -len(d) % 64 for _, d in artifact.weights)
    row = {"name": "w", "dtype": "string", "shape": [count], "offset": offset, "nbytes": len(data), "crc32": zlib.crc32(data)}
    artifact.weights.append((row, data))
    return value


@pytest.fixture
def echo(load: Load) -> ingot.Model:
    """x0 string [n] → a copy of it, a view of it, it itself, and each string twice."""
    artifact = Artifact(dims=["n"])
    main = artifact.main
    x = main.input("string", ["n"])
    main.outputs = [main.copy(x), main.view(x, "string", ["n", 1]), x, main.kernel("string_concat", [x, x], ("string", ["n"]))]
    return load(artifact)


def test_strings_come_back_as_they_were(echo: ingot.Model) -> None:
    assert [(i.name, i.dtype) for i in echo.inputs] == [("x0", "string")]
    outputs = list(echo.run([array(TEXTS)]).values())
    assert [o.dtype for o in outputs] == [np.dtype(object)] * 4
    assert outputs[0].tolist() == outputs[2].tolist() == TEXTS
    assert outputs[1].tolist() == [[t] for t in TEXTS]
    assert outputs[3].tolist() == [t + t for t in TEXTS]
    assert echo.run([array([])])["y0"].shape == (0,)


@pytest.mark.parametrize("given_", [np.array(["a", "äö"]), np.array([b"a", "äö".encode()], object), np.array([b"a", b"b"]), array(["a", "b"])[::-1]])
def test_numpys_kinds_of_strings_are_taken(echo: ingot.Model, given_: np.ndarray[Any, Any]) -> None:
    expected = [t.decode() if isinstance(t, bytes) else str(t) for t in given_.tolist()]
    assert echo.run([given_])["y0"].tolist() == expected


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 2 has it")
def test_numpys_variable_strings_are_taken(echo: ingot.Model) -> None:
    assert echo.run([np.array(TEXTS[:5], np.dtypes.StringDType())])["y0"].tolist() == TEXTS[:5]


@pytest.mark.parametrize(("value", "message"), [
    (array(["a", 1]), "element 1 is of type int; the elements are str"), (array(["a", None]), "element 1 is of type NoneType"),
    (array([b"a", b"\xff"]), "element 1 is not UTF-8"), (array([b"\xed\xa0\x80"]), "element 0 is not UTF-8"),
    (array([b"\xc0\x80"]), "element 0 is not UTF-8"), (array([b"\xf4\x90\x80\x80"]), "element 0 is not UTF-8"),
    (array([b"\xe2\x82"]), "element 0 is not UTF-8"), (array(["\ud800"]), "element 0 cannot be written in UTF-8"),
    (np.zeros(3), "type float64, expected strings"), (["a"], "is of type list"), (np.array([["a"]]), "has shape [1, 1], expected [n]"),
])
def test_what_is_no_tensor_of_strings_is_named(echo: ingot.Model, value: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        echo.run([value])
    assert "input 'x0'" in str(caught.value) and message in str(caught.value)
    assert echo.run([array(["a"])])["y0"].tolist() == ["a"]  # the model is as good as before


def test_outputs_outlive_inputs_sessions_and_later_runs(echo: ingot.Model) -> None:
    with echo.session() as session:
        first = session.run([array([f"first {i}" for i in range(100)])])
        second = session.run([array([f"second, longer {i}" for i in range(100)])])
    assert first["y2"].tolist() == [f"first {i}" for i in range(100)]
    assert second["y1"].ravel().tolist() == [f"second, longer {i}" for i in range(100)]


def test_outputs_of_strings_cannot_be_bound(echo: ingot.Model) -> None:
    with echo.session() as session, pytest.raises(InputError, match="output 'y0' holds strings"):
        session.bind_output("y0", array(["a"]))


def test_strings_pass_through_branches_and_loops(load: Load) -> None:
    artifact = Artifact(dims=["n"])
    main = artifact.main
    x, count, yes = main.input("string", ["n"]), main.input("int64", []), main.input("bool", [])
    body_index, body = artifact.add("body")
    _, condition, carried = body.input("int64", []), body.input("bool", []), body.input("string", ["m"])
    body.outputs = [condition, body.kernel("string_concat", [carried, carried], ("string", ["m"])), carried]
    final, scanned = main.value("string", ["n"]), main.value("string", ["k", "n"])
    main.step("loop", trip_count=count, condition=-1, body=body_index, carried=[x], inputs=[], outputs=[final, scanned])
    same_index, same = artifact.add("same")
    same.outputs = [same.input("string", ["m"])]
    twice_index, twice = artifact.add("twice")
    given_ = twice.input("string", ["m"])
    twice.outputs = [twice.kernel("string_concat", [given_, given_], ("string", ["m"]))]
    chosen = main.value("string", ["n"])
    main.step("if", condition=yes, **{"then": same_index, "else": twice_index}, then_inputs=[final], else_inputs=[final], outputs=[chosen])
    main.outputs = [final, scanned, chosen]
    model = load(artifact)
    for decision in (True, False):
        outputs = model.run([array(["a", "ü"]), np.array(3), np.array(decision)])
        assert outputs["y0"].tolist() == ["a" * 8, "ü" * 8]
        assert outputs["y1"].tolist() == [["a", "ü"], ["aa", "üü"], ["aaaa", "üüüü"]]
        assert outputs["y2"].tolist() == [s * (1 if decision else 2) for s in outputs["y0"]]


def with_weight(data: bytes, count: int) -> Artifact:
    artifact = Artifact()
    artifact.main.outputs = [artifact.main.copy(weight(artifact, artifact.main, data, count))]
    return artifact


def test_constants_are_offsets_and_bytes(load: Load, tmp_path: Path) -> None:
    assert load(with_weight(stored([t.encode() for t in TEXTS]), len(TEXTS))).run([])["y0"].tolist() == TEXTS
    ingot.Artifact.open(tmp_path / "test.ingot").verify()
    assert load(with_weight(stored([]), 0)).run([])["y0"].tolist() == []


@pytest.mark.parametrize(("data", "count", "message"), [
    (b"", 0, "do not hold the offsets of 0 strings"), (stored([b"a"]), 2, "do not hold the offsets of 2"),
    (stored([b"a"]), 2**40, "do not hold the offsets"), (stored([b"a", b"b"])[:-1], 2, "end at 2"), (stored([b"a"]) + b"x", 1, "end at 1"),
    (struct.pack("<4Q", 0, 9, 1, 2) + b"ab", 3, "reaches from byte 0 to 9"),
    (struct.pack("<4Q", 0, 2, 1, 2) + b"ab", 3, "reaches from byte 2 to 1"), (struct.pack("<2Q", 1, 1) + b"a", 1, "start at 1"),
    (struct.pack("<2Q", 0, 2**64 - 1) + b"a", 1, "end at 18446744073709551615"), (stored([b"a", b"\xff"]), 2, "element 1 is not UTF-8"),
])
def test_damaged_constants_are_refused_when_a_file_is_opened(load: Load, data: bytes, count: int, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        load(with_weight(data, count))
    assert message in str(caught.value) and "weight 'w'" in str(caught.value)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(offsets=st.lists(st.one_of(st.integers(0, 12), st.integers(0, 2**64 - 1)), min_size=1, max_size=6), text=st.binary(max_size=10))
def test_any_offsets_give_strings_or_an_error(tmp_path_factory: pytest.TempPathFactory, offsets: list[int], text: bytes) -> None:
    data = struct.pack(f"<{len(offsets)}Q", *offsets) + text
    try:
        found = with_weight(data, len(offsets) - 1).load(tmp_path_factory.mktemp("strings")).run([])["y0"].tolist()
    except IngotError:
        return
    assert [s.encode() for s in found] == [text[a:b] for a, b in itertools.pairwise(offsets)]


@pytest.mark.parametrize(("source", "target"), [("int64", "string"), ("string", "complex128"), ("complex128", "string"), ("uint8", "string")])
@pytest.mark.parametrize("how", ["view", "copy"])
def test_other_bytes_are_never_taken_for_strings(load: Load, source: str, target: str, how: str) -> None:
    artifact = Artifact()
    main = artifact.main
    x = main.input(source, [16])
    main.outputs = [main.view(x, target, [16]) if how == "view" else main.builtin("copy", [x], (target, [16]))]
    with pytest.raises(ArtifactError, match=r"strings|element size"):
        load(artifact)


class _String(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Tensor(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
                ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64))


@pytest.mark.parametrize(("data", "size", "code", "bits", "message"), [
    (None, 1, 3, 128, "its data is NULL"), (b"a", 2**63, 3, 128, "beyond memory"), (b"a", 1, 3, 64, "has type DLPack type"),
    (b"a", 1, 1, 128, "has type DLPack type"), (None, 0, 3, 128, ""), (b"abc", 2, 3, 128, ""),
])
def test_elements_are_checked_at_the_c_abi(echo: ingot.Model, data: bytes | None, size: int, code: int, bits: int, message: str) -> None:
    library = ctypes.CDLL(_loaded())
    library.ingot_last_error.restype = ctypes.c_char_p
    model, session = ctypes.c_void_p(), ctypes.c_void_p()
    assert library.ingot_model_load(str(echo.path).encode(), None, ctypes.byref(model)) == 0
    assert library.ingot_session_create(model, ctypes.byref(session)) == 0
    kept = ctypes.create_string_buffer(data) if data is not None else None
    element = _String(ctypes.addressof(kept) if kept is not None else None, size)
    tensor = _Tensor(ctypes.addressof(element), 1, 0, 1, code, bits, 1, (ctypes.c_int64 * 1)(1), None, 0)
    try:
        status = library.ingot_session_set_input(session, ctypes.c_size_t(0), ctypes.byref(tensor))
        assert (status == 0) == (not message)
        if message:
            assert message in library.ingot_last_error().decode()
            return
        element.size = 2**40  # the array was copied: what becomes of it no longer matters
        assert library.ingot_session_run(session) == 0
        output = ctypes.POINTER(_Tensor)()
        assert library.ingot_session_output(session, ctypes.c_size_t(3), ctypes.byref(output)) == 0
        found = ctypes.cast(output[0].data, ctypes.POINTER(_String))[0]
        assert ctypes.string_at(found.data, found.size) == 2 * (data or b"")[:size]
    finally:
        library.ingot_session_free(session)
        library.ingot_model_free(model)


def _loaded() -> str:
    """The library that this process has loaded already."""
    return next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("/libingot.so"))
