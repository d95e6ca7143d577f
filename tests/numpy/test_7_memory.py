"""Rule 7.13: memory does not grow with the number of files that were looked at."""

import errno
import gzip
import os
import shutil
import struct
import zipfile
import zlib

import numpy as np
import pytest
from arrays import same
from mounting import Child, errno_of, in_child

MIB = 1 << 20


def large_archive(path, members):
    """An archive of many members, written faster than by zipfile."""
    data, out, central = b"x", bytearray(), bytearray()
    crc32 = zlib.crc32(data)
    for number in range(members):
        name = b"%08d.npy" % number
        offset = len(out)
        fields = (0, 0, 0, 33, crc32, 1, 1, len(name), 0)
        out += struct.pack("<4s5H3I2H", b"PK\3\4", 20, *fields) + name + data
        central += struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, *fields, 0, 0, 0, 0, offset) + name
    start = len(out)
    end64 = start + len(central)
    out += central
    out += struct.pack(
        "<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, members, members, len(central), start
    )
    out += struct.pack("<4sIQI", b"PK\6\7", 0, end64, 1)
    out += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(out)


def test_7_13_large_archives_that_are_opened_at_once_take_turns(source, mount):
    for number in range(6):
        large_archive(source / f"{number}.npz", 200_000)
    np.savez(source / "good.npz", x=np.arange(100))
    mnt = mount(source)
    paths = [mnt / f"{number}.npz/00199999.npy" for number in range(6)] * 2
    children = [Child(path.read_bytes) for path in paths]
    same(in_child(np.load, mnt / "good.npz/x.npy"), np.arange(100))
    assert [child.result() for child in children] == [b"x"] * len(paths)
    # Each takes 17 MB while it is open, and three times as much while it is parsed.
    assert mnt.peak_memory() < 130 * MIB


def test_7_13_large_archives_do_not_keep_those_who_answer_from_others(source, mount):
    """More look-ups wait for large archives than the server has threads."""
    for number in range(3):
        large_archive(source / f"{number}.npz", 100_000)
    np.savez(source / "good.npz", x=np.arange(100))
    mnt = mount(source, "-v")
    paths = [mnt / f"{number % 3}.npz/{number:08}.npy" for number in range(90)]
    children = [Child(path.read_bytes) for path in paths]
    for _ in range(20):
        assert (mnt / "good.npz/x.npy").read_bytes()[-8:] == struct.pack("<q", 99)
    assert [child.result() for child in children] == [b"x"] * len(paths)
    assert not mnt.log_lines("more answer")


def test_7_13_large_archives_that_were_closed_do_not_keep_those_who_answer(source, mount):
    """Programs hold members of more archives than stay open, and ask about the members."""
    large_archive(source / "0.npz", 200_000)
    for number in range(1, 12):
        shutil.copy(source / "0.npz", source / f"{number}.npz")
    np.savez(source / "good.npz", x=np.arange(100))
    mnt = mount(source, "-v", "--ttl", "0")
    paths = [mnt / f"{number}.npz/{number:08}.npy" for number in range(12)]
    held = [os.open(path, os.O_PATH) for path in paths]
    children = [Child(lambda file=file: os.fstat(file).st_size) for file in held * 8]
    for _ in range(20):
        assert (mnt / "good.npz/x.npy").read_bytes()[-8:] == struct.pack("<q", 99)
    assert [child.result() for child in children] == [1] * len(children)
    assert not mnt.log_lines("more answer")
    for file in held:
        os.close(file)


@pytest.mark.parametrize("layout", ["beside", "stored", "flat"])
def test_7_13_a_listing_that_needs_large_archives_keeps_nobody_waiting(source, mount, layout):
    """More listings wait for large archives than the server has threads."""
    # A flat listing has all members, and takes its thread for as long.
    members = 10_000 if layout == "flat" else 60_000
    large_archive(source / "0.npz", members)
    for number in range(10):
        (source / str(number)).mkdir()
        shutil.copy(source / "0.npz", source / str(number) / "a.npz")
    (source / "0.npz").unlink()
    np.save(source / "good.npy", np.arange(100))
    mnt = mount(source, "-v", "--layout", layout)
    children = [Child(lambda path=mnt / str(n): sorted(os.listdir(path))) for n in range(10)]
    for _ in range(20):
        assert (mnt / "good.npy").read_bytes()[-8:] == struct.pack("<q", 99)
    listed = [child.result() for child in children]
    if layout == "flat":
        assert [len(names) for names in listed] == [members + 1] * 10
    else:
        assert listed == [["a.npz", "a.npz.d"]] * 10
    assert not mnt.log_lines("more answer")


