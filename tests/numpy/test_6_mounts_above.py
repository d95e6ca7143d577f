"""What bind mounts, overlays, file handles and inotify show of changes in a mount."""

import contextlib
import ctypes
import errno
import os
import subprocess

import numpy as np
import pytest
from mounting import forget_inodes, poll

libc = ctypes.CDLL(None, use_errno=True)


class FileHandle(ctypes.Structure):
    """struct file_handle of open_by_handle_at(2)."""

    _fields_ = [
        ("size", ctypes.c_uint),
        ("type", ctypes.c_int),
        ("bytes", ctypes.c_ubyte * 128),
    ]


def handle_of(path):
    handle, mount_id = FileHandle(128), ctypes.c_int()
    result = libc.name_to_handle_at(
        -100, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount_id), 0
    )
    assert result == 0, os.strerror(ctypes.get_errno())
    return handle


def content_of(handle, mnt):
    """The bytes of the file of `handle`, or the errno of opening it."""
    with open_directory(mnt.path) as directory:
        file = libc.open_by_handle_at(directory, ctypes.byref(handle), os.O_RDONLY)
        if file < 0:
            return ctypes.get_errno()
        with open(file, "rb") as file:
            return file.read()


@contextlib.contextmanager
def open_directory(path):
    directory = os.open(path, os.O_RDONLY)
    try:
        yield directory
    finally:
        os.close(directory)


@contextlib.contextmanager
def mounted_at(path, *arguments):
    path.mkdir()
    subprocess.run(["mount", *arguments, path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def read(path):
    """The first value of the array, or the errno of reading it."""
    try:
        return np.load(path)[0]
    except OSError as error:
        return error.errno


def test_6_12_a_bind_mount_of_an_archive_stays_at_its_generation(source, mount, tmp_path):
    np.savez(source / "a.npz", x=np.zeros(3))
    mnt = mount(source)
    with mounted_at(tmp_path / "bound", "--bind", mnt / "a.npz") as bound:
        assert read(bound / "x.npy") == 0
        np.savez(source / "a.npz", x=np.ones(3))
        assert poll(lambda: read(mnt / "a.npz/x.npy") == 1, 5, "the new generation shows")
        assert poll(lambda: read(bound / "x.npy") == errno.ESTALE, 5, "the old one is gone")
    with mounted_at(tmp_path / "again", "--bind", mnt / "a.npz") as bound:
        assert read(bound / "x.npy") == 1
    with mounted_at(tmp_path / "above", "--bind", mnt.path) as above:
        assert read(above / "a.npz/x.npy") == 1
        np.savez(source / "a.npz", x=np.full(3, 2))
        assert poll(lambda: read(above / "a.npz/x.npy") == 2, 5, "it shows above as well")


@pytest.mark.alone
def test_6_12_an_overlay_finds_a_new_generation_when_the_kernel_has_forgotten(
    source, mount, tmp_path
):
    np.savez(source / "a.npz", x=np.zeros(3))
    mnt = mount(source)
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    layers = f"lowerdir={mnt.path},upperdir={tmp_path / 'upper'},workdir={tmp_path / 'work'}"
    with mounted_at(tmp_path / "merged", "-t", "overlay", "-o", layers, "overlay") as merged:
        assert read(merged / "a.npz/x.npy") == 0
        np.savez(source / "a.npz", x=np.ones(3))
        assert poll(lambda: read(mnt / "a.npz/x.npy") == 1, 5, "the new generation shows")
        # Never the old bytes.
        assert read(merged / "a.npz/x.npy") in (1, errno.ESTALE)
        shows = lambda: forget_inodes() or read(merged / "a.npz/x.npy") == 1  # noqa: E731
        assert poll(shows, 10, "it shows when the kernel has forgotten")


@pytest.mark.alone
@pytest.mark.parametrize("path", ["a.npz/x.npy", "plain"])
def test_6_13_a_file_handle_is_stale_while_the_kernel_has_forgotten_its_file(source, mount, path):
    np.savez(source / "a.npz", x=np.zeros(3))
    (source / "plain").write_bytes(b"content")
    mnt = mount(source)
    handle = handle_of(mnt / path)
    content = (mnt / path).read_bytes()
    assert content_of(handle, mnt) == content

    def is_forgotten():
        forget_inodes()
        return content_of(handle, mnt) == errno.ESTALE

    # The kernel keeps once what was used since it last looked.
    poll(is_forgotten, 10, "the kernel forgets it")
    os.stat(mnt / path)
    assert content_of(handle, mnt) == content, "looked up again, it is the same file"


def test_6_14_changes_of_the_source_raise_no_inotify_events(source, mount):
    np.savez(source / "a.npz", x=np.zeros(3))
    mnt = mount(source)
    # IN_MODIFY, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE
    changes = 0x2 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200
    with open(libc.inotify_init1(os.O_NONBLOCK), "rb", buffering=0) as events:
        for path in (mnt.path, mnt / "a.npz"):
            assert libc.inotify_add_watch(events.fileno(), os.fsencode(path), changes) >= 0
        np.savez(source / "a.npz", x=np.ones(3))
        np.savez(source / "b.npz", x=np.full(3, 2))
        assert poll(lambda: read(mnt / "a.npz/x.npy") == 1, 5, "the new generation shows")
        assert poll(lambda: read(mnt / "b.npz/x.npy") == 2, 5, "the new archive shows")
        assert events.read() is None


def test_6_5_what_is_bound_within_the_source_has_a_number_for_each_path(source, mount):
    (source / "real/d").mkdir(parents=True)
    (source / "real/d/file").write_bytes(b"bytes")
    with mounted_at(source / "bound", "--bind", source / "real"):
        mnt = mount(source)
        for _ in range(2):
            for name in ("d", "d/file"):
                real, bound = (os.stat(mnt / top / name).st_ino for top in ("real", "bound"))
                assert real == os.stat(source / "real" / name).st_ino
                assert bound > 1 << 62
            assert (mnt / "bound/d/file").read_bytes() == b"bytes"
        mnt.stop()
