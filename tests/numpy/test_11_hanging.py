"""Rules 11: a source that does not answer."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hanging import Hanging
from mounting import mounted, poll

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a hanging filesystem needs root")

# More than there are threads at first, on any machine.
STUCK = 16


@pytest.fixture
def hung(source, tmp_path):
    """A filesystem below the source, and neighbours beside it that do not hang."""
    content = tmp_path / "content"
    content.mkdir()
    noise = np.random.default_rng(1).integers(0, 256, 1 << 20, dtype=np.uint8)
    for number in range(2 * STUCK):
        np.save(content / f"{number}.npy", noise[: 1 << 18])
        np.savez_compressed(content / f"{number}.npz", a=noise, b=noise)
    np.save(source / "plain.npy", noise)
    np.savez_compressed(source / "beside.npz", a=noise)
    hanging = Hanging(content, source / "hung", tmp_path / "control")
    yield hanging
    hanging.end()


def readers(code, paths):
    """A process for each path that runs `code` with it."""
    return [
        subprocess.Popen([sys.executable, "-c", f"import os, sys\npath = sys.argv[1]\n{code}", path])
        for path in paths
    ]


def neighbours_answer(mounted_at):
    """In a process of its own: should it hang, the test fails and does not hang."""
    code = """
import os, sys, numpy as np
top = sys.argv[1]
assert sorted(os.listdir(top)) == ["beside.npz", "hung", "plain.npy"]
whole = np.load(f"{top}/plain.npy")
assert (np.load(f"{top}/beside.npz/a.npy", mmap_mode="r") == whole).all()
assert open(f"{top}/plain.npy", "rb").read()[-10:] == whole[-10:].tobytes()
"""
    subprocess.run([sys.executable, "-c", code, str(mounted_at)], check=True, timeout=60)


WAYS = {
    "read": ("read", "open(path, 'rb').read()", "{}.npy"),
    "open": ("open", "open(path, 'rb')", "{}.npy"),
    "stat": ("lookup getattr", "os.stat(path)", "{}.npy"),
    "parse": ("read", "os.stat(path)", "{}.npz"),
    "listing": ("readdir", "os.listdir(os.path.dirname(path))", "{}.npy"),
}


def end(processes):
    for process in processes:
        process.kill()
    for process in processes:
        process.wait(20)


@pytest.mark.parametrize("way", WAYS)
def test_11_1_a_source_that_hangs_stops_nobody_else(source, mount, hung, way):
    operations, code, name = WAYS[way]
    m = mount(source)
    os.stat(m / "hung")
    hung.hang(*operations.split())
    stuck = readers(code, [str(m / "hung" / name.format(number)) for number in range(STUCK)])
    try:
        neighbours_answer(m.path)
        neighbours_answer(m.path)
    finally:
        end(stuck)
        hung.end()


def test_11_1_members_of_an_archive_that_hangs(source, mount, hung):
    m = mount(source)
    paths = [str(m / "hung" / f"{number}.npz" / "a.npy") for number in range(STUCK)]
    handles = [os.open(path, os.O_RDONLY) for path in paths]
    code = "f = os.open(path, os.O_RDONLY); os.pread(f, 100, 900000)"
    hung.hang("read")
    # What was read of the archives so far may be in the page cache.
    for handle in handles:
        os.close(handle)
    stuck = readers(code, paths)
    try:
        neighbours_answer(m.path)
    finally:
        end(stuck)
        hung.end()


@pytest.mark.parametrize("way", ["read", "open", "stat", "parse"])
def test_11_2_a_reader_that_is_killed_ends(source, mount, hung, way):
    operations, code, name = WAYS[way]
    m = mount(source)
    os.stat(m / "hung")
    hung.hang(*operations.split())
    stuck = readers(code, [str(m / "hung" / name.format(number)) for number in range(STUCK)])
    try:
        neighbours_answer(m.path)
        end(stuck)  # fails if one does not end
        neighbours_answer(m.path)
    finally:
        hung.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_11_3_the_server_ends_while_requests_are_stuck(source, mount, hung, number):
    m = mount(source)
    os.stat(m / "hung")
    hung.hang("read")
    stuck = readers(WAYS["read"][1], [str(m / "hung" / f"{i}.npy") for i in range(STUCK)])
    neighbours_answer(m.path)
    m.process.send_signal(number)
    poll(lambda: not mounted(m.path), 20, "the mount is gone")
    assert m.process.wait(30) == 0
    for process in stuck:
        process.wait(20)
    hung.end()


def test_11_3_what_cannot_be_interrupted_keeps_no_reader(source, mount, hung):
    m = mount(source)
    os.stat(m / "hung")
    hung.hang("lookup", "getattr")
    stuck = readers(WAYS["stat"][1], [str(m / "hung" / f"{i}.npy") for i in range(STUCK)])
    neighbours_answer(m.path)
    m.process.terminate()
    poll(lambda: not mounted(m.path), 20, "the mount is gone")
    for process in stuck:
        process.wait(30)
    hung.end()
    assert m.process.wait(30) == 0


def test_11_3_an_unmount_ends_the_server(source, mount, hung):
    m = mount(source)
    os.stat(m / "hung")
    hung.hang("read")
    stuck = readers(WAYS["read"][1], [str(m / "hung" / f"{i}.npy") for i in range(STUCK)])
    neighbours_answer(m.path)
    subprocess.run(["umount", "--lazy", m.path], check=True)
    end(stuck)
    assert m.process.wait(30) == 0
    hung.end()
