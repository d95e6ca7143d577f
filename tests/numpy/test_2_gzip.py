"""Rules 2: a gzipped .npy."""

import errno
import gzip
import io
import itertools
import os
import stat
import struct
import zlib

import numpy as np
import pytest
import zipmaker
from arrays import npy, same
from mounting import errno_of, poll, tree
from zipmaker import Entry


def gz(data, level=6):
    return gzip.compress(data, level, mtime=0)


@pytest.mark.parametrize("mmap_mode", [None, "r", "c"])
def test_2_1_a_gzipped_npy_is_shown_inflated(source, mount, mmap_mode):
    array = np.random.default_rng(1).normal(size=(300, 70)).astype("f4")
    (source / "scan.npy.gz").write_bytes(gz(npy(array)))
    mnt = mount(source)
    assert os.listdir(mnt.path) == ["scan.npy"]
    assert errno_of(os.stat, mnt / "scan.npy.gz") == errno.ENOENT
    assert (mnt / "scan.npy").read_bytes() == npy(array)
    same(np.load(mnt / "scan.npy", mmap_mode=mmap_mode), array)


@pytest.mark.parametrize("level", [0, 1, 9])
def test_2_1_reads_at_any_offset(source, mount, level):
    array = np.arange(1_000_000, dtype="i4") % 70_001
    content = npy(array)
    (source / "scan.npy.gz").write_bytes(gz(content, level))
    mnt = mount(source)
    draw = np.random.default_rng(level)
    with open(mnt / "scan.npy", "rb", buffering=0) as file:
        for offset in [len(content) - 1, 0, *draw.integers(0, len(content), 50)]:
            size = int(draw.integers(1, 200_000))
            wanted = content[offset : offset + size]
            assert os.pread(file.fileno(), size, int(offset)) == wanted


def test_2_1_gzip_headers_of_every_kind(source, mount):
    content = npy(np.arange(1000))
    raw = zipmaker.raw_deflate(content)
    trailer = struct.pack("<II", zlib.crc32(content), len(content))
    magic = b"\x1f\x8b\x08"
    headers = {
        "plain": magic + b"\0" + bytes(6),
        "name": magic + b"\x08" + bytes(6) + b"scan.npy\0",
        "comment": magic + b"\x10" + bytes(6) + b"a comment\0",
        "extra": magic + b"\x04" + bytes(6) + b"\x05\0extra",
        "text": magic + b"\x01" + bytes(6),
    }
    everything = magic + b"\x1f" + bytes(6) + b"\x02\0ab" + b"n\0" + b"c\0"
    headers["all"] = everything + struct.pack("<H", zlib.crc32(everything) & 0xFFFF)
    for name, header in headers.items():
        assert gzip.decompress(header + raw + trailer) == content
        (source / f"{name}.npy.gz").write_bytes(header + raw + trailer)
    assert tree(mount(source).path) == {f"{name}.npy": content for name in headers}


def test_2_2_the_size_comes_from_the_npy_header(source, mount):
    content = npy(np.arange(50_000, dtype="<i8").reshape(100, 500))
    encoded = gz(content)
    # The size field of gzip holds the size modulo 2^32, and of the last member alone.
    (source / "good.npy.gz").write_bytes(encoded)
    cut = (0, 1, 128, 5_000, len(content) - 1, len(content))
    several = b"".join(gz(content[a:b]) for a, b in itertools.pairwise(cut))
    (source / "several.npy.gz").write_bytes(several)
    (source / "and empty.npy.gz").write_bytes(gz(b"") + encoded + gz(b""))
    mnt = mount(source)
    for name in ("good", "several", "and empty"):
        assert os.stat(mnt / f"{name}.npy").st_size == len(content), name
        assert (mnt / f"{name}.npy").read_bytes() == content, name


