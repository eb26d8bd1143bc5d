"""Whatever becomes of a valid ONNX file, a compile succeeds or raises one of Ingot's errors, and the process lives on.

``INGOT_FUZZ`` is the number of mutations, 60 by default; ``INGOT_FUZZ_SEED`` is that of the first one.
"""

from __future__ import annotations

import contextlib
import os
import random
import warnings
from pathlib import Path

import pytest

import ingot
from ingot.errors import IngotError, InternalError
from tests.importer.mutations import mutated, seeds

COUNT = int(os.environ.get("INGOT_FUZZ", "60"))
FIRST = int(os.environ.get("INGOT_FUZZ_SEED", "0"))


@pytest.mark.parametrize("name", seeds())
def test_the_models_that_are_mutated_compile(name: str, tmp_path: Path) -> None:
    ingot.compile(seeds()[name], tmp_path / "model.ingot", samples=0)


def test_a_mutated_model_compiles_or_is_refused(tmp_path: Path) -> None:
    models = seeds()
    names = sorted(models)
    refused = 0
    for seed in range(FIRST, FIRST + COUNT):
        rng = random.Random(seed)
        name = names[seed % len(names)]
        path = tmp_path / "mutant.onnx"
        path.write_bytes(mutated(models[name], rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ingot.compile(path, tmp_path / "mutant.ingot", samples=0)
        except InternalError as error:
            raise AssertionError(f"INGOT_FUZZ_SEED={seed}, a mutation of '{name}': {error}") from error
        except IngotError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"INGOT_FUZZ_SEED={seed}, a mutation of '{name}': {type(error).__name__} is not one of Ingot's errors") from error
        with contextlib.suppress(FileNotFoundError):
            (tmp_path / "mutant.ingot").unlink()
    assert refused < COUNT or COUNT < 20
