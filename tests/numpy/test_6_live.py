"""Rules 6: archives change while they are mounted."""

import errno
import gzip
import os
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zipmaker
from arrays import npy
from mounting import errno_of, poll, tree
from zipmaker import Entry

# Changes show within the attribute timeout, by default 1 s. The rest is for a busy machine.
SOON = 2.5

SAVERS = {"savez": np.savez, "savez_compressed": np.savez_compressed}
WIDTH = 1024


def soon(condition, what):
    """Waits for a condition. A file that disappears during the check counts as false."""

    def holds():
        try:
            return condition()
        except FileNotFoundError:
            return False

    return poll(holds, SOON, what)


def load(path):
    """The array, or the errno of loading it."""
    try:
        return np.load(path, mmap_mode="r").tolist()
    except OSError as error:
        return error.errno


@pytest.mark.parametrize("saver", SAVERS)
def test_6_1_an_archive_appears(source, mount, saver):
    (source / "dir").mkdir()
    mnt = mount(source)
    for where in ("a.npz", "dir/b.npz"):
        assert load(mnt / where / "x.npy") == errno.ENOENT
        SAVERS[saver](source / where, x=np.arange(3))
        soon(lambda where=where: load(mnt / where / "x.npy") == [0, 1, 2], "the new archive loads")
    assert tree(mnt.path)["dir/b.npz/x.npy"] == npy(np.arange(3))


def test_6_1_files_and_directories_appear(source, mount):
    mnt = mount(source)
    assert os.listdir(mnt.path) == []
    (source / "d/e").mkdir(parents=True)
    (source / "d/e/f").write_bytes(b"new")
    (source / "link").symlink_to("d")
    wanted = {"d/": "dir", "d/e/": "dir", "d/e/f": b"new", "link": "-> d"}
    soon(lambda: tree(mnt.path) == wanted, "all of it shows")
    os.rename(source / "d/e", source / "g")
    wanted = {"d/": "dir", "g/": "dir", "g/f": b"new", "link": "-> d"}
    soon(lambda: tree(mnt.path) == wanted, "the directory has moved")


@pytest.mark.parametrize("saver", SAVERS)
def test_6_2_an_archive_is_replaced_by_rename(source, mount, saver):
    SAVERS[saver](source / "a.npz", x=np.zeros(3), y=np.ones(1))
    mnt = mount(source)
    assert load(mnt / "a.npz/x.npy") == [0, 0, 0]
    SAVERS[saver](source / "new.npz", x=np.ones(5), z=np.ones(1))
    os.rename(source / "new.npz", source / "a.npz")
    soon(lambda: load(mnt / "a.npz/x.npy") == [1] * 5, "the new array shows")
    soon(lambda: sorted(os.listdir(mnt / "a.npz")) == ["x.npy", "z.npy"], "the new names show")
    soon(lambda: load(mnt / "a.npz/y.npy") == errno.ENOENT, "the old one is gone")
    soon(lambda: os.listdir(mnt.path) == ["a.npz"], "the new name is gone")


@pytest.mark.parametrize("saver", SAVERS)
def test_6_3_an_archive_is_rewritten_in_place(source, mount, saver):
    SAVERS[saver](source / "a.npz", x=np.zeros(3))
    inode = os.stat(source / "a.npz").st_ino
    mnt = mount(source)
    assert load(mnt / "a.npz/x.npy") == [0, 0, 0]
    for number in range(1, 4):
        SAVERS[saver](source / "a.npz", x=np.full(3 + number % 2, number))
        assert os.stat(source / "a.npz").st_ino == inode
        wanted = [number] * (3 + number % 2)
        soon(lambda wanted=wanted: load(mnt / "a.npz/x.npy") == wanted, "the new array shows")


def test_6_3_a_rewrite_that_keeps_size_and_mtime_is_seen(source, mount):
    path = source / "a.npz"
    np.savez(path, x=np.zeros(3))
    before = os.stat(path)
    mnt = mount(source)
    assert load(mnt / "a.npz/x.npy") == [0, 0, 0]
    np.savez(path, x=np.ones(3))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat(path)
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    soon(lambda: load(mnt / "a.npz/x.npy") == [1, 1, 1], "the new array shows")


def test_6_3_an_archive_grows_by_appending(source, mount):
    path = zipmaker.write(source / "a.npz", [Entry(b"x.npy", npy(np.arange(3)))])
    mnt = mount(source)
    assert os.listdir(mnt / "a.npz") == ["x.npy"]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y.npy", npy(np.arange(4)))
    soon(lambda: sorted(os.listdir(mnt / "a.npz")) == ["x.npy", "y.npy"], "both show")
    assert load(mnt / "a.npz/y.npy") == [0, 1, 2, 3]
    assert load(mnt / "a.npz/x.npy") == [0, 1, 2]