def test_2_2_many_members_and_random_reads(source, mount):
    content = npy(np.random.default_rng(5).integers(0, 99, 300_000).astype("i2"))
    pieces = [content[at : at + 7_001] for at in range(0, len(content), 7_001)]
    (source / "scan.npy.gz").write_bytes(b"".join(map(gz, pieces)))
    mnt = mount(source)
    with open(mnt / "scan.npy", "rb", buffering=0) as file:
        for offset in np.random.default_rng(6).integers(0, len(content), 100):
            wanted = content[offset : offset + 10_000]
            assert os.pread(file.fileno(), 10_000, int(offset)) == wanted


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5)])
def test_2_2_small_and_empty_arrays(source, mount, shape):
    array = np.zeros(shape, "<c16")
    (source / "scan.npy.gz").write_bytes(gz(npy(array)))
    mnt = mount(source)
    assert (mnt / "scan.npy").read_bytes() == npy(array)
    same(np.load(mnt / "scan.npy"), array)


def test_2_3_beside_shows_both(source, mount):
    encoded = gz(npy(np.arange(9)))
    (source / "scan.npy.gz").write_bytes(encoded)
    mnt = mount(source, "--layout", "beside")
    assert tree(mnt.path) == {"scan.npy": npy(np.arange(9)), "scan.npy.gz": encoded}


@pytest.mark.parametrize("layout", ["replace", "beside"])
@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
def test_2_4_beside_a_real_npy_both_stay_as_they_are(source, mount, layout, kind):
    encoded = gz(npy(np.arange(9)))
    (source / "scan.npy.gz").write_bytes(encoded)
    if kind == "file":
        (source / "scan.npy").write_bytes(b"real")
        wanted = {"scan.npy": b"real"}
    elif kind == "directory":
        (source / "scan.npy").mkdir()
        wanted = {"scan.npy/": "dir"}
    else:
        (source / "scan.npy").symlink_to("nowhere")
        wanted = {"scan.npy": "-> nowhere"}
    mnt = mount(source, "--layout", layout)
    assert tree(mnt.path) == wanted | {"scan.npy.gz": encoded}


def not_npys():
    object_array = io.BytesIO()
    np.save(object_array, np.array([{"a": 1}, None]), allow_pickle=True)
    good = gz(npy(np.arange(1000)))
    return {
        "empty file": b"",
        "not gzip": npy(np.arange(3)),
        "text inside": gz(b"hello " * 99),
        "nothing inside": gz(b""),
        "an object array": gz(object_array.getvalue()),
        "half a magic": gz(b"\x93NUM"),
        "half a header": gz(npy(np.arange(9))[:40]),
        "version 9": gz(b"\x93NUMPY\x09\0" + bytes(120)),
        "a size over 2^64": gz(with_header("{'descr': '<f8', 'fortran_order': False, "
                                           "'shape': (4294967296, 4294967296, 4), }")),
        "no literal": gz(with_header("{'descr': __import__('os')}")),
        "a negative axis": gz(with_header("{'descr': '<f8', 'fortran_order': False, "
                                          "'shape': (-5,), }")),
        "cut in the header": good[:20],
        "reserved flags": good[:3] + b"\xe0" + good[4:],
        "no deflate": good[:10] + b"\xff" * 50,
    }  # fmt: skip


def with_header(text):
    text = text.encode() + b" " * (118 - len(text) - 1) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("layout", ["replace", "beside"])
def test_2_5_what_is_no_npy_inside_stays_a_plain_file(source, mount, layout):
    wanted = {f"{name}.npy.gz": content for name, content in not_npys().items()}
    for name, content in wanted.items():
        (source / name).write_bytes(content)
    (source / "dir.npy.gz").mkdir()
    (source / "link.npy.gz").symlink_to("text inside.npy.gz")
    (source / "other.gz").write_bytes(gz(npy(np.arange(3))))
    wanted |= {
        "dir.npy.gz/": "dir",
        "link.npy.gz": "-> text inside.npy.gz",
        "other.gz": (source / "other.gz").read_bytes(),
    }
    mnt = mount(source, "--layout", layout)
    assert tree(mnt.path) == wanted
    assert errno_of(os.stat, mnt / "text inside.npy") == errno.ENOENT


