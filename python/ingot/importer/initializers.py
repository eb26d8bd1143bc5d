"""Initializers: constants that come with the model, in the file or beside it as external data."""

from __future__ import annotations

import os

import numpy as np
import onnx
from onnx import numpy_helper

from ingot.errors import CompileError
from ingot.importer.weights import STRING, Weight, as_strings, dtype_name


def initializer_weight(tensor: onnx.TensorProto, base_dir: str, source: str) -> Weight:
    """A constant whose bytes are decoded when they are needed; external data is mapped from its file."""
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except KeyError:
        raise CompileError(f"{source}: initializer '{tensor.name}' has an unknown data type ({tensor.data_type})") from None
    shape = tuple(int(d) for d in tensor.dims)
    if any(extent < 0 for extent in shape):
        raise CompileError(f"{source}: initializer '{tensor.name}' has a negative extent: {list(shape)}")
    if tensor.data_type == onnx.TensorProto.STRING:
        return Weight(tensor.name, shape, STRING, lambda: as_strings(_decode(tensor, shape, source)))
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return Weight(tensor.name, shape, dtype_name(dtype), lambda: _decode(tensor, shape, source))
    path, offset, length = _external_location(tensor, base_dir, source)
    packed = tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1)
    count = int(np.prod(shape, dtype=np.int64))
    expected = (count + 1) // 2 if packed else count * dtype.itemsize
    size = os.path.getsize(path) - offset
    if (length if length is not None else expected) < expected or size < expected:
        raise CompileError(f"{source}: external data of initializer '{tensor.name}' in '{path}' is too short: "
                           f"{expected} bytes are needed at offset {offset}, {max(0, size)} are there")

    def load() -> np.ndarray:
        if packed:
            whole = onnx.TensorProto()
            whole.CopyFrom(tensor)
            onnx.external_data_helper.load_external_data_for_tensor(whole, base_dir)
            return numpy_helper.to_array(whole)
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape) if count else np.empty(shape, dtype)

    return Weight(tensor.name, shape, dtype_name(dtype), load)


def _decode(tensor: onnx.TensorProto, shape: tuple[int, ...], source: str) -> np.ndarray:
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:
        raise CompileError(f"{source}: initializer '{tensor.name}' of shape {list(shape)} cannot be read: {error}") from error


def _external_location(tensor: onnx.TensorProto, base_dir: str, source: str) -> tuple[str, int, int | None]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    root = os.path.realpath(base_dir or ".")
    path = os.path.realpath(os.path.join(root, location))
    if not location or os.path.isabs(location) or os.path.commonpath([root, path]) != root:
        raise CompileError(f"{source}: external data of initializer '{tensor.name}' lies at '{location}', outside the model's folder; "
                           "only files below it are read")
    if not os.path.isfile(path):
        raise CompileError(f"{source}: external data of initializer '{tensor.name}' is missing: there is no file '{path}'")
    length = entries.get("length")
    try:
        offset, size = int(entries.get("offset", 0)), int(length) if length else None
    except ValueError:
        raise CompileError(f"{source}: external data of initializer '{tensor.name}' has a malformed offset or length") from None
    if offset < 0 or (size is not None and size < 0):
        raise CompileError(f"{source}: external data of initializer '{tensor.name}' has a negative offset or length")
    return path, offset, size


def sparse_initializer(sparse: onnx.SparseTensorProto) -> np.ndarray:
    """A sparse constant as a dense array."""
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    dense = np.zeros([int(d) for d in sparse.dims], values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense
