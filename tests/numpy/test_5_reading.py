"""Rules 5.7 to 5.9: the page cache, the system calls of reading, many readers."""

import errno
import fcntl
import hashlib
import mmap
import os
import random
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zipmaker
from arrays import npy
from mounting import Child, errno_of, in_child
from zipmaker import DEFLATED, STORED, ZSTD, Entry

METHODS = {"stored": STORED, "deflated": DEFLATED, "zstd": ZSTD}


@pytest.fixture(params=METHODS)
def member(request, source, mount):
    """A mount, the path of a member in it, and its bytes."""
    noise = np.random.default_rng(1).integers(0, 64, 1_500_000).astype("u1")
    content = npy(noise)
    zipmaker.write(source / "a.npz", [Entry(b"x.npy", content, METHODS[request.param])])
    mnt = mount(source, "--ttl", "30")
    return mnt, mnt / "a.npz/x.npy", content


def map_and_hash(descriptor, size):
    with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as mapped:
        return hashlib.sha256(mapped).hexdigest()


def test_5_7_pages_stay_cached_over_opens(member):
    mnt, path, content = member
    assert path.read_bytes() == content
    # Opened again; then the server is stopped, and only the page cache can answer.
    with open(path, "rb", buffering=0) as file:
        mnt.pause()
        reader = Child(map_and_hash, file.fileno(), len(content))
        try:
            got = reader.result(5)
        finally:
            mnt.resume()
    assert got == hashlib.sha256(content).hexdigest()


def test_5_7_np_load_three_opens_keep_the_pages(member):
    mnt, path, content = member
    first = np.load(path, mmap_mode="r")
    assert first.tobytes() == content[128:]
    np.load(path)
    second = np.load(path, mmap_mode="r")
    mnt.pause()
    reader = Child(lambda: first.tobytes() == second.tobytes() == content[128:])
    try:
        assert reader.result(5)
    finally:
        mnt.resume()


def test_5_8_seeking_and_reading_at_odd_places(member):
    _, path, content = member
    size = len(content)
    with open(path, "rb", buffering=0) as file:
        descriptor = file.fileno()
        assert os.lseek(descriptor, 0, os.SEEK_END) == size
        assert os.read(descriptor, 100) == b""
        assert os.lseek(descriptor, 10**12, os.SEEK_SET) == 10**12
        assert os.read(descriptor, 1) == b""
        assert errno_of(os.lseek, descriptor, -1, os.SEEK_SET) == errno.EINVAL
        assert os.pread(descriptor, 0, 5) == b""
        assert os.pread(descriptor, 100, size) == b""
        assert os.pread(descriptor, 100, size - 1) == content[-1:]
        assert os.pread(descriptor, 2 * size, 0) == content
        assert os.pread(descriptor, size, 4095) == content[4095:]
        for offset in (1, 127, 4095, 4096, 4097, 65_537, 131_071, 131_073, size - 4097):
            for length in (1, 2, 4095, 4097, 131_073):
                wanted = content[offset : offset + length]
                assert os.pread(descriptor, length, offset) == wanted
        os.lseek(descriptor, 7, os.SEEK_SET)
        buffers = [bytearray(3), bytearray(5000), bytearray(1)]
        assert os.readv(descriptor, buffers) == 5004
        assert b"".join(buffers) == content[7:5011]


def test_5_8_reading_backwards(member):
    _, path, content = member
    with open(path, "rb", buffering=0) as file:
        for offset in range(len(content) - 10_000, 0, -37_003):
            assert os.pread(file.fileno(), 10_000, offset) == content[offset : offset + 10_000]


def test_5_8_copying(member, tmp_path):
    _, path, content = member
    shutil.copy(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    with open(path, "rb") as file, open(tmp_path / "sent", "wb") as out:
        sent = 0
        while sent < len(content):
            sent += os.sendfile(out.fileno(), file.fileno(), sent, len(content) - sent)
    assert (tmp_path / "sent").read_bytes() == content
    with open(path, "rb") as file, open(tmp_path / "ranged", "wb") as out:
        copied = errno_of(os.copy_file_range, file.fileno(), out.fileno(), 5000)
        assert copied in (None, errno.EXDEV, errno.EOPNOTSUPP)
    told = subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True).stdout
    assert told.split()[0] == hashlib.sha256(content).hexdigest()
    subprocess.run(["cmp", path, tmp_path / "copy"], check=True)
    subprocess.run(
        ["dd", f"if={path}", f"of={tmp_path / 'dd'}", "bs=777k", "status=none"], check=True
    )
    assert (tmp_path / "dd").read_bytes() == content


def test_5_8_direct_io(member):
    _, path, content = member
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 1 << 21) as buffer, mmap.mmap(-1, 8192) as small:
            assert os.readv(descriptor, [buffer]) == len(content)
            assert buffer[: len(content)] == content
            assert os.preadv(descriptor, [small], 800 * 1024) == 8192
            assert small[:] == content[800 * 1024 : 808 * 1024]
    finally:
        os.close(descriptor)


def test_5_8_what_else_is_done_with_files(member):
    mnt, path, content = member
    with open(path, "rb", buffering=0) as file:
        descriptor = file.fileno()
        assert os.lseek(descriptor, 0, os.SEEK_DATA) == 0
        assert os.lseek(descriptor, 0, os.SEEK_HOLE) == len(content)
        assert errno_of(os.lseek, descriptor, len(content), os.SEEK_DATA) == errno.ENXIO
        fcntl.flock(file, fcntl.LOCK_SH)
        fcntl.lockf(file, fcntl.LOCK_SH)
        os.fsync(descriptor)
        assert not os.isatty(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        assert os.pread(descriptor, 100, 5000) == content[5000:5100]
    assert mnt.log() == ""


def test_5_8_mapping(member):
    _, path, content = member
    with open(path, "rb") as file:
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert len(mapped) == len(content)
            mapped.madvise(mmap.MADV_RANDOM)
            for offset in (0, 4096, len(content) - 1, 777_777):
                assert mapped[offset] == content[offset]
            mapped.madvise(mmap.MADV_SEQUENTIAL)
            assert mapped[:] == content
        with mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ, offset=65_536) as mapped:
            assert mapped[:] == content[65_536 : 65_536 + 4096]
        private = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        private[5] = 255 - content[5]
        private.close()
    # The last page is filled up with zeros.
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[-4:] == content[-4:]
    assert path.read_bytes() == content


def test_5_8_reading_through_streams(member):
    _, path, content = member
    with open(path, "rb", buffering=1013) as file:
        assert b"".join(iter(lambda: file.read(997), b"")) == content
    with open(path, "rb") as file:
        file.seek(-100, os.SEEK_END)
        assert file.read() == content[-100:]


def rows_of(path, seed, count, array):
    draw = np.random.default_rng(seed)
    mapped = np.load(path, mmap_mode="r")
    for _ in range(count):
        row = int(draw.integers(0, len(array)))
        assert np.array_equal(mapped[row], array[row]), row
    return count


@pytest.mark.parametrize("saver", [np.savez, np.savez_compressed])
def test_5_9_eight_processes_read_random_rows_as_a_data_loader_does(source, mount, saver):
    array = np.random.default_rng(3).normal(size=(30_000, 128)).astype("f4").round(2)
    saver(source / "a.npz", x=array)
    with np.load(source / "a.npz") as archive:
        wanted = archive["x"]
    path = mount(source) / "a.npz/x.npy"
    workers = [Child(rows_of, path, seed, 500, wanted) for seed in range(8)]
    assert [worker.result() for worker in workers] == [500] * 8


def test_5_9_a_map_that_was_opened_before_the_fork(source, mount):
    array = np.random.default_rng(3).normal(size=(30_000, 64)).round(1)
    np.savez_compressed(source / "a.npz", x=array)
    mapped = np.load(mount(source) / "a.npz/x.npy", mmap_mode="r")

    def rows(seed):
        picked = np.random.default_rng(seed).integers(0, len(array), 300)
        return bool(np.array_equal(mapped[picked], array[picked]))

    workers = [Child(rows, seed) for seed in range(8)]
    assert all(worker.result() for worker in workers)


@pytest.mark.parametrize("method", METHODS)
def test_5_9_many_threads_on_one_handle(source, mount, method):
    content = os.urandom(500_000) + bytes(3_000_000) + os.urandom(500_000)
    zipmaker.write(source / "a.npz", [Entry(b"x", content, METHODS[method])])
    path = mount(source) / "a.npz/x"
    together = threading.Barrier(16)

    def read(descriptor, seed):
        draw = random.Random(seed)
        together.wait()
        for _ in range(100):
            offset, size = draw.randrange(len(content)), draw.choice([1, 5000, 200_000])
            assert os.pread(descriptor, size, offset) == content[offset : offset + size]

    with open(path, "rb", buffering=0) as file, ThreadPoolExecutor(16) as pool:
        for one in [pool.submit(read, file.fileno(), seed) for seed in range(16)]:
            one.result()


def open_all(path, count, seed):
    for number in random.Random(seed).sample(range(count), count):
        assert np.load(f"{path}/{number}.npy", mmap_mode="r")[1] == number


def test_5_9_processes_opening_many_members(source, mount):
    count = 300
    np.savez_compressed(source / "a.npz", **{str(n): np.array([0, n, 2]) for n in range(count)})
    mnt = mount(source)
    workers = [Child(open_all, mnt / "a.npz", count, seed) for seed in range(4)]
    for worker in workers:
        worker.result()


def test_5_9_a_thousand_open_handles(source, mount):
    np.savez(source / "a.npz", x=np.arange(1000))
    path = mount(source) / "a.npz/x.npy"

    def many():
        files = [open(path, "rb") for _ in range(900)]
        return all(file.read(6) == b"\x93NUMPY" for file in files)

    assert in_child(many)
