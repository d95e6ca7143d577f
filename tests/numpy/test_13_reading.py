"""Rules 13.6 to 13.9: decoded archives that are damaged, change, or are read by many at once."""

import errno
import mmap
import os
import random
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zipmaker
from arrays import npy
from mounting import errno_of, in_child, poll, state
from test_11_verify import LARGE, SMALL, damaged, sensor
from test_13_decoded import STORED_LAYOUT, from_the_start
from zipmaker import BZIP2, DEFLATED, STORED, Entry


def places(path):
    """Where the bytes of each member lie: name -> range. Reads headers alone."""
    found = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb", buffering=0) as file:
        for info in archive.infolist():
            header = os.pread(file.fileno(), 30, info.header_offset)
            lengths = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:], "little")
            start = info.header_offset + 30 + sum(lengths)
            found[info.filename] = range(start, start + info.file_size)
    return found


def pread(path, offset, size=4096):
    """Bytes of a file, read through a handle of its own; or the errno."""
    with open(path, "rb", buffering=0) as file:
        try:
            return os.pread(file.fileno(), size, offset)
        except OSError as error:
            return error.errno


def three(path, size, method, good=False):
    """An archive of three members; the one in the middle is damaged."""
    content = sensor(size)
    encoded = None if good else damaged(content, method)
    entries = [
        Entry(b"before.npy", sensor(70_000), DEFLATED),
        Entry(b"bad.npy", content, method, encoded=encoded),
        Entry(b"after.npy", sensor(70_000)[::-1], DEFLATED),
    ]
    zipmaker.write(path, entries)
    return [entry.data for entry in entries]


@pytest.mark.parametrize("verify", ["small", "always", "background", "never"])
def test_13_6_a_member_is_compared_at_its_first_read(source, mount, verify):
    contents = three(source / "a.npz", SMALL, DEFLATED, good=True)
    mnt = mount(source, *STORED_LAYOUT, "--verify", verify)
    path, beside = mnt / "a.npz", mnt / "a.npz.d/bad.npy"
    unread = state(beside)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["before.npy", "bad.npy", "after.npy"]
    assert state(beside) == unread, "the directory was read, nothing of its bytes"
    bad = places(path)["bad.npy"]
    assert unread.startswith("indexing: 0 of" if verify == "never" else "unverified: 0 of")
    assert pread(path, bad.start, 100) == contents[1][:100]
    if verify in ("small", "always"):
        assert state(beside) == "ready"
    if verify == "background":
        poll(lambda: state(beside) == "ready", 60, "the pass comes to its end")
    assert [data for _, data, _ in from_the_start(path.read_bytes())] == contents


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_13_6_a_small_member_that_differs_is_never_served(source, mount, method):
    three(source / "a.npz", SMALL, method)
    path = mount(source, *STORED_LAYOUT) / "a.npz"
    bad = places(path)["bad.npy"]
    for offset in (*range(bad.start, bad.stop, 500_000), bad.stop - 1):
        assert pread(path, offset, 1) == errno.EIO


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_13_6_pages_of_a_large_member_go_when_it_turns_out_to_differ(source, mount, method):
    contents = three(source / "a.npz", LARGE, method)
    mnt = mount(source, *STORED_LAYOUT)
    path = mnt / "a.npz"
    bad = places(path)["bad.npy"]
    with open(path, "rb") as file:
        pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        assert pages[bad.start : bad.start + 100] == contents[1][:100]
        beside = mnt / "a.npz.d/bad.npy"
        poll(lambda: state(beside).startswith("corrupt: "), 60, "the pass comes to its end")
        poll(lambda: pread(path, bad.start) == errno.EIO, 60, "the page is gone")
        assert errno_of(os.pread, file.fileno(), 100, bad.start) == errno.EIO
        assert os.pread(file.fileno(), 100, bad.stop + 5000)
    lines = mnt.log_lines("a.npz: bad.npy")
    assert len(lines) == 1 and "CRC-32" in lines[0], mnt.log()
    assert errno_of(open, beside, "rb") == errno.EIO


@pytest.mark.parametrize("size", [SMALL, 100_001])
@pytest.mark.parametrize("method", [STORED, DEFLATED, BZIP2])
def test_13_7_damage_of_a_member_spreads_to_no_other(source, mount, method, size):
    contents = three(source / "a.npz", size, method)
    mnt = mount(source, *STORED_LAYOUT)
    path = mnt / "a.npz"
    with zipfile.ZipFile(path) as archive:
        for name, content in zip(archive.namelist(), contents, strict=True):
            if name == "bad.npy":
                assert errno_of(archive.read, name) == errno.EIO
            else:
                assert archive.read(name) == content
    bad = places(path)["bad.npy"]
    size = os.stat(path).st_size
    for start in range(0, size, 4096):
        is_bad = start < bad.stop and bad.start < start + 4096
        assert (pread(path, start) == errno.EIO) == is_bad, start
    assert len(mnt.log_lines("a.npz: bad.npy")) == 1, mnt.log()
    assert len(mnt.log_lines("a.npz")) == 1, mnt.log()


def test_13_7_small_members_share_pages(source, mount):
    entries = [
        Entry(b"near.npy", b"in the same page", DEFLATED),
        Entry(b"bad.npy", b"of a few bytes", DEFLATED, crc32=7),
        Entry(b"next.npy", sensor(80_000), DEFLATED),
        Entry(b"far.npy", b"in another page", DEFLATED),
    ]
    zipmaker.write(source / "a.npz", entries)
    path = mount(source, *STORED_LAYOUT) / "a.npz"
    with zipfile.ZipFile(path) as archive:
        found = {info.filename: errno_of(archive.read, info) for info in archive.infolist()}
        assert found == {
            "near.npy": errno.EIO, "bad.npy": errno.EIO, "next.npy": errno.EIO, "far.npy": None
        }  # fmt: skip
    for entry in (entries[0], entries[2]):
        assert (path.with_name("a.npz.d") / entry.name.decode()).read_bytes() == entry.data


