# SPDX-License-Identifier: BSD-3-Clause
"""Messages of DECTRIS Stream V2: CBOR (RFC 8949) with typed arrays (RFC 8746), compressed or not.

The source and the sender of this protocol share these functions, which know nothing of sockets. Arrays stay as they
came until they are asked for, so that a flat field or a second channel costs nothing. What a message claims is checked
before memory is allocated for it. The format: https://github.com/dectris/documentation/tree/main/stream_v2
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ptychopinn._one_line import one_line
from ptychopinn.errors import InputError
from ptychopinn.streaming.libraries import library

#: Extra that brings the libraries, and what needs them.
NEEDED = ("dectris", "DECTRIS stream")
#: Bytes of an array after decompression, at most.
LARGEST_ARRAY = 1 << 28
#: Bytes of a message, at most: a mask and a flat field for each of several channels fit in.
LARGEST_MESSAGE = 4 * LARGEST_ARRAY
COMPRESSIONS = ("bslz4", "lz4")

#: CBOR items of a message, and bytes of a text, at most. Messages of detectors have about a hundred items.
_MOST_ITEMS, _LONGEST_TEXT = 1 << 16, 1 << 20
#: Depth of containers in a message, at most.
_DEEPEST = 32
_SHAPED, _COMPRESSED = 40, 56500
#: Tag of a typed array -> its type. Tags 83 and 87, of 128 bits, have no type in NumPy; tag 76 is reserved.
_TYPES = {
    68: "u1", 64: "u1", 65: ">u2", 66: ">u4", 67: ">u8", 69: "<u2", 70: "<u4", 71: "<u8",
    72: "i1", 73: ">i2", 74: ">i4", 75: ">i8", 77: "<i2", 78: "<i4", 79: "<i8",
    80: ">f2", 81: ">f4", 82: ">f8", 84: "<f2", 85: "<f4", 86: "<f8",
}  # fmt: skip
_TAGS = {np.dtype(name): tag for tag, name in _TYPES.items()}
#: Tags that cbor2 would turn into objects of its own: dates, regular expressions, references. Their content is enough.
_PLAIN = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)
_ADDRESS = re.compile(r"(?:zmq|tcp)://(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/;@\[\]]+):(?P<port>\d{1,5})")


class MessageError(InputError):
    """A message that cannot be read: the only exception for what comes from outside."""


@dataclass(frozen=True, eq=False)
class StreamArray:
    """An array as it is in a message.

    Args:
        shape: row-major; (n,) if the message states none.
        dtype: of the elements, with their byte order.
        data: the elements, compressed or not.
        compression: one of :data:`COMPRESSIONS`, None for none.
        element_size: bytes, for "bslz4".
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    data: bytes
    compression: str | None = None
    element_size: int = 0

    __repr__ = one_line

    def decoded(self) -> NDArray[Any]:
        """The elements, (shape), in the machine's byte order; read-only where no copy was needed.

        Raises:
            MessageError: the compressed data are damaged.
        """
        data = self.data
        if self.compression is not None:
            decompress = library("dectris.compression", "dectris-compression", *NEEDED).decompress
            try:
                data = decompress(data, self.compression, elem_size=self.element_size)
            except (RuntimeError, ValueError, MemoryError, OverflowError) as error:
                raise MessageError(f"expected data compressed with {self.compression}, found {error}") from error
        return np.frombuffer(data, self.dtype).reshape(self.shape).astype(self.dtype.newbyteorder("="), copy=False)


def compressed(array: NDArray[Any], compression: str) -> StreamArray:
    """Compress an array as a detector does.

    HDF5 filters do it, because their framing is that of the stream.

    Args:
        array: any shape, a type that messages have.
        compression: one of :data:`COMPRESSIONS`.

    Raises:
        InputError: the library hdf5plugin is missing.
    """
    import h5py

    filters = library("hdf5plugin", "hdf5plugin", *NEEDED)
    settings = filters.Bitshuffle() if compression == "bslz4" else filters.LZ4()
    with h5py.File(uuid4().hex, "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("data", data=array, chunks=array.shape, **settings)
        skipped, data = dataset.id.read_direct_chunk((0,) * array.ndim)
    assert not skipped
    return StreamArray(array.shape, array.dtype, data, compression, array.itemsize if compression == "bslz4" else 0)


def encode(message: Mapping[str, Any]) -> bytes:
    """Encode a message; its NumPy arrays are not compressed, its :class:`StreamArray` stay as they are.

    Raises:
        InputError: an array has a type that messages do not have.
    """
    return bytes(library("cbor2", "cbor2", *NEEDED).dumps(_plain(message)))


def _plain(value: Any) -> Any:
    """A value with CBOR tags in place of arrays."""
    if isinstance(value, Mapping):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, np.ndarray):
        value = StreamArray(value.shape, value.dtype, value.tobytes())
    if not isinstance(value, StreamArray):
        return value
    if value.dtype not in _TAGS:
        raise InputError(f"expected an array of integers or floats of up to 64 bits, found {value.dtype}; convert it")
    tag = library("cbor2", "cbor2", *NEEDED).CBORTag
    data = value.data
    if value.compression is not None:
        data = tag(_COMPRESSED, [value.compression, value.element_size, data])
    return tag(_SHAPED, [list(value.shape), tag(_TAGS[value.dtype], data)])


