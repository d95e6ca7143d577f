"""Rules 6.6 to 6.8: handles and mappings while their archive changes."""

import errno
import mmap
import os
import random
import signal
import time

import numpy as np
import pytest
import zipmaker
from mounting import Child, Ended, errno_of, in_child
from test_6_live import SAVERS, WIDTH, load, soon
from zipmaker import DEFLATED, STORED, Entry


def noise(seed, size=6_000_000):
    return random.Random(seed).randbytes(size)


METHODS = {"stored": STORED, "deflated": DEFLATED}


def make(path, content, method):
    return zipmaker.write(path, [Entry(b"x", content, METHODS[method])])


REMOVALS = {
    "replaced": lambda source: (
        make(source / "new", b"new" * 3_000_000, "stored"),
        os.rename(source / "new", source / "a.npz"),
    ),
    "deleted": lambda source: os.remove(source / "a.npz"),
    "moved": lambda source: os.rename(source / "a.npz", source / "b.npz"),
    "moved away": lambda source: os.rename(source / "a.npz", source.parent / "away"),
    "its directory renamed": lambda source: os.rename(source, source.parent / "elsewhere"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("removal", REMOVALS)
def test_6_6_a_handle_outlives_the_name_of_its_archive(source, mount, method, removal):
    content = noise(1)
    make(source / "a.npz", content, method)
    mnt = mount(source)
    with open(mnt / "a.npz/x", "rb", buffering=0) as file:
        descriptor = file.fileno()
        assert os.pread(descriptor, 10, 0) == content[:10]
        REMOVALS[removal](source)
        assert os.pread(descriptor, 5000, 3_000_000) == content[3_000_000:3_005_000]
        time.sleep(1.2)  # beyond the attribute timeout
        assert os.pread(descriptor, len(content), 0) == content


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("removal", ["replaced", "deleted", "moved"])
def test_6_6_a_mapping_outlives_the_name_of_its_archive(source, mount, method, removal):
    content = noise(2)
    make(source / "a.npz", content, method)
    mnt = mount(source)

    def map_it(ready, go):
        with open(mnt / "a.npz/x", "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        assert mapped[:10] == content[:10]
        os.write(ready, b"x")
        os.read(go, 1)
        return mapped[:] == content

    (ready, say_ready), (go, say_go) = os.pipe(), os.pipe()
    child = Child(map_it, say_ready, go)
    os.read(ready, 1)
    REMOVALS[removal](source)
    time.sleep(1.2)
    os.write(say_go, b"x")
    assert child.result()
    for descriptor in (ready, say_ready, go, say_go):
        os.close(descriptor)


def test_6_6_a_handle_survives_a_change_of_attributes_alone(source, mount):
    content = noise(3)
    make(source / "a.npz", content, "stored")
    mnt = mount(source)
    with open(mnt / "a.npz/x", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 10, 0) == content[:10]
        os.chmod(source / "a.npz", 0o600)
        os.link(source / "a.npz", source / "second name")
        assert os.pread(file.fileno(), 10, 5_000_000) == content[5_000_000:5_000_010]
    soon(lambda: os.stat(mnt / "a.npz/x").st_mode & 0o777 == 0o400, "the new mode shows")
    assert (mnt / "a.npz/x").read_bytes() == content


OVERWRITES = {
    "same size": lambda path, method: make(path, noise(99), method),
    "shorter": lambda path, method: make(path, b"new", method),
    "longer": lambda path, method: make(path, noise(98, 12_000_000), method),
    "truncated": lambda path, method: os.truncate(path, 1000),
    "emptied": lambda path, method: os.truncate(path, 0),
    "not a zip": lambda path, method: path.write_bytes(bytes(20_000_000)),
    "one byte": lambda path, method: poke(path),
}


def poke(path):
    with open(path, "r+b") as file:
        file.seek(5_500_000)
        file.write(b"new byte")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("overwrite", OVERWRITES)
def test_6_7_a_handle_of_overwritten_bytes_gets_eio(source, mount, method, overwrite):
    content = noise(4)
    make(source / "a.npz", content, method)
    mnt = mount(source)
    with open(mnt / "a.npz/x", "rb", buffering=0) as file:
        descriptor = file.fileno()
        assert os.pread(descriptor, 10, 0) == content[:10]
        OVERWRITES[overwrite](source / "a.npz", method)
        far = 5_499_000
        for _ in range(2):
            assert errno_of(os.pread, descriptor, 5000, far) == errno.EIO
        # What is cached may be read on: old bytes.
        try:
            assert os.pread(descriptor, 4096, 0) == content[:4096]
        except OSError as error:
            assert error.errno == errno.EIO
        time.sleep(1.2)
        assert errno_of(os.pread, descriptor, 5000, far) == errno.EIO
    assert len(mnt.log_lines("a.npz", "overwritten")) == 1, mnt.log()


@pytest.mark.parametrize("method", METHODS)
def test_6_7_a_mapping_of_overwritten_bytes_gets_sigbus_never_new_bytes(source, mount, method):
    content = noise(5)
    make(source / "a.npz", content, method)
    mnt = mount(source)

    def touch(offset, ready, go):
        with open(mnt / "a.npz/x", "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        assert mapped[:10] == content[:10]
        os.write(ready, b"x")
        os.read(go, 1)
        return mapped[offset : offset + 100]

    (ready, say_ready), (go, say_go) = os.pipe(), os.pipe()
    near, far = (Child(touch, offset, say_ready, go) for offset in (0, 5_000_000))
    os.read(ready, 1)
    os.read(ready, 1)
    make(source / "a.npz", noise(6), method)
    os.write(say_go, b"xx")
    with pytest.raises(Ended) as ended:
        far.result()
    assert ended.value.signal == signal.SIGBUS
    try:
        assert near.result() == content[:100]
    except Ended as ended:
        assert ended.signal == signal.SIGBUS
    for descriptor in (ready, say_ready, go, say_go):
        os.close(descriptor)
    soon(lambda: (mnt / "a.npz/x").read_bytes() == noise(6), "the new bytes show")


def stamped(generation, rows):
    """An array whose elements hold the generation, and the row they lie in."""
    array = np.empty((rows, WIDTH), "<u4")
    array[:] = np.arange(rows, dtype="<u4")[:, None]
    array[:, ::2] = generation
    return array


def read_generations(path, seconds, seed, rows):
    """Maps the member again and again; returns how often each generation was read in full.

    A child of its own for every mapping, because SIGBUS is what a mapping is to get.
    """
    draw, seen = random.Random(seed), {}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            generation = in_child(read_once, path, draw.randrange(1 << 30), rows)
        except Ended as ended:
            assert ended.signal == signal.SIGBUS, ended
            continue
        seen[generation] = seen.get(generation, 0) + 1
    return seen


def read_once(path, seed, rows):
    """The generation that all rows of a mapping hold; None if it cannot be opened or mapped."""
    try:
        mapped = np.load(path, mmap_mode="r")
    except OSError as error:
        # ESTALE: overwritten again between the kernel's second look and the open.
        wanted = (errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ESTALE)
        assert error.errno in wanted, error
        return None
    except ValueError as error:
        # Rows of one generation and the header of another: np.load opens the file three times.
        assert "mmap length" in str(error), error
        return None
    draw = np.random.default_rng(seed)
    generations = set()
    for row in draw.permutation(len(mapped)):
        line = np.array(mapped[row])
        assert (line[1::2] == row).all(), "a row of another place"
        generations |= set(line[::2].tolist())
        assert len(generations) == 1, f"a mapping that mixes {generations}"
    return generations.pop()


def rewrite(path, saver, seconds, rows, by_rename):
    deadline, generation = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        generation += 1
        where = path.with_name("new.npz.part") if by_rename else path
        with open(where, "wb") as out:
            SAVERS[saver](out, x=stamped(generation, rows))
        if by_rename:
            os.rename(where, path)
        time.sleep(random.Random(generation).random() * 0.2)
    return generation


@pytest.mark.slow
@pytest.mark.parametrize("by_rename", [False, True], ids=["in place", "rename"])
@pytest.mark.parametrize("saver", SAVERS)
def test_6_8_a_mapping_never_mixes_generations(source, mount, saver, by_rename):
    rows, seconds = 400, 6
    SAVERS[saver](source / "a.npz", x=stamped(0, rows))
    mnt = mount(source)
    path = mnt / "a.npz/x.npy"
    in_full = set()
    # On a busy machine readers may not get through one generation in a round.
    for attempt in range(10):
        seeds = range(3 * attempt, 3 * attempt + 3)
        readers = [Child(read_generations, path, seconds, seed, rows) for seed in seeds]
        writer = Child(rewrite, source / "a.npz", saver, seconds - 1, rows, by_rename)
        written = writer.result(90)
        assert written > 3
        seen = [reader.result(90) for reader in readers]
        in_full |= {(attempt, g) for counts in seen for g in counts if g is not None}
        if len(in_full) > 1:
            break
    assert len(in_full) > 1, f"no reader ever read two generations: {seen}"
    last = stamped(written, rows).tolist()
    soon(lambda: load(path) == last, "the last generation shows")
