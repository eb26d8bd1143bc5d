"""Whisper against transformers: features, logits, languages, timestamps, beams, and sound of several windows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import ingot
from ingot.errors import InputError
from ingot.export.decoder.pieces import Pieces
from ingot.export.seq2seq.audio import mel_filters, spectrogram
from ingot.export.seq2seq.families import Audio
from ingot.generate import Transcription
from ingot.generate.rules import Timestamps
from ingot.generate.speech import segments
from tests.generate.seq2seq_families import SPEECH, build, extractor, features, logits, sound

Compiled = Callable[[str], ingot.Model]


@pytest.fixture(scope="module")
def framework() -> Any:
    return build("whisper")


def reference(framework: Any, audio: np.ndarray, count: int, **options: Any) -> list[int]:
    """What transformers generates for one window, without the tokens that it starts with."""
    with torch.no_grad():
        found = framework.generate(features(framework, [audio]), max_new_tokens=count, do_sample=False, force_unique_generate_call=True, **options)
    tokens = [int(t) for t in found[0]]
    start = next(i for i, t in enumerate(tokens) if t not in (*range(SPEECH["start"], SPEECH["no_timestamps"] + 1), 190))
    return tokens[start:]


def test_mel_filters_are_those_of_transformers() -> None:
    for bands in (80, 128):
        np.testing.assert_allclose(mel_filters(bands), extractor(bands, 30).mel_filters.T, atol=1e-12)


@pytest.mark.parametrize(("bands", "seconds"), [(80, 2), (128, 3)])
def test_the_spectrogram_is_that_of_transformers(bands: int, seconds: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    graph = Pieces(None)  # type: ignore[arg-type]  # no tensor of a checkpoint is used
    graph.node("Identity", spectrogram(graph, "audio", Audio(bands, seconds)), name="features")
    value = helper.make_tensor_value_info
    model = helper.make_model(helper.make_graph(graph.nodes, "audio", [value("audio", TensorProto.FLOAT, ["clips", "samples"])],
                                                [value("features", TensorProto.FLOAT, ["clips", bands, 100 * seconds])],
                                                list(graph.initializers.values())), opset_imports=[helper.make_opsetid("", 24)])
    path = tmp_path_factory.mktemp("mel") / "m.ingot"
    ingot.compile(model, path, samples=0)
    loaded = ingot.load(path, threads=2)
    for length in (seconds, seconds - 0.7, 0.01):
        audio = np.stack([sound(length, seed) for seed in range(2)])
        expected = extractor(bands, seconds)(list(audio), sampling_rate=16000, return_tensors="np").input_features
        # A band 80 dB below the loudest is a difference of numbers 1e4 times as large: its logarithm has 1e-7 * 1e4 of error.
        np.testing.assert_allclose(loaded.run(audio=audio)["features"], expected, atol=2e-3)
        assert np.abs(loaded.run(audio=audio)["features"] - expected).mean() < 1e-5
    assert loaded.run(audio=np.zeros((0, 0), np.float32))["features"].shape == (0, bands, 100 * seconds)


def test_logits_are_those_of_transformers_and_sound_is_heard_once(framework: Any, compiled_seq2seq: Compiled) -> None:
    model = compiled_seq2seq("whisper")
    audio = np.stack([sound(1.7), sound(1.7, 1)])
    ids = np.random.default_rng(0).integers(0, 190, (2, 7))
    expected = logits(framework, ids, audio=list(audio))
    bound = 1e-4 * np.abs(expected).max()
    with model.session() as session:
        found = session.run(audio=audio, input_ids=ids[:, :3].copy(), token_counts=np.array([3, 3]), logits_at=np.array([[0, 2]] * 2))["logits"]
        np.testing.assert_allclose(found, expected[:, [0, 2]], atol=bound)
        for t in range(3, 7):
            found = session.run(audio=np.zeros((0, 0), np.float32), input_ids=ids[:, t:t + 1].copy(), token_counts=np.array([1, 1]),
                                logits_at=np.zeros((2, 1), np.int64))["logits"]
            np.testing.assert_allclose(found[:, 0], expected[:, t], atol=bound)
        assert session.state("source_length").tolist() == [100, 100]


@pytest.mark.parametrize("options", [{"language": "en"}, {"language": "de", "task": "translate"}, {}, {"language": "en", "num_beams": 3}], ids=str)
def test_text_is_that_of_transformers(options: dict[str, Any], framework: Any, compiled_seq2seq: Compiled) -> None:
    model = compiled_seq2seq("whisper")
    for seed, seconds in ((0, 2.0), (1, 1.3), (2, 0.4)):
        audio = sound(seconds, seed)
        found = model.generate(audio, max_new_tokens=20, **options)
        assert isinstance(found, Transcription)
        found.wait()
        expected = reference(framework, audio, 20, **options)
        assert found.tokens == expected[:len(found.tokens)]
        assert set(expected[len(found.tokens):]) <= {SPEECH["end"]}


def test_text_with_timestamps_is_that_of_transformers(framework: Any, compiled_seq2seq: Compiled) -> None:
    model = compiled_seq2seq("whisper")
    for seed in range(3):
        audio = sound(2.0, seed)
        found = model.generate(audio, max_new_tokens=20, language="en", timestamps=True)
        found.wait()
        expected = reference(framework, audio, 20, language="en", return_timestamps=True)
        assert found.tokens[:20] == expected
        assert expected[0] >= SPEECH["first_timestamp"]
        assert isinstance(found, Transcription)
        assert found.segments[0].start == pytest.approx((expected[0] - SPEECH["first_timestamp"]) * 0.02)


def test_long_sound_goes_on_where_the_last_segment_ended(compiled_seq2seq: Compiled) -> None:
    model = compiled_seq2seq("whisper")
    audio = sound(5.0)
    found = model.generate(audio, max_new_tokens=20, language="en")
    found.wait()
    assert isinstance(found, Transcription)
    assert all(0 <= s.start <= s.end <= 5.0 for s in found.segments)
    assert found.segments[-1].start > 3.0
    first = model.generate(audio[:32000], max_new_tokens=20, language="en", timestamps=True)
    head = next(iter(first)).id
    assert found.tokens[0] == head


def test_segments_end_at_pairs_of_timestamps() -> None:
    # 0.00 a b 0.50 0.60 c 1.00 1.00 d: the rest is heard again from 1.00 s on
    tokens = [100, 1, 2, 125, 130, 3, 150, 150, 4]
    found, heard = segments(tokens, 100, 2.0)
    assert [(a, b, part) for a, b, part in found] == [(0.0, 0.5, (100, 1, 2, 125)), (0.6, 1.0, (130, 3, 150))]
    assert heard == 1.0
    # One timestamp at the end: what follows is silence.
    found, heard = segments([100, 1, 125, 130, 3, 150], 100, 2.0)
    assert [(a, b) for a, b, _ in found] == [(0.0, 0.5), (0.6, 1.0)]
    assert heard == 2.0
    assert segments([100, 1, 2], 100, 2.0) == ([(0.0, 2.0, (100, 1, 2))], 2.0)


def test_timestamps_come_in_pairs_and_do_not_go_back() -> None:
    rules = Timestamps(first=10, end=8, without=9, most_initial=3)

    def possible(generated: list[int], scores: np.ndarray | None = None) -> set[int]:
        given = np.zeros(20) if scores is None else scores.copy()
        rules.apply(generated, given)
        return set(np.flatnonzero(given > -np.inf).tolist())

    text = np.where(np.arange(20) < 10, 5.0, 0.0)  # so likely that timestamps are not forced
    assert possible([], text) == {10, 11, 12, 13}
    assert possible([12], text) == {0, 1, 2, 3, 4, 5, 6, 7, 8}  # the first one is as the second of a pair
    assert possible([12, 1, 15], text) == {8, 15, 16, 17, 18, 19}  # the end, or the next segment's begin
    assert possible([12, 1, 15, 15], text) == set(range(9))
    assert possible([12, 1], text) == {*range(9), 13, 14, 15, 16, 17, 18, 19}
    assert possible([12, 1]) == {13, 14, 15, 16, 17, 18, 19}  # together likelier than any word


def test_wrong_sounds_and_options_are_explained(compiled_seq2seq: Compiled) -> None:
    model = compiled_seq2seq("whisper")
    broken = sound(1.0)
    broken[5] = np.nan
    for audio, message in ((np.zeros(0, np.float32), "the sound is empty"), (np.zeros((2, 5), np.float32), "one-dimensional array of float32"),
                           (np.zeros(5, np.int16), "divided by 32768"), (broken, "not finite")):
        with pytest.raises(InputError, match=message):
            model.generate(audio)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (({"language": "fr"}, "no language 'fr'; it has de, en"),
        ({"task": "sing"}, "no task 'sing'; it has transcribe, translate"), ({"regex": "a"}, "regex"))
    for options, message in wrong:
        with pytest.raises(InputError, match=message):
            model.generate(sound(1.0), **options)
    text = model.generate(sound(1.0), language="en", max_new_tokens=5)
    next(iter(text))
    text.cancel()
    assert text.finish_reason == "cancelled"


def test_caches_are_counted(compiled_seq2seq: Compiled) -> None:
    text = compiled_seq2seq("whisper").generate(sound(1.0), language="en", max_new_tokens=5)
    text.wait()
    # Of two layers keys and values of 64 float32: 100 frames, the four tokens of the start and all new ones but the last.
    assert text.stats.cache_bytes == 2 * 2 * 64 * 4 * (100 + 4 + len(text.tokens) - 1)


@pytest.mark.slow
@pytest.mark.extended
def test_whisper_of_real_size_is_that_of_transformers(tmp_path: Path) -> None:
    """Whisper-tiny's shape: half a minute of sound, 37 million weights."""
    import transformers

    torch.manual_seed(0)
    configuration: Any = transformers.WhisperConfig
    make: Any = transformers.WhisperForConditionalGeneration
    model = make(configuration(
        d_model=384, encoder_layers=4, decoder_layers=4, encoder_attention_heads=6, decoder_attention_heads=6, encoder_ffn_dim=1536,
        decoder_ffn_dim=1536, suppress_tokens=None, begin_suppress_tokens=None)).eval()
    model.save_pretrained(tmp_path / "model")
    ingot.compile(tmp_path / "model", tmp_path / "m.ingot")
    loaded = ingot.load(tmp_path / "m.ingot", threads=2)
    audio = sound(11.0)
    ids = np.random.default_rng(0).integers(0, 50000, (1, 6))
    expected = logits(model, ids, audio=[audio])
    found = loaded.run(audio=audio[None], input_ids=ids, token_counts=np.array([6]), logits_at=np.arange(6)[None])["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    text = loaded.generate(audio, max_new_tokens=12)
    text.wait()
    with torch.no_grad():
        wanted = model.generate(features(model, [audio]), max_new_tokens=12, do_sample=False, force_unique_generate_call=True)
    assert [int(t) for t in wanted[0]][-len(text.tokens):] == text.tokens
