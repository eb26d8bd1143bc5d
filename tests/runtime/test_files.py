"""A file that is not a whole, unchanged artifact gets an error that says what it is, before anything of it runs."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ingot
from ingot.errors import ArtifactError, FileError, IngotError, TargetError, VersionError
from tests.runtime.assemble import CODE, MAGIC, PAGE, WEIGHTS, Artifact, file_bytes


@pytest.fixture
def whole() -> bytes:
    """A small artifact with a weight."""
    artifact = Artifact(dims=["n"])
    x = artifact.main.input("float32", ["n", 4])
    artifact.main.outputs = [artifact.main.copy(x), artifact.weight(artifact.main, np.arange(6.0), "scale")]
    return artifact.to_bytes()


@pytest.fixture
def refuse(tmp_path: Path) -> Callable[..., str]:
    """Opens and loads a file with this content: both must fail with the error, whose message is returned."""

    def refuse_(content: bytes, error: type[IngotError] = ArtifactError) -> str:
        path = tmp_path / "bad.ingot"
        path.write_bytes(content)
        with pytest.raises(error) as loading:
            ingot.load(path)
        with pytest.raises(error) as opening:
            ingot.Artifact(path)
        assert str(opening.value) == str(loading.value)
        assert str(path) in str(loading.value)
        return str(loading.value)

    return refuse_


def test_a_whole_file_loads_and_verifies(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "whole.ingot"
    path.write_bytes(whole)
    artifact = ingot.Artifact.open(path)
    artifact.verify()
    assert artifact.best_target == "cpu:test"
    assert bytes(artifact.segment(0)[:10]) == b'{"format":'
    assert ingot.load(path, verify=True).manifest == artifact.manifest


def test_a_segment_outlives_its_artifact(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "whole.ingot"
    path.write_bytes(whole)
    segment = ingot.Artifact(path).segment(2)
    assert segment.readonly
    assert np.frombuffer(segment[:48], np.float64).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_missing_file_is_also_a_filenotfounderror(tmp_path: Path) -> None:
    for open_ in (ingot.load, ingot.Artifact):
        with pytest.raises(FileNotFoundError, match="No such file") as caught:
            open_(tmp_path / "missing.ingot")
        assert isinstance(caught.value, FileError)


def test_a_folder_is_not_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a directory"):
        ingot.load(tmp_path)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "the file is empty"),
    (b"\x7fELF\x02\x01\x01" + bytes(100), "ELF"),
    (b"PK\x03\x04" + bytes(100), "zip"),
    (b"\x93NUMPY\x01\x00" + bytes(100), "NumPy array"),
    (b"GGUF\x03" + bytes(100), "GGUF"),
    (b"\x08\x09\x12\x07pytorch" + bytes(100), "ONNX model: compile it"),
    (struct.pack("<Q", 40) + b'{"a":{}}' + bytes(100), "safetensors"),
    (b"<!DOCTYPE html>" + bytes(100), "HTML"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    (b"\x89INGOT\n" + bytes(100), "text mode"),
    (b"nothing in particular", "is not an Ingot artifact"),
    (MAGIC[:3], "truncated: it has 3 bytes"),
    (MAGIC + bytes(20), "truncated: it has 28 bytes"),
])
def test_foreign_files_are_recognized(refuse: Callable[..., str], content: bytes, message: str) -> None:
    assert message in refuse(content)


@pytest.mark.parametrize(("version", "hint"), [(2, "newer libingot"), (0, "compile the model again"), (2**31, "newer libingot")])
def test_other_versions_say_what_to_do(refuse: Callable[..., str], version: int, hint: str) -> None:
    message = refuse(file_bytes({}, [], version=version), VersionError)
    assert f"format version {version}" in message and hint in message


def test_every_truncation_is_noticed(refuse: Callable[..., str], whole: bytes) -> None:
    lengths = [*range(1, 70), PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, len(whole) - PAGE, len(whole) - 1]
    for length in lengths:
        assert "truncated" in refuse(whole[:length])


def test_bytes_after_the_end_are_noticed(refuse: Callable[..., str], whole: bytes) -> None:
    assert "1 bytes after the end" in refuse(whole + b"\0")


def test_every_flipped_bit_is_noticed(whole: bytes, tmp_path: Path) -> None:
    """All of the header and the table, and a sample of what follows. Weights are noticed by verify, all else when loading."""
    generator = random.Random(0)
    used = [(PAGE, 2 * PAGE), (2 * PAGE, len(whole))]
    places = [*range(64 + 3 * 32), *(generator.randrange(*generator.choice(used)) for _ in range(400)), PAGE - 1, len(whole) - 1]
    path = tmp_path / "flipped.ingot"
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << generator.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(IngotError):
            ingot.load(path, verify=True)
        if place < 2 * PAGE:
            with pytest.raises(IngotError):
                ingot.load(path)


def test_the_corrupted_part_is_named(refuse: Callable[..., str], whole: bytes, tmp_path: Path) -> None:
    def flipped(place: int) -> bytes:
        return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:]

    assert "header or segment table is corrupted" in refuse(flipped(70))
    assert "segment 0 (manifest) is corrupted" in refuse(flipped(PAGE + 5))
    path = tmp_path / "weights.ingot"
    path.write_bytes(flipped(2 * PAGE + 8))
    with pytest.raises(ArtifactError, match="weight 'scale' is corrupted"):
        ingot.Artifact(path).verify()
    with pytest.raises(ArtifactError, match="weight 'scale' is corrupted"):
        ingot.load(path, verify=True)
    path.write_bytes(flipped(len(whole) - 1))
    with pytest.raises(ArtifactError, match=r"segment 2 \(weights\) is corrupted"):
        ingot.Artifact(path).verify()


def test_corrupted_code_is_never_mapped(tmp_path: Path) -> None:
    artifact = Artifact()
    code = {"text_size": PAGE, "data_size": 0, "bss_size": 0, "imports": [], "relocations": [], "functions": {}}
    artifact.code = (code, bytes(PAGE))
    content = bytearray(artifact.to_bytes())
    content[2 * PAGE + 100] ^= 4
    path = tmp_path / "code.ingot"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"segment 1 \(code\) is corrupted"):
        ingot.load(path)


def rewrite_header(content: bytes, **fields: int) -> bytes:
    """A file with other header fields or table entries, and a checksum that fits them."""
    import zlib

    changed = bytearray(content)
    places = {"segments": (12, "<I"), "size": (16, "<Q"), "prefix": (24, "<Q"), "manifest": (32, "<Q"), "kind1": (96, "<I"), "offset1": (104, "<Q"),
              "size1": (112, "<Q"), "size2": (144, "<Q")}
    for name, value in fields.items():
        struct.pack_into(places[name][1], changed, places[name][0], value)
    changed[60:64] = bytes(4)
    changed[60:64] = struct.pack("<I", zlib.crc32(bytes(changed[:fields.get("prefix", PAGE)])))
    return bytes(changed)


@pytest.mark.parametrize("fields", [
    {"segments": 2}, {"segments": 2**32 - 1}, {"prefix": 0}, {"prefix": 2**63}, {"prefix": 2 * PAGE}, {"manifest": 2**40}, {"kind1": 0}, {"kind1": 9},
    {"kind1": 1},
    {"offset1": 0}, {"offset1": 2**63}, {"size1": 0}, {"size1": PAGE - 1}, {"size1": 2**64 - PAGE}, {"size2": 2**63},
])
def test_segments_that_do_not_tile_the_file_are_refused(refuse: Callable[..., str], fields: dict[str, int]) -> None:
    content = file_bytes({}, [(CODE, b"c"), (WEIGHTS, b"w")])
    refuse(rewrite_header(content, **fields))


@pytest.mark.parametrize(("text", "message"), [
    (b"{", "expected a key"), (b"[1,]", "expected a value"), (b'{"a":1,"a":2}', "stands twice"), (b"nul", "expected a value"),
    (b"1 2", "expected the end"),
    (b'"\xff"', "malformed UTF-8"), (b'"\\ud800"', "surrogate"), (b"[" * 100 + b"]" * 100, "nested deeper"), (b'"\x01"', "control character"),
    (b"01", "expected the end"), (b"99999999999999999999", "64 bits"), (b"-", "expected a value"), (b'"abc', "without an end"),
    (b'"\\x"', "unknown escape"),
    (b"[]", "expected an object, found an array"), (b"{}", "'format' is missing"), (b'{"format": 2}', "the header says version 1"),
    (b'{"format": "1"}', "manifest.format: expected an integer, found a string"), (b"", "expected a value"),
])
def test_a_manifest_that_is_not_one_says_where(refuse: Callable[..., str], text: bytes, message: str) -> None:
    assert message in refuse(file_bytes(text, []))


def test_strings_keep_their_unicode(tmp_path: Path) -> None:
    name = 'Zürich 東京 🚂 "quoted" \\ \n'
    artifact = Artifact(dims=["n"])
    manifest = artifact.manifest()
    artifact.main.outputs = [artifact.main.input("float32", ["n"])]
    manifest = artifact.manifest()
    manifest["inputs"][0]["name"] = name
    for text in (json.dumps(manifest), json.dumps(manifest, ensure_ascii=False)):
        path = tmp_path / "unicode.ingot"
        path.write_bytes(file_bytes(text.encode(), [(CODE, b""), (WEIGHTS, b"")]))
        assert ingot.load(path).inputs[0].name == name


def test_targets_that_cannot_run_say_what_is_missing(tmp_path: Path) -> None:
    artifact = Artifact()
    manifest = artifact.manifest()
    manifest["targets"][0].update(name="cpu:future", features=["warp_drive", "sse_99"])
    path = tmp_path / "future.ingot"
    path.write_bytes(artifact.to_bytes(manifest))
    assert ingot.Artifact(path).best_target is None
    with pytest.raises(TargetError, match=r"cpu:future \(needs warp_drive, sse_99\)"):
        ingot.load(path)
    with pytest.raises(TargetError, match="needs warp_drive, sse_99, which this machine does not have"):
        ingot.load(path, target="cpu:future")
    with pytest.raises(TargetError, match="there is no target 'cpu:past'"):
        ingot.load(path, target="cpu:past")
    manifest["targets"] = []
    path.write_bytes(artifact.to_bytes(manifest))
    with pytest.raises(TargetError, match="code for no target"):
        ingot.load(path)


def test_the_first_target_that_can_run_is_chosen(tmp_path: Path) -> None:
    artifact = Artifact()
    manifest = artifact.manifest()
    best, other = dict(manifest["targets"][0]), dict(manifest["targets"][0])
    manifest["targets"] = [{**best, "name": "impossible", "features": ["warp_drive"]}, {**best, "name": "first"}, {**other, "name": "second"}]
    path = tmp_path / "targets.ingot"
    path.write_bytes(artifact.to_bytes(manifest))
    assert ingot.load(path).target == "first"
    assert ingot.load(path, target="second").target == "second"
