"""Writes zip archives byte by byte, so that everything odd can be written.

Names of fields follow APPNOTE.TXT. Nothing here is checked for sense: a field that is given is
written as it is. `test_zipmaker.py` compares what comes out with Python's zipfile.
"""

import bz2
import lzma
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

STORED, DEFLATED, DEFLATE64, BZIP2, LZMA, ZSTD, XZ = 0, 8, 9, 12, 14, 93, 95

ENCRYPTED = 1 << 0
DATA_DESCRIPTOR = 1 << 3
UTF8 = 1 << 11

UINT32_MAX = 0xFFFFFFFF


@dataclass(frozen=True)
class Hole:
    """Zero bytes that are not written, only skipped: the file becomes sparse."""

    size: int


@dataclass
class Entry:
    """One member; what is None follows from `data` and `method`."""

    name: bytes
    data: bytes = b""
    method: int = STORED
    # The bytes in the archive, or pieces of them (bytes and Holes).
    encoded: object = None
    crc32: int | None = None
    size: int | None = None
    encoded_size: int | None = None
    header_offset: int | None = None
    flags: int = UTF8
    time: int = 0
    date: int = 0x21  # 1980-01-01
    version_needed: int = 20
    made_by: int = 3 << 8 | 20  # Unix
    external_attributes: int = 0o100644 << 16
    extra: bytes = b""
    comment: bytes = b""
    local_extra: bytes = b""
    # Sizes in a zip64 extra field, in both headers, even when they are small.
    zip64: bool = False
    # CRC and sizes after the data and not in the local header.
    descriptor: bool = False
    # Fields of the local file header that differ from the central directory's.
    local: dict = field(default_factory=dict)
    # Bytes before the local file header that belong to nothing.
    gap: bytes = b""


def raw_deflate(data, level=6, strategy=zlib.Z_DEFAULT_STRATEGY):
    coder = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    return coder.compress(data) + coder.flush()


def encode(data, method):
    """`data` as it lies in an archive."""
    if method == STORED:
        return data
    if method == DEFLATED:
        return raw_deflate(data)
    if method == BZIP2:
        return bz2.compress(data)
    if method == LZMA:
        # APPNOTE 5.8.8: version of the LZMA SDK, size of the properties, the properties.
        properties = struct.pack("<BI", 3 + 9 * (0 + 5 * 2), 1 << 20)
        filters = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 20, "lc": 3, "lp": 0, "pb": 2}]
        raw = lzma.compress(data, lzma.FORMAT_RAW, filters=filters)
        return struct.pack("<BBH", 9, 20, len(properties)) + properties + raw
    if method == XZ:
        return lzma.compress(data, lzma.FORMAT_XZ)
    if method == ZSTD:
        return zstandard.ZstdCompressor().compress(data)
    raise ValueError(f"no encoder for method {method}")


def deflate_pieces(chunks):
    """Deflates each of `chunks` by itself; a copy of a chunk costs nothing to encode again."""
    encoded = {}
    for chunk in chunks:
        if chunk not in encoded:
            coder = zlib.compressobj(1, zlib.DEFLATED, -15)
            # A full flush ends on a whole byte and forgets the window.
            encoded[chunk] = coder.compress(chunk) + coder.flush(zlib.Z_FULL_FLUSH)
        yield encoded[chunk]
    yield b"\x03\x00"  # an empty, final block with fixed codes


def _times(matrix, vector):
    total, row = 0, 0
    while vector:
        if vector & 1:
            total ^= matrix[row]
        vector >>= 1
        row += 1
    return total


def crc32_combine(first, second, second_size):
    """CRC-32 of two strings one after the other, as zlib's crc32_combine."""
    # Rows of the operator that feeds one zero bit into a CRC register.
    operator = [0xEDB88320] + [1 << bit for bit in range(31)]
    bits = second_size * 8
    while bits:
        if bits & 1:
            first = _times(operator, first)
        operator = [_times(operator, row) for row in operator]
        bits >>= 1
    return first ^ second


def crc32_of_zeros(size):
    """CRC-32 of `size` zero bytes."""
    # Of the two complements, the leading one is what the zeros are fed into.
    return crc32_combine(UINT32_MAX, 0, size) ^ UINT32_MAX


def _zip64_extra(*values):
    return struct.pack("<HH", 1, 8 * len(values)) + struct.pack(f"<{len(values)}Q", *values)


def _pieces(entry):
    encoded = entry.encoded
    if encoded is None:
        encoded = encode(entry.data, entry.method)
    return [encoded] if isinstance(encoded, bytes) else encoded


