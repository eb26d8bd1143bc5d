"""Weights of Hugging Face checkpoints that GPTQ or AWQ quantized: how integers lie in int32, and what numbers they stand for.

Both store a matrix of K inputs and N outputs as codes q, with a scale s and a zero point z for each group of k: its numbers are s (q - z).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ingot.errors import CompileError, UnsupportedError

Array = npt.NDArray[Any]
#: The tensors of one layer, by the last part of their names.
PARTS = ("qweight", "qzeros", "scales", "g_idx")
#: The method of weights in E4M3 (fine-grained FP8), and what stands behind a weight's name in that of its scales.
FP8 = "fp8"
FP8_SCALES = ("_scale_inv", "_scale")
#: Where in an int32 AWQ's GEMM kernels expect the nibbles of eight neighbouring columns: nibble i is column _AWQ_ORDER[i].
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Settings:
    """``quantization_config``: the method, the bits of a code, how many k share a scale (-1: all), and whether stored zero points are one less.

    The last is so in GPTQ's first format. Methods are ``gptq``, ``awq`` and ``fp8``, whose weights are E4M3 in blocks of any size.
    """

    method: str
    bits: int
    group: int = -1
    minus_one: bool = False

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.method}, {self.bits} bits"


@dataclass(frozen=True)
class PackedLinear:
    """A quantized matrix.

    Attributes:
        bits: 4 or 8.
        group: How many k share a scale, the last ones maybe fewer: a power of two of at least 16, or at least K where there is one group.
        codes: uint8 [K, N].
        scales: float32 [groups, N].
        zeros: uint8 [groups, N].
        order: int64 [K]: row k of ``codes`` is for input ``order[k]``; None if they are in order.
    """

    bits: int
    group: int
    codes: Array
    scales: Array
    zeros: Array
    order: Array | None = None

    def floats(self) -> Array:
        """The matrix, float32 [K, N], its rows in the order of ``codes``."""
        depth = len(self.codes)
        zeros, scales = (np.repeat(p.astype(np.float32), self.group, axis=0)[:depth] for p in (self.zeros, self.scales))
        return (self.codes.astype(np.float32) - zeros) * scales


@dataclass(frozen=True)
class Blocks:
    """A quantized matrix as onnxruntime's operator MatMulNBits has it.

    Attributes:
        bits: 4 or 8.
        group: How many k share a scale: a power of two of at least 16.
        depth, columns: K and N.
        codes: uint8 [N, blocks, group * bits / 8], nibbles with the first one low.
        scales: float32 [N, blocks].
        zeros: uint8 [N, bytes], packed as codes are; None where all are 2^(bits - 1).
        order: int64 [K]: column k of ``codes`` is for input ``order[k]``; None if they are in order.
    """

    bits: int
    group: int
    depth: int
    columns: int
    codes: Array
    scales: Array
    zeros: Array | None
    order: Array | None

    @property
    def attributes(self) -> dict[str, int]:
        """The operator's attributes."""
        return {"K": self.depth, "N": self.columns, "bits": self.bits, "block_size": self.group}


def blocks_of(packed: PackedLinear) -> Blocks:
    """The same matrix as MatMulNBits has it."""
    depth, columns = packed.codes.shape
    blocks = packed.scales.shape[0]
    padded = np.zeros((columns, blocks * packed.group), np.uint8)
    padded[:, :depth] = packed.codes.T
    symmetric = (packed.zeros == 2 ** (packed.bits - 1)).all()
    return Blocks(packed.bits, packed.group, depth, columns, _nibbles(padded, packed.bits).reshape(columns, blocks, -1),
                  np.ascontiguousarray(packed.scales.T), None if symmetric else _nibbles(packed.zeros.T, packed.bits), packed.order)


def _nibbles(codes: Array, bits: int) -> Array:
    """Codes [rows, n] as MatMulNBits packs them: bytes, or nibbles with the first one low, a row padded to whole bytes."""
    if bits == 8:
        return np.ascontiguousarray(codes, np.uint8)
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return np.ascontiguousarray(even[:, ::2] | even[:, 1::2] << 4, np.uint8)


