"""Rules 1.10 to 1.14: where archives are shown, and what is mounted where."""

import errno
import os
import stat

import numpy as np
import pytest
import zipmaker
from mounting import errno_of, in_child, poll, tree
from test_1_tree import ONE, make_tree


def test_1_10_beside_keeps_the_archive_and_adds_a_directory(source, mount):
    content = zipmaker.write(source / "foo.npz", ONE).read_bytes()
    zipmaker.write(source / "UP.NPZ", ONE)
    (source / "not.npz").write_bytes(b"not a zip")
    mnt = mount(source, "--layout", "beside")
    assert tree(mnt.path) == {
        "UP.NPZ": (source / "UP.NPZ").read_bytes(),
        "UP.NPZ.d/": "dir",
        "UP.NPZ.d/sub/": "dir",
        "UP.NPZ.d/sub/y.npy": b"y bytes",
        "UP.NPZ.d/x.npy": b"x bytes",
        "foo.npz": content,
        "foo.npz.d/": "dir",
        "foo.npz.d/sub/": "dir",
        "foo.npz.d/sub/y.npy": b"y bytes",
        "foo.npz.d/x.npy": b"x bytes",
        "not.npz": b"not a zip",
    }
    assert os.stat(mnt / "foo.npz").st_ino != os.stat(mnt / "foo.npz.d").st_ino
    assert errno_of(os.stat, mnt / "not.npz.d") == errno.ENOENT
    assert errno_of(os.stat, mnt / "none.npz.d") == errno.ENOENT


@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
def test_1_10_a_real_entry_of_that_name_wins(source, mount, kind):
    content = zipmaker.write(source / "foo.npz", ONE).read_bytes()
    real = source / "foo.npz.d"
    if kind == "file":
        real.write_bytes(b"real")
        wanted = {"foo.npz.d": b"real"}
    elif kind == "directory":
        real.mkdir()
        (real / "inner").write_bytes(b"real")
        wanted = {"foo.npz.d/": "dir", "foo.npz.d/inner": b"real"}
    else:
        real.symlink_to("nowhere")
        wanted = {"foo.npz.d": "-> nowhere"}
    mnt = mount(source, "--layout", "beside")
    assert tree(mnt.path) == {"foo.npz": content} | wanted


def test_1_10_replace_is_the_default(source, mount):
    zipmaker.write(source / "foo.npz", ONE)
    assert tree(mount(source).path) == tree(mount(source, "--layout", "replace").path)
    assert not (mount(source) / "foo.npz.d").exists()


@pytest.mark.parametrize("name", ["a.npz", "odd name.NPZ"])
def test_1_11_a_single_archive_as_source(source, mount, name):
    np.savez(source / "a.npz", x=np.arange(5), y=np.eye(3))
    os.rename(source / "a.npz", source / name)
    mnt = mount(source / name)
    assert sorted(os.listdir(mnt.path)) == ["x.npy", "y.npy"]
    assert np.array_equal(np.load(mnt / "x.npy", mmap_mode="r"), np.arange(5))
    assert np.array_equal(np.load(mnt / "y.npy"), np.eye(3))
    assert stat.S_ISDIR(os.stat(mnt.path).st_mode)


@pytest.mark.parametrize("ttl", [0, 1])
def test_1_11_the_root_is_empty_while_it_is_gone(source, mount, ttl):
    path = source / "a.npz"
    np.savez(path, x=np.arange(5))
    whole = path.read_bytes()
    mnt = mount(path, "--ttl", ttl)
    path.write_bytes(whole[:-1])
    poll(lambda: os.listdir(mnt.path) == [], 2.5, "a pending archive has no members")
    assert os.getxattr(mnt.path, "user.npzfs.state").startswith(b"pending: ")
    path.unlink()
    poll(lambda: os.listdir(mnt.path) == [], 2.5, "a deleted archive has no members")
    assert stat.S_ISDIR(os.stat(mnt.path).st_mode)
    path.write_bytes(whole)
    poll(lambda: os.listdir(mnt.path) == ["x.npy"], 2.5, "it is back")


def test_1_14_mounts_of_npzfs_in_the_source_are_not_entered(tmp_path, mount):
    one, two = tmp_path / "one", tmp_path / "two"
    for directory in (one, two):
        (directory / "inner").mkdir(parents=True)
        (directory / f"of {directory.name}").write_bytes(b"x")
    # Each shows the other: without the rule the first walk would never end.
    first = mount(one, at=two / "inner")
    second = mount(two, at=one / "inner")
    for mnt, name in ((first, "of one"), (second, "of two")):
        walked = in_child(lambda m=mnt: [sorted(d + f) for _, d, f in os.walk(m.path)])
        assert walked == [[name]]
        assert in_child(errno_of, os.stat, mnt / "inner") == errno.ELOOP


def test_1_12_mounting_over_the_source_itself(source, mount):
    expected = make_tree(source)
    below = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    mnt = mount(source, at=source)
    try:
        assert tree(source) == expected
        os.close(os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=below))
        poll(lambda: "new" in os.listdir(source), 2.5, "a new file shows")
        assert errno_of(os.mkdir, source / "blocked") == errno.EROFS
    finally:
        os.close(below)
        mnt.stop()
    assert sorted(os.listdir(source)) == [
        "a.npz", "deep", "empty", "latest", "new", "notes.txt", "void"
    ]  # fmt: skip
    assert (source / "a.npz").is_file()


def open_as_nobody(paths):
    """As nobody, opens paths beneath open directories: the way from the root may be closed."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    return {path: errno_of(os.open, path[1], os.O_RDONLY, dir_fd=path[0]) for path in paths}


def test_1_13_modes_bind_other_users(source, mount):
    zipmaker.write(source / "open.npz", ONE).chmod(0o644)
    zipmaker.write(source / "secret.npz", ONE).chmod(0o600)
    (source / "file").write_bytes(b"x")
    (source / "file").chmod(0o600)
    (source / "dir").mkdir()
    (source / "dir/file").write_bytes(b"x")
    (source / "dir").chmod(0o700)
    source.chmod(0o755)
    assert os.geteuid() == 0, "only root can look as another user: run this test as root"
    shared, own = (
        os.open(mount(source, *options).path, os.O_PATH) for options in (("-o", "allow_other"), ())
    )
    expected = {
        (shared, "open.npz/x.npy"): None,
        (shared, "secret.npz/x.npy"): errno.EACCES,
        (shared, "file"): errno.EACCES,
        (shared, "dir/file"): errno.EACCES,
        (own, "open.npz/x.npy"): errno.EACCES,
    }
    try:
        assert in_child(open_as_nobody, list(expected)) == expected
    finally:
        os.close(shared)
        os.close(own)
