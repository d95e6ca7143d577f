#!/usr/bin/env python3
"""Writes corpus/TARGET/seed-*: what fuzzing starts from. Run once; the seeds are checked in.

Small, so that a mutation hits something. Those called "far" decode to more than the 32 KiB that
must be decoded before the fast loops run.
"""

import pathlib
import random
import struct
import zlib

HERE = pathlib.Path(__file__).parent
STREAMS = HERE.parent / "crates" / "seekable-deflate" / "tests" / "corpus"


def deflate(plain, level=6, strategy=zlib.Z_DEFAULT_STRATEGY):
    encoder = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
    return encoder.compress(plain) + encoder.flush()


def kinds():
    rng = random.Random(1952)
    walk = [0]
    for _ in range(2000):
        walk.append(walk[-1] + rng.randrange(-3, 4))
    return {
        "csv": "".join(f"{n},run{n % 7},{rng.randrange(99)}.5\n" for n in range(700)).encode(),
        "labels": b"".join(struct.pack("<q", rng.randrange(18)) for _ in range(2500)),
        "noise": rng.randbytes(3500),
        "runs": b"".join(bytes([rng.randrange(4)]) * rng.randrange(300) for _ in range(150)),
        "sensor": b"".join(struct.pack("<f", value / 64) for value in walk),
    }


def write(target, name, seed):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(seed)
    print(f"{target}/{name}: {len(seed)} bytes")


def main():
    # The first byte of `deflate` is the spacing.
    write("deflate", "nothing", b"\0")
    for path in sorted(STREAMS.glob("*.deflate")):
        write("deflate", path.stem, b"\1" + path.read_bytes())
    for name, plain in kinds().items():
        far = bytes(40_000) + plain
        write("deflate", f"far-{name}", b"\2" + deflate(far))
        write("deflate", f"far-{name}-fixed", b"\2" + deflate(far, strategy=zlib.Z_FIXED))

    # The first bytes of `deflate_read_at`: spacing, memory, and bits for gzip, for a known length,
    # for bytes that are yet to be deflated, and at which level; then the order of the reads.
    for number, (name, plain) in enumerate(kinds().items()):
        gzip_and_known = number % 4
        head = bytes([number, number + 1, gzip_and_known, 0])
        write("deflate_read_at", name, head + deflate(plain))
        encode = 4 | 6 << 3 | gzip_and_known
        write("deflate_read_at", f"{name}-plain", bytes([3, 3, encode, 1]) + plain[:3000])
        far = bytes(40_000) + plain
        write("deflate_read_at", f"far-{name}", bytes([2, 2, gzip_and_known, 2]) + deflate(far))
    # Blocks of literals, of which two are decoded at once.
    rng = random.Random(1951)
    literals = bytes(rng.randrange(150) for _ in range(6000))
    write("deflate", "literals", b"\0" + deflate(literals))
    write("deflate_read_at", "literals", bytes([1, 5, 2, 4]) + deflate(literals))
    write("deflate_read_at", "literals-gzip", bytes([1, 5, 3, 5]) + deflate(literals))
    write("deflate_read_at", "stored", bytes([2, 1, 4, 3]) + random.Random(1).randbytes(500))


if __name__ == "__main__":
    main()
