"""Rules 1, 6.9 and 8.1, where a test as root over an ordinary filesystem would show nothing."""

import errno
import mmap
import os
import stat
import subprocess

import numpy as np
import pytest
from mounting import errno_of, poll


@pytest.fixture
def overlay(tmp_path):
    """A source on overlayfs, past which the kernel does not read (FUSE_PASSTHROUGH)."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    layers = ",".join(f"{layer}dir={tmp_path / layer}" for layer in ("lower", "upper", "work"))
    merged = tmp_path / "merged"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, merged], check=True)
    yield merged
    subprocess.run(["umount", "-l", merged], check=True)


def test_1_1_a_name_for_which_the_source_would_need_a_longer_one_is_not_there(source, mount):
    for options in ((), ("--layout", "beside")):
        mnt = mount(source, *options)
        for name in ("x" * 251 + ".npy", "x" * 249 + ".npz.d", "x" * 251 + ".npz"):
            assert len(name) == 255
            assert errno_of(os.stat, mnt / name) == errno.ENOENT, name


def test_1_3_a_directory_that_becomes_a_link_within_the_source_is_not_followed(source, mount):
    for name in ("a", "b"):
        (source / name).mkdir()
        (source / name / "file").write_text(name)
    mnt = mount(source, "--ttl", "30")
    held = os.open(mnt / "a", os.O_RDONLY | os.O_DIRECTORY)
    try:
        (source / "a").rename(source / "moved")
        os.symlink("b", source / "a")

        def read():
            file = os.open("file", os.O_RDONLY, dir_fd=held)
            try:
                return os.read(file, 9)
            finally:
                os.close(file)

        assert errno_of(read) in (errno.ELOOP, errno.ESTALE)
    finally:
        os.close(held)


@pytest.mark.parametrize("numbers", [(1, 3), (8, 300), (4095, 1_048_575)])
def test_1_4_device_numbers_are_the_sources(source, mount, numbers):
    os.mknod(source / "device", stat.S_IFCHR | 0o600, os.makedev(*numbers))
    shown = os.stat(mount(source) / "device").st_rdev
    assert (os.major(shown), os.minor(shown)) == numbers


def test_1_9_names_of_any_length_are_listed(source, mount):
    names = sorted(f"{number:04}" + "x" * (number % 97) for number in range(3000))
    for name in names:
        (source / name).touch()
    mnt = mount(source)
    assert sorted(os.listdir(mnt.path)) == names


def test_1_9_special_files_are_listed_as_such(source, mount):
    """Walks by the types of the listing alone, as find(1) does."""
    kinds = {"s": stat.S_IFSOCK, "p": stat.S_IFIFO, "f": stat.S_IFREG}
    for kind, mode in kinds.items():
        for number in range(500):
            os.mknod(source / f"{kind}{number}", mode | 0o600)
    mnt = mount(source)
    for kind in kinds:
        command = ["find", mnt.path, "-type", kind, "-printf", "%f\n"]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert sorted(found) == sorted(f"{kind}{number}" for number in range(500))


def test_6_9_plain_files_that_the_server_reads_show_new_bytes(overlay, mount):
    path = overlay / "notes"
    path.write_bytes(b"old" * 100)
    mnt = mount(overlay)
    with open(mnt / "notes", "rb", buffering=0) as held:
        assert held.read() == b"old" * 100
        for content in (b"new" * 100, b"other" * 1000):
            with open(path, "r+b") as file:
                file.write(content)
            poll(lambda c=content: (mnt / "notes").read_bytes() == c, 5, "new bytes show")
            poll(lambda c=content: os.pread(held.fileno(), 9000, 0) == c, 5, "to old handles too")


def test_8_1_a_plain_file_ends_where_it_ends(overlay, mount):
    (overlay / "notes").write_bytes(b"x" * 100)
    mnt = mount(overlay)
    file = os.open(mnt / "notes", os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, 8192) as buffer:
        assert os.preadv(file, [buffer], 0) == 100
        assert buffer[:101] == b"x" * 100 + b"\0"
        assert os.preadv(file, [buffer], 4096) == 0
    os.close(file)


def test_6_9_what_replaced_a_plain_file_is_opened_as_another(source, mount):
    (source / "notes").write_text("old")
    mnt = mount(source, "--ttl", "30")
    before = os.stat(mnt / "notes").st_ino
    (source / "new").write_text("new")
    os.rename(source / "new", source / "notes")
    # The kernel knows the name for 30 s yet: the open finds out.
    with open(mnt / "notes") as file:
        assert file.read() == "new"
        assert os.fstat(file.fileno()).st_ino != before


def test_6_9_a_link_to_a_plain_file_that_is_mapped_reads_the_same(source, mount):
    np.save(source / "x.npy", np.arange(10_000))
    os.link(source / "x.npy", source / "y.npy")
    mnt = mount(source)
    x, y = (np.load(mnt / name, mmap_mode="r") for name in ("x.npy", "y.npy"))
    assert (x == y).all()
    (source / "x.npy").unlink()
    assert (np.load(mnt / "y.npy") == np.arange(10_000)).all()
    assert (x == np.arange(10_000)).all()


def test_1_2_access_says_what_the_modes_say(source, mount):
    for mode in (0o644, 0o755):
        (source / f"{mode:o}").write_bytes(b"#!/bin/sh\n")
        (source / f"{mode:o}").chmod(mode)
    mnt = mount(source)
    assert not os.access(mnt / "644", os.X_OK)
    assert os.access(mnt / "755", os.X_OK)
    assert os.access(mnt / "644", os.R_OK)
