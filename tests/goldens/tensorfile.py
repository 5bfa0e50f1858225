"""The safetensors format, written and read by hand: an 8-byte little-endian length, a JSON header, the raw values."""
import json
import platform
import struct

import numpy as np
import torch

DTYPES = {"float32": "F32", "int64": "I64"}


def versions():
    """What made the numbers: goes into every file's metadata."""
    return {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}


def to_array(tensor):
    """A tensor as a C-ordered array: floats as f32, integers as they are."""
    array = tensor.detach().cpu().numpy()
    return np.ascontiguousarray(array.astype(np.float32) if array.dtype.kind == "f" else array)


def write(path, tensors, metadata):
    """Writes name -> tensor in the order of the dict; metadata values are strings."""
    arrays = {name: to_array(tensor) for name, tensor in tensors.items()}
    header, offset = {"__metadata__": {**versions(), **metadata}}, 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        header[name] = {"dtype": DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(array.tobytes())
    return 8 + len(text) + offset


def read(path):
    """(name -> array, metadata) of a file with f32 and i64 tensors."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header, body = json.loads(file.read(length)), file.read()
    metadata = header.pop("__metadata__", {})
    names = {short: name for name, short in DTYPES.items()}
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(body[begin:end], names[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata
