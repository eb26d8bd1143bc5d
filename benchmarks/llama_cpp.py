"""A Hugging Face directory of a Llama as GGUF files for llama.cpp, and whether both compute the same.

    python -m benchmarks.llama_cpp DIRECTORY OUTPUT.gguf [--type f16|q8_0|q4_0] [--same-as MODEL.ingot]

Needs the packages gguf and llama-cpp-python. `--same-as` compares the logits of a prompt with an artifact's. The vocabulary in the file is made up:
what is compared takes and gives token ids. All matrices have the type that was asked for, embeddings and the last product included.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: llama.cpp's llama_ftype.
TYPES = {"f16": 1, "q4_0": 2, "q8_0": 7}
_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down"}
_MODEL = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
#: What a file of these tensors cannot say.
_PLAIN = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_scaling": None}


def write(directory: Path, path: Path, kind: str = "f16") -> None:
    """Writes a directory's model as GGUF.

    Args:
        directory: Of a Llama: config.json and safetensors.
        path: The file.
        kind: One of :data:`TYPES`.

    Raises:
        ValueError: The model is no Llama, or has what is not written.
        OSError: llama.cpp could not quantize it.
    """
    if kind == "f16":
        _convert(directory, path)
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        whole = Path(folder) / "f16.gguf"
        _convert(directory, whole)
        quantize(whole, path, kind)


def quantize(whole: Path, path: Path, kind: str) -> None:
    """Writes an f16 file's matrices in another type."""
    llama_cpp: Any = import_module("llama_cpp")
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.pure, settings.nthread = TYPES[kind], True, os.cpu_count() or 1
    with _quiet(llama_cpp):
        failed = llama_cpp.llama_model_quantize(str(whole).encode(), str(path).encode(), ctypes.byref(settings))
    if failed:
        raise OSError(f"llama.cpp does not write {whole} as {kind} (error {failed}): rows of a matrix are whole blocks of 32")


def _convert(directory: Path, path: Path) -> None:
    config = _config(directory)
    gguf: Any = import_module("gguf")
    heads, width = config["num_attention_heads"], config["hidden_size"]
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
            (writer.add_context_length, config["max_position_embeddings"]), (writer.add_embedding_length, width),
            (writer.add_block_count, config["num_hidden_layers"]), (writer.add_feed_forward_length, config["intermediate_size"]),
            (writer.add_head_count, heads), (writer.add_head_count_kv, config["num_key_value_heads"]),
            (writer.add_rope_dimension_count, config["head_dim"]), (writer.add_key_length, config["head_dim"]),
            (writer.add_value_length, config["head_dim"]), (writer.add_rope_freq_base, config["rope_theta"]),
            (writer.add_layer_norm_rms_eps, config["rms_norm_eps"]), (writer.add_vocab_size, config["vocab_size"]),
            (writer.add_file_type, TYPES["f16"])):
        add(value)
    _add_vocabulary(writer, gguf.TokenType, config["vocab_size"])
    for name, tensor in _tensors(directory, config):
        writer.add_tensor_info(name, tensor.shape, tensor.dtype, tensor.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor in _tensors(directory, config):  # a second time: no more than one is in memory
        writer.write_tensor_data(tensor)
    writer.close()


def _config(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = rope
    for name, plain in _PLAIN.items():
        if (found := config.get(name, plain)) != plain:
            raise ValueError(f"{directory / 'config.json'}: {name} is {found!r}; what is written is of {plain!r}")
    config.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    return config


def _add_vocabulary(writer: Any, types: Any, size: int) -> None:
    """Tokens of SentencePiece's kind: an unknown one, begin and end, all bytes, and names."""
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [types.UNKNOWN, types.CONTROL, types.CONTROL, *[types.BYTE] * 256]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*first, *(f"\u2581token{i}" for i in range(len(first), size))][:size])
    writer.add_token_scores([-float(i) for i in range(size)])
    writer.add_token_types([*kinds, *[types.NORMAL] * size][:size])


def _tensors(directory: Path, config: dict[str, Any]) -> Iterator[tuple[str, Array]]:
    """GGUF's names and the tensors: norms in float32, matrices in float16, the rows of q and k in the order of llama.cpp's rotary embedding."""
    import torch
    from safetensors import safe_open

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (it is no mapping)
                place = _name(name)
                tensor = file.get_tensor(name)
                if tensor.ndim == 1:
                    yield place, tensor.to(torch.float32).numpy()
                    continue
                matrix = tensor.to(torch.float16).numpy()
                count = heads.get(place.split(".")[-2])
                yield place, matrix if count is None else interleaved(matrix, count)


def _name(name: str) -> str:
    part = name.removesuffix(".weight")
    if part in _MODEL:
        return f"{_MODEL[part]}.weight"
    layer, _, inner = part.removeprefix("model.layers.").partition(".")
    if inner not in _LAYER:
        raise ValueError(f"{name} is no tensor of a plain Llama")
    return f"blk.{layer}.{_LAYER[inner]}.weight"


def interleaved(matrix: Array, heads: int) -> Array:
    """Rows of each head in pairs: Hugging Face rotates row i with row i + size / 2, llama.cpp row 2 i with row 2 i + 1."""
    apart = matrix.reshape(heads, 2, -1, matrix.shape[1])
    return np.ascontiguousarray(apart.swapaxes(1, 2)).reshape(matrix.shape)


# ---- Logits -------------------------------------------------------------------------------------------------


def logits(path: Path, tokens: Sequence[int]) -> Array:
    """The logits [tokens, vocabulary] that llama.cpp computes for a prompt."""
    llama: Any = import_module("llama_cpp").Llama
    model = llama(model_path=str(path), n_gpu_layers=0, n_ctx=len(tokens), n_batch=len(tokens), logits_all=True, verbose=False)
    model.eval(list(tokens))
    return np.array(model.scores[:len(tokens)], np.float32)


def logits_of_artifact(path: Path, tokens: Sequence[int]) -> Array:
    """The same of an artifact."""
    import ingot

    with ingot.load(path).session() as session:
        session.set_dimension("batch", 1)
        session.set_dimension("context", len(tokens))
        found = session.run({"input_ids": np.array([tokens], np.int64), "token_counts": np.array([len(tokens)]),
                             "logits_at": np.arange(len(tokens))[None]})
    return np.array(found["logits"][0])


def difference(a: Array, b: Array) -> float:
    """The norm of the difference over that of b."""
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


class _quiet:
    """What llama.cpp says goes nowhere."""

    def __init__(self, llama_cpp: Any) -> None:
        self._ignore = llama_cpp.llama_log_callback(lambda level, text, data: None)
        self._set = llama_cpp.llama_log_set

    def __enter__(self) -> None:
        self._set(self._ignore, None)

    def __exit__(self, *_: object) -> None:
        self._set(import_module("llama_cpp._logger").llama_log_callback, None)


def main(arguments: Sequence[str]) -> int:
    """Writes a file, and compares it where asked."""
    parser = argparse.ArgumentParser(description="Writes a Hugging Face directory of a Llama as GGUF.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--type", choices=TYPES, default="f16", help="of all matrices (default: f16)")
    parser.add_argument("--same-as", type=Path, metavar="MODEL.ingot", help="compare the logits of 32 tokens with this artifact's")
    given = parser.parse_args(arguments)
    write(given.directory, given.output, given.type)
    print(f"wrote {given.output}: {given.output.stat().st_size / 1e6:.1f} MB")
    if given.same_as:
        tokens = [int(t) for t in np.random.default_rng(0).integers(0, _config(given.directory)["vocab_size"], 32)]
        of_peer = logits(given.output, tokens)
        of_ingot = logits_of_artifact(given.same_as, tokens)
        print(f"logits differ by {difference(of_ingot, of_peer):.2%} in norm; the likeliest token is the same for "
              f"{(of_ingot.argmax(1) == of_peer.argmax(1)).mean():.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
