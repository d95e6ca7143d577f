"""Rules 16: mounts that end when nobody has a lock any more."""

import fcntl
import os
import signal
import subprocess

import numpy as np
import pytest
from hanging import Hanging
from mounting import binary, mounted, poll


@pytest.fixture
def places(source, tmp_path):
    """A source with an archive, a mountpoint and a file to be locked."""
    np.savez_compressed(source / "x.npz", a=np.arange(1000))
    at, lock = tmp_path / "mnt", tmp_path / "lock"
    at.mkdir()
    lock.touch()
    yield source, at, lock
    if mounted(at):
        subprocess.run(["umount", "-l", at], check=False)


def can_lock(lock, kind):
    with open(lock) as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def is_free(lock):
    """Whether no other process has a lock on the file."""
    return can_lock(lock, fcntl.LOCK_EX)


def can_share(lock):
    return can_lock(lock, fcntl.LOCK_SH)


def start(*arguments, **keywords):
    command = [binary(), "--index-dir-size", "0", *arguments]
    return subprocess.run(command, check=True, timeout=60, **keywords)


def is_gone(at, lock):
    # The server keeps its lock until the mount is gone.
    poll(lambda: not mounted(at), 20, "the mount ends")
    poll(lambda: is_free(lock), 20, "the server ends")


@pytest.mark.parametrize("option", ["", "-f"])
def test_16_1_flock_may_start_npzfs_itself(places, option):
    _source, at, lock = places
    # flock(1) gives the locked descriptor to its command, and so to each npzfs.
    script = """
        npzfs=$1 source=$2 at=$3 lock=$4 option=$5
        "$npzfs" $option --while-locked "$lock" --index-dir-size 0 "$source" "$at" 2>&1 &
        tries=0
        until test -e "$at/x.npz/a.npy"; do
            tries=$((tries + 1)); test $tries -lt 2000 || exit 9; sleep 0.02
        done
    """
    command = ["flock", "--shared", lock, "sh", "-c", script, "sh", binary(), *places[:2], lock]
    with open(at.parent / "log", "wb") as log:
        subprocess.run([*command, option], check=True, timeout=100, stdout=log, stderr=log)
    is_gone(at, lock)
    assert (at.parent / "log").read_bytes() == b""


def test_16_1_two_mounts_with_a_lock_each_do_not_wait_for_each_other(places, tmp_path):
    source, at, lock = places
    other, other_lock = tmp_path / "other", tmp_path / "other_lock"
    other.mkdir()
    other_lock.touch()
    script = """
        "$1" --index-dir-size 0 --while-locked "$4" "$2" "$3"
        "$1" --index-dir-size 0 --while-locked "$6" "$2" "$5"
        test -e "$3/x.npz/a.npy" && test -e "$5/x.npz/a.npy"
    """
    command = ["flock", "--shared", lock, "flock", "--shared", other_lock]
    command += ["sh", "-c", script, "sh", binary(), source, at, lock, other, other_lock]
    subprocess.run(command, check=True, timeout=100)
    is_gone(at, lock)
    is_gone(other, other_lock)


def test_16_1_the_last_of_several_locks_counts(places):
    source, at, lock = places
    with open(lock) as first:
        fcntl.flock(first, fcntl.LOCK_SH)
        with open(lock) as second:
            fcntl.flock(second, fcntl.LOCK_SH)
            start("--while-locked", lock, source, at)
        assert (np.load(at / "x.npz" / "a.npy") == np.arange(1000)).all()
    is_gone(at, lock)


def test_16_2_a_server_that_ends_for_want_of_a_lock_keeps_the_file_locked(places):
    source, at, lock = places
    with open(lock) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        start("--while-locked", lock, source, at)
        reader = open(at / "x.npz" / "a.npy", "rb")
    with reader:
        poll(lambda: not mounted(at), 20, "the mount is detached")
        # It gives its users five seconds. A process that gets the lock then sees no mount.
        assert not can_share(lock)
        poll(lambda: can_share(lock), 20, "the server ends")
    is_gone(at, lock)


@pytest.mark.parametrize("way", ["SIGTERM", "umount"])
def test_16_2_a_lock_keeps_no_mount_that_is_to_end(places, way):
    source, at, lock = places
    with open(lock) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        command = [binary(), "-f", "--index-dir-size", "0", "--while-locked", lock, source, at]
        server = subprocess.Popen(command)
        poll(lambda: mounted(at), 20, "it is mounted")
        if way == "SIGTERM":
            server.send_signal(signal.SIGTERM)
        else:
            subprocess.run(["umount", at], check=True)
        assert server.wait(60) == 0
        assert not mounted(at)


def fails_in_one_line(source, at, lock):
    command = [binary(), "--while-locked", lock, source, at]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert f"cannot lock {lock} (--while-locked)" in ended.stderr
    assert not mounted(at)


def test_16_3_a_file_that_does_not_exist_or_has_no_locks_is_refused(places, tmp_path):
    source, at, _lock = places
    fails_in_one_line(source, at, tmp_path / "none")
    assert os.geteuid() == 0, "only root can mount what has no locks: run this test as root"
    content = tmp_path / "content"
    content.mkdir()
    (content / "lock").touch()
    # It says that it locks files itself, and answers requests for locks with ENOSYS.
    without_locks = Hanging(content, tmp_path / "without_locks", tmp_path / "control")
    try:
        fails_in_one_line(source, at, without_locks.path / "lock")
    finally:
        without_locks.end()


def test_16_4_a_server_in_the_background_keeps_no_lock_of_its_starter(places):
    source, at, lock = places
    command = ["flock", lock, binary(), "--index-dir-size", "0", source, at]
    subprocess.run(command, check=True, timeout=60)
    assert mounted(at)
    assert is_free(lock)


def test_16_4_other_descriptors_of_its_starter_stay_open(places):
    source, at, _ = places
    directory = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        start(f"/dev/fd/{directory}", at, pass_fds=[directory])
    finally:
        os.close(directory)
    assert os.listdir(at) == ["x.npz"]