def _copy(out, pieces):
    """Writes pieces, and says how many bytes they are."""
    total = 0
    for piece in pieces:
        if isinstance(piece, Hole):
            out.seek(piece.size, 1)
            total += piece.size
        else:
            out.write(piece)
            total += len(piece)
    return total


def _local_header(entry, fields):
    extra = entry.local_extra
    crc32, encoded_size, size = fields["crc32"], fields["encoded_size"], fields["size"]
    if entry.descriptor:
        crc32 = encoded_size = size = 0
    if entry.zip64:
        extra = _zip64_extra(size, encoded_size) + extra
        encoded_size = size = UINT32_MAX
    fields = fields | {"crc32": crc32, "encoded_size": encoded_size, "size": size} | entry.local
    name = fields["name"]
    return (
        struct.pack(
            "<4sHHHHHIIIHH",
            fields.get("signature", b"PK\3\4"),
            fields["version_needed"],
            fields["flags"],
            fields["method"],
            fields["time"],
            fields["date"],
            fields["crc32"],
            min(fields["encoded_size"], UINT32_MAX),
            min(fields["size"], UINT32_MAX),
            fields.get("name_length", len(name)),
            fields.get("extra_length", len(extra)),
        )
        + name
        + extra
    )


def _central_header(entry, fields, offset):
    size, encoded_size = fields["size"], fields["encoded_size"]
    too_large = []
    for value in (size, encoded_size, offset):
        if entry.zip64 or value >= UINT32_MAX:
            too_large.append(value)
    extra = (_zip64_extra(*too_large) if too_large else b"") + entry.extra
    small = [
        UINT32_MAX if entry.zip64 else min(v, UINT32_MAX) for v in (encoded_size, size, offset)
    ]
    return (
        struct.pack(
            "<4sHHHHHHIIIHHHHHII",
            b"PK\1\2",
            entry.made_by,
            fields["version_needed"],
            fields["flags"],
            fields["method"],
            fields["time"],
            fields["date"],
            fields["crc32"],
            small[0],
            small[1],
            len(entry.name),
            len(extra),
            len(entry.comment),
            0,
            0,
            entry.external_attributes,
            small[2],
        )
        + entry.name
        + extra
        + entry.comment
    )


def _write_member(out, entry):
    """Writes local header, data and descriptor; returns the central directory's record."""
    out.write(entry.gap)
    offset = out.tell()
    zip64 = entry.zip64
    fields = {
        "name": entry.name,
        "version_needed": 45 if zip64 else entry.version_needed,
        "flags": entry.flags | (DATA_DESCRIPTOR if entry.descriptor else 0),
        "method": entry.method,
        "time": entry.time,
        "date": entry.date,
        "crc32": zlib.crc32(entry.data) if entry.crc32 is None else entry.crc32,
        "size": len(entry.data) if entry.size is None else entry.size,
        "encoded_size": 0,
    }
    header_size = len(_local_header(entry, fields))
    out.seek(header_size, 1)
    written = _copy(out, _pieces(entry))
    fields["encoded_size"] = written if entry.encoded_size is None else entry.encoded_size
    end = out.tell()
    out.seek(offset)
    out.write(_local_header(entry, fields))
    out.seek(end)
    if entry.descriptor:
        sizes = "<4sIQQ" if zip64 else "<4sIII"
        values = (fields["crc32"], fields["encoded_size"], fields["size"])
        out.write(struct.pack(sizes, b"PK\7\x08", *values))
    shown = offset if entry.header_offset is None else entry.header_offset
    return _central_header(entry, fields, shown)


def end_record(count, size, offset, comment=b"", zip64_at=None):
    """End of central directory record; with `zip64_at`, the two zip64 ones before it."""
    zip64 = b""
    if zip64_at is not None:
        zip64 = struct.pack(
            "<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset
        ) + struct.pack("<4sIQI", b"PK\6\7", 0, zip64_at, 1)
    return (
        zip64
        + struct.pack(
            "<4sHHHHIIH",
            b"PK\5\6",
            0,
            0,
            min(count, 0xFFFF),
            min(count, 0xFFFF),
            min(size, UINT32_MAX),
            min(offset, UINT32_MAX),
            len(comment),
        )
        + comment
    )


def write(path, entries, prefix=b"", comment=b"", zip64_end=False):
    """Writes an archive; offsets count from the start of the file, `prefix` included."""
    with open(path, "wb") as out:
        out.write(prefix)
        central = [_write_member(out, entry) for entry in entries]
        start = out.tell()
        size = _copy(out, central)
        zip64 = zip64_end or len(central) > 0xFFFE or start >= UINT32_MAX
        at = out.tell() if zip64 else None
        out.write(end_record(len(central), size, start, comment, at))
    return Path(path)
