"""Rules 8: files that are passed through."""

import errno
import mmap
import os
import random
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from arrays import npy, same
from mounting import Child, errno_of, in_child, poll


def test_8_1_bytes_pass_through(source, mount):
    contents = {
        f"{size}": random.Random(size).randbytes(size)
        for size in (0, 1, 4095, 4096, 4097, 131_072, 131_073, 5_000_000)
    }
    for name, content in contents.items():
        (source / name).write_bytes(content)
    mnt = mount(source)
    draw = random.Random(1)
    for name, content in contents.items():
        assert (mnt / name).read_bytes() == content
        with open(mnt / name, "rb", buffering=0) as file:
            for _ in range(30):
                offset, size = draw.randrange(len(content) + 9), draw.choice([0, 1, 999, 70_000])
                assert os.pread(file.fileno(), size, offset) == content[offset : offset + size]


def test_8_1_a_sparse_file_over_4_gib(source, mount):
    size = (5 << 30) + 3
    with open(source / "big", "wb") as out:
        for offset in (0, 4 << 30, size - 3):
            out.seek(offset)
            out.write(b"abc")
    path = mount(source) / "big"
    assert os.stat(path).st_size == size
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        for offset in (0, 4 << 30, size - 3):
            assert mapped[offset : offset + 3] == b"abc"
        assert mapped[3 << 30 : (3 << 30) + 9] == bytes(9)


def test_8_1_plain_npys_are_mapped(source, mount):
    array = np.random.default_rng(1).normal(size=(5_000, 100))
    np.save(source / "x.npy", array)
    path = mount(source) / "x.npy"
    mapped = np.load(path, mmap_mode="r")
    same(np.asarray(mapped), array)

    def rows(seed):
        picked = np.random.default_rng(seed).integers(0, len(array), 200)
        again = np.load(path, mmap_mode="r")
        return bool(np.array_equal(again[picked], array[picked]))

    workers = [Child(rows, seed) for seed in range(8)]
    assert all(worker.result() for worker in workers)


def test_8_1_programs_run(source, mount):
    script = source / "script"
    script.write_text("#!/bin/sh\necho it runs\n")
    script.chmod(0o755)
    done = subprocess.run([mount(source) / "script"], check=True, capture_output=True)
    assert done.stdout == b"it runs\n"


def test_8_1_many_readers_of_one_file(source, mount):
    content = random.Random(2).randbytes(3_000_000)
    (source / "f").write_bytes(content)
    path = mount(source) / "f"
    together = threading.Barrier(8)

    def read(seed):
        draw = random.Random(seed)
        together.wait()
        for _ in range(50):
            with open(path, "rb", buffering=0) as file:
                offset = draw.randrange(len(content))
                assert os.pread(file.fileno(), 9000, offset) == content[offset : offset + 9000]

    with ThreadPoolExecutor(8) as pool:
        for one in [pool.submit(read, seed) for seed in range(8)]:
            one.result()


def test_8_2_an_open_file_outlives_its_name(source, mount):
    content = random.Random(3).randbytes(3_000_000)
    for name in ("deleted", "moved", "replaced"):
        (source / name).write_bytes(content)
    mnt = mount(source)
    files = {name: open(mnt / name, "rb", buffering=0) for name in ("deleted", "moved", "replaced")}
    os.remove(source / "deleted")
    os.rename(source / "moved", source / "new name")
    (source / "other").write_bytes(b"other")
    os.rename(source / "other", source / "replaced")
    poll(lambda: errno_of(os.stat, mnt / "deleted") == errno.ENOENT, 2.5, "the name is gone")
    poll(lambda: (mnt / "replaced").read_bytes() == b"other", 2.5, "the new file shows")
    for name, file in files.items():
        assert os.pread(file.fileno(), len(content), 0) == content, name
        file.close()


def test_8_3_a_file_that_is_read_while_it_grows(source, mount):
    (source / "log").write_bytes(b"")
    mnt = mount(source)

    def follow(count):
        got = b""
        with open(mnt / "log", "rb", buffering=0) as file:
            while len(got) < count:
                got += file.read(100_000)
        return got

    wanted = b"".join(b"line %d\n" % n for n in range(2000))
    follower = Child(follow, len(wanted))
    with open(source / "log", "ab", buffering=0) as out:
        for at in range(0, len(wanted), 1999):
            out.write(wanted[at : at + 1999])
    assert follower.result() == wanted


def test_8_4_plain_files_have_no_attributes_of_ours(source, mount):
    (source / "f").write_bytes(npy(np.arange(3)))
    mnt = mount(source)
    assert os.listxattr(mnt / "f") == []
    assert errno_of(os.getxattr, mnt / "f", "user.npzfs.dtype") == errno.ENODATA


def test_8_4_names_that_only_look_like_ours(source, mount):
    for name in ("npz", "x.npzz", "x.npz~", "x.npy", "x.gz", "x.npy.gz.bak"):
        (source / name).write_bytes(b"plain")
    mnt = mount(source)
    for name in os.listdir(source):
        assert (mnt / name).read_bytes() == b"plain"
    assert in_child(lambda: sorted(os.listdir(mnt.path))) == sorted(os.listdir(source))
