"""Rule 5.6: every write is EROFS and changes nothing."""

import errno
import hashlib
import os
import shutil
import subprocess

import numpy as np
import pytest
from mounting import errno_of


def everything(path):
    """Hash of every file, and attributes of everything, below `path`."""
    found = {}
    for top, dirs, files in os.walk(path):
        for name in [".", *dirs, *files]:
            full = os.path.join(top, name)
            info = os.lstat(full)
            content = None
            if name in files:
                with open(full, "rb") as file:
                    content = hashlib.sha256(file.read()).hexdigest()
            found[os.path.relpath(full, path)] = (
                info.st_ino, info.st_mode, info.st_size, info.st_mtime_ns, info.st_ctime_ns, content
            )  # fmt: skip
    return found


PATHS = ["a.npz/x.npy", "z.npz/x.npy", "a.npz", "scan.npy", "plain.npy", "dir", "dir/below", "."]
FILES = ["a.npz/x.npy", "z.npz/x.npy", "scan.npy", "plain.npy", "dir/below"]
DIRECTORIES = ["a.npz", "z.npz", "dir", "."]


@pytest.fixture
def written_to(source, mount):
    """A mount; the source must be the same at the end."""
    np.savez(source / "a.npz", x=np.arange(1000), y=np.eye(3))
    np.savez_compressed(source / "z.npz", x=np.arange(1000))
    np.save(source / "scan.npy", np.arange(1000))
    subprocess.run(["gzip", source / "scan.npy"], check=True)
    np.save(source / "plain.npy", np.arange(1000))
    (source / "dir").mkdir()
    (source / "dir/below").write_bytes(b"below")
    before = everything(source)
    mnt = mount(source)
    yield mnt
    assert everything(source) == before


@pytest.mark.parametrize("path", FILES[:4])
def test_5_6_numpy_cannot_write(written_to, path):
    path = written_to / path
    wanted = np.arange(1000)
    assert errno_of(np.load, path, mmap_mode="r+") == errno.EROFS
    assert errno_of(np.load, path, mmap_mode="w+") == errno.EROFS
    assert errno_of(np.save, path, wanted) == errno.EROFS
    assert errno_of(np.savez, path.with_suffix(".npz"), x=wanted) == errno.EROFS
    assert errno_of(np.memmap, path, "u1", "r+") == errno.EROFS
    assert errno_of(np.memmap, path, "u1", "w+", shape=5) == errno.EROFS
    assert errno_of(np.lib.format.open_memmap, path, "w+", shape=(3,)) == errno.EROFS
    assert errno_of(wanted.tofile, path) == errno.EROFS
    assert np.array_equal(np.load(path), wanted)


def test_5_6_savez_over_a_mounted_archive(written_to):
    # np.savez opens the directory that the archive is, for writing.
    assert errno_of(np.savez, written_to / "a.npz", x=1) in (errno.EROFS, errno.EISDIR)
    assert errno_of(np.savez, written_to / "new.npz", x=1) == errno.EROFS


@pytest.mark.parametrize("path", FILES)
def test_5_6_files_cannot_be_opened_for_writing(written_to, path):
    path = written_to / path
    for flags in (
        os.O_WRONLY,
        os.O_RDWR,
        os.O_WRONLY | os.O_TRUNC,
        os.O_WRONLY | os.O_APPEND,
        os.O_RDWR | os.O_CREAT,
        os.O_RDONLY | os.O_TRUNC,
    ):
        assert errno_of(os.open, path, flags) == errno.EROFS, flags
    assert errno_of(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) == errno.EEXIST
    assert errno_of(os.truncate, path, 0) == errno.EROFS
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert errno_of(os.ftruncate, descriptor, 0) == errno.EINVAL
        assert errno_of(os.write, descriptor, b"x") == errno.EBADF
        assert errno_of(os.posix_fallocate, descriptor, 0, 10) == errno.EBADF
        assert errno_of(os.fchmod, descriptor, 0o777) == errno.EROFS
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("path", PATHS)
def test_5_6_attributes_cannot_be_changed(written_to, path):
    path = written_to / path
    assert errno_of(os.chmod, path, 0o777) == errno.EROFS
    assert errno_of(os.chown, path, 1, 1) == errno.EROFS
    assert errno_of(os.utime, path) == errno.EROFS
    assert errno_of(os.setxattr, path, "user.x", b"1") == errno.EROFS
    assert errno_of(os.removexattr, path, "user.x") == errno.EROFS


@pytest.mark.parametrize("path", PATHS[:-1])
def test_5_6_names_cannot_be_changed(written_to, path, tmp_path):
    path = written_to / path
    new = written_to / "new"
    assert errno_of(os.rename, path, new) == errno.EROFS
    assert errno_of(os.symlink, path, new) == errno.EROFS
    if path.is_dir():
        assert errno_of(os.rmdir, path) == errno.EROFS
        assert errno_of(shutil.rmtree, path) == errno.EROFS
    else:
        assert errno_of(os.unlink, path) == errno.EROFS
        assert errno_of(os.link, path, new) == errno.EROFS
        assert errno_of(os.rename, path, tmp_path / "out") == errno.EXDEV


@pytest.mark.parametrize("path", DIRECTORIES)
def test_5_6_nothing_can_be_made(written_to, path):
    new = written_to / path / "new"
    assert errno_of(os.mkdir, new) == errno.EROFS
    assert errno_of(os.mkfifo, new) == errno.EROFS
    assert errno_of(os.symlink, "x", new) == errno.EROFS
    assert errno_of(os.open, new, os.O_WRONLY | os.O_CREAT) == errno.EROFS
    assert errno_of(os.open, written_to / path, os.O_WRONLY | os.O_TMPFILE) == errno.EROFS


def test_5_6_access_says_that_nothing_is_writable(written_to):
    for path in PATHS:
        assert os.access(written_to / path, os.R_OK)
        assert not os.access(written_to / path, os.W_OK)


def test_5_6_remounting_does_not_open_a_way(written_to):
    if os.geteuid() == 0:
        subprocess.run(["mount", "-o", "remount,rw", written_to.path], capture_output=True)
        assert errno_of(os.open, written_to / "a.npz/x.npy", os.O_RDWR) in (
            errno.EROFS,
            errno.EACCES,
        )
        assert errno_of(os.mkdir, written_to / "new") in (errno.EROFS, errno.ENOSYS)
    assert errno_of(os.mkdir, written_to / "dir/new") in (errno.EROFS, errno.ENOSYS)
