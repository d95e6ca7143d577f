"""Rules 15: mountpoints that do not exist, or that the caller has mounted; terminals."""

import errno
import os
import pty
import signal
import subprocess
import sys

import numpy as np
import pytest
from mounting import binary, errno_of, mounted, poll, tree
from noise import noise

ARRAY = np.arange(50_000)


@pytest.fixture
def environment(tmp_path):
    kept = {k: v for k, v in os.environ.items() if k not in ("RUST_LOG", "CACHE_DIRECTORY")}
    return kept | {"XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def npzfs(source, environment):
    """Runs npzfs, and returns `(exit code, standard error)`."""
    np.savez_compressed(source / "a.npz", x=ARRAY)

    def run(*arguments):
        line = [binary(), *map(str, arguments)]
        ended = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        assert ended.stdout == ""
        return ended.returncode, ended.stderr

    return run


@pytest.mark.parametrize("how", ["npzfs unmount", "umount", "SIGTERM"])
def test_15_1_a_missing_mountpoint_is_made_and_removed(source, npzfs, tmp_path, how):
    point = tmp_path / "new"
    log = tmp_path / "log"
    assert npzfs("-v", "--log-file", log, source, point) == (0, "")
    assert (np.load(point / "a.npz/x.npy") == ARRAY).all()
    if how == "SIGTERM":
        os.kill(int(log.read_text().split("npzfs[")[1].split("]")[0]), signal.SIGTERM)
    else:
        subprocess.run(
            [*([binary(), "unmount"] if how != "umount" else ["umount"]), point], check=True
        )
    poll(lambda: not point.exists(), 10, "the mountpoint is removed")


def test_15_1_an_existing_mountpoint_stays(source, npzfs, tmp_path):
    point = tmp_path / "old"
    point.mkdir()
    assert npzfs(source, point) == (0, "")
    assert npzfs("unmount", point) == (0, "")
    assert point.is_dir()


def test_15_1_its_directory_must_exist(source, npzfs, tmp_path):
    code, said = npzfs(source, tmp_path / "none/new")
    assert code == 1 and "does not exist" in said and "mkdir -p" in said
    assert not (tmp_path / "none").exists()


def test_15_1_a_mount_that_fails_leaves_no_directory(source, npzfs, tmp_path):
    for of, point in [(tmp_path / "none", tmp_path / "new"), (source, source / "new")]:
        assert npzfs(of, point)[0] == 1
        assert not point.exists()


def on_terminal(environment, *arguments):
    """Runs npzfs on a terminal of its own, which must succeed, and returns the lines it shows."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(binary(), ["npzfs", *map(str, arguments)], environment)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 1000)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    return shown.decode().splitlines()


def test_15_1_a_terminal_is_told_in_one_line(source, npzfs, tmp_path, environment):
    point = tmp_path / "new"
    made, _ = on_terminal(environment, source, point)
    assert made == f"npzfs: made {point}, and removes it when it is unmounted"
    assert npzfs("unmount", point) == (0, "")
    assert not point.exists()


def test_15_4_a_terminal_is_told_what_is_mounted_and_how_it_ends(
    source, npzfs, tmp_path, environment
):
    point = tmp_path / "mnt"
    point.mkdir()
    assert on_terminal(environment, "mount", source, point) == [
        f"npzfs: {source} is mounted on {point}; to end it: npzfs unmount {point}"
    ]
    assert (np.load(point / "a.npz/x.npy") == ARRAY).all()
    assert npzfs("umount", "-l", point) == (0, "")
    assert not mounted(point)


class Given:
    """A mount that this process made, as apptainer's --fusemount does, and its descriptor."""

    def __init__(self, path, options="allow_other"):
        self.path = path
        path.mkdir()
        self.device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,{options}"
        # -i: not through the program mount.fuse.
        line = ["mount", "-i", "-t", "fuse", "-o", options, "npzfs", path]
        subprocess.run(line, pass_fds=[self.device], check=True)

    def name(self):
        return f"/dev/fd/{self.device}"

    def close(self):
        """The server alone has the device from here on."""
        os.close(self.device)


@pytest.fixture
def given(tmp_path):
    one = Given(tmp_path / "given")
    yield one
    if mounted(one.path):
        subprocess.run(["umount", "-l", one.path], check=True)


@pytest.mark.parametrize("options", [["-f"], []])
def test_15_2_a_device_that_is_mounted_already_is_served(source, given, environment, options):
    np.savez_compressed(source / "a.npz", x=ARRAY)
    line = [binary(), *options, source, given.name()]
    process = subprocess.Popen(line, env=environment, pass_fds=[given.device])
    given.close()
    if not options:
        assert process.wait(60) == 0, "the mount answers, and the server is in the background"
    assert tree(given.path).keys() == {"a.npz/", "a.npz/x.npy"}
    assert (np.load(given.path / "a.npz/x.npy", mmap_mode="r") == ARRAY).all()
    subprocess.run(["umount", given.path], check=True)
    if options:
        assert process.wait(60) == 0, "the server ends with the mount"


def test_15_2_a_server_that_is_asked_to_end_saves_and_lets_go(source, given, environment, tmp_path):
    np.savez_compressed(source / "a.npz", x=noise())
    line = [binary(), "-f", "--verify", "never", source, given.name()]
    process = subprocess.Popen(line, env=environment, pass_fds=[given.device])
    given.close()
    with open(given.path / "a.npz/x.npy", "rb", buffering=0) as file:
        os.pread(file.fileno(), 4096, 2_000_000)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert mounted(given.path), "it is the caller's to unmount"
    assert errno_of(os.statvfs, given.path) == errno.ENOTCONN
    assert list((tmp_path / "cache/npzfs").glob("*.index"))


def test_15_2_what_is_no_device_is_refused(source, npzfs, tmp_path):
    with open(tmp_path / "file", "w") as file:
        for number in (0, 77, file.fileno()):
            code, said = npzfs("-f", source, f"/dev/fd/{number}")
            assert code == 1 and f"/dev/fd/{number} is no open descriptor of /dev/fuse" in said


# A pod may have no /dev/fuse, and a program under this name that reaches one elsewhere.
STAND_IN = """
import os, socket, subprocess, sys
point = sys.argv[-1]
if "-u" in sys.argv:
    sys.exit(subprocess.run(["umount", point]).returncode)
device = os.open(os.environ["DEVICE"], os.O_RDWR)
options = f"ro,fd={device},rootmode=40000,user_id=0,group_id=0"
line = ["mount", "-i", "-t", "fuse", "-o", options, "x", point]
subprocess.run(line, pass_fds=[device], check=True)
socket.send_fds(socket.socket(fileno=int(os.environ["_FUSE_COMMFD"])), [b"x"], [device])
"""


def test_15_3_without_a_device_fusermount3_is_asked(source, tmp_path, environment):
    np.savez_compressed(source / "a.npz", x=ARRAY)
    program = tmp_path / "bin/fusermount3"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{STAND_IN}")
    program.chmod(0o755)
    (tmp_path / "mnt").mkdir()
    script = """
        set -e
        # The mounts of other tests come along, and would keep their servers from ending.
        umount --lazy --all --types fuse.npzfs 2>/dev/null || true
        # There is no device of these numbers: it cannot be opened.
        mknod device c 10 229; mknod none c 10 253; mount --bind none /dev/fuse
        "$1" source mnt
        ls mnt/a.npz
        fusermount3 -u mnt
        ! mountpoint -q mnt
        "$1" -v --log-file log source mnt
        kill -TERM "$(sed -n '1s/.*npzfs.\\([0-9]*\\).*/\\1/p' log)"
        while mountpoint -q mnt; do read -r -t 0.01 <> <(:) || true; done
    """
    path = f"{program.parent}:{environment['PATH']}"
    ended = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "bash", "-c", script, "bash", binary()],
        cwd=tmp_path,
        env=environment | {"PATH": path, "DEVICE": str(tmp_path / "device")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "x.npy\n", "")
