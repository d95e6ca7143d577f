"""The archives that the other tests build, read by Python's zipfile."""

import lzma
import os
import random
import zipfile
import zlib

import pytest
import zipmaker
from zipmaker import BZIP2, DEFLATED, LZMA, STORED, Entry, Hole

TEXT = b"npzfs " * 5000


@pytest.mark.parametrize("method", [STORED, DEFLATED, BZIP2, LZMA])
@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("descriptor", [False, True])
def test_what_is_written_reads_back(tmp_path, method, zip64, descriptor):
    entry = Entry(b"x/y.npy", TEXT, method, zip64=zip64, descriptor=descriptor, comment=b"c")
    path = zipmaker.write(tmp_path / "a.zip", [Entry(b"first", b"1"), entry])
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["first", "x/y.npy"]
        assert archive.read("x/y.npy") == TEXT
        info = archive.getinfo("x/y.npy")
        assert (info.compress_type, info.comment) == (method, b"c")


def test_xz_is_an_xz_stream():
    assert lzma.decompress(zipmaker.encode(TEXT, zipmaker.XZ), lzma.FORMAT_XZ) == TEXT


def test_prefix_and_comment(tmp_path):
    path = zipmaker.write(tmp_path / "a.zip", [Entry(b"x", b"1")], b"junk" * 9, b"note", True)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("x") == b"1"
        assert archive.comment == b"note"


def test_more_than_65535_members_need_zip64(tmp_path):
    names = [b"%d" % number for number in range(65_537)]
    path = zipmaker.write(tmp_path / "a.zip", [Entry(name) for name in names])
    with zipfile.ZipFile(path) as archive:
        assert [name.encode() for name in archive.namelist()] == names


def test_a_sparse_member_over_4_gib(tmp_path):
    size = (4 << 30) + 5
    crc32 = zipmaker.crc32_combine(zipmaker.crc32_of_zeros(size - 3), zlib.crc32(b"end"), 3)
    big = Entry(b"big", encoded=[Hole(size - 3), b"end"], size=size, crc32=crc32, zip64=True)
    path = zipmaker.write(tmp_path / "a.zip", [big, Entry(b"after", b"1")])
    assert os.stat(path).st_blocks * 512 < 1 << 20
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("big").file_size == size
        assert crc32 == archive.getinfo("big").CRC
        assert archive.read("after") == b"1"
    # Reading the member itself through zipfile takes ten seconds.
    with open(path, "rb") as file:
        file.seek(30 + len("big") + 20 + size - 4)
        assert file.read(6) == b"\0endPK"


def test_crc32_combine_agrees_with_zlib():
    draw = random.Random(1)
    for _ in range(50):
        first, second = draw.randbytes(draw.randrange(999)), draw.randbytes(draw.randrange(999))
        combined = zipmaker.crc32_combine(zlib.crc32(first), zlib.crc32(second), len(second))
        assert combined == zlib.crc32(first + second)
    for size in (0, 1, 5, 70_000):
        assert zipmaker.crc32_of_zeros(size) == zlib.crc32(bytes(size))


def test_deflate_pieces_are_one_stream():
    chunks = [b"a" * 1000, b"b" * 70_000, b"a" * 1000]
    assert zlib.decompress(b"".join(zipmaker.deflate_pieces(chunks)), -15) == b"".join(chunks)
