"""Rule 7.8: bad archives on a live mount, with a neighbour who reads beside them."""

import errno
import io
import itertools
import os
import signal
import zipfile

import numpy as np
from hostile import AGREES, CONTENT, EIO, GZIPS, PLAIN, ZIPS
from mounting import Child, poll, state
from noise import ROWS, noise, write_archive


def read(path):
    """The bytes of a file, or the name of the error."""
    try:
        with open(path, "rb", buffering=0) as file:
            # Not by its size, which may be anything.
            pieces = iter(lambda: file.read(1 << 20), b"")
            return b"".join(itertools.islice(pieces, 300))
    except OSError as error:
        return errno.errorcode[error.errno]


def attributes(path):
    for name in (*os.listxattr(path), "user.npzfs.dtype", "user.npzfs.shape"):
        try:
            os.getxattr(path, name)
        except OSError as error:
            assert error.errno == errno.ENODATA, (path, name, error)


def agrees_with_zipfile(content, path):
    """Whether we read what zipfile reads, or nothing."""
    if not path.is_dir():
        return path.read_bytes() == content
    for shown in (path / "x", path / "y"):
        ours = read(shown)
        if not isinstance(ours, bytes):
            continue
        try:
            theirs = zipfile.ZipFile(io.BytesIO(content)).read(shown.name)
        except Exception:
            # It gives up on more than we do: then it has to be what was written.
            theirs = {"x": CONTENT, "y": b"y" * 100}[shown.name]
        if ours != theirs:
            return False
    return True


def is_as_expected(content, outcome, path, shown):
    """`shown` is the member, or the inflated file, at or below `path`."""
    if outcome == PLAIN:
        return path.is_file() and path.read_bytes() == content
    if outcome == AGREES:
        return agrees_with_zipfile(content, path)
    if outcome == "an empty directory":
        return path.is_dir() and os.listdir(path) == []
    if outcome == "EIO or plain":
        return read(path) == content if path.exists() else read(shown) in (EIO, CONTENT)
    got = read(shown)
    if outcome == EIO:
        # Of members that cannot be read in part, room is made before they are decoded.
        return got in (EIO, "EFBIG", "ENOSPC")
    if outcome == "EIO at last":
        poll(lambda: read(shown) == EIO, 60, "it is found out")
        return state(shown).startswith("corrupt: ")
    return got == outcome


def test_7_8_hostile_archives(source, mount):
    assert len(ZIPS) + len(GZIPS) > 200
    for number, (_, content, _) in enumerate(ZIPS):
        (source / f"zip{number}.npz").write_bytes(content)
    for number, (_, content, _) in enumerate(GZIPS):
        (source / f"gz{number}.npy.gz").write_bytes(content)
    write_archive(source)
    mnt = mount(source)

    def neighbour():
        """Reads until it is asked to end; returns how many rows were right."""
        over = []
        signal.signal(signal.SIGTERM, lambda *_: over.append(True))
        rows, wanted, draw = np.load(mnt / "a.npz/x.npy", mmap_mode="r"), noise(), 0
        while not over:
            draw = (draw * 1103515245 + 12345) % ROWS
            with open(mnt / "a.npz/x.npy", "rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert (rows[draw] == wanted[draw]).all()
        return True

    beside = Child(neighbour)
    assert len(os.listdir(mnt.path)) == len(ZIPS) + len(GZIPS) + 1
    wrong = []
    for number, (name, content, outcome) in enumerate(ZIPS):
        path = mnt / f"zip{number}.npz"
        if not is_as_expected(content, outcome, path, path / "x"):
            wrong.append((name, outcome, read(path / "x")[:40]))
        for top, _, files in os.walk(path):
            for file in files:
                attributes(os.path.join(top, file))
    for number, (name, content, outcome) in enumerate(GZIPS):
        path, shown = mnt / f"gz{number}.npy.gz", mnt / f"gz{number}.npy"
        if not is_as_expected(content, outcome, path, shown):
            wrong.append((name, outcome, read(shown)[:40], path.exists()))
        attributes(path if path.exists() else shown)
    assert not wrong, "\n".join(map(str, wrong))
    os.kill(beside.pid, signal.SIGTERM)
    assert beside.result() is True
    # A bomb of 200 MiB, a thousand members, and none of it stays.
    assert mnt.peak_memory() < 200 << 20
    assert len(os.listdir(f"/proc/{mnt.pid}/fd")) < 2 * (len(ZIPS) + len(GZIPS))
    lines = mnt.log().splitlines()
    assert len(lines) < len(ZIPS) + len(GZIPS), mnt.log()
    assert all(len(line) < 1000 for line in lines)