def test_6_4_an_archive_is_deleted(source, mount):
    np.savez(source / "a.npz", x=np.arange(3))
    mnt = mount(source)
    assert load(mnt / "a.npz/x.npy") == [0, 1, 2]
    os.remove(source / "a.npz")
    soon(lambda: load(mnt / "a.npz/x.npy") == errno.ENOENT, "the array is gone")
    soon(lambda: errno_of(os.stat, mnt / "a.npz") == errno.ENOENT, "the archive is gone")
    soon(lambda: os.listdir(mnt.path) == [], "it is not listed")
    (source / "a.npz").mkdir()
    (source / "a.npz/x.npy").write_bytes(b"of a real directory")
    wanted = {"a.npz/": "dir", "a.npz/x.npy": b"of a real directory"}
    soon(lambda: tree(mnt.path) == wanted, "a directory took its place")


def test_6_4_the_source_is_emptied_and_filled_again(source, mount):
    mnt = mount(source)
    for number in range(3):
        np.savez(source / "a.npz", x=np.full(2, number))
        (source / "d").mkdir()
        (source / "d/f").write_bytes(b"%d" % number)
        soon(lambda n=number: load(mnt / "a.npz/x.npy") == [n, n], "filled")
        soon(lambda n=number: (mnt / "d/f").read_bytes() == b"%d" % n, "filled")
        os.remove(source / "a.npz")
        shutil.rmtree(source / "d")
        soon(lambda: tree(mnt.path) == {}, "emptied")


def inodes(mnt):
    names = ["a.npz", "a.npz/x.npy", "a.npz/d", "a.npz/d/y.npy"]
    return [os.stat(mnt / name).st_ino for name in names]


@pytest.mark.parametrize("how", ["rename", "in place", "delete and create"])
def test_6_5_a_new_generation_has_new_inodes(source, mount, how):
    keys = ("x", "d/y")
    np.savez(source / "a.npz", **dict.fromkeys(keys, np.zeros(3)))
    mnt = mount(source)
    seen = set()
    for number in range(1, 5):
        old = inodes(mnt)
        assert not seen & set(old)
        seen |= set(old)
        arrays = dict.fromkeys(keys, np.full(3, number))
        if how == "rename":
            np.savez(source / "new", **arrays)
            os.rename(source / "new.npz", source / "a.npz")
        elif how == "in place":
            np.savez(source / "a.npz", **arrays)
        else:
            os.remove(source / "a.npz")
            np.savez(source / "a.npz", **arrays)
        soon(lambda n=number: load(mnt / "a.npz/d/y.npy") == [n] * 3, "the new generation shows")
        assert len(set(inodes(mnt))) == 4
        assert not set(inodes(mnt)) & set(old)


def test_6_5_an_unchanged_archive_keeps_its_inodes(source, mount):
    np.savez(source / "a.npz", **{"x": np.zeros(3), "d/y": np.zeros(3)})
    mnt = mount(source)
    handles = [open(mnt / "a.npz" / name) for name in ("x.npy", "d/y.npy")]
    first = inodes(mnt)
    listed = {entry.name: entry.inode() for entry in os.scandir(mnt / "a.npz")}
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:  # over two attribute timeouts
        assert inodes(mnt) == first
        np.savez(source / "other.npz", x=np.zeros(3))
        time.sleep(0.05)
    assert listed == {"x.npy": first[1], "d": first[2]}
    for handle in handles:
        handle.close()


def test_6_9_plain_files_show_new_bytes_under_the_same_inode(source, mount):
    path = source / "notes"
    path.write_bytes(b"old")
    mnt = mount(source)
    assert (mnt / "notes").read_bytes() == b"old"
    first = os.stat(mnt / "notes").st_ino
    with open(mnt / "notes", "rb", buffering=0) as held:
        for content in (b"new", b"longer than before", b"", b"x" * 1_000_000, b"y" * 1_000_000):
            path.write_bytes(content)
            soon(lambda c=content: (mnt / "notes").read_bytes() == c, "new bytes show")
            soon(lambda c=content: os.stat(mnt / "notes").st_size == len(c), "a new size shows")
            assert os.stat(mnt / "notes").st_ino == first
            soon(lambda c=content: os.pread(held.fileno(), 2_000_000, 0) == c, "to old handles too")
        with open(path, "ab") as out:
            out.write(b"appended")
        soon(lambda: (mnt / "notes").read_bytes().endswith(b"yappended"), "what is appended shows")


