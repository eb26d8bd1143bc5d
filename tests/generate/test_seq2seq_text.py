"""Text in and out of translators: Marian's SentencePiece files as a tokenizer, and the command line."""

from __future__ import annotations

import json
import struct
import wave
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

import ingot
from ingot.cli.main import main
from ingot.errors import CompileError, InputError
from ingot.export.seq2seq.marian import marian_tokenizer, read_pieces
from ingot.generate.wav import read_wav
from tests.generate.seq2seq_families import VOCABULARY, save, sound

WORDS = ["the", "cat", "sat", "on", "mat", "a", "dog", "ran", "to", "big", "red", "house", "and"]


def scores() -> dict[str, float]:
    """Pieces of the source language: words, their beginnings, and letters."""
    random = np.random.default_rng(0)
    pieces = [f"\u2581{w}" for w in WORDS] + [f"\u2581{w[:2]}" for w in WORDS] + list("abcdefghijklmnopqrstuvwxyz.,\u2581") + ["at", "ou", "he", "an"]
    return {p: float(np.float32(-random.uniform(2, 4) * (1 if len(p) > 1 else 2.5))) for p in dict.fromkeys(pieces)}


def field(number: int, data: bytes) -> bytes:
    assert len(data) < 1 << 14
    size = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
    return bytes([number << 3 | 2]) + size + data


def marian(folder: Path) -> dict[str, int]:
    """source.spm and vocab.json as Marian's directories have them; the vocabulary."""
    messages = [field(1, field(1, p.encode()) + b"\x15" + struct.pack("<f", s)) for p, s in scores().items()]
    kinds = [field(1, field(1, b"<unk>") + b"\x15" + struct.pack("<f", 0) + b"\x18\x02")]
    (folder / "source.spm").write_bytes(b"".join(kinds + messages) + field(2, b"\x18\x01") + field(3, field(1, b"identity")))
    pieces = ["<pad>", "</s>", "<unk>", ">>fr<<", *scores(), *(f"\u2581mot{i}" for i in range(VOCABULARY))][:VOCABULARY]
    vocabulary = {p: i for i, p in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return vocabulary


def best(text: str) -> list[str]:
    """The pieces of a text with the largest sum of scores, by trying all."""
    known = scores()

    @lru_cache
    def of(rest: str) -> tuple[float, tuple[str, ...]]:
        if not rest:
            return 0.0, ()
        return max((known[rest[:n]] + of(rest[n:])[0], (rest[:n], *of(rest[n:])[1])) for n in range(1, len(rest) + 1) if rest[:n] in known)

    return [piece for word in text.split() for piece in of(f"\u2581{word}")[1]]


def test_pieces_of_a_text_have_the_best_scores(tmp_path: Path) -> None:
    vocabulary = marian(tmp_path)
    path = marian_tokenizer(tmp_path, tmp_path)
    assert path is not None
    tokenizer = Tokenizer.from_file(str(path))
    for text in ("the cat sat on the mat.", "a  big dog , and a house", " theatre catches randomly ", "zebra"):
        ids = tokenizer.encode(text).ids
        assert ids == [*(vocabulary[p] for p in best(text)), vocabulary["</s>"]]
        assert tokenizer.decode(ids) == " ".join(text.split())
    assert tokenizer.encode(">>fr<< the cat").ids == [vocabulary[">>fr<<"], vocabulary["\u2581the"], vocabulary["\u2581cat"], vocabulary["</s>"]]
    assert vocabulary["<unk>"] in tokenizer.encode("the \u00e9").ids


def test_broken_files_of_pieces_are_explained(tmp_path: Path) -> None:
    marian(tmp_path)
    whole = (tmp_path / "source.spm").read_bytes()
    for broken in (b"", whole[:-3], b"\x0f" + whole, whole[:1] + b"\xff" * 20):
        (tmp_path / "source.spm").write_bytes(broken)
        with pytest.raises(CompileError, match="this is not a SentencePiece model, or it is truncated"):
            read_pieces(tmp_path / "source.spm")
    (tmp_path / "source.spm").write_bytes(whole)
    for text in ("[1]", '{"a": 1}', "{", '{"a": "b"}'):
        (tmp_path / "vocab.json").write_text(text)
        with pytest.raises(CompileError, match="this is not the vocabulary of a Marian model"):
            marian_tokenizer(tmp_path, tmp_path)


def test_the_command_translates_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = save("marian", tmp_path / "model")
    marian(directory)
    artifact = tmp_path / "m.ingot"
    ingot.compile(directory, artifact)
    model = ingot.load(artifact)
    found = model.generate("the cat sat on the mat.", max_new_tokens=8, num_beams=3, num_return_sequences=2)
    assert found.wait() == found.sequences[0].text != ""
    streamed = model.generate("the cat sat on the mat.", max_new_tokens=8)
    assert "".join(token.text for token in streamed) == streamed.text
    capsys.readouterr()
    base = ["generate", str(artifact), "--prompt", "the cat sat on the mat.", "--max-new-tokens", "8"]
    assert main([*base, "--json", str(tmp_path / "out.json")]) == 0
    assert capsys.readouterr().out == streamed.text + "\n"
    assert json.loads((tmp_path / "out.json").read_text())["tokens"] == streamed.tokens
    assert main([*base, "--beams", "3"]) == 0
    assert capsys.readouterr().out == found.text + "\n"
    assert main([*base, "--beams", "3", "--return-sequences", "2"]) == 0
    assert [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()] == [h.text for h in found.sequences]
    assert main([*base, "--language", "en"]) == 1
    assert "unexpected keyword argument 'language'" in capsys.readouterr().err


@pytest.mark.parametrize(("width", "channels"), [(1, 1), (2, 1), (2, 2), (4, 1)])
def test_wav_files_are_read(width: int, channels: int, tmp_path: Path) -> None:
    audio = sound(0.3)
    loudest = 1 << 8 * width - 1
    codes = np.round(audio * (loudest - 1)).astype(np.int64)
    stored = (codes + 128).astype(np.uint8) if width == 1 else codes.astype({2: "<i2", 4: "<i4"}[width])
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((channels, width, 16000, 0, "NONE", ""))
        file.writeframes(np.repeat(stored, channels).tobytes())
    found = read_wav(tmp_path / "a.wav")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, audio, atol=1.6 / loudest + 1e-7)


def test_files_that_are_no_sound_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_wav(path)
    path.write_bytes(b"RIFF")
    with pytest.raises(InputError, match="this is not a WAV file"):
        read_wav(path)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 44100, 0, "NONE", ""))
        file.writeframes(bytes(100))
    with pytest.raises(InputError, match=r"44100 samples a second, the model takes 16000; ffmpeg -i a\.wav -ar 16000"):
        read_wav(path)