def test_2_6_attributes_are_a_members(source, mount):
    path = source / "scan.npy.gz"
    array = np.zeros((500, 40), ">f4")
    path.write_bytes(gz(npy(array)))
    if os.geteuid() == 0:
        os.chown(path, 12, 34)
    path.chmod(0o751)
    os.utime(path, ns=(1, 1_000_000_000_123_456_789))
    real, encoded_size = os.stat(path), path.stat().st_size
    shown = os.stat(mount(source) / "scan.npy")
    assert shown.st_mode == stat.S_IFREG | 0o440
    assert (shown.st_uid, shown.st_gid) == (real.st_uid, real.st_gid)
    assert shown.st_mtime_ns == 1_000_000_000_123_456_789
    assert shown.st_size == len(npy(array))
    assert shown.st_blocks == -(-encoded_size // 512)
    assert (shown.st_blksize, shown.st_nlink) == (131_072, 1)


def test_2_6_extended_attributes(source, mount):
    encoded = gz(npy(np.zeros((500, 40), ">f4")))
    (source / "scan.npy.gz").write_bytes(encoded)
    path = mount(source) / "scan.npy"
    wanted = {
        "method": b"gzip",
        "encoded_size": b"%d" % len(encoded),
        "dtype": b">f4",
        "shape": b"(500, 40)",
        "fortran_order": b"False",
    }
    for name, value in wanted.items():
        assert os.getxattr(path, f"user.npzfs.{name}") == value, name
    assert errno_of(os.getxattr, path, "user.npzfs.crc32") == errno.ENODATA


def big_npy():
    """Noise, so that its place in the gzip stream is about its place in the array."""
    return npy(np.random.default_rng(7).integers(0, 256, 3_000_000).astype("u1"))


@pytest.mark.parametrize("damage", ["cut", "shorter than its header says"])
def test_2_7_bytes_before_the_damage_are_read_and_eio_after(source, mount, damage):
    content = big_npy()
    if damage == "cut":
        encoded = gz(content)
        (source / "scan.npy.gz").write_bytes(encoded[: len(encoded) // 2])
        good = 1_000_000
    else:
        (source / "scan.npy.gz").write_bytes(gz(content[:2_000_000]))
        good = 2_000_000 - 4096
    mnt = mount(source, "--verify", "never")
    assert os.stat(mnt / "scan.npy").st_size == len(content)
    with open(mnt / "scan.npy", "rb", buffering=0) as file:
        for offset in range(0, good - 4096, 4096):
            assert os.pread(file.fileno(), 4096, offset) == content[offset : offset + 4096]
        assert errno_of(os.pread, file.fileno(), 4096, len(content) - 4096) == errno.EIO
        assert os.pread(file.fileno(), 4096, 0) == content[:4096]


@pytest.mark.parametrize("rows", [10, 300_000])
def test_2_7_a_second_array_after_the_first_does_no_harm(source, mount, rows):
    first = np.arange(rows * 4.0).reshape(rows, 4)
    (source / "two.npy.gz").write_bytes(gz(npy(first) + npy(np.arange(500_000))))
    path = mount(source) / "two.npy"
    assert os.stat(path).st_size == len(npy(first))
    for mode in (None, "r"):
        assert np.array_equal(np.load(path, mmap_mode=mode), first)
    assert os.getxattr(path, "user.npzfs.state") == b"ready"


def test_2_7_a_crc_mismatch_is_eio_at_every_later_open(source, mount):
    encoded = bytearray(gz(big_npy()))
    encoded[-8] ^= 1  # the CRC-32 (RFC 1952, 2.3.1)
    (source / "scan.npy.gz").write_bytes(encoded)
    mnt = mount(source)
    path = mnt / "scan.npy"
    assert errno_of(path.read_bytes) in (None, errno.EIO)
    poll(lambda: errno_of(open, path, "rb") == errno.EIO, 5, "open fails with EIO")
    for _ in range(3):
        assert errno_of(open, path, "rb") == errno.EIO
    assert os.getxattr(path, "user.npzfs.state").startswith(b"corrupt: ")
    assert len(mnt.log_lines("scan.npy")) == 1


def test_2_8_a_gzipped_npy_is_live(source, mount):
    mnt = mount(source)
    assert os.listdir(mnt.path) == []
    (source / "scan.npy.gz").write_bytes(gz(npy(np.arange(5))))
    poll(lambda: os.listdir(mnt.path) == ["scan.npy"], 2.5, "it appears")
    first = os.stat(mnt / "scan.npy").st_ino
    same(np.load(mnt / "scan.npy"), np.arange(5))

    (source / "scan.npy.gz").write_bytes(gz(npy(np.arange(7))))
    poll(lambda: len(np.load(mnt / "scan.npy")) == 7, 2.5, "it is rewritten")
    second = os.stat(mnt / "scan.npy").st_ino
    assert second != first

    (source / "new").write_bytes(gz(npy(np.arange(9))))
    os.rename(source / "new", source / "scan.npy.gz")
    poll(lambda: len(np.load(mnt / "scan.npy")) == 9, 2.5, "it is replaced")
    assert os.stat(mnt / "scan.npy").st_ino not in (first, second)

    (source / "scan.npy").write_bytes(b"real")
    poll(lambda: (mnt / "scan.npy").read_bytes() == b"real", 2.5, "a real one shows")
    poll(lambda: sorted(os.listdir(mnt.path)) == ["scan.npy", "scan.npy.gz"], 2.5, "both show")

    os.remove(source / "scan.npy")
    os.remove(source / "scan.npy.gz")
    poll(lambda: os.listdir(mnt.path) == [], 2.5, "they are gone")
    poll(lambda: errno_of(os.stat, mnt / "scan.npy") == errno.ENOENT, 2.5, "and not found")


def test_2_8_an_old_handle_never_reads_new_bytes(source, mount):
    old = big_npy()
    new = npy(np.zeros(3_000_000, "u1"))
    (source / "scan.npy.gz").write_bytes(gz(old))
    mnt = mount(source)
    with open(mnt / "scan.npy", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 4096, 0) == old[:4096]
        (source / "scan.npy.gz").write_bytes(gz(new))
        last = len(old) - 4096
        assert errno_of(os.pread, file.fileno(), 4096, last) == errno.EIO
    poll(lambda: (mnt / "scan.npy").read_bytes() == new, 2.5, "the new array shows")


def test_2_9_gzipped_npys_inside_an_archive_are_members_as_they_are(source, mount):
    encoded = gz(npy(np.arange(9)))
    inner = zipmaker.write(source / "inner.npz", [Entry(b"x", b"1")]).read_bytes()
    zipmaker.write(source / "a.npz", [Entry(b"scan.npy.gz", encoded), Entry(b"b.npz", inner)])
    assert tree(mount(source) / "a.npz") == {"b.npz": inner, "scan.npy.gz": encoded}


@pytest.mark.parametrize("garbage", [b"garbage", b"\x1f\x8b", b"\0" * 600, b"\0\0x"])
def test_2_7_garbage_after_the_stream_does_no_harm(source, mount, tmp_path, garbage):
    content = big_npy()
    (source / "scan.npy.gz").write_bytes(gz(content) + garbage)
    options = ("--index-dir", tmp_path / "indexes")
    mnt = mount(source, *options)
    assert (mnt / "scan.npy").read_bytes() == content
    assert os.getxattr(mnt / "scan.npy", "user.npzfs.state") == b"ready"
    mnt.stop()
    assert os.getxattr(mount(source, *options) / "scan.npy", "user.npzfs.state") == b"ready"
