"""Rules 9.6, 9.7 and 10.9 where damage reaches later spans through their windows alone.

The bits after the damage are those of the good archive. So what they decode to, and the CRC-32
that an index has of it, agree with each other and are wrong: no check of a span notices.
"""

import os
import struct
import zlib

import numpy as np
import pytest
import zipmaker
from forging import with_crc32
from mounting import poll
from zipmaker import DEFLATED, Entry

# Decoded bytes. Each period repeats the one before it, at a distance that a window reaches, but
# for some fresh bytes that keep the member above the 1 MiB from which on it is saved.
PERIOD, FRESH, PERIODS = 30_000, 8_000, 300
# What is changed to forge the CRC-32, and the bytes after it, by which a .npy.gz is known.
SPOT, REST = 1_000, 70_000

VICTIM, ATTACKER = 1001, 1002
MTIME = 1_700_000_000_123_456_789


def in_stored_blocks(data, last=False):
    pieces = [data[at : at + 60_000] for at in range(0, len(data), 60_000)]
    final = [last and number == len(pieces) - 1 for number in range(len(pieces))]
    return b"".join(
        bytes([is_final]) + struct.pack("<HH", len(piece), 0xFFFF ^ len(piece)) + piece
        for piece, is_final in zip(pieces, final, strict=True)
    )


def good_and_bad():
    """Two contents of one size and CRC-32, and their streams, which differ in two spots."""
    random = np.random.default_rng(3)
    total = PERIOD + PERIOD * PERIODS + SPOT + REST
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({total - 128},), }}"
    seed = b"\x93NUMPY\x01\x00\x76\x00" + header.encode().ljust(117) + b"\n"
    seed += random.bytes(PERIOD - len(seed))
    periods = [random.bytes(FRESH) + seed[FRESH:] for _ in range(PERIODS)]
    body, spot, rest = b"".join(periods), random.bytes(SPOT), random.bytes(REST)
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, seed)
    middle = coder.compress(body) + coder.flush(zlib.Z_FULL_FLUSH)

    bad_seed = seed[:20_000] + bytes(byte ^ 0x55 for byte in seed[20_000:20_200]) + seed[20_200:]
    bad_body = zlib.decompressobj(-15, zdict=bad_seed).decompress(middle)
    assert bad_body[-PERIOD:] != body[-PERIOD:], "the damage reaches the last period"
    bad = with_crc32(bad_seed + bad_body + spot, zlib.crc32(seed + body + spot)) + rest
    good = seed + body + spot + rest

    def stream(content):
        spot = content[-SPOT - REST : -REST]
        return in_stored_blocks(content[:PERIOD]) + middle + in_stored_blocks(spot + rest, True)

    assert zlib.crc32(good) == zlib.crc32(bad)
    assert [zlib.decompress(stream(x), -15) for x in (good, bad)] == [good, bad]
    return (good, stream(good)), (bad, stream(bad))


GOOD, BAD = good_and_bad()


def write_zip(path, content, stream):
    crc32 = zlib.crc32(content)
    zipmaker.write(path, [Entry(b"x.npy", content, DEFLATED, stream, crc32=crc32)])


def write_gz(path, content, stream):
    trailer = struct.pack("<II", zlib.crc32(content), len(content))
    path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + stream + trailer)


KINDS = {
    "zip": (".npz", write_zip, lambda mnt, stem: mnt / f"{stem}.npz/x.npy"),
    "gzip": (".npy.gz", write_gz, lambda mnt, stem: mnt / f"{stem}.npy"),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def set_back(path, owner, mode=0o644):
    os.chown(path, owner, owner)
    path.chmod(mode)
    os.utime(path, ns=(MTIME, MTIME))


def read_through_the_server(path, times):
    with open(path, "rb", buffering=0) as file:
        for _ in range(times):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            assert b"".join(iter(lambda: file.read(1 << 20), b"")) == BAD[0]


def assert_right(path):
    """Rows from the middle first: the last span has the spot that its CRC-32 tells."""
    good = GOOD[0]
    with open(path, "rb", buffering=0) as file:
        for offset in range(len(good) * 7 // 10, len(good) // 10, -4096 * 25):
            assert os.pread(file.fileno(), 4096, offset) == good[offset : offset + 4096], offset
    assert path.read_bytes() == good


def forge(source, kind, owner, mode):
    suffix, write, member = KINDS[kind]
    for stem, what in (("victim", GOOD), ("forged", BAD)):
        write(source / f"{stem}{suffix}", *what)
    set_back(source / f"victim{suffix}", VICTIM)
    set_back(source / f"forged{suffix}", owner, mode)
    return member


@kinds
def test_9_6_damage_that_later_windows_carry_does_not_outlast_a_restore(
    source, mount, tmp_path, kind
):
    suffix, write, member = KINDS[kind]
    path = source / f"a{suffix}"
    write(path, *BAD)
    set_back(path, 0)
    indexes = tmp_path / "indexes"
    one = mount(source, "--index-dir", indexes, "--verify", "never")
    with open(member(one, "a"), "rb", buffering=0) as file:
        os.pread(file.fileno(), 4096, len(BAD[0]) * 3 // 4)
    one.stop()
    assert list(indexes.glob("*.index"))
    write(path, *GOOD)
    set_back(path, 0)
    for _ in range(2):
        one = mount(source, "--index-dir", indexes)
        assert_right(member(one, "a"))
        one.stop()


# A file that others may write holds their bytes, whoever owns it.
WRITERS = [(ATTACKER, 0o644), (VICTIM, 0o664), (VICTIM, 0o666)]
writers = pytest.mark.parametrize(("owner", "mode"), WRITERS)


@kinds
@writers
def test_9_7_windows_of_a_forged_archive_are_not_believed_of_another_owners(
    source, mount, tmp_path, kind, owner, mode
):
    member = forge(source, kind, owner, mode)
    one = mount(source, "--index-dir", tmp_path / "indexes")
    read_through_the_server(member(one, "forged"), 1)
    one.stop()
    for _ in range(2):
        one = mount(source, "--index-dir", tmp_path / "indexes")
        assert_right(member(one, "victim"))
        one.stop()


@kinds
@writers
def test_10_9_a_copy_of_bad_windows_is_not_shown_for_another_owners(
    source, mount, tmp_path, kind, owner, mode
):
    member = forge(source, kind, owner, mode)
    copies = tmp_path / "copies"
    options = ("--index-dir-size", "0", "--disk-cache", copies)
    one = mount(source, *options)
    read_through_the_server(member(one, "forged"), 3)
    poll(lambda: list(copies.glob("*.decoded")), 20, "the copy is made")
    one.stop()
    for _ in range(2):
        one = mount(source, *options)
        assert_right(member(one, "victim"))
        one.stop()
