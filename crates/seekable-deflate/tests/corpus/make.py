#!/usr/bin/env python3
"""Writes *.deflate beside this file: raw streams of CPython's zlib that other encoders do not
write (strategies, flushes, window sizes). Run once; the streams are checked in.

The plain bytes are in none of the files: tests decode the streams with zlib-rs to have them.
"""

import pathlib
import random
import struct
import zlib

HERE = pathlib.Path(__file__).parent


def plain():
    rng = random.Random(1951)
    parts = [
        b"".join(struct.pack("<q", rng.randrange(12)) for _ in range(1200)),
        bytes(4000),
        b" ".join(b"checkpoint %d of span %d" % (rng.randrange(40), n) for n in range(250)),
        b"".join(struct.pack("<f", rng.randrange(900) / 64) for _ in range(1500)),
        bytes(rng.randrange(256) for _ in range(1500)),
        b"\xff" * 3000,
    ]
    return b"".join(parts)


def encode(strategy=zlib.Z_DEFAULT_STRATEGY, flush=None, level=9, wbits=15, mem=8, every=1777):
    data = plain()
    encoder = zlib.compressobj(level, zlib.DEFLATED, -wbits, mem, strategy)
    out = []
    for at in range(0, len(data), every):
        out.append(encoder.compress(data[at : at + every]))
        if flush is not None:
            out.append(encoder.flush(flush))
    out.append(encoder.flush(zlib.Z_FINISH))
    encoded = b"".join(out)
    assert zlib.decompress(encoded, -15) == data
    return encoded


STREAMS = {
    "sync-flush": encode(flush=zlib.Z_SYNC_FLUSH),
    "full-flush": encode(flush=zlib.Z_FULL_FLUSH),
    "partial-flush": encode(flush=zlib.Z_PARTIAL_FLUSH, every=300),
    "block-flush": encode(flush=zlib.Z_BLOCK, every=300),
    "fixed": encode(strategy=zlib.Z_FIXED),
    "fixed-sync-flush": encode(strategy=zlib.Z_FIXED, flush=zlib.Z_SYNC_FLUSH, every=50),
    "huffman-only": encode(strategy=zlib.Z_HUFFMAN_ONLY),
    "rle": encode(strategy=zlib.Z_RLE),
    "filtered": encode(strategy=zlib.Z_FILTERED, level=6),
    "small-window": encode(wbits=9, mem=1),
    "stored-sync-flush": encode(level=0, flush=zlib.Z_SYNC_FLUSH, every=5000),
}

for name, encoded in STREAMS.items():
    (HERE / f"{name}.deflate").write_bytes(encoded)
    print(f"{name}: {len(encoded)} bytes")
