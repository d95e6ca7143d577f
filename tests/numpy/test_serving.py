"""How the server behaves under load. Promises of docs/performance.md, not rules of semantics.md."""

import os
import random
import shutil
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import zipmaker
from arrays import npy
from mounting import Child, poll, state
from zipmaker import DEFLATED, STORED, Entry

GIB = 1 << 30
ROW = 4096
# Rows of a chunk that is encoded once and repeated; each chunk starts with a row of its own.
ROWS = 1024


def sensor_data():
    draw = np.random.default_rng(1)
    walk = np.cumsum(draw.normal(size=(ROWS - 1) * ROW // 4)).astype("<f4").round(2)
    return walk.tobytes()


def large_member(name, size, common):
    """A deflated member of `size` bytes in rows, quick to make, and a function that knows each row.

    The first row of every chunk, in a stored block, holds the chunk's number; the others are
    `common`, deflated once.
    """
    encoded = b"".join(zipmaker.deflate_pieces([common]))[:-2]
    crc_common = zlib.crc32(common)
    crc32, pieces, chunks = 0, [], size // (ROWS * ROW)
    for number in range(chunks):
        first = struct.pack("<Q", number) * (ROW // 8)
        # RFC 1951, 3.2.4: a stored block starts on a whole byte with its length, twice.
        pieces += [b"\0" + struct.pack("<HH", ROW, ROW ^ 0xFFFF) + first, encoded]
        crc32 = zlib.crc32(first, crc32)
        crc32 = zipmaker.crc32_combine(crc32, crc_common, len(common))
    pieces.append(b"\3\0")
    size = chunks * ROWS * ROW

    def row(number):
        chunk, within = divmod(number, ROWS)
        if within == 0:
            return struct.pack("<Q", chunk) * (ROW // 8)
        return common[(within - 1) * ROW : within * ROW]

    entry = Entry(name, method=DEFLATED, encoded=pieces, size=size, crc32=crc32)
    return entry, row


def while_paused(mnt, work):
    """What `work` gives in another process while only the kernel's caches answer."""
    mnt.pause()
    reader = Child(work)
    try:
        return reader.result(5)
    finally:
        mnt.resume()


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("size", [1, 4095, 4096, 10_000, 32 << 10])
def test_a_small_member_is_cached_when_it_is_opened(source, mount, size, method):
    content = os.urandom(-(-size // 2)).hex().encode()[:size]
    zipmaker.write(source / "a.npz", [Entry(b"x", content, method)])
    mnt = mount(source)
    with open(mnt / "a.npz/x", "rb", buffering=0) as file:
        descriptor = file.fileno()
        assert while_paused(mnt, lambda: os.pread(descriptor, size + 1, 0)) == content
    assert (mnt / "a.npz/x").read_bytes() == content


def test_what_is_small_only_when_it_is_decoded_is_not_decoded_by_its_open(source, mount):
    # Stored blocks of no bytes (RFC 1951, section 3.2.4): 40 KB that give one.
    encoded = b"\0\0\0\xff\xff" * 8000 + b"\1\1\0\xfe\xffx"
    entry = Entry(b"x", method=DEFLATED, encoded=[encoded], size=1, crc32=zlib.crc32(b"x"))
    zipmaker.write(source / "a.npz", [entry])
    # Nor does it have to be verified.
    mnt = mount(source, "--verify", "never")
    with open(mnt / "a.npz/x", "rb", buffering=0) as file:
        assert os.getxattr(file.fileno(), "user.npzfs.state").startswith(b"indexing: 0 of 1 ")
        assert file.read() == b"x"
        assert os.getxattr(file.fileno(), "user.npzfs.state") == b"ready"


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_many_processes_open_small_members_for_the_first_time_at_once(source, mount, method):
    contents = {f"{number:03}": os.urandom(1500 + number).hex().encode() for number in range(200)}
    entries = [Entry(name.encode(), content, method) for name, content in contents.items()]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)

    def read_all():
        return {name: (mnt / "a.npz" / name).read_bytes() for name in contents}

    readers = [Child(read_all) for _ in range(8)]
    assert all(reader.result() == contents for reader in readers)


def test_a_second_walk_asks_the_server_nothing(source, mount):
    for number in range(20):
        (source / f"d{number}").mkdir()
        np.savez(source / f"d{number}/a.npz", x=np.arange(3), y=np.arange(4))
    mnt = mount(source, "--ttl", "100")

    def walk():
        found = []
        for directory, _, names in os.walk(mnt.path):
            found += [(directory, name, os.stat(f"{directory}/{name}").st_size) for name in names]
        return found

    first = walk()
    assert len(first) == 40
    assert while_paused(mnt, walk) == first


def read_last_byte(path):
    with open(path, "rb", buffering=0) as file:
        os.pread(file.fileno(), 1, os.fstat(file.fileno()).st_size - 1)


@pytest.mark.slow
def test_long_first_passes_do_not_block_other_files(source, mount):
    long_ones = 8
    # Encodes to a few megabytes, and still is a gibibyte to decode.
    entry, _ = large_member(b"long", GIB, b"a row of text. \n" * ((ROWS - 1) * ROW // 16))
    for number in range(long_ones):
        zipmaker.write(source / f"long{number}.npz", [entry])
    (source / "plain").write_bytes(b"plain" * 100_000)
    content = os.urandom(500_000)
    zipmaker.write(source / "small.npz", [Entry(b"stored", content, STORED)])
    mnt = mount(source)
    paths = [mnt / f"long{number}.npz/long" for number in range(long_ones)]
    before = [state(path) for path in paths]
    passes = [Child(read_last_byte, path) for path in paths]
    poll(lambda: [state(path) for path in paths] != before, 20, "a pass has begun")
    assert (mnt / "plain").read_bytes() == b"plain" * 100_000
    assert (mnt / "small.npz/stored").read_bytes() == content
    for _ in range(20):
        assert len(os.listdir(mnt.path)) == long_ones + 2
        os.stat(mnt / "small.npz/stored")
    still_running = [one.running() for one in passes]
    for one in passes:
        one.result(120)
    assert any(still_running), "the first passes were over before anything else was answered"


@pytest.mark.slow
def test_memory_stays_under_128_mib_in_a_pass_and_random_rows(source, mount):
    entry, row = large_member(b"x", GIB, sensor_data())
    zipmaker.write(source / "a.npz", [entry])
    mnt = mount(source)
    rows = GIB // ROW
    with open(mnt / "a.npz/x", "rb", buffering=0) as file:
        crc32 = 0
        while block := file.read(1 << 22):
            crc32 = zlib.crc32(block, crc32)
        assert crc32 == entry.crc32
        descriptor = file.fileno()
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        for number in np.random.default_rng(2).integers(0, rows, 2_000):
            assert os.pread(descriptor, ROW, int(number) * ROW) == row(int(number))
    peak = mnt.peak_memory()
    print(f"peak resident set: {peak / (1 << 20):.0f} MiB")
    assert peak < 128 << 20


def read_at_random(directory, names, expected, seed, seconds):
    """Whole members, rows and reads of a MiB of all archives, as the workers of a loader read."""
    draw, deadline = random.Random(seed), time.monotonic() + seconds
    while time.monotonic() < deadline:
        member = draw.choice(list(expected))
        path, array = directory / draw.choice(names) / f"{member}.npy", expected[member]
        if draw.random() < 0.1:
            assert (np.load(path) == array).all()
            continue
        with open(path, "rb", buffering=0) as file:
            for _ in range(10):
                start = draw.randrange(array.nbytes - (1 << 20))
                got = os.pread(file.fileno(), draw.choice([ROW, 1 << 16, 1 << 20]), start)
                from_header = os.fstat(file.fileno()).st_size - array.nbytes
                begin = max(start - from_header, 0)
                wanted = array.data.cast("B")[begin : start - from_header + len(got)]
                assert got.endswith(wanted) and len(got) - len(wanted) <= from_header


@pytest.mark.slow
def test_memory_stays_under_128_mib_where_many_archives_are_read_at_once(source, mount):
    draw = np.random.default_rng(3)
    rows = [np.sin(np.arange(1024) / 40) + draw.integers(-3, 4, 1024) / 100 for _ in range(64)]
    expected = {
        "sensor": np.concatenate([np.round(rows[n % 64] + n, 2) for n in range(2500)]).astype(
            "<f4"
        ),
        "labels": np.repeat(draw.integers(0, 10, 20_000), 64),
        "noise": draw.random(1_000_000, dtype="<f4"),
    }
    np.savez_compressed(source / "0.npz", **expected)
    names = [f"{number}.npz" for number in range(80)]
    for name in names[1:]:
        shutil.copyfile(source / "0.npz", source / name)
    mnt = mount(source)
    readers = [Child(read_at_random, mnt.path, names, expected, seed, 8) for seed in range(6)]
    for reader in readers:
        reader.result()
    peak = mnt.peak_memory()
    print(f"peak resident set: {peak / (1 << 20):.0f} MiB")
    assert peak < 128 << 20


def test_more_archives_than_file_descriptors(source, mount):
    count = 1_500
    entry = Entry(b"x.npy", npy(np.arange(3)), DEFLATED)
    archive = zipmaker.write(source / "0.npz", [entry]).read_bytes()
    for number in range(1, count):
        (source / f"{number}.npz").write_bytes(archive)
    mnt = mount(source, under=["prlimit", "--nofile=1024:1024"])
    kept = []
    for number in range(count):
        member = np.load(mnt / f"{number}.npz/x.npy", mmap_mode="r")
        assert member[2] == 2
        if number % 5 == 0:
            kept.append(member)
    assert len(os.listdir(f"/proc/{mnt.pid}/fd")) < 1_000
    assert all(member[1] == 1 for member in kept)


def test_the_table_of_descriptors_does_not_grow_while_archives_are_opened(source, mount):
    for number in range(300):
        np.savez(source / f"{number}.npz", x=np.arange(3))
    mnt = mount(source)

    def slots():
        status = Path(f"/proc/{mnt.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("FDSize"))

    before = slots()
    assert sum(entry.is_dir() for entry in os.scandir(mnt.path)) == 300
    # Each time it grows the kernel waits, 10 ms and more, for all threads to take notice.
    assert slots() == before


def test_listing_names_for_days_takes_no_memory(source, mount):
    np.savez(source / "one.npz", x=np.arange(3))
    one = (source / "one.npz").read_bytes()
    names = {f"{number:04}-of-the-archives.npz" for number in range(3000)}
    for name in names:
        (source / name).write_bytes(one)
    # Asked each time; most archives are not opened for it, so that their types are left open.
    mnt = mount(source, "--ttl", "0")
    for _ in range(20):
        assert set(os.listdir(mnt.path)) == names | {"one.npz"}
    before = mnt.memory()
    for _ in range(100):
        os.listdir(mnt.path)
    # It was 14 MiB as long as each listing left a copy of itself.
    assert mnt.memory() - before < 4 << 20


def test_sigterm_in_the_middle_of_a_first_pass(source, mount):
    entry, _ = large_member(b"x", GIB, b"a row of text. \n" * ((ROWS - 1) * ROW // 16))
    zipmaker.write(source / "a.npz", [entry])
    mnt = mount(source)

    def read():
        try:
            return len((mnt / "a.npz/x").read_bytes())
        except OSError:
            return None

    before = state(mnt / "a.npz/x")
    reader = Child(read)
    poll(lambda: state(mnt / "a.npz/x") != before, 20, "the pass has begun")
    mnt.stop()  # asserts that it ends in good order
    assert reader.result() in (None, GIB)


def test_an_idle_mount_uses_no_processor_time(source, mount):
    np.savez_compressed(source / "a.npz", x=np.arange(100_000))
    mnt = mount(source)
    np.load(mnt / "a.npz/x.npy")

    def ticks():
        fields = Path(f"/proc/{mnt.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    time.sleep(0.5)
    before = ticks()
    time.sleep(1.5)
    assert ticks() - before <= 1
