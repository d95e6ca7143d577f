"""Rules 12: a source that does not answer."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zipmaker
from hanging import Hanging
from mounting import binary, mounted, poll, state

# More than there are threads at first, on any machine.
STUCK = 16


@pytest.fixture
def hung(source, tmp_path):
    """A filesystem within the source that hangs, and files beside it that do not."""
    assert os.geteuid() == 0, "only root can mount what hangs: run this test as root"
    content = tmp_path / "content"
    content.mkdir()
    noise = np.random.default_rng(1).integers(0, 256, 1 << 20, dtype=np.uint8)
    for number in range(2 * STUCK):
        np.save(content / f"{number}.npy", noise[: 1 << 18])
        np.savez_compressed(content / f"{number}.npz", a=noise, b=noise)
    # Its bytes are far from what is read to parse it.
    gap = bytes(1 << 20)
    far = zipmaker.Entry(b"a.npy", bytes(10_000), gap=gap, local_extra=bytes(65_000))
    zipmaker.write(content / "small.npz", [far, zipmaker.Entry(b"b.npy", b"b", gap=gap)])
    np.save(source / "plain.npy", noise)
    np.savez_compressed(source / "beside.npz", a=noise)
    hanging = Hanging(content, source / "hung", tmp_path / "control")
    yield hanging
    hanging.end()


def readers(code, paths):
    """A process for each path that runs `code` with it."""
    return [
        subprocess.Popen(
            [sys.executable, "-c", f"import os, sys\npath = sys.argv[1]\n{code}", path]
        )
        for path in paths
    ]


def neighbours_answer(mounted_at, member="beside.npz/a.npy"):
    """Runs in its own process: if that hangs, the test fails and does not hang."""
    code = """