def settings_of(config: Mapping[str, Any], where: str) -> Settings:
    """What a ``quantization_config`` says. An UnsupportedError names a method or format that Ingot does not read."""
    method = str(config.get("quant_method", "")).lower()
    bits = int(config.get("bits", config.get("w_bit", 4)))
    if method == FP8:
        return Settings(method, 8)
    if method not in _UNPACK:
        raise UnsupportedError(f"{where}: the weights are quantized by '{method or 'an unknown method'}'; Ingot reads gptq, awq and fp8. "
                               "A model in floats can be quantized with --quantize")
    allowed = (4,) if method == "awq" else (4, 8)
    if bits not in allowed:
        raise UnsupportedError(f"{where}: {method} weights of {bits} bits; Ingot reads {' and '.join(map(str, allowed))} bits")
    layout = str(config.get("checkpoint_format") or config.get("version") or "").lower()
    known = ("", "gemm") if method == "awq" else ("", "gptq", "gptq_v2")
    if layout not in known:
        raise UnsupportedError(f"{where}: {method} weights are packed in the format '{layout}'; Ingot reads {', '.join(known[1:])}")
    group = int(config.get("group_size", config.get("q_group_size", -1)))
    return Settings(method, bits, group, method == "gptq" and layout != "gptq_v2")


