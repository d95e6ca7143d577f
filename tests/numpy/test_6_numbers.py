"""Rule 6.5: inode numbers."""

import os
import shutil
import subprocess
import time

import numpy as np
import pytest
from mounting import forget_inodes, poll
from noise import noise


def numbers(mnt):
    """Inode numbers by paths."""
    found = {".": os.stat(mnt.path).st_ino}
    for top, dirs, files in os.walk(mnt.path):
        for name in [*dirs, *files]:
            path = os.path.join(top, name)
            found[os.path.relpath(path, mnt.path)] = os.lstat(path).st_ino
    return found


@pytest.fixture
def full(source):
    """A source with a file of every kind."""
    (source / "d/e").mkdir(parents=True)
    (source / "d/plain.txt").write_text("x")
    os.link(source / "d/plain.txt", source / "d/e/other name")
    os.symlink("plain.txt", source / "d/link")
    np.savez(source / "d/a.npz", **{"x": np.zeros(3), "sub/y": np.zeros(4)})
    os.link(source / "d/a.npz", source / "b.npz")
    for name in ("one", "two"):
        np.savez_compressed(source / f"d/e/{name}.npz", x=np.arange(10))
    content = subprocess.run(
        ["gzip", "-c"], input=noise().tobytes()[:100], capture_output=True, check=True
    ).stdout
    (source / "d/no.npy.gz").write_bytes(content)
    np.save(source / "plain.npy", np.arange(5))
    subprocess.run(["gzip", "-n", source / "plain.npy"], check=True)
    return source


@pytest.mark.alone
def test_6_5_numbers_outlive_the_mount(full, mount):
    mnt = mount(full)
    first = numbers(mnt)
    assert len(set(first.values())) == len(first)
    forget_inodes()
    assert numbers(mnt) == first
    mnt.stop()
    mnt = mount(full)
    # In another order.
    for path in sorted(first, reverse=True):
        assert os.lstat(mnt / path).st_ino == first[path], path
    mnt.stop()
    # A source that is mounted elsewhere is the same.
    shutil.move(full, full.parent / "elsewhere")
    assert numbers(mount(full.parent / "elsewhere")) == first


def test_6_5_plain_files_have_the_numbers_of_the_source(full, mount):
    shown = numbers(mount(full))
    for path in ("d", "d/e", "d/link", "d/no.npy.gz"):
        assert shown[path] == os.lstat(full / path).st_ino, path
    # One that is renamed stays itself.
    mnt = mount(full, "--ttl", "0")
    before = os.stat(mnt / "d/no.npy.gz").st_ino
    os.rename(full / "d/no.npy.gz", full / "d/e/renamed")
    assert os.stat(mnt / "d/e/renamed").st_ino == before
    assert (mnt / "d/e/renamed").read_bytes() == (full / "d/e/renamed").read_bytes()
    os.rename(full / "d", full / "f")
    assert os.stat(mnt / "f").st_ino == shown["d"]
    assert (mnt / "f/plain.txt").read_text() == "x"


def test_6_5_an_incremental_backup_finds_nothing_new(full, mount, tmp_path):
    def backup(mnt):
        command = ["tar", *["--create", "--verbose", "--no-check-device", "--file", "/dev/null"]]
        command += ["--listed-incremental", tmp_path / "snapshot", "--directory", mnt.path, "."]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ("renamed" not in result.stderr and "new" not in result.stderr) or first
        return [line for line in result.stdout.splitlines() if not line.endswith("/")]

    # What changes within the second of a backup is taken again by the next.
    old = time.time() - 100
    for top, dirs, files in os.walk(full):
        for name in [*dirs, *files]:
            os.utime(os.path.join(top, name), (old, old), follow_symlinks=False)
    first = True
    mnt = mount(full)
    assert len(backup(mnt)) > 8
    mnt.stop()
    first = False
    time_of_snapshot = (tmp_path / "snapshot").stat().st_mtime
    assert poll(lambda: time.time() > time_of_snapshot + 1, 5, "the next second")
    assert backup(mount(full)) == []


@pytest.mark.alone
def test_6_5_forgotten_generations_never_come_back(source, mount):
    mnt = mount(source, "--ttl", "0")
    seen = {}
    for generation in range(30):
        np.savez(source / "a.npz", x=np.full(3, generation))
        value = np.load(mnt / "a.npz/x.npy")[0]
        number = os.stat(mnt / "a.npz/x.npy").st_ino
        assert value == generation
        assert seen.setdefault(number, generation) == generation
        forget_inodes()
        assert os.stat(mnt / "a.npz/x.npy").st_ino == number
    assert len(seen) == 30


def test_6_5_listings_of_archives_tell_the_numbers_that_stat_tells(source, mount):
    # Enough that the kernel asks for their names alone after the first answer.
    np.savez(source / "a.npz", **{f"d/{number}": np.zeros(1) for number in range(1000)})
    mnt = mount(source)
    listed = {entry.name: entry.inode() for entry in os.scandir(mnt / "a.npz/d")}
    assert len(listed) == 1000
    assert listed == {name: os.stat(mnt / "a.npz/d" / name).st_ino for name in listed}
