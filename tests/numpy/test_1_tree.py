"""Rules 1: the source tree."""

import errno
import os
import shutil
import socket
import stat
import subprocess

import pytest
import zipmaker
from mounting import errno_of, poll, tree
from zipmaker import Entry

ONE = [Entry(b"x.npy", b"x bytes"), Entry(b"sub/y.npy", b"y bytes")]


def make_tree(source):
    """A source with a file of every kind, and what the mount must show of it."""
    zipmaker.write(source / "a.npz", ONE)
    (source / "notes.txt").write_bytes(b"notes\n")
    (source / "empty").write_bytes(b"")
    (source / "deep/er/est").mkdir(parents=True)
    (source / "deep/er/file").write_bytes(b"deep")
    (source / "void").mkdir()
    (source / "latest").symlink_to("deep/er")
    return {
        "a.npz/": "dir",
        "a.npz/sub/": "dir",
        "a.npz/sub/y.npy": b"y bytes",
        "a.npz/x.npy": b"x bytes",
        "deep/": "dir",
        "deep/er/": "dir",
        "deep/er/est/": "dir",
        "deep/er/file": b"deep",
        "empty": b"",
        "latest": "-> deep/er",
        "notes.txt": b"notes\n",
        "void/": "dir",
    }


def test_1_1_the_tree_is_mirrored(source, mount):
    expected = make_tree(source)
    mnt = mount(source)
    assert tree(mnt.path) == expected
    assert errno_of(os.stat, mnt / "nothing") == errno.ENOENT
    assert errno_of(os.stat, mnt / "notes.txt/below") == errno.ENOTDIR
    assert errno_of(os.stat, mnt / "a.npz/nothing") == errno.ENOENT
    assert errno_of(os.stat, mnt / "a.npz/x.npy/below") == errno.ENOTDIR
    assert os.path.samefile(mnt / "deep/er/..", mnt / "deep")
    assert os.path.samefile(mnt / "a.npz/sub/..", mnt / "a.npz")
    assert os.path.samefile(mnt / "a.npz/..", mnt.path)


def test_1_1_find_sees_the_same_tree(source, mount):
    expected = make_tree(source)
    mnt = mount(source)
    found = subprocess.run(
        ["find", ".", "-mindepth", "1", "-printf", "%P %y %s\n"],
        cwd=mnt.path,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.splitlines()
    kinds = {name.rstrip("/"): what for name, what in expected.items()}
    wanted = {}
    for name, what in kinds.items():
        kind = "d" if what == "dir" else "l" if isinstance(what, str) else "f"
        size = len(what) - 3 if kind == "l" else len(what)
        wanted[name] = (kind, None if kind == "d" else size)
    got = {}
    for line in found:
        name, kind, size = line.rsplit(" ", 2)
        got[name] = (kind, None if kind == "d" else int(size))
    assert got == wanted


@pytest.mark.parametrize("command", [["cp", "-r"], ["cp", "-a"], ["rsync", "-a"]])
def test_1_1_a_copy_of_the_mount_is_the_tree(source, mount, tmp_path, command):
    expected = make_tree(source)
    os.utime(source / "notes.txt", ns=(1, 1_234_567_890_123_456_789))
    mnt = mount(source)
    assert shutil.which(command[0]), f"{command[0]} is missing: run tests/run"
    subprocess.run([*command, f"{mnt.path}/.", tmp_path / "copy"], check=True)
    subprocess.run(["chmod", "-R", "u+w", tmp_path / "copy"], check=True)
    assert tree(tmp_path / "copy") == expected
    if command[1] == "-a":
        copied = os.stat(tmp_path / "copy/notes.txt").st_mtime_ns
        assert copied == 1_234_567_890_123_456_789


def test_1_1_os_walk_descends_into_archives(source, mount):
    make_tree(source)
    mnt = mount(source)
    walked = {
        os.path.relpath(top, mnt.path): (sorted(dirs), sorted(files))
        for top, dirs, files in os.walk(mnt.path)
    }
    assert walked == {
        ".": (["a.npz", "deep", "latest", "void"], ["empty", "notes.txt"]),
        "a.npz": (["sub"], ["x.npy"]),
        "a.npz/sub": ([], ["y.npy"]),
        "deep": (["er"], []),
        "deep/er": (["est"], ["file"]),
        "deep/er/est": ([], []),
        "void": ([], []),
    }


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o644, 0o600, 0o444, 0o4755, 0o2711, 0o1777])
def test_1_2_modes_lose_their_write_bits(source, mount, mode):
    (source / "file").write_bytes(b"x")
    (source / "dir").mkdir()
    (source / "file").chmod(mode)
    (source / "dir").chmod(mode)
    assert stat.S_IMODE(os.stat(source / "dir").st_mode) == mode
    mnt = mount(source)
    assert os.stat(mnt / "file").st_mode == stat.S_IFREG | mode & ~0o222
    assert os.stat(mnt / "dir").st_mode == stat.S_IFDIR | mode & ~0o222