def fp8_numbers(codes: Array, scales: Array, where: str) -> Array:
    """The numbers of a weight in E4M3, float32 [N, K].

    Args:
        codes: [N, K] as float8_e4m3fn.
        scales: Floats that codes are multiplied by: one number, one for each row [N, 1], or one for each block [ceil(N / n), ceil(K / k)], where
            n and k are the powers of two that make so many.
        where: The layer, for errors.

    Raises:
        UnsupportedError: Scales are of another shape.
    """
    if codes.ndim != 2 or (scales.size != 1 and scales.ndim != 2):
        raise UnsupportedError(f"{where}: FP8 weights of shape {list(codes.shape)} with scales of shape {list(scales.shape)}")
    factors: Array = scales.astype(np.float32).reshape((1, 1) if scales.size == 1 else scales.shape)
    for axis in range(2):
        extent, count = codes.shape[axis], factors.shape[axis]
        block = extent if count == 1 else 1 if count == extent else 1 << (-(-extent // max(count, 1)) - 1).bit_length()
        if count < 1 or -(-extent // block) != count:
            raise UnsupportedError(f"{where}: FP8 weights of shape {list(codes.shape)} with scales of shape {list(scales.shape)}, which are "
                                   "not of blocks of a power of two")
        factors = np.repeat(factors, block, axis=axis).take(range(extent), axis=axis)
    return np.asarray(codes.astype(np.float32) * factors)


def unpack(settings: Settings, parts: Mapping[str, Array], depth: int, columns: int, where: str) -> PackedLinear:
    """Reads one layer.

    Args:
        settings: What the checkpoint says of all its layers.
        parts: Its tensors by their names in :data:`PARTS`: ``qweight`` and ``qzeros`` int32, ``scales`` floats [groups, N], ``g_idx`` int32 [K]
            or absent.
        depth: K, the layer's inputs.
        columns: N, its outputs.
        where: The layer, for errors.

    Raises:
        CompileError: A tensor is missing or its shape does not fit.
        UnsupportedError: Groups are not of one size, or of a size that no power of two from 16 divides.
    """
    missing = [name for name in PARTS[:3] if name not in parts]
    if missing:
        raise CompileError(f"{where}: its quantized weight lacks '{missing[0]}'")
    scales = parts["scales"].astype(np.float32)
    groups = scales.shape[0] if scales.ndim == 2 else 0
    codes, zeros = _UNPACK[settings.method](settings, parts, (depth, columns), (groups, columns), where)
    if scales.shape != (groups, columns) or not groups:
        raise CompileError(f"{where}: scales of shape {list(scales.shape)} do not fit a layer of {depth} inputs and {columns} outputs")
    g_idx = parts.get("g_idx")
    group = depth if groups == 1 else settings.group if settings.group > 0 and -(-depth // settings.group) == groups else 0
    if not group:
        raise CompileError(f"{where}: {groups} groups of scales for {depth} inputs, which groups of {settings.group} do not make")
    if g_idx is not None and groups > 1:
        if g_idx.shape != (depth,) or g_idx.min() < 0 or g_idx.max() >= groups:
            raise CompileError(f"{where}: g_idx does not give each of {depth} inputs one of {groups} groups")
        order = np.argsort(g_idx, kind="stable").astype(np.int64)
        counts = np.bincount(g_idx, minlength=groups)
        group = int(counts[0])
        if (counts[:-1] != group).any() or not 0 < counts[-1] <= group:
            raise UnsupportedError(f"{where}: g_idx makes groups of {counts.min()} to {counts.max()} inputs; all but the last must be of one size")
        if (order != np.arange(depth)).any():
            return _regrouped(PackedLinear(settings.bits, group, codes[order], scales, zeros, order), where)
    return _regrouped(PackedLinear(settings.bits, group, codes, scales, zeros), where)


def _regrouped(found: PackedLinear, where: str) -> PackedLinear:
    """The same matrix in groups of a power of two, as the kernel wants them: scales are repeated where groups become smaller."""
    depth = len(found.codes)
    if found.group >= depth:
        return PackedLinear(found.bits, max(16, 1 << (depth - 1).bit_length()), found.codes, found.scales, found.zeros, found.order)
    power = found.group & -found.group
    if power < 16:
        raise UnsupportedError(f"{where}: groups of {found.group} inputs; Ingot reads multiples of 16")
    times = found.group // power
    scales, zeros = (np.repeat(p, times, axis=0)[: -(-depth // power)] for p in (found.scales, found.zeros))
    return PackedLinear(found.bits, power, found.codes, scales, zeros, found.order)


def _fields(packed: Array, bits: int, axis: int) -> Array:
    """The unsigned integers in int32s, low bits first, along an axis that grows by as many."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    words = np.moveaxis(np.ascontiguousarray(packed).view(np.uint32), axis, -1)
    fields = (words[..., None] >> shifts & np.uint32(2**bits - 1)).astype(np.uint8)
    return np.moveaxis(fields.reshape(*words.shape[:-1], -1), -1, axis)


def _gptq(settings: Settings, parts: Mapping[str, Array], shape: tuple[int, int], grouped: tuple[int, int], where: str) -> tuple[Array, Array]:
    """Codes packed along K, zero points along N."""
    per, (depth, columns) = 32 // settings.bits, shape
    _expect(parts["qweight"], (depth // per, columns), "qweight", settings, shape, where)
    _expect(parts["qzeros"], (grouped[0], columns // per), "qzeros", settings, shape, where)
    zeros = _fields(parts["qzeros"], settings.bits, 1)
    if settings.minus_one:
        zeros = (zeros + np.uint8(1)) & np.uint8(2**settings.bits - 1)  # 0 was stored as -1
    return np.ascontiguousarray(_fields(parts["qweight"], settings.bits, 0)), zeros


def _awq(settings: Settings, parts: Mapping[str, Array], shape: tuple[int, int], grouped: tuple[int, int], where: str) -> tuple[Array, Array]:
    """Both packed along N, in the order of the GEMM kernels."""
    per, (depth, columns) = 32 // settings.bits, shape
    _expect(parts["qweight"], (depth, columns // per), "qweight", settings, shape, where)
    _expect(parts["qzeros"], (grouped[0], columns // per), "qzeros", settings, shape, where)
    back = np.argsort(_AWQ_ORDER)

    def ordered(packed: Array) -> Array:
        fields = _fields(packed, settings.bits, 1)
        return np.ascontiguousarray(fields.reshape(len(fields), -1, per)[:, :, back].reshape(len(fields), -1))

    return ordered(parts["qweight"]), ordered(parts["qzeros"])


def _expect(found: Array, shape: tuple[int, ...], name: str, settings: Settings, layer: tuple[int, int], where: str) -> None:
    if found.dtype != np.int32 or found.shape != shape:
        raise CompileError(f"{where}: {name} is {found.dtype} {list(found.shape)}; a layer of {layer[0]} inputs and {layer[1]} outputs "
                           f"in {settings.text} has int32 {list(shape)}")


_UNPACK: dict[str, Callable[..., tuple[Array, Array]]] = {"gptq": _gptq, "awq": _awq}