def test_13_7_a_bad_local_header_spoils_its_member_alone(source, mount):
    entries = [
        Entry(b"bad.npy", sensor(70_000), DEFLATED, local={"name": b"another"}),
        Entry(b"good.npy", sensor(70_000), DEFLATED),
    ]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source, *STORED_LAYOUT)
    with zipfile.ZipFile(mnt / "a.npz") as archive:
        assert errno_of(archive.read, "bad.npy") == errno.EIO
        assert archive.read("good.npy") == entries[1].data
    assert len(mnt.log_lines("a.npz: bad.npy", "names another member")) == 1, mnt.log()


SAVERS = {"savez": np.savez, "savez_compressed": np.savez_compressed}


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("ttl", [0, 1])
def test_13_8_a_rewritten_archive_is_another_file(source, mount, saver, ttl):
    SAVERS[saver](source / "a.npz", x=np.zeros(100_000), y=np.arange(3))
    mnt = mount(source, *STORED_LAYOUT, "--ttl", ttl)
    path = mnt / "a.npz"
    before = os.stat(path)
    with open(path, "rb", buffering=0) as old:
        assert os.pread(old.fileno(), 4, 0) == b"PK\3\4"
        SAVERS[saver](source / "a.npz", x=np.ones(100_000), y=np.arange(3))
        assert errno_of(os.pread, old.fileno(), 4096, 400_000) == errno.EIO

        def is_new():
            return os.stat(path).st_ino != before.st_ino and np.load(path)["x"][0] == 1

        poll(is_new, 2.5, "the new archive shows")
        assert errno_of(os.pread, old.fileno(), 4096, before.st_size - 100) == errno.EIO
    assert os.stat(path).st_mtime_ns == os.stat(source / "a.npz").st_mtime_ns


def test_13_8_a_handle_of_a_replaced_archive_reads_the_old_bytes(source, mount):
    np.savez_compressed(source / "a.npz", x=np.zeros(300_000))
    path = mount(source, *STORED_LAYOUT) / "a.npz"
    with open(path, "rb", buffering=0) as old:
        np.savez_compressed(source / "new.npz", x=np.ones(300_000))
        os.rename(source / "new.npz", source / "a.npz")
        poll(lambda: np.load(path)["x"][0] == 1, 2.5, "the new archive shows")
        assert from_the_start(old.read())[0][1] == npy(np.zeros(300_000))


def test_13_8_numbers_are_the_same_in_the_next_mount(source, mount):
    for name in ("a", "b"):
        zipmaker.write(source / f"{name}.npz", [Entry(b"x", b"x"), Entry(b"d/y", b"y")])

    def numbers(layout, suffix):
        mnt = mount(source, "--layout", layout)
        names = [f"{name}.npz{suffix}" for name in ("a", "b")]
        names += [f"{name}/{member}" for name in names for member in ("x", "d", "d/y")]
        own = [os.stat(mnt / f"{name}.npz").st_ino for name in ("a", "b")]
        return own, [os.stat(mnt / name).st_ino for name in names]

    first, second = numbers("stored", ".d"), numbers("stored", ".d")
    assert first == second
    assert len({*first[0], *first[1]}) == 10
    assert numbers("replace", "")[1] == first[1], "the decoded archive moves no other"


def test_13_8_pages_stay_in_the_cache(source, mount):
    np.savez_compressed(source / "a.npz", x=np.arange(100_000), y=np.arange(9))
    mnt = mount(source, *STORED_LAYOUT, "--ttl", 1000)
    content = (mnt / "a.npz").read_bytes()

    def read():
        with open(mnt / "a.npz", "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        mnt.pause()
        return pages[:] == content

    try:
        assert in_child(read)
    finally:
        mnt.resume()


def test_13_8_pages_of_a_little_archive_are_there_when_it_is_open(source, mount):
    np.savez_compressed(source / "a.npz", x=np.arange(1000), y=np.eye(3))
    first = mount(source, *STORED_LAYOUT)
    content = (first / "a.npz").read_bytes()
    mnt = mount(source, *STORED_LAYOUT)

    def read():
        with open(mnt / "a.npz", "rb", buffering=0) as file:
            mnt.pause()
            return file.read() == content

    try:
        assert in_child(read)
    finally:
        mnt.resume()


def test_13_8_many_read_at_once(source, mount):
    draw = np.random.default_rng(5)
    sizes = [1, 100, 70_000, 4_000, 1_500_000, 65_536, 3, 2_000_000, 0, 900]
    entries = [
        Entry(b"%d.npy" % n, draw.integers(0, 9, size).astype("u1").tobytes(), method)
        for n, size in enumerate(sizes)
        for method in [(DEFLATED, STORED, BZIP2)[n % 3]]
    ]
    zipmaker.write(source / "a.npz", entries)
    content = (mount(source, *STORED_LAYOUT) / "a.npz").read_bytes()
    cache = ("--cache-size", "1M")
    for options in (cache, (*cache, "--verify", "never"), ("--disk-cache", source.parent / "d")):
        path = mount(source, *STORED_LAYOUT, *options) / "a.npz"

        def check(seed, path=path):
            chance = random.Random(seed)
            with open(path, "rb", buffering=0) as file:
                for _ in range(40):
                    offset = chance.randrange(len(content))
                    size = chance.choice([1, 100, 5000, 131_072, 700_000])
                    assert os.pread(file.fileno(), size, offset) == content[offset : offset + size]

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(check, range(8)))