def test_1_2_size_times_and_owner_are_the_sources(source, mount):
    (source / "file").write_bytes(bytes(12_345))
    (source / "dir").mkdir()
    (source / "link").symlink_to("nowhere")
    if os.geteuid() == 0:
        os.chown(source / "file", 12, 34)
        os.chown(source / "dir", 56, 78)
        os.lchown(source / "link", 9, 10)
    times = {"file": 1, "dir": 2**31 * 10**9 + 5, "link": 987_654_321}
    for name, time in times.items():
        os.utime(source / name, ns=(time, time), follow_symlinks=False)
    mnt = mount(source)
    for name in times:
        real, shown = os.lstat(source / name), os.lstat(mnt / name)
        assert (shown.st_uid, shown.st_gid) == (real.st_uid, real.st_gid), name
        assert shown.st_mtime_ns == real.st_mtime_ns == times[name], name
        assert stat.S_IFMT(shown.st_mode) == stat.S_IFMT(real.st_mode), name
        if name != "dir":
            assert shown.st_size == real.st_size, name


def test_1_2_a_time_before_1970_is_kept(source, mount):
    (source / "old").write_bytes(b"")
    os.utime(source / "old", ns=(0, -1_500_000_000))
    assert os.stat(source / "old").st_mtime_ns == -1_500_000_000
    assert os.stat(mount(source) / "old").st_mtime_ns == -1_500_000_000


def test_1_2_every_link_count_is_one(source, mount):
    make_tree(source)
    os.link(source / "notes.txt", source / "second name")
    mnt = mount(source)
    for top, dirs, files in os.walk(mnt.path):
        for name in [".", *dirs, *files]:
            assert os.lstat(os.path.join(top, name)).st_nlink == 1, (top, name)


def test_1_2_the_root_has_the_attributes_of_the_source(source, mount):
    source.chmod(0o751)
    os.utime(source, ns=(1, 1_111_111_111_222_222_222))
    shown = os.stat(mount(source).path)
    assert shown.st_mode == stat.S_IFDIR | 0o551
    assert shown.st_mtime_ns == 1_111_111_111_222_222_222


def test_1_3_symlinks_are_shown_as_they_are(source, mount):
    zipmaker.write(source / "run7.npz", ONE)
    texts = {
        "dangling": "no/such/thing",
        "absolute": "/etc/hostname",
        "up": "../..",
        "latest.npz": "run7.npz",
        "inside": "run7.npz/sub/y.npy",
        "long": "x" * 4000,
    }
    for name, text in texts.items():
        (source / name).symlink_to(text)
    (source / os.fsdecode(b"odd")).symlink_to(os.fsdecode(b"\xff\n"))
    mnt = mount(source)
    for name, text in texts.items():
        assert os.readlink(mnt / name) == text
        assert os.lstat(mnt / name).st_size == len(text)
    assert os.readlink(os.fsencode(mnt / "odd")) == b"\xff\n"
    kinds = {entry.name: entry.is_symlink() for entry in os.scandir(mnt.path)}
    assert kinds == dict.fromkeys([*texts, "odd"], True) | {"run7.npz": False}
    assert (mnt / "latest.npz/x.npy").read_bytes() == b"x bytes"
    assert (mnt / "inside").read_bytes() == b"y bytes"
    assert errno_of(os.stat, mnt / "dangling") == errno.ENOENT
    assert errno_of(os.readlink, mnt / "run7.npz/x.npy") == errno.EINVAL


