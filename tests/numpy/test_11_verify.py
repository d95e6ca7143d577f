"""Rules 11: members are checked against their CRC-32, and one that fails is not served."""

import errno
import mmap
import os
import signal

import numpy as np
import pytest
import zipmaker
from arrays import npy
from mounting import Ended, errno_of, in_child, poll, state
from zipmaker import DEFLATED, STORED, Entry

# Small for stored members, and for deflated ones; large for both.
SMALL, LARGE = 3_000_000, 24_000_000


def sensor(size):
    """Bytes that deflate to a third."""
    steps = np.random.default_rng(3).integers(-3, 4, size // 4)
    return np.cumsum(steps).astype("<i4").tobytes()


def damaged(content, method):
    """`content` with other bytes in its middle, which the decoder does not notice."""
    content = bytearray(content)
    content[len(content) // 2] ^= 1
    return zipmaker.encode(bytes(content), method)


def write(path, size, methods=(STORED, DEFLATED), good=False):
    """An archive with a member for each method; all bytes after the middle are wrong by one bit."""
    content = sensor(size)
    entries = [
        Entry(b"%d" % method, content, method, encoded=None if good else damaged(content, method))
        for method in methods
    ]
    zipmaker.write(path, entries)
    return content


def first_page(path):
    with open(path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), 4096, 0)


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("size", [5000, SMALL])
def test_11_1_small_members_are_compared_before_they_are_opened(source, mount, method, size):
    content = write(source / "good.npz", size, [method], good=True)
    write(source / "bad.npz", size, [method])
    mnt = mount(source)
    path = mnt / f"good.npz/{method}"
    assert state(path) == f"unverified: 0 of {len(content)} bytes"
    with open(path, "rb") as file:
        assert state(path) == "ready"
        assert file.read() == content
    path = mnt / f"bad.npz/{method}"
    for _ in range(3):
        assert errno_of(open, path, "rb") == errno.EIO
    assert state(path).startswith("corrupt: ")


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_11_2_large_members_are_compared_in_the_background(source, mount, method):
    content = write(source / "a.npz", LARGE, [method], good=True)
    path = mount(source) / f"a.npz/{method}"
    with open(path, "rb", buffering=0):
        # Opened, and nothing of it read.
        assert state(path) == f"unverified: 0 of {len(content)} bytes"
    assert first_page(path) == content[:4096]
    assert state(path).startswith("unverified: ")
    # Nobody has it open.
    poll(lambda: state(path) == "ready", 60, "the pass comes to its end")
    assert path.read_bytes() == content


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_11_3_a_mismatch_ends_open_handles_and_mappings(source, mount, method):
    write(source / "a.npz", LARGE, [method])
    path = mount(source) / f"a.npz/{method}"

    def mapped():
        with open(path, "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        assert pages[:100]
        poll(lambda: state(path).startswith("corrupt: "), 60, "the pass comes to its end")
        # Within a page that was read; it goes when the kernel has been told.
        poll(lambda: pages[:100] == b"", 60, "the page is gone")

    with open(path, "rb", buffering=0) as file:
        for offset in (0, 1 << 20):
            assert os.pread(file.fileno(), 4096, offset)
        with pytest.raises(Ended) as ended:
            in_child(mapped)
        assert ended.value.signal == signal.SIGBUS
        # Also what is in no cache, and also what was.
        for offset in (0, 1 << 20, LARGE // 2, LARGE - 4096):
            assert errno_of(os.pread, file.fileno(), 4096, offset) == errno.EIO
    assert errno_of(open, path, "rb") == errno.EIO


def test_11_3_damage_is_told_once_with_archive_and_member(source, mount):
    write(source / "small.npz", SMALL)
    write(source / "large.npz", LARGE)
    mnt = mount(source)
    paths = [mnt / f"{archive}.npz/{method}" for archive in ("small", "large") for method in (0, 8)]
    for path in paths:
        errno_of(first_page, path)
        poll(lambda path=path: state(path).startswith("corrupt: "), 60, "it is found out")
    for path in paths * 10:
        assert errno_of(first_page, path) == errno.EIO
    for path in paths:
        words = f"{path.parent.name}: {path.name}: "
        lines = poll(lambda words=words: mnt.log_lines(words), 20, "it is logged")
        assert len(lines) == 1, mnt.log()
        assert "CRC-32" in lines[0] and "restore" in lines[0]
    assert len(mnt.log().splitlines()) == len(paths), mnt.log()


def test_11_4_always_compares_everything_first(source, mount):
    content = write(source / "good.npz", LARGE, good=True)
    write(source / "bad.npz", LARGE)
    mnt = mount(source, "--verify", "always")
    for method in (STORED, DEFLATED):
        with open(mnt / f"good.npz/{method}", "rb") as file:
            assert state(mnt / f"good.npz/{method}") == "ready"
            assert file.read() == content
        assert errno_of(open, mnt / f"bad.npz/{method}", "rb") == errno.EIO


def test_11_5_in_the_background_all_are_served_at_once(source, mount):
    content = write(source / "a.npz", SMALL)
    write(source / "tiny.npz", 5000)
    mnt = mount(source, "-o", "verify=background")
    for path in [mnt / f"{name}.npz/{method}" for name in ("a", "tiny") for method in (0, 8)]:
        if path.parent.name == "a.npz":
            assert first_page(path) == content[:4096]
        errno_of(first_page, path)
        poll(lambda path=path: state(path).startswith("corrupt: "), 60, "it is found out")
        assert errno_of(open, path, "rb") == errno.EIO


def test_11_6_never_leaves_what_nobody_reads_alone(source, mount):
    content = write(source / "a.npz", SMALL)
    mnt = mount(source, "--verify", "never")
    for method, wanted in ((STORED, "ready"), (DEFLATED, "indexing: ")):
        path = mnt / f"a.npz/{method}"
        for _ in range(2):
            assert first_page(path) == content[:4096]
            assert state(path).startswith(wanted)
    # Where readers come to the end, it is found out all the same.
    assert errno_of((mnt / f"a.npz/{DEFLATED}").read_bytes) in (None, errno.EIO)
    assert errno_of(open, mnt / f"a.npz/{DEFLATED}", "rb") == errno.EIO


def test_11_7_np_load_hides_the_error(source, mount):
    array = np.frombuffer(sensor(LARGE), "<i4")
    content = npy(array)
    entry = Entry(b"x.npy", content, DEFLATED, encoded=damaged(content, DEFLATED))
    zipmaker.write(source / "a.npz", [entry])
    mnt = mount(source)
    path = mnt / "a.npz/x.npy"
    # The read that comes to the end finds out.
    with pytest.raises(ValueError, match="Failed to read all data"):
        np.load(path)
    poll(lambda: state(path).startswith("corrupt: "), 60, "it is found out")
    with pytest.raises(OSError, match="Input/output error"):
        np.load(path, mmap_mode="r")


def test_11_8_a_refuted_index_ends_open_handles(source, mount, tmp_path):
    content = sensor(LARGE)
    changed = bytearray(content)
    changed[len(content) // 2 :: 4096] = bytes(len(changed[len(content) // 2 :: 4096]))
    archive, options = source / "a.npz", ("--index-dir", tmp_path / "indexes")
    zipmaker.write(archive, [Entry(b"x", content, DEFLATED)])
    one = mount(source, *options)
    assert (one / "a.npz/x").read_bytes() == content
    one.stop()
    # In place and with its times: what was saved is still believed.
    times = archive.stat()
    raw = archive.read_bytes()
    start = raw.index(b"PK\1\2") // 2
    with open(archive, "r+b") as file:
        file.seek(start)
        file.write(bytes(100))
    os.utime(archive, ns=(times.st_atime_ns, times.st_mtime_ns))

    one = mount(source, *options)
    path = one / "a.npz/x"
    with open(path, "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 4096, 0) == content[:4096]
        for offset in range(0, LARGE, 1 << 20):
            errno_of(os.pread, file.fileno(), 4096, offset)
        assert errno_of(os.pread, file.fileno(), 4096, 0) == errno.EIO
    # Restored: what is read from its start is right, at once and of the same mount.
    assert len(one.log_lines("is rebuilt")) == 1, one.log()
    poll(lambda: errno_of(first_page, path) == errno.EIO, 60, "the damage itself is found out")
