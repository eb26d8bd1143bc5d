"""Text by a session on a GPU (see test_cuda): where the model chooses tokens, they alone come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ingot
from ingot.generate.sampling import Sampler, Sampling
from tests.runtime.assemble_cuda import CudaArtifact, Fake, build_fake

VOCABULARY = 50
#: The logits of the token that follows each one.
TABLE = np.random.default_rng(0).standard_normal((VOCABULARY, VOCABULARY)).astype(np.float32) * 3


@pytest.fixture
def fake(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Fake:
    library = Fake(build_fake(tmp_path_factory.mktemp("fake")))
    monkeypatch.setenv("INGOT_CUDA_LIBRARY", str(library.path))
    return library


@pytest.fixture
def model(fake: Fake, tmp_path: Path) -> ingot.Model:
    """A language model of pairs of tokens. Its kernels are steps of the host, for which the fake has none."""
    artifact = CudaArtifact(["batch", "sequence", "kept"])
    main = artifact.main
    names = ["input_ids", "token_counts", "logits_at", "sampling", "random"]
    ids, _, at = (main.input("int64", shape) for shape in (["batch", "sequence"], ["batch"], ["batch", "kept"]))
    sampling, random = main.input("float32", ["batch", "kept", 4]), main.input("float32", ["batch", "kept"])
    length = artifact.state("length", "int64", ["batch"])

    def host(name: str, inputs: list[int], dtype: str, shape: list[Any], ints: list[int], floats: tuple[float, ...] = ()) -> int:
        result = main.value(dtype, shape)
        main.step("kernel", name=name, inputs=inputs, outputs=[result], dims=[], ints=ints, floats=list(floats), host=True)
        return result

    last = host("gather_nd", [ids, main.view(at, "int64", ["batch", "kept", 1])], "int64", ["batch", "kept"], [1])
    logits = host("gather_nd", [artifact.weight(main, TABLE), main.view(last, "int64", ["batch", "kept", 1])], "float32",
                  ["batch", "kept", VOCABULARY], [0])
    main.outputs = [logits, host("sample", [logits, random, sampling], "int64", ["batch", "kept"], [0], (0, 1, 0)), main.copy(length)]
    manifest = artifact.manifest()
    for rows, called in ((manifest["inputs"], names), (manifest["outputs"], ["logits", "tokens"])):
        for row, name in zip(rows, called, strict=True):
            row["name"] = name
    manifest["generation"] = {"kind": "decoder", "vocabulary": VOCABULARY, "stop_tokens": []}
    path = tmp_path / "m.ingot"
    path.write_bytes(artifact.to_bytes(manifest))
    return ingot.load(path)


def _expected(token: int, sampling: Sampling, count: int) -> list[int]:
    sampler = Sampler(sampling, np.array([token]), VOCABULARY)
    found = [token]
    for _ in range(count):
        found.append(sampler.choose(TABLE[found[-1]]))
        sampler.add(found[-1])
    return found[1:]


def _copies(fake: Fake, model: ingot.Model, **sampling: Any) -> tuple[list[int], int, int]:
    """The tokens of a text, how many of them the model chose, and how often something came to the CPU."""
    before = fake.calls("copy_to_host")
    text = model.generate([3], max_new_tokens=20, **sampling)
    text.wait()
    return list(text.tokens), text.stats.chosen_by_model, fake.calls("copy_to_host") - before


def test_logits_come_back_only_where_a_text_needs_them(fake: Fake, model: ingot.Model) -> None:
    assert model.device == "cuda:0"
    drawn: dict[str, Any] = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "seed": 5}
    copies = {}
    for name, sampling in (("greedy", {}), ("drawn", drawn), ("penalized", {**drawn, "repetition_penalty": 1.5}),
                           ("with log probabilities", {**drawn, "logprobs": 1})):
        tokens, chosen, copies[name] = _copies(fake, model, **sampling)
        assert tokens == _expected(3, Sampling(**sampling), 20)
        assert chosen == (20 if name in ("greedy", "drawn") else 0)
    # Steps of the host copy as much for each of the texts; of the 20 runs of the last two, each brings the logits back too.
    assert copies["greedy"] == copies["drawn"] == copies["penalized"] - 20 == copies["with log probabilities"] - 20