def test_7_13_a_root_that_becomes_a_large_archive_keeps_nobody_waiting(tmp_path, mount):
    np.savez(tmp_path / "a.npz", x=np.arange(100))
    large_archive(tmp_path / "large", 200_000)
    mnt = mount(tmp_path / "a.npz", "-v", "--ttl", "0")
    with open(mnt / "x.npy", "rb", buffering=0) as held:
        os.rename(tmp_path / "large", tmp_path / "a.npz")
        ways = [os.stat, lambda path: os.getxattr(path, "user.npzfs.state")]
        children = [Child(way, mnt.path) for way in ways * 6]
        for _ in range(20):
            assert os.pread(held.fileno(), 8, 128 + 8 * 99) == struct.pack("<q", 99)
        assert [len(child.result()) for child in children] == [10, 5] * 6
    assert not mnt.log_lines("more answer")


def test_7_13_an_archive_of_some_thousands_of_members_waits_for_no_larger_ones(source, mount):
    large_archive(source / "0.npz", 200_000)
    for number in range(1, 8):
        shutil.copy(source / "0.npz", source / f"{number}.npz")
    large_archive(source / "medium.npz", 5_000)
    mnt = mount(source)
    children = [Child((mnt / f"{number}.npz/{number:08}.npy").read_bytes) for number in range(8)]
    assert in_child((mnt / "medium.npz/00004999.npy").read_bytes) == b"x"
    # The larger ones are opened one after the other.
    assert sum(child.running() for child in children) > 2
    assert [child.result() for child in children] == [b"x"] * len(children)


def test_7_13_listing_large_archives_keeps_few_of_them(source, mount):
    large_archive(source / "0.npz", 200_000)
    for number in range(1, 12):
        shutil.copy(source / "0.npz", source / f"{number}.npz")
    mnt = mount(source)
    names = {entry.name: entry.is_dir() for entry in os.scandir(mnt.path)}
    assert names == {f"{number}.npz": True for number in range(12)}
    for number in range(6):
        assert len(os.listdir(mnt / f"{number}.npz")) == 200_000
    # Each takes 17 MB while it is open, and three times as much while it is parsed.
    assert mnt.peak_memory() < 130 * MIB


def test_7_13_members_that_are_read_once_are_forgotten(source, mount):
    content = bytes(range(256)) * 8
    with zipfile.ZipFile(source / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(20_000):
            archive.writestr(f"{number}.npy", content)
    mnt = mount(source)
    (mnt / "a.npz/0.npy").read_bytes()
    before = mnt.peak_memory()
    for number in range(20_000):
        with open(mnt / f"a.npz/{number}.npy", "rb", buffering=0) as file:
            assert file.read() == content
    # At 2 KiB each, all of them would take 40 MiB.
    assert mnt.peak_memory() < before + 20 * MIB


def test_7_13_files_that_the_kernel_has_forgotten_take_no_memory(source, mount):
    mnt = mount(source, "--ttl", "0")
    # A file that the kernel refers to takes as much as its path, 3 KiB here, and some 400 bytes.
    below = "/".join([letter * 250 for letter in "abcdefghijkl"])
    (source / below).mkdir(parents=True)
    there, shown = os.open(source / below, os.O_PATH), os.open(mnt / below, os.O_PATH)
    used = []
    for batch in range(11):
        names = [f"{batch} {number}" for number in range(500)]
        for name in names:
            os.mknod(name, dir_fd=there)
            os.stat(name, dir_fd=shown)
        for name in names:
            os.unlink(name, dir_fd=there)
            # The kernel looks, finds nothing, and forgets what there was.
            assert errno_of(os.stat, name, dir_fd=shown) == errno.ENOENT
        used.append(mnt.memory())
    os.close(there)
    os.close(shown)
    # If they stayed, 5,000 would take 17 MiB.
    assert used[-1] < used[0] + 6 * MIB, used


FIELDS = ",".join(f"('{n}','<f4')" for n in range(40_000))
HEADERS = {
    "dtype": "{'descr': '%s', 'fortran_order': False, 'shape': (1,)}" % ("\\x00" * (1 << 18)),
    "shape": "{'descr': '<f4', 'fortran_order': False, 'shape': (%s)}" % ("1," * (1 << 19)),
    "fields": f"{{'descr': [{FIELDS}], 'fortran_order': False, 'shape': (1,)}}",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_7_13_long_headers_are_not_kept(source, mount, kind):
    text = HEADERS[kind].encode()
    content = gzip.compress(b"\x93NUMPY\2\0" + struct.pack("<I", len(text)) + text, 9)
    for number in range(200):
        (source / f"{number}.npy.gz").write_bytes(content)
    mnt = mount(source)
    assert len(os.listdir(mnt.path)) == 200
    assert [entry.stat().st_size >= 0 for entry in os.scandir(mnt.path)] == [True] * 200
    assert mnt.peak_memory() < 120 * MIB
