"""Bad archives, each with the result that a mount must give. Made by code, all small.

An outcome is one of

- `bytes`: the member `x` (or the shown `.npy`) has these bytes;
- `EIO`: it is listed, and opening or reading it is EIO;
- `PLAIN`: the file is shown as it is, under its own name;
- `AGREES`: whatever Python's zipfile reads of it, we read the same or nothing.
"""

import bz2
import gzip
import random
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import zipmaker
from arrays import npy
from zipmaker import BZIP2, DEFLATED, LZMA, STORED, XZ, ZSTD, Entry

EIO, PLAIN, AGREES = "EIO", "plain file", "agrees with zipfile"

METHODS = {
    "stored": STORED,
    "deflated": DEFLATED,
    "bzip2": BZIP2,
    "lzma": LZMA,
    "xz": XZ,
    "zstd": ZSTD,
}
CONTENT = npy(np.arange(5000, dtype="<i4"))


def archive(entries, **options):
    """The bytes of an archive."""
    with tempfile.TemporaryDirectory() as directory:
        return zipmaker.write(Path(directory) / "a", entries, **options).read_bytes()


def members():
    """Members that are not what their central directory says."""
    noise = random.Random(1).randbytes(3000)
    for name, method in METHODS.items():
        encoded = zipmaker.encode(CONTENT, method)
        flipped = bytearray(encoded)
        flipped[len(flipped) // 2] ^= 0x10
        size = len(CONTENT)
        for damage, fields in {
            "wrong CRC-32": {"crc32": 1},
            "CRC-32 of zero": {"crc32": 0},
            "a byte more": {"size": size + 1},
            "a byte less": {"size": size - 1},
            "no bytes": {"size": 0},
            "2^40 bytes": {"size": 1 << 40, "zip64": True},
            "cut": {"encoded": encoded[: len(encoded) // 2]},
            "cut by a byte": {"encoded": encoded[:-1], "crc32": 5},
            "nothing": {"encoded": b""},
            "junk": {"encoded": noise},
            "zeros": {"encoded": bytes(3000)},
            "flipped": {"encoded": bytes(flipped)},
        }.items():
            outcome = EIO
            if method == STORED and damage == "zeros":
                fields = fields | {"size": size}
            entry = Entry(b"x", CONTENT, method, **fields)
            yield f"{name}, {damage}", archive([entry]), outcome
        yield (
            f"{name}, encrypted",
            archive([Entry(b"x", CONTENT, method, flags=zipmaker.ENCRYPTED)]),
            "EACCES",
        )
    for number in (1, 6, 10, 97, 99, 65535):
        yield f"method {number}", archive([Entry(b"x", CONTENT, number, encoded=b"x")]), "ENOTSUP"


def good():
    return archive([Entry(b"x", CONTENT, DEFLATED), Entry(b"y", b"y" * 100)])


def cut():
    whole = good()
    for number in range(30):
        length = number * len(whole) // 30
        yield f"cut to {length} bytes", whole[:length], PLAIN


def flipped():
    whole, draw = good(), random.Random(5)
    central = whole.index(b"PK\1\2")
    for number in range(60):
        changed = bytearray(whole)
        at = draw.randrange(central, len(whole)) if number % 2 else draw.randrange(100)
        changed[at] ^= 1 << draw.randrange(8)
        yield f"bit flipped in byte {at}, {number}", bytes(changed), AGREES


def ends():
    whole = good()
    end = len(whole) - 22
    for name, changed in {
        "junk before": b"junk" * 100 + whole,
        "zeros after": whole + bytes(10),
        "a comment with an end record": archive(
            [Entry(b"x", CONTENT)], comment=b"PK\5\6" + bytes(18)
        ),
        "two archives": whole + whole,
        "a count of no members": whole[: end + 8] + bytes(4) + whole[end + 12 :],
        "a directory of 4 GiB": whole[: end + 12] + b"\xff" * 4 + whole[end + 16 :],
        "a directory of no bytes": whole[: end + 12] + bytes(4) + whole[end + 16 :],
        "disk 7": whole[: end + 4] + b"\7\0\7\0" + whole[end + 8 :],
        "a bad signature": whole[:end] + b"PK\5\7" + whole[end + 4 :],
    }.items():
        yield name, changed, AGREES
    yield "nothing", b"", PLAIN
    yield "gzip", gzip.compress(CONTENT), PLAIN
    yield "an end record alone", b"PK\5\6" + bytes(18), "an empty directory"


def bombs():
    zeros = bytes(1 << 20)
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = b"".join(coder.compress(zeros) for _ in range(200)) + coder.flush()
    for name, method, encoded in (
        ("deflate", DEFLATED, deflated),
        ("bzip2", BZIP2, bz2.compress(zeros) * 200),
    ):
        entry = Entry(b"x", b"", method, encoded=encoded, size=200 << 20, crc32=7)
        yield f"a bomb of {name}", archive([entry]), "EIO at last"
    same = [Entry(b"x%d" % n, CONTENT, DEFLATED, header_offset=0) for n in range(50)]
    yield "members that share their bytes", archive([Entry(b"x", CONTENT), *same]), CONTENT


def gzips():
    whole = gzip.compress(CONTENT, mtime=0)
    body, trailer = whole[10:-8], whole[-8:]

    def member(flags, fields=b"", method=8, magic=b"\x1f\x8b", end=trailer):
        return magic + bytes([method, flags]) + bytes(5) + b"\xff" + fields + body + end

    crc = struct.pack("<H", zlib.crc32(b"\x1f\x8b\x08\x02" + bytes(5) + b"\xff") & 0xFFFF)
    yield "plain", member(0), CONTENT
    yield "a name", member(8, b"name\0"), CONTENT
    yield "a comment", member(16, b"comment\0"), CONTENT
    yield "an extra field", member(4, b"\4\0abcd"), CONTENT
    yield "a header CRC", member(2, crc), CONTENT
    yield "a wrong header CRC", member(2, b"\0\0"), PLAIN
    yield "an extra field that is too long", member(4, b"\xff\xffabcd"), PLAIN
    yield "a name without end", b"\x1f\x8b\x08\x08" + bytes(5) + b"\xff" + b"n" * 1000, PLAIN
    yield "reserved flags", member(0xE0), PLAIN
    yield "method 7", member(0, method=7), PLAIN
    yield "another magic", member(0, magic=b"\x1f\x8c"), PLAIN
    yield "a wrong CRC-32", member(0, end=bytes(4) + trailer[4:]), EIO
    yield "a wrong length", member(0, end=trailer[:4] + bytes(4)), EIO
    yield "no trailer", member(0, end=b""), EIO
    yield "half a trailer", member(0, end=trailer[:5]), EIO
    yield "garbage after", member(0) + b"garbage", CONTENT
    yield "zeros after", member(0) + bytes(1000), CONTENT
    yield "a member after", member(0) + gzip.compress(b"more"), CONTENT
    yield "a cut member after", member(0) + gzip.compress(b"more")[:12], CONTENT
    yield "two halves", gzip.compress(CONTENT[:9000]) + gzip.compress(CONTENT[9000:]), CONTENT
    yield "an empty member first", gzip.compress(b"") + member(0), CONTENT
    yield "empty", b"", PLAIN
    yield "a zip", good(), PLAIN
    for number in range(1, 10):
        length = number * len(whole) // 10
        yield f"cut to {length} bytes", whole[:length], "EIO or plain"
    for number in range(20):
        changed = bytearray(whole)
        changed[12 + number * (len(whole) - 20) // 20] ^= 4
        yield f"flipped, {number}", bytes(changed), "EIO or plain"


HEADERS = {
    "65 axes": "{'descr': '<f4', 'fortran_order': False, 'shape': (%s)}" % ("1," * 65),
    "a negative axis": "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
    "2^64 elements": "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
    "no such dtype": "{'descr': '<q4', 'fortran_order': False, 'shape': (1,)}",
    "a dtype of 100 kB": "{'descr': '%s', 'fortran_order': False, 'shape': (1,)}" % ("f" * 100_000),
    "brackets": "[" * 60_000,
    "no dict": "(1, 2)",
    "no shape": "{'descr': '<f4', 'fortran_order': False}",
    "code": "__import__('os').abort()",
    "no end": "{'descr': '<f4', 'fortran_order': False, 'shape': (1,",
}


def headers():
    """Headers that give no size, so only the plain file can be shown."""
    for name, text in HEADERS.items():
        text = text.encode()
        content = b"\x93NUMPY\2\0" + struct.pack("<I", len(text)) + text
        yield name, gzip.compress(content), PLAIN


ZIPS = [*members(), *cut(), *flipped(), *ends(), *bombs()]
GZIPS = [*gzips(), *headers()]
