"""Rules 10: decoded copies on disk, of members that are read often."""

import contextlib
import gzip
import io
import itertools
import mmap
import os
import platform
import re
import subprocess
import time
import zipfile

import numpy as np
import pytest
from mounting import Child, poll
from noise import COLUMNS, ROWS, noise, write_archive

LINUX = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))


def npy(array):
    plain = io.BytesIO()
    np.save(plain, array)
    return plain.getvalue()


@pytest.fixture
def archive(source):
    return write_archive(source)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "decoded"


def copies(cache):
    return sorted(cache.glob("*.decoded"))


def read_past_the_kernels_cache(path, times=1):
    """Reads all of a file, each time again from the server or the backing file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for _ in range(times):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.lseek(descriptor, 0, os.SEEK_SET)
            got = b"".join(iter(lambda: os.read(descriptor, 1 << 20), b""))
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return got
    finally:
        os.close(descriptor)


def read_a_lot(path, cache, count=1):
    """Reads a member three times, and waits until there are `count` copies."""
    got = read_past_the_kernels_cache(path, 3)
    poll(lambda: len(copies(cache)) >= count, 20, "the copy is made")
    return got


def is_read_past_the_server(mnt, path, content):
    """Whether a file that is opened now can be read and closed while the server does nothing."""
    read_past_the_kernels_cache(path)
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        mnt.pause()

        def read_and_close():
            got = os.pread(file.fileno(), len(content), 0)
            os.close(file.fileno())
            return got == content

        reader = Child(read_and_close)
        try:
            deadline = time.monotonic() + 2
            while reader.running() and time.monotonic() < deadline:
                time.sleep(0.01)
            passed = not reader.running()
        finally:
            # Before the child is waited for: a read that waits for the server cannot be killed.
            mnt.resume()
        assert reader.result(20), "wrong bytes"
    return passed


def assert_read_as_may_be(mnt, path, content):
    """Asserts the bytes, and that they come from the kernel where backing files are allowed."""
    if os.geteuid() == 0 and LINUX >= (6, 9):
        # The RELEASE of the last open that went through the server comes when it comes.
        poll(lambda: is_read_past_the_server(mnt, path, content), 20, "it is passed through")
    assert read_past_the_kernels_cache(path) == content


def test_10_1_a_member_that_is_read_again_becomes_a_file(mount, archive, cache):
    content = npy(noise())
    mnt = mount(archive.parent, "--disk-cache", cache)
    path = mnt / "a.npz/x.npy"
    assert read_past_the_kernels_cache(path) == content
    assert not list(cache.iterdir()), "one pass is not a lot"
    assert read_a_lot(path, cache) == content
    [copy] = copies(cache)
    assert copy.read_bytes() == content
    assert copy.stat().st_mode & 0o777 == 0o600
    assert_read_as_may_be(mnt, path, content)
    assert (np.load(path, mmap_mode="r")[5:1000:7] == noise()[5:1000:7]).all()
    assert not mnt.log()


def test_10_1_who_has_it_open_and_who_opens_it_then_read_the_same(mount, archive, cache):
    """While one handle reads through the server, the next is not passed through either."""
    content = npy(noise())
    mnt = mount(archive.parent, "--disk-cache", cache)
    path = mnt / "a.npz/x.npy"
    with open(path, "rb", buffering=0) as held:
        assert read_a_lot(path, cache) == content
        for _ in range(2):
            with open(path, "rb") as file:
                assert file.read() == content
            assert os.pread(held.fileno(), len(content), 0) == content


def test_10_1_a_gzipped_npy_becomes_a_file(mount, source, cache):
    content = npy(noise())
    (source / "b.npy.gz").write_bytes(gzip.compress(content))
    mnt = mount(source, "--disk-cache", cache)
    assert read_a_lot(mnt / "b.npy", cache) == content
    assert_read_as_may_be(mnt, mnt / "b.npy", content)


def test_10_1_rows_that_make_up_a_member_count(mount, archive, cache):
    mnt = mount(archive.parent, "--disk-cache", cache)
    x = np.load(mnt / "a.npz/x.npy", mmap_mode="r")
    x._mmap.madvise(mmap.MADV_RANDOM)
    rows = noise()
    with open(mnt / "a.npz/x.npy", "rb", buffering=0) as file:
        for _ in range(3):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for row in np.random.default_rng(3).permutation(ROWS):
                got = os.pread(file.fileno(), 4 * COLUMNS, 128 + 4 * COLUMNS * int(row))
                assert got == rows[row].tobytes()
    poll(lambda: copies(cache), 20, "the copy is made")
    # This one was opened before there was a copy, and is right all the same.
    assert (x == rows).all()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_10_2_a_member_that_is_decoded_whole_becomes_a_file_at_once(mount, source, cache, method):
    content = npy(noise())
    with zipfile.ZipFile(source / "a.npz", "w", method) as archive:
        archive.writestr("x.npy", content)
    mnt = mount(source, "--disk-cache", cache)
    assert read_past_the_kernels_cache(mnt / "a.npz/x.npy") == content
    assert len(copies(cache)) == 1
    assert_read_as_may_be(mnt, mnt / "a.npz/x.npy", content)


def test_10_3_other_mounts_find_it(mount, source, archive, cache):
    content = npy(noise())
    mnt = mount(source, "--disk-cache", cache)
    read_a_lot(mnt / "a.npz/x.npy", cache)
    beside = mount(source, "--disk-cache", cache)
    assert_read_as_may_be(beside, beside / "a.npz/x.npy", content)
    mnt.stop()
    archive.rename(source / "b.npz")
    mnt = mount(source, "-o", f"disk_cache={cache},disk_cache_size=1G")
    assert_read_as_may_be(mnt, mnt / "b.npz/x.npy", content)


def test_10_4_another_generation_has_none_of_the_old_bytes(mount, source, archive, cache):
    mnt = mount(source, "--disk-cache", cache, "--ttl", "0")
    path = mnt / "a.npz/x.npy"
    read_a_lot(path, cache)
    with open(path, "rb") as held:
        times = archive.stat()
        np.savez_compressed(archive, x=noise(2))
        os.utime(archive, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert read_past_the_kernels_cache(path) == npy(noise(2))
        with contextlib.suppress(OSError):  # the server reads it, and sees that its archive is gone
            assert held.read() == npy(noise()), "it was opened before"
    assert read_a_lot(path, cache, 2) == npy(noise(2))
    assert_read_as_may_be(mnt, path, npy(noise(2)))


def test_10_4_a_gzipped_npy_of_the_same_second_has_its_own(mount, source, cache):
    """Only a gzip member in the middle differs; start, end, size and mtime in seconds are equal."""
    content = npy(noise())
    other = bytearray(content)
    other[3 << 20] ^= 1
    whole = 1_700_000_000 * 10**9

    def write(content, nanoseconds):
        places = [0, 2 << 20, 4 << 20, len(content)]
        parts = [gzip.compress(content[a:b], 0, mtime=0) for a, b in itertools.pairwise(places)]
        (source / "b.npy.gz").write_bytes(b"".join(parts))
        os.utime(source / "b.npy.gz", ns=(whole, whole + nanoseconds))

    write(content, 1)
    # An index is found by that much, and gives EIO (rule 9.2).
    mnt = mount(source, "--disk-cache", cache, "--ttl", "0", "--index-dir-size", "0")
    assert read_a_lot(mnt / "b.npy", cache) == content
    write(bytes(other), 2)
    assert read_past_the_kernels_cache(mnt / "b.npy") == other
    assert read_a_lot(mnt / "b.npy", cache, 2) == other


def test_10_5_a_member_with_a_wrong_crc_has_none(mount, source, archive, cache):
    content = npy(noise())
    raw = bytearray(archive.read_bytes())
    central = raw.rindex(b"PK\1\2")
    raw[central + 16] ^= 1
    archive.write_bytes(raw)
    mnt = mount(source, "--disk-cache", cache, "--verify", "never")
    with open(mnt / "a.npz/x.npy", "rb", buffering=0) as file:
        # The end, which shows the damage, is left to the copy and to the kernel's read-ahead.
        for _ in range(3):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for offset in range(0, len(content) - (1 << 20), 1 << 20):
                with contextlib.suppress(OSError):
                    got = os.pread(file.fileno(), 1 << 20, offset)
                    assert content[offset:].startswith(got)
    poll(
        lambda: "corrupt" in os.getxattr(mnt / "a.npz/x.npy", "user.npzfs.state").decode(),
        20,
        "the copy comes to the end",
    )
    with pytest.raises(OSError):
        open(mnt / "a.npz/x.npy", "rb")
    poll(lambda: not list(cache.iterdir()), 20, "what was written is removed")


def test_10_5_a_directory_that_others_can_write_is_not_used(mount, archive, cache):
    cache.mkdir()
    cache.chmod(0o1777)
    mnt = mount(archive.parent, "--disk-cache", cache)
    assert read_past_the_kernels_cache(mnt / "a.npz/x.npy", 3) == npy(noise())
    assert len(mnt.log_lines("no decoded copies are kept", "others may write it")) == 1
    assert not list(cache.iterdir())


@pytest.mark.parametrize("damage", ["cut", "grown", "written", "mode", "empty"])
def test_10_5_a_copy_that_was_tampered_with_is_rebuilt(mount, source, archive, cache, damage):
    content = npy(noise())
    one = mount(source, "--disk-cache", cache)
    read_a_lot(one / "a.npz/x.npy", cache)
    one.stop()
    [copy] = copies(cache)
    before = copy.stat()
    if damage == "mode":
        copy.chmod(0o666)
    elif damage == "written":
        with open(copy, "r+b") as file:
            file.seek(12345)
            file.write(b"wrong")
        # The archive is as old as the test: the clock has to reach another second.
        now = time.time_ns()
        os.utime(copy, ns=(now, max(now, before.st_mtime_ns + 1_000_000_000)))
    else:
        os.truncate(copy, {"cut": len(content) - 1, "grown": len(content) + 1, "empty": 0}[damage])
        os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    mnt = mount(source, "--disk-cache", cache)
    path = mnt / "a.npz/x.npy"
    assert read_past_the_kernels_cache(path, 3) == content
    poll(lambda: copies(cache)[0].stat().st_ino != before.st_ino, 20, "it is rebuilt")
    assert len(mnt.log_lines("no decoded copy")) == 1
    assert_read_as_may_be(mnt, path, content)


def test_10_6_they_stay_within_the_size_and_the_oldest_go(mount, source, cache):
    for name in "abc":
        np.savez_compressed(source / f"{name}.npz", x=noise(ord(name)))
    mnt = mount(source, "--disk-cache", cache, "--disk-cache-size", "17M")
    contents = {name: npy(noise(ord(name))) for name in "abc"}
    made = {}
    for name in "abc":
        before = set(copies(cache))
        assert read_past_the_kernels_cache(mnt / f"{name}.npz/x.npy", 3) == contents[name]
        [made[name]] = poll(
            lambda before=before: set(copies(cache)) - before, 20, "the copy is made"
        )
    assert set(copies(cache)) == {made["b"], made["c"]}
    for name in "abc":
        assert read_past_the_kernels_cache(mnt / f"{name}.npz/x.npy") == contents[name]
    assert not mnt.log()


def test_10_6_what_goes_while_it_is_read_is_read_on(mount, archive, cache):
    content = npy(noise())
    mnt = mount(archive.parent, "--disk-cache", cache)
    path = mnt / "a.npz/x.npy"
    read_a_lot(path, cache)
    with open(path, "rb", buffering=0) as held:
        x = np.load(path, mmap_mode="r")
        copies(cache)[0].unlink()
        os.posix_fadvise(held.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(held.fileno(), len(content), 0) == content
        assert (x == noise()).all()
        assert read_past_the_kernels_cache(path) == content
    del x

    def is_made_again():
        # The kernel tells of a close later. What is opened until then is read past the server.
        assert read_past_the_kernels_cache(path, 3) == content
        return copies(cache)

    poll(is_made_again, 20, "another copy is made")
    assert_read_as_may_be(mnt, path, content)
    assert not mnt.log()


def test_10_6_what_is_larger_than_the_size_is_not_copied(mount, archive, cache):
    mnt = mount(archive.parent, "--disk-cache", cache, "--disk-cache-size", "4M")
    assert read_past_the_kernels_cache(mnt / "a.npz/x.npy", 5) == npy(noise())
    assert not list(cache.iterdir())
    assert not mnt.log()


def test_10_7_what_a_killed_server_left_is_cleared_away(mount, source, archive, cache):
    mnt = mount(source, "--disk-cache", cache)
    read_past_the_kernels_cache(mnt / "a.npz/x.npy", 3)
    poll(lambda: list(cache.iterdir()), 20, "it copies")
    # Whether it is killed while or after it copies: nothing half done has a name.
    mnt.kill()
    (cache / ".draft-1-1-1").write_bytes(b"half")
    mnt = mount(source, "--disk-cache", cache)
    assert not list(cache.glob(".draft-*"))
    assert read_a_lot(mnt / "a.npz/x.npy", cache) == npy(noise())
    assert_read_as_may_be(mnt, mnt / "a.npz/x.npy", npy(noise()))


def test_10_8_a_full_disk_costs_a_line(mount, archive, cache):
    # No file may grow beyond 4 MiB, as on a disk that is full.
    mnt = mount(archive.parent, "--disk-cache", cache, under=("prlimit", f"--fsize={4 << 20}"))
    path = mnt / "a.npz/x.npy"
    assert read_past_the_kernels_cache(path, 3) == npy(noise())
    poll(lambda: mnt.log_lines("no decoded copy"), 20, "it says so")
    assert read_past_the_kernels_cache(path, 3) == npy(noise())
    assert len(mnt.log_lines("no decoded copy")) == 1
    assert not list(cache.iterdir())


@pytest.fixture
def disk(cache):
    """A disk of 12 MiB for the copies."""
    assert os.geteuid() == 0, "only root can mount a disk to be filled: run this test as root"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12M,mode=700", "none", cache], check=True)
    yield cache
    subprocess.run(["umount", "-l", cache], check=True)


def test_10_6_on_a_disk_that_is_smaller_the_oldest_go_too(mount, source, disk):
    arrays = {name: noise(ord(name)) for name in "ab"}
    np.savez_compressed(source / "a.npz", **arrays)
    mnt = mount(source, "--disk-cache", disk)
    for name, array in arrays.items():
        path = mnt / f"a.npz/{name}.npy"
        assert read_past_the_kernels_cache(path, 3) == npy(array)
        wanted = [npy(array)]
        poll(lambda w=wanted: [x.read_bytes() for x in copies(disk)] == w, 20, "a copy is made")
    assert not mnt.log()


def test_10_8_a_disk_that_is_full_for_many_members_is_tried_again(mount, source, disk):
    """There is one line in the log for all members, and there are copies once there is room."""
    arrays = {name: noise(ord(name)) for name in "abc"}
    np.savez_compressed(source / "a.npz", **arrays)
    (disk / "other").write_bytes(bytes(8 << 20))
    mnt = mount(source, "--disk-cache", disk)
    for name, array in arrays.items():
        assert read_past_the_kernels_cache(mnt / f"a.npz/{name}.npy", 4) == npy(array)
    poll(lambda: mnt.log_lines("the disk has no room"), 20, "it says so")
    assert len(mnt.log().splitlines()) == 1
    (disk / "other").unlink()
    path = mnt / "a.npz/b.npy"
    assert read_a_lot(path, disk) == npy(arrays["b"])
    assert_read_as_may_be(mnt, path, npy(arrays["b"]))


def test_10_8_a_directory_that_cannot_be_written_costs_a_line(mount, source, disk):
    arrays = {name: noise(ord(name)) for name in "ab"}
    np.savez_compressed(source / "a.npz", **arrays)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    mnt = mount(source, "--disk-cache", disk)
    for name, array in arrays.items():
        assert read_past_the_kernels_cache(mnt / f"a.npz/{name}.npy", 4) == npy(array)
    poll(lambda: mnt.log_lines("no decoded copy", "read-only"), 20, "it says so")
    assert len(mnt.log().splitlines()) == 1


def test_10_8_a_directory_that_cannot_be_made_costs_a_line(mount, source, cache):
    content = npy(noise())
    with zipfile.ZipFile(source / "a.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", content)
    mnt = mount(source, "--disk-cache", "/dev/full/x")
    assert read_past_the_kernels_cache(mnt / "a.npz/x.npy", 2) == content
    assert len(mnt.log_lines("no decoded copies are kept")) == 1


def test_10_8_a_directory_that_goes_away_costs_a_line(mount, archive, cache):
    mnt = mount(archive.parent, "--disk-cache", cache)
    cache.rmdir()
    assert read_past_the_kernels_cache(mnt / "a.npz/x.npy", 5) == npy(noise())
    poll(lambda: mnt.log_lines("no decoded copy"), 20, "it says so")
