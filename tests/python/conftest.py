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
    for fd in _servers._held.values():
        os.close(fd)
    _servers._held.clear()
    poll(lambda: not mounts_in(tmp_path), 5, "the mounts of the test are gone")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def archive(source):
    """An archive with a deflated member `x`, a stored one would be no different, and others."""
    np.savez_compressed(source / "a.npz", x=rows(), names=np.array(["one", "two"]))
    return source / "a.npz"


def rows():
    return np.arange(60_000, dtype="<f8").reshape(300, 200)


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
