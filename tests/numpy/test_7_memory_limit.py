"""Rules 7.14 and 7.15: --memory-limit bounds everything together; beyond it calls get ENOMEM."""

import errno
import lzma
import os
import resource
import struct
import zipfile
import zlib

import numpy as np
import pytest
from arrays import same
from mounting import Child, in_child, poll
from test_7_memory import MIB, large_archive

# What the kernel counts for the process beside its own: the pages of its program, and slack.
BESIDE = 32 * MIB


def with_xz(path, dictionary, content):
    """An archive of one member in a stream of .xz with a dictionary of `dictionary` bytes."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": dictionary}]
    encoded = lzma.compress(content, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)
    fields = (0, 95, 0, 33, zlib.crc32(content), len(encoded), len(content), 1, 0)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, *fields) + b"x" + encoded
    central = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, *fields, 0, 0, 0, 0, 0) + b"x"
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)


def test_7_14_large_archives_are_opened_one_after_the_other_within_the_limit(source, mount):
    for number in range(6):
        large_archive(source / f"{number}.npz", 200_000)
    mnt = mount(source, "--memory-limit", "64M")
    for number in range(6):
        assert len(os.listdir(mnt / f"{number}.npz")) == 200_000
        assert os.stat(mnt / f"{number}.npz/00199999.npy").st_size == 1
    assert mnt.peak_memory() < 64 * MIB + BESIDE
    assert not mnt.log_lines("memory")


def test_7_14_an_archive_that_needs_more_than_the_limit_is_enomem(source, mount):
    large_archive(source / "large.npz", 1_000_000)
    np.savez(source / "good.npz", x=np.arange(100))
    mnt = mount(source, "--memory-limit", "64M")
    for _ in range(3):
        with pytest.raises(OSError) as refused:
            os.stat(mnt / "large.npz")
        assert refused.value.errno == errno.ENOMEM
        # It is there, and nobody else suffers; nor does the kernel learn anything wrong of it.
        assert sorted(os.listdir(mnt.path)) == ["good.npz", "large.npz"]
        assert sorted(entry.name for entry in os.scandir(mnt.path)) == ["good.npz", "large.npz"]
        assert (mnt / "good.npz").is_dir()
    same(in_child(np.load, mnt / "good.npz/x.npy"), np.arange(100))
    [line] = mnt.log_lines("memory")
    assert "large.npz" in line and "--memory-limit" in line and "MiB" in line
    assert mnt.peak_memory() < 64 * MIB + BESIDE


def test_7_14_beside_an_archive_that_needs_more_the_others_are_listed(source, mount):
    large_archive(source / "large.npz", 1_000_000)
    np.savez(source / "good.npz", x=np.arange(100))
    mnt = mount(source, "--memory-limit", "64M", "--layout", "beside")
    names = ["good.npz", "good.npz.d", "large.npz", "large.npz.d"]
    assert sorted(os.listdir(mnt.path)) == names
    assert sorted(entry.name for entry in os.scandir(mnt.path)) == names
    with pytest.raises(OSError) as refused:
        os.stat(mnt / "large.npz.d")
    assert refused.value.errno == errno.ENOMEM
    assert os.stat(mnt / "large.npz").st_size == os.stat(source / "large.npz").st_size


def test_7_14_a_dictionary_takes_no_more_than_there_is(source, mount):
    content = np.random.default_rng(1).integers(0, 4, MIB, "u1").tobytes() * 80
    with_xz(source / "small.npz", 8 * MIB, content)
    with_xz(source / "large.npz", 128 * MIB, content)
    mnt = mount(source, "--memory-limit", "64M")
    with pytest.raises(OSError) as refused:
        (mnt / "large.npz/x").read_bytes()
    assert refused.value.errno == errno.ENOMEM
    assert (mnt / "small.npz/x").read_bytes() == content
    assert mnt.peak_memory() < 64 * MIB + BESIDE


def hold_open(directory, names, told, until):
    """Opens files, reports how many and why no more, and holds them until it gets a line."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    held, why = [], 0
    try:
        for name in names:
            held.append(open(directory / name, "rb", buffering=0))
    except OSError as error:
        why = error.errno
    os.write(told, struct.pack("<II", len(held), why))
    os.read(until, 1)
    return len(held) == 0 or held[-1].read() == b"x" * 100


def test_7_14_nothing_more_is_opened_at_the_limit_and_what_is_open_reads_on(source, mount):
    with zipfile.ZipFile(source / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(45_000):
            archive.writestr(f"{number}", b"x" * 100)
    np.savez(source / "good.npz", x=np.arange(100))
    mnt = mount(source, "--memory-limit", "48M")
    (told, tell), (until, end) = os.pipe(), os.pipe()
    with open(mnt / "good.npz/x.npy", "rb", buffering=0) as good:
        children, reasons = [], []
        while errno.ENOMEM not in reasons:
            first = 15_000 * len(children)
            assert first < 45_000 and set(reasons) <= {0}, reasons
            names = [str(number) for number in range(first, first + 15_000)]
            children.append(Child(hold_open, mnt / "a.npz", names, tell, until))
            reasons.append(struct.unpack("<II", os.read(told, 8))[1])
        os.posix_fadvise(good.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(good.fileno(), 8, 128 + 8 * 7) == struct.pack("<q", 7)
        assert sorted(os.listdir(mnt.path)) == ["a.npz", "good.npz"]
        os.write(end, b"." * len(children))
        assert all(child.result() for child in children)

    def opens():
        try:
            return (mnt / "a.npz/0").read_bytes() == b"x" * 100
        except OSError as error:
            assert error.errno == errno.ENOMEM
            return False

    poll(opens, 10, "there is memory again")
    assert len(mnt.log_lines("memory")) > 0
    assert mnt.peak_memory() < 48 * MIB + BESIDE


@pytest.mark.slow
def test_7_15_the_kernel_forgets_names_that_take_too_much(source, mount):
    # At 300 and 700 bytes each they would take 47 MiB, and there are 48 for all.
    np.savez(source / "one.npz", x=np.arange(3))
    archive = (source / "one.npz").read_bytes()
    for directory in range(4):
        (source / str(directory)).mkdir()
        for number in range(34_000 if directory < 2 else 20_000):
            path = source / f"{directory}/{number}"
            if directory < 2:
                path.with_suffix(".txt").touch()
            else:
                path.with_suffix(".npz").write_bytes(archive)
    (source / "0/held.txt").write_text("held")
    mnt = mount(source, "--memory-limit", "48M")
    held = mnt / "0/held.txt"
    with open(held) as file:
        number = os.stat(held).st_ino
        for directory in [0, 1, 2, 3, 0]:
            entries = os.scandir(mnt / str(directory))
            if directory < 2:
                size = sum(entry.stat().st_size for entry in entries)
                assert size == (4 if directory == 0 else 0)
            else:
                assert all(os.stat(f"{entry.path}/x.npy").st_size == 152 for entry in entries)
        assert file.read() == "held"
        assert os.stat(held).st_ino == number == os.fstat(file.fileno()).st_ino
    assert not mnt.log_lines("memory")
    assert mnt.peak_memory() < 48 * MIB + BESIDE