def test_6_9_a_plain_file_replaced_by_rename_has_a_new_inode(source, mount):
    (source / "notes").write_bytes(b"old " * 100_000)
    mnt = mount(source)
    first = os.stat(mnt / "notes").st_ino
    with open(mnt / "notes", "rb", buffering=0) as held:
        assert held.read(4) == b"old "
        (source / "new").write_bytes(b"new")
        os.rename(source / "new", source / "notes")
        soon(lambda: (mnt / "notes").read_bytes() == b"new", "new bytes show")
        assert os.stat(mnt / "notes").st_ino != first
        assert os.pread(held.fileno(), 500_000, 0) == b"old " * 100_000


def test_6_9_names_that_are_swapped(source, mount):
    for name in "ab":
        (source / name).write_bytes(name.encode())
        (source / f"{name}.d").mkdir()
        (source / f"{name}.d/f").write_bytes(name.encode())
        np.savez(source / f"{name}.d/z.npz", x=np.array([name]))
    mnt = mount(source)

    def seen():
        files = [(mnt / p).read_bytes() for p in ("a", "b", "a.d/f", "b.d/f")]
        return files + [load(mnt / p) for p in ("a.d/z.npz/x.npy", "b.d/z.npz/x.npy")]

    assert seen() == [b"a", b"b", b"a", b"b", ["a"], ["b"]]
    for suffix in ("", ".d"):
        os.rename(source / f"a{suffix}", source / "other")
        os.rename(source / f"b{suffix}", source / f"a{suffix}")
        os.rename(source / "other", source / f"b{suffix}")
    soon(lambda: seen() == [b"b", b"a", b"b", b"a", ["b"], ["a"]], "all of them are swapped")


def test_6_9_attributes_of_plain_files_and_directories_change(source, mount):
    (source / "f").write_bytes(b"x")
    (source / "d").mkdir()
    mnt = mount(source)
    for name in "fd":
        assert os.stat(mnt / name).st_mode & 0o777 != 0o510
        os.chmod(source / name, 0o710)
        os.utime(source / name, ns=(5, 5_000_000_007))
        soon(lambda n=name: os.stat(mnt / n).st_mode & 0o777 == 0o510, "the new mode shows")
        soon(lambda n=name: os.stat(mnt / n).st_mtime_ns == 5_000_000_007, "the new time shows")


def test_6_10_a_longer_ttl_and_none(source, mount):
    np.savez(source / "a.npz", x=np.zeros(3))
    none = mount(source, "--ttl", "0")
    assert load(none / "a.npz/x.npy") == [0, 0, 0]
    np.savez(source / "a.npz", x=np.ones(3))
    assert load(none / "a.npz/x.npy") == [1, 1, 1]
    os.remove(source / "a.npz")
    assert load(none / "a.npz/x.npy") == errno.ENOENT
    np.savez(source / "a.npz", x=np.zeros(2))
    assert load(none / "a.npz/x.npy") == [0, 0]


@pytest.mark.slow
def test_6_11_the_space_of_removed_archives_is_given_back(source, mount):
    for name in ("held", "gone", "old"):
        zipmaker.write(source / f"{name}.npz", [Entry(b"x", name.encode())])
    (source / "scan.npy.gz").write_bytes(gzip.compress(npy(np.arange(5))))
    mnt = mount(source)
    assert (mnt / "gone.npz/x").read_bytes() == b"gone"
    assert (mnt / "old.npz/x").read_bytes() == b"old"
    assert load(mnt / "scan.npy") == [0, 1, 2, 3, 4]
    with open(mnt / "held.npz/x", "rb", buffering=0) as held:
        for name in ("held.npz", "gone.npz", "scan.npy.gz"):
            os.remove(source / name)
        zipmaker.write(source / "new", [Entry(b"x", b"new")])
        os.rename(source / "new", source / "old.npz")

        def link(descriptor):
            try:
                return os.readlink(descriptor)
            except FileNotFoundError:  # Closed since it was listed.
                return ""

        def removed():
            # Questions: without any, nothing is looked for.
            os.path.exists(mnt / "old.npz/x")
            links = [link(x) for x in Path(f"/proc/{mnt.pid}/fd").iterdir()]
            return sorted(Path(x).name for x in links if x.endswith(" (deleted)"))

        assert len(removed()) == 4
        poll(lambda: removed() == ["held.npz (deleted)"], 15, "files without a name are closed")
        assert held.read() == b"held"
    assert (mnt / "old.npz/x").read_bytes() == b"new"
