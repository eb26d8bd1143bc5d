"""Marian's tokenizer: pieces with scores in source.spm (SentencePiece), and their numbers in vocab.json, as one tokenizer.json."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ingot.errors import CompileError

#: Scores are logarithms of probabilities: below any of them, for pieces of the target language alone.
_NEVER = -1e4
_SPACE = "\u2581"


def marian_tokenizer(directory: Path, folder: Path) -> Path | None:
    """Writes the directory's tokenizer as tokenizer.json into a folder.

    Returns:
        The file; None where the directory lacks source.spm or vocab.json, or has one vocabulary for each language, or where the package
        ``tokenizers`` is missing.

    Raises:
        CompileError: A file is malformed.
    """
    pieces, numbers = directory / "source.spm", directory / "vocab.json"
    if not pieces.is_file() or not numbers.is_file() or (directory / "target_vocab.json").is_file():
        return None
    try:
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    except ImportError:
        return None
    scores, charsmap = read_pieces(pieces)
    try:
        vocabulary: dict[str, int] = json.loads(numbers.read_text(encoding="utf-8"))
        ordered = sorted(vocabulary, key=lambda piece: vocabulary[piece])
        if [vocabulary[piece] for piece in ordered] != list(range(len(ordered))) or "<unk>" not in vocabulary or "</s>" not in vocabulary:
            raise ValueError("its numbers are not 0, 1, 2, …, or it lacks <unk> or </s>")
    except (ValueError, AttributeError, TypeError, IndexError) as error:
        raise CompileError(f"{numbers}: this is not the vocabulary of a Marian model: {error}") from error
    tokenizer = Tokenizer(models.Unigram([(piece, scores.get(piece, _NEVER)) for piece in ordered], vocabulary["<unk>"], False))
    steps: list[Any] = [normalizers.Precompiled(charsmap)] if charsmap else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A $B </s>", [("</s>", vocabulary["</s>"])])
    special = [t for t in ordered if t in ("</s>", "<unk>", "<pad>") or (t.startswith(">>") and t.endswith("<<"))]  # >>fr<<: the target language
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in special])
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def read_pieces(path: Path) -> tuple[dict[str, float], bytes]:
    """The pieces of a SentencePiece model with their scores, and its table of characters for normalization.

    Raises:
        CompileError: The file is malformed.
    """
    scores: dict[str, float] = {}
    charsmap = b""
    try:
        for field, value in _fields(path.read_bytes()):
            if field == 1 and isinstance(value, bytes):  # a piece: 1 its text, 2 its score
                piece = dict(_fields(value))
                scores[bytes(piece[1]).decode()] = struct.unpack("<f", bytes(piece.get(2, b"\0\0\0\0")))[0]
            elif field == 3 and isinstance(value, bytes):  # the normalizer: 2 its table
                charsmap = bytes(dict(_fields(value)).get(2, b""))
        if not scores:
            raise ValueError("it has no pieces")
    except (ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        raise CompileError(f"{path}: this is not a SentencePiece model, or it is truncated: {error}") from error
    return scores, charsmap


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: numbers as they are, everything else as bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"field {key >> 3} is of kind {kind}")
        size = varint() if kind == 2 else 8 if kind == 1 else 4
        if at + size > len(data):
            raise ValueError(f"field {key >> 3} ends beyond the file")
        yield key >> 3, data[at:at + size]
        at += size