def test_1_3_a_directory_that_becomes_a_link_does_not_lead_out(source, mount, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"outside")
    zipmaker.write(outside / "a.npz", ONE)
    (source / "d").mkdir()
    (source / "d/f").write_bytes(b"inside")
    mnt = mount(source)
    held = os.open(mnt / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert (mnt / "d/f").read_bytes() == b"inside"
        os.rename(source / "d", source / "e")
        (source / "d").symlink_to(outside)
        for name in ("a.npz", "a.npz/x.npy"):
            assert errno_of(os.stat, name, dir_fd=held) is not None, name

        def read():
            descriptor = os.open("f", os.O_RDONLY, dir_fd=held)
            try:
                # The name may still be cached; the bytes are never those outside.
                assert os.read(descriptor, 100) == b"inside"
            finally:
                os.close(descriptor)

        poll(lambda: errno_of(read) is not None, 2.5, "the way in is gone")
    finally:
        os.close(held)
    poll(lambda: os.path.islink(mnt / "d"), 2.5, "the link shows")
    assert os.readlink(mnt / "d") == str(outside)


def test_1_4_special_files_are_shown_as_such(source, mount):
    os.mkfifo(source / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(source)
        server.bind("socket")
        os.chdir(here)
        kinds = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK}
        if os.geteuid() == 0:
            os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            os.mknod(source / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))
            kinds |= {"null": stat.S_IFCHR, "disk": stat.S_IFBLK}
        mnt = mount(source)
        for name, kind in kinds.items():
            real, shown = os.lstat(source / name), os.lstat(mnt / name)
            assert stat.S_IFMT(shown.st_mode) == kind, name
            assert stat.S_IMODE(shown.st_mode) == stat.S_IMODE(real.st_mode) & ~0o222, name
            assert shown.st_rdev == real.st_rdev, name
        listed = {e.name: (e.is_file(), e.is_dir()) for e in os.scandir(mnt.path)}
        assert listed == dict.fromkeys(kinds, (False, False))
        if os.geteuid() == 0:
            assert errno_of(os.open, mnt / "null", os.O_RDONLY) == errno.EACCES  # mounted nodev


NAMES = [
    b"plain",
    b" blank ",
    b"new\nline",
    b"\xff\xfe not UTF-8",
    b"\\back\\slash",
    "h\u00e9t\u00e9rog\u00e8ne".encode(),
    b"-rf",
    b"*?[]{}",
    b"...",
    b"~",
    b"x" * 255,
    b"\x01\x7f",
]


def test_1_5_names_are_bytes(source, mount):
    for name in NAMES:
        with open(os.path.join(os.fsencode(source), name), "wb") as out:
            out.write(name)
        directory = os.path.join(os.fsencode(source), name[:200] + b".dir")
        os.mkdir(directory)
        archive = os.fsdecode(directory + b"/" + name[:200] + b".npz")
        zipmaker.write(archive, [Entry(b"x.npy", name)])
    root = os.fsencode(mount(source).path)
    expected = sorted([*NAMES, *(name[:200] + b".dir" for name in NAMES)])
    assert sorted(os.listdir(root)) == expected
    for name in NAMES:
        with open(os.path.join(root, name), "rb") as file:
            assert file.read() == name
        directory = os.path.join(root, name[:200] + b".dir")
        assert os.listdir(directory) == [name[:200] + b".npz"]
        with open(os.path.join(directory, name[:200] + b".npz", b"x.npy"), "rb") as file:
            assert file.read() == name
    assert errno_of(os.stat, root + b"/" + b"x" * 256) == errno.ENAMETOOLONG


@pytest.mark.parametrize("name", ["a.npz", "A.NPZ", "a.Npz", "a.b.npz", "a.npz.npz", ".a.npz"])
def test_1_6_an_npz_is_a_directory(source, mount, name):
    zipmaker.write(source / name, ONE)
    mnt = mount(source)
    assert tree(mnt.path) == {
        f"{name}/": "dir",
        f"{name}/sub/": "dir",
        f"{name}/sub/y.npy": b"y bytes",
        f"{name}/x.npy": b"x bytes",
    }


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640, 0o440, 0o755, 0o666, 0o604])
def test_1_7_archive_directories_have_the_archives_attributes(source, mount, mode):
    archive = zipmaker.write(source / "a.npz", ONE)
    if os.geteuid() == 0:
        os.chown(archive, 12, 34)
    archive.chmod(mode)
    os.utime(archive, ns=(1, 1_000_000_000_123_456_789))
    mnt = mount(source)
    real = os.stat(archive)
    readable = mode & 0o444
    for name in ("a.npz", "a.npz/sub"):
        shown = os.stat(mnt / name)
        assert shown.st_mode == stat.S_IFDIR | readable | readable >> 2
        assert shown.st_mtime_ns == 1_000_000_000_123_456_789
        assert (shown.st_uid, shown.st_gid) == (real.st_uid, real.st_gid)


