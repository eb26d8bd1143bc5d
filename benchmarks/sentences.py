"""English sentences that come with Python: its language reference (``pydoc_data.topics``) and the docstrings of its modules."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

#: Words and the punctuation between them: what is left out is code, tables and markup.
_SENTENCE = re.compile(r"[A-Z][A-Za-z0-9 ,;:'()\-]{40,220}\.")
_SEED = 0


def sentences(count: int) -> list[str]:
    """So many different sentences, in an order that a seed decides.

    The first ones are the same for every count and one version of Python. A ValueError says if there are fewer.
    """
    found = sorted({" ".join(text.split()) for page in _pages() for text in _SENTENCE.findall(re.sub(r"\s+", " ", page))})
    if len(found) < count:
        raise ValueError(f"Python's documentation has {len(found)} sentences; {count} are wanted")
    random.Random(_SEED).shuffle(found)
    return found[:count]


def _pages() -> Iterator[str]:
    from pydoc_data.topics import topics

    yield from topics.values()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield ast.get_docstring(node) or ""
