#!/usr/bin/env python3
"""Writes corpus/TARGET/seed-*: what fuzzing starts from. Run once; the seeds are checked in."""

import gzip
import io
import pathlib
import struct
import zipfile
import zlib

HERE = pathlib.Path(__file__).parent


def npy(text="{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }", version=1, data=b""):
    text = text.ljust(117).encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


HEADERS = {
    "v1": npy(data=bytes(48)),
    "v2": npy(version=2),
    "v3": npy(version=3),
    "scalar": npy("{'descr': '|b1', 'fortran_order': True, 'shape': ()}"),
    "fields": npy("{'descr': [('a', '<i4'), ('b', '<f8', (2, 3)), (('t', 'c'), '|S5')], "
                  "'fortran_order': False, 'shape': (7,)}"),
    "object": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1L,)}"),
    "time": npy("{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (2,)}"),
    "subarray": npy("{'descr': ('<u2', (3,)), 'fortran_order': False, 'shape': (2,)}"),
}


def zips():
    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED),
                         ("bzip2", zipfile.ZIP_BZIP2), ("lzma", zipfile.ZIP_LZMA)):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            archive.writestr("x.npy", HEADERS["v1"])
            archive.writestr("d/y.npy", b"y" * 300)
        yield name, out.getvalue()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("a", "a/b", "../c", "/d", "e/", "n" * 300 + ".npy", "\u00e9"):
            archive.writestr(name, name)
        archive.comment = b"PK\5\6 a comment"
    yield "names", out.getvalue()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open("x", "w", force_zip64=True) as member:
        member.write(b"zip64")
    yield "zip64", b"junk before it" + out.getvalue()
    yield "empty", b"PK\5\6" + bytes(18)


def gzips():
    plain = HEADERS["v1"]
    yield "plain", gzip.compress(plain, mtime=0)
    yield "members", gzip.compress(plain[:40], mtime=0) + gzip.compress(plain[40:], mtime=0)
    yield "empty-first", gzip.compress(b"", mtime=0) + gzip.compress(plain, mtime=0)
    yield "garbage", gzip.compress(plain, mtime=0) + b"garbage"
    body = zlib.compressobj(wbits=-15)
    body = body.compress(plain) + body.flush()
    fields = b"\4\0abcd" + b"name\0" + b"comment\0"
    trailer = struct.pack("<II", zlib.crc32(plain), len(plain))
    yield "fields", b"\x1f\x8b\x08\x1c\0\0\0\0\0\xff" + fields + body + trailer


def indexes():
    entry = struct.pack("<4QQ16s", 0, 1 << 20, 72 + 56, 4, 1, bytes(16))
    yield "forged", b"\1" + bytes(12) + b"\1" + bytes(59) + entry + b"data"
    partial = struct.pack("<4QQ16s", 9, 1 << 21, 72 + 2 * 56, 4, 2, b"f" * 16)
    yield "two", b"\1" + bytes(12) + b"\2" + bytes(59) + entry + partial + b"data"
    yield "nothing", b"\0"


def main():
    seeds = {"zip": zips(), "npy": HEADERS.items(), "npy_gz": gzips(), "index_file": indexes()}
    for target, inputs in seeds.items():
        directory = HERE / "corpus" / target
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in inputs:
            (directory / f"seed-{name}").write_bytes(content)


main()