import os, sys, numpy as np
top = sys.argv[1]
assert {"beside.npz", "hung", "plain.npy"} <= set(os.listdir(top))
whole = np.load(f"{top}/plain.npy")
assert (np.load(f"{top}/{sys.argv[2]}", mmap_mode="r") == whole).all()
assert open(f"{top}/plain.npy", "rb").read()[-10:] == whole[-10:].tobytes()
"""
    subprocess.run([sys.executable, "-c", code, str(mounted_at), member], check=True, timeout=60)


WAYS = {
    "read": ("read", "open(path, 'rb').read()", "{}.npy"),
    "open": ("open", "open(path, 'rb')", "{}.npy"),
    "stat": ("lookup", "os.stat(path)", "{}.npy"),
    "parse": ("read", "os.stat(path)", "{}.npz"),
    "listing": ("readdir", "os.listdir(os.path.dirname(path))", "{}.npy"),
}


def end(processes):
    for process in processes:
        process.kill()
    for process in processes:
        process.wait(20)


def stuck_readers(m, hung, way):
    """Readers that wait for the source, while other files are answered."""
    operations, code, name = WAYS[way]
    os.stat(m / "hung")
    hung.hang(*operations.split())
    stuck = readers(code, [str(m / "hung" / name.format(number)) for number in range(STUCK)])
    try:
        neighbours_answer(m.path)
    except BaseException:
        end(stuck)
        raise
    return stuck


@pytest.mark.parametrize("way", WAYS)
def test_12_1_a_source_that_hangs_stops_nobody_else(source, mount, hung, way):
    m = mount(source)
    stuck = stuck_readers(m, hung, way)
    try:
        neighbours_answer(m.path)
    finally:
        end(stuck)
        hung.end()


def test_12_1_members_of_an_archive_that_hangs(source, mount, hung):
    # If a member were compared when it is opened, it would be decoded before it is read.
    m = mount(source, "--verify", "never")
    paths = [str(m / "hung" / f"{number}.npz" / "a.npy") for number in range(STUCK)]
    handles = [os.open(path, os.O_RDONLY) for path in paths]
    code = "f = os.open(path, os.O_RDONLY); os.pread(f, 100, 900000)"
    hung.hang("read")
    # What was read of the archives so far may be in the page cache.
    for handle in handles:
        os.close(handle)
    stuck = readers(code, paths)
    try:
        poll(lambda: hung.held() > 0, 20, "they are stuck")
        neighbours_answer(m.path)
    finally:
        end(stuck)
        hung.end()


@pytest.mark.parametrize("way", ["read", "open", "stat", "parse"])
def test_12_2_a_reader_that_is_killed_ends(source, mount, hung, way):
    m = mount(source)
    stuck = stuck_readers(m, hung, way)
    try:
        end(stuck)  # fails if one does not end
        neighbours_answer(m.path)
    finally:
        hung.end()


@pytest.mark.parametrize("name", ["small.npz", "small.npz.d/a.npy"])
def test_12_2_a_reader_that_opens_something_small_ends(source, mount, hung, name):
    # The first open of something small reads all of it.
    m = mount(source, "--layout", "stored", "--verify", "never")
    # So the header of the member is known, and its bytes are not in the page cache.
    assert state(m / "hung" / "small.npz.d" / "a.npy") == "ready"
    hung.hang("read")
    path = str(m / "hung" / name)
    stuck = readers("open(path, 'rb')", [path] * 2)
    try:
        poll(lambda: hung.held() >= 1, 20, "they are stuck")
        neighbours_answer(m.path, "beside.npz.d/a.npy")
        end(stuck)  # fails if one does not end
    finally:
        hung.end()


def test_12_2_one_that_asks_for_attributes_ends_too(source, mount, hung):
    m = mount(source, "--ttl", "30")
    paths = [str(m / "hung" / f"{number}.npy") for number in range(STUCK)]
    for path in paths:
        os.stat(path)
    hung.hang("lookup", "getattr")
    # The name is known; what it is now is asked for (AT_EMPTY_PATH, AT_STATX_FORCE_SYNC).
    code = (
        "import ctypes\n"
        "file = os.open(path, os.O_PATH)\n"
        "ctypes.CDLL(None).statx(file, b'', 0x1000 | 0x2000, 0x7ff, bytes(256))\n"
    )
    stuck = readers(code, paths)
    try:
        poll(lambda: hung.held() >= STUCK, 20, "they are stuck")
        end(stuck)  # fails if one does not end
    finally:
        hung.end()


def test_12_2_what_is_opened_for_a_killed_reader_is_closed(source, mount, hung):
    m = mount(source)
    paths = [str(m / "hung" / f"{number}.npy") for number in range(STUCK)]
    for path in paths:
        os.stat(path)
    before = hung.released()
    hung.hang("open")
    stuck = readers("open(path, 'rb')", paths)
    poll(lambda: hung.held() >= STUCK, 20, "they are stuck")
    end(stuck)
    assert hung.released() == before
    hung.hang()
    poll(lambda: hung.released() >= before + STUCK, 20, "what was opened for nobody is closed")


@pytest.mark.parametrize("way", ["open", "stat"])
def test_12_2_a_reader_that_is_killed_leaves_no_line_in_the_log(source, mount, hung, way):
    operation, code, name = WAYS[way]
    m = mount(source)
    paths = [str(m / "hung" / name.format(number)) for number in range(4)]
    if way == "open":
        for path in paths:
            os.stat(path)
    else:
        os.stat(m / "hung")
    hung.hang(operation)
    stuck = readers(code, paths)
    # The look-ups in one directory take turns.
    poll(lambda: hung.held() >= (len(paths) if way == "open" else 1), 20, "they are stuck")
    end(stuck)
    hung.hang()
    # The server ends when it has finished all that was asked of it.
    m.stop()
    assert not m.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_12_3_the_server_ends_while_requests_are_stuck(source, mount, hung, number):
    m = mount(source)
    stuck = stuck_readers(m, hung, "read")
    m.process.send_signal(number)
    poll(lambda: not mounted(m.path), 20, "the mount is gone")
    assert m.process.wait(30) == 0
    for process in stuck:
        process.wait(20)
    hung.end()


def test_12_3_what_cannot_be_interrupted_keeps_no_reader(source, mount, hung):
    m = mount(source)
    stuck = stuck_readers(m, hung, "stat")
    m.process.terminate()
    poll(lambda: not mounted(m.path), 20, "the mount is gone")
    for process in stuck:
        process.wait(30)
    hung.end()
    assert m.process.wait(30) == 0


def test_12_3_an_unmount_ends_the_server(source, mount, hung):
    m = mount(source)
    stuck = stuck_readers(m, hung, "read")
    subprocess.run(["umount", "--lazy", m.path], check=True)
    end(stuck)
    assert m.process.wait(30) == 0
    hung.end()


def test_12_3_unmount_returns_when_the_server_has_ended(source, mount, hung):
    m = mount(source)
    stuck = stuck_readers(m, hung, "read")
    end(stuck)
    subprocess.run([binary(), "unmount", m.path], check=True, timeout=60)
    # With requests that do not end, that took it some seconds.
    assert m.process.poll() == 0
    hung.end()


# The kernel counts threads of each user, so this user has no other process. fusermount3 wants one
# that has a name.
USER = pwd.getpwnam("games").pw_uid


def as_user_with(threads):
    who = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
    return (*who, "prlimit", f"--nproc={threads}")


@pytest.fixture
def users(monkeypatch):
    """A directory of that user, with a source, a mountpoint and the program."""
    assert os.geteuid() == 0, "only root can start a program as another user: run this test as root"
    directory = Path(tempfile.mkdtemp())
    monkeypatch.setenv("NPZFS", str(shutil.copy(binary(), directory / "npzfs")))
    for path in (directory / "source", directory / "mountpoint"):
        path.mkdir()
    np.savez_compressed(directory / "source" / "x.npz", a=np.arange(1000))
    for path in (directory, *directory.rglob("*")):
        os.chown(path, USER, USER)
        path.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("threads", [12, 40])
def test_12_4_a_mount_makes_do_with_few_threads(users, threads):
    at = users / "mountpoint"
    who = as_user_with(threads)
    command = [*who, binary(), "-f", "--index-dir-size", "0", users / "source", at]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        poll(lambda: mounted(at), 20, "it is mounted")
        # The mount is the user's alone. np.save puts 128 bytes before the array.
        cat = [*who[:4], "cat", at / "x.npz" / "a.npy"]
        read = subprocess.run(cat, check=True, capture_output=True, timeout=60).stdout
        assert np.frombuffer(read[128:], int).tolist() == list(range(1000))
        server.terminate()
        said = server.communicate(timeout=30)[1]
    finally:
        server.kill()
        subprocess.run(["umount", "-l", at], check=False, stderr=subprocess.DEVNULL)
    assert server.returncode == 0 and not mounted(at)
    assert ("more threads can be started" in said) == (threads == 12)


@pytest.mark.parametrize("threads", [3, 6])
def test_12_4_too_few_threads_are_told_in_one_line(users, threads):
    command = [binary(), "-f", users / "source", users / "mountpoint"]
    command = [*as_user_with(threads), *command]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "threads can be started" in ended.stderr and "raise TasksMax=" in ended.stderr


def test_12_5_the_address_space_is_small_at_the_start(source, mount):
    m = mount(source)
    os.listdir(m.path)
    assert int(m._status("VmSize").split()[0]) < 400 << 10