def decode(data: bytes) -> dict[str, Any]:
    """Decode a message; its arrays become :class:`StreamArray`, other tags their content.

    Args:
        data: one CBOR item.

    Returns:
        The fields; "type" is a text, the others are not checked.

    Raises:
        MessageError: this is no such message, or larger than a message may be.
    """
    cbor2 = library("cbor2", "cbor2", *NEEDED)
    _check_extent(data)
    try:
        message = cbor2.loads(
            data,
            tag_hook=lambda tag, _immutable: _read_tag(tag.tag, tag.value),
            semantic_decoders=dict.fromkeys(_PLAIN, lambda value, _immutable: value),
            max_depth=_DEEPEST,
            strict_hashable_types=True,
        )
    except cbor2.CBORDecodeError as error:
        found = error.__cause__ if isinstance(error.__cause__, MessageError) else f"no CBOR ({error})"
        raise MessageError(f"expected a CBOR message of Stream V2, found {found}") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise MessageError("expected a CBOR message of Stream V2, found one without a type")
    return message


def _check_extent(data: bytes) -> None:
    """Walk the heads of all items: objects of Python are many times larger than items of one byte."""
    position = items = 0
    fits = len(data) <= LARGEST_MESSAGE
    while fits and position < len(data):
        kind, info = data[position] >> 5, data[position] & 31
        size = 1 << (info - 24) if 24 <= info < 28 else 0
        length = 0
        if kind in (2, 3) and info < 28:  # bytes and text, whose content has no heads
            length = int.from_bytes(data[position + 1 : position + 1 + size], "big") if size else info
        position += 1 + size + length
        items += 1
        fits = items <= _MOST_ITEMS and (kind == 2 or length <= _LONGEST_TEXT)
    if not fits:
        raise MessageError(
            f"expected a message of at most {LARGEST_MESSAGE >> 20} MiB, with {_MOST_ITEMS} items and texts of "
            f"{_LONGEST_TEXT >> 20} MiB, found a larger one"
        )


def _read_tag(tag: int, value: Any) -> Any:
    if tag == _COMPRESSED:
        return _compressed_bytes(value)
    if tag in _TYPES:
        return _typed_array(tag, value)
    return _shaped_array(value) if tag == _SHAPED else value


def _compressed_bytes(value: Any) -> StreamArray:
    """Compressed bytes, which stand wherever bytes may, as an array of bytes."""
    match value:
        case [str(compression), int(element_size), bytes(data)]:
            pass
        case _:
            raise MessageError("compressed data (tag 56500) that are not [algorithm, element size, bytes]")
    if compression not in COMPRESSIONS:
        raise MessageError(f"the compression {compression[:20]!r}; set the detector's to {' or '.join(COMPRESSIONS)}")
    if compression == "bslz4" and element_size not in (1, 2, 4, 8):
        raise MessageError("an element size for bslz4 that is not 1, 2, 4 or 8")
    if len(data) < 12:
        raise MessageError(f"compressed data of {len(data)} bytes, less than their header has")
    size, block = struct.unpack_from(">QI", data)
    if max(size, block) > LARGEST_ARRAY:
        raise MessageError(f"compressed data that claim {max(size, block)} bytes, more than {LARGEST_ARRAY}")
    return StreamArray((size,), np.dtype(np.uint8), data, compression, element_size if compression == "bslz4" else 0)


def _typed_array(tag: int, value: Any) -> StreamArray:
    if isinstance(value, bytes):
        value = StreamArray((len(value),), np.dtype(np.uint8), value)
    if not isinstance(value, StreamArray) or value.dtype != np.uint8 or len(value.shape) != 1:
        raise MessageError(f"a typed array (tag {tag}) that is not of bytes")
    dtype, size = np.dtype(_TYPES[tag]), value.shape[0]
    if size % dtype.itemsize or size > LARGEST_ARRAY:
        raise MessageError(f"a typed array (tag {tag}) of {size} bytes")
    return replace(value, shape=(size // dtype.itemsize,), dtype=dtype)


def _shaped_array(value: Any) -> StreamArray:
    match value:
        case [[_, *_] as shape, StreamArray() as array] if len(shape) <= 4:
            pass
        case _:
            raise MessageError("an array (tag 40) that is not [shape, typed array]")
    if not all(type(side) is int and 0 < side <= LARGEST_ARRAY for side in shape):
        raise MessageError("an array whose shape is not of positive integers")
    if len(array.shape) != 1 or math.prod(shape) != array.shape[0]:
        raise MessageError(f"an array of shape {tuple(shape)} with {math.prod(array.shape)} elements")
    return replace(array, shape=tuple(shape))


def endpoint(address: str, lowest_port: int = 1) -> str:
    """The ZeroMQ endpoint of zmq://HOST:PORT.

    Args:
        address: tcp:// is permitted, too.
        lowest_port: 0 where the system may choose the port.

    Raises:
        InputError: this is no such address.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or not lowest_port <= int(match["port"]) <= 65535:
        raise InputError(
            f"{address}: expected an address zmq://HOST:PORT with a port from {lowest_port} to 65535, found another; "
            "detectors of DECTRIS send from port 31001"
        )
    return f"tcp://{match['host']}:{int(match['port'])}"