def test_1_8_nothing_else_is_taken_for_an_archive(source, mount):
    archive = zipmaker.write(source / "a.zip", ONE)
    content = archive.read_bytes()
    shutil.copy(archive, source / "npz")
    shutil.copy(archive, source / "a.npz.bak")
    (source / "dir.npz").mkdir()
    shutil.copy(archive, source / "dir.npz/b.npz")
    os.mkfifo(source / "fifo.npz")
    mnt = mount(source)
    assert tree(mnt.path) == {
        "a.npz.bak": content,
        "a.zip": content,
        "dir.npz/": "dir",
        "dir.npz/b.npz/": "dir",
        "dir.npz/b.npz/sub/": "dir",
        "dir.npz/b.npz/sub/y.npy": b"y bytes",
        "dir.npz/b.npz/x.npy": b"x bytes",
        "fifo.npz": "p",
        "npz": content,
    }


def test_1_9_a_listing_agrees_with_lookups(source, mount):
    make_tree(source)
    (source / "broken.npz").write_bytes(b"not a zip")
    (source / "link.npz").symlink_to("a.npz")
    for layout in ("replace", "beside"):
        mnt = mount(source, "--layout", layout)
        tree(mnt.path)  # asserts that d_type and lstat agree
        kinds = {e.name: e.is_dir(follow_symlinks=False) for e in os.scandir(mnt.path)}
        assert not kinds["broken.npz"]
        assert kinds["a.npz"] == (layout == "replace")


@pytest.mark.parametrize("count", [0, 1, 5_000])
def test_1_9_a_large_directory_is_listed_once_and_whole(source, mount, count):
    wanted = {f"file number {number:06}.with a rather long name" for number in range(count)}
    for name in wanted:
        (source / name).touch()
    mnt = mount(source)
    for _ in range(2):
        listed = os.listdir(mnt.path)
        assert len(listed) == len(set(listed))
        assert set(listed) == wanted


def test_1_9_many_archives_are_listed_without_opening_them(source, mount):
    archive = zipmaker.write(source / "0.npz", ONE).read_bytes()
    wanted = {}
    for number in range(3_000):
        good = number % 10 != 9
        (source / f"{number}.npz").write_bytes(archive if good else b"not a zip")
        wanted[f"{number}.npz"] = (good, False)
    # In byte order these are the last, far after those whose attributes the kernel asks for.
    (source / "link").symlink_to("0.npz")
    (source / "sub").mkdir()
    os.mkfifo(source / "pipe")
    wanted |= {"link": (False, True), "sub": (True, False), "pipe": (False, False)}
    mnt = mount(source)
    assert sorted(os.listdir(mnt.path)) == sorted(wanted)
    assert len(os.listdir(f"/proc/{mnt.pid}/fd")) < 1_000
    for _ in range(2):
        with os.scandir(mnt.path) as entries:
            kinds = {e.name: (e.is_dir(follow_symlinks=False), e.is_symlink()) for e in entries}
        assert kinds == wanted


def test_1_9_a_listing_goes_on_where_it_was_left(source, mount):
    for number in range(2_000):
        (source / f"{number:04}").touch()
    zipmaker.write(source / "a.npz", [Entry(b"%04d.npy" % number) for number in range(2_000)])
    mnt = mount(source)
    for path, count in ((mnt.path, 2_001), (mnt / "a.npz", 2_000)):
        with os.scandir(path) as first, os.scandir(path) as second:
            one = [next(first).name for _ in range(700)]
            two = [entry.name for entry in second]
            one += [entry.name for entry in first]
        assert sorted(one) == sorted(two)
        assert len(set(one)) == len(one) == count
