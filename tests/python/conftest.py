"""Private mounts of a test are its own, and have to end with it."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mounting import poll
from npzfs import _servers, _table

LOAD = """
import sys, npzfs
x = npzfs.load(sys.argv[1])["x"]
print(x.filename, flush=True)
sys.stdin.readline()
print(x[7, 3])
"""


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    """$XDG_RUNTIME_DIR of the test, where private mounts are made. All of them end after it."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # The program of a wheel finds itself.
    yield directory
    gc.collect()
    for home in list(_servers._held):
        _servers._release(home)
    _servers._detached.clear()
    # Also those that had to be elsewhere.
    poll(lambda: not mounts_of(tmp_path), 5, "the mounts of the test are gone")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def archive(source):
    """An archive with a deflated member `x` and a member of strings."""
    np.savez_compressed(source / "a.npz", x=rows(), names=np.array(["one", "two"]))
    return source / "a.npz"


def rows():
    return np.arange(60_000, dtype="<f8").reshape(300, 200)


def replace(archive):
    new = archive.with_name("new.npz")
    np.savez(new, x=rows() + 1)
    os.replace(new, archive)


def rewrite(archive):
    np.savez(archive, x=rows() + 1)


def server_of(point):
    """The process number of the server, by its command line."""
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            try:
                line = (directory / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--server-in-background" in line and os.fsencode(point) in line:
                return int(directory.name)
    raise AssertionError(f"no server of {point}")


def mounts_of(directory):
    """Mounts in a directory, or of something in it."""
    return [m for m in _table.mounts() if f"{directory}/" in f"{m.point} {m.source}"]


def mounts_in(directory):
    return [m for m in _table.mounts() if Path(m.point).is_relative_to(directory)]


def run_python(text, *arguments, **keywords):
    """Runs a program in a Python of its own, and returns what it printed."""
    ended = start_python(text, *arguments, **keywords)
    out, _ = ended.communicate(timeout=120)
    assert ended.returncode == 0, out
    return out.strip()


def start_python(text, *arguments, **keywords):
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **keywords,
    )
