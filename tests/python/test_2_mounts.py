"""Rules 2 of docs/python.md: which mount the arrays come from, and when it ends."""

import errno
import gzip
import multiprocessing
import os
import pickle
import signal
import subprocess
import tempfile
from pathlib import Path

import npzfs
import numpy as np
import pytest
from arrays import npy, same
from conftest import LOAD, mounts_in, rows, run_python, server_of, start_python
from mounting import in_child, poll
from npzfs import _servers, _table


@pytest.fixture
def users(tmp_path):
    """Mounts as a user does, with the program alone."""
    points = []

    def mount(source, *options):
        point = tmp_path / f"mnt{len(points)}"
        point.mkdir()
        subprocess.run([_servers.program(), *options, source, point], check=True)
        points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run([_servers.program(), "unmount", "--lazy", point], check=True)


@pytest.mark.parametrize("layout", ["replace", "beside", "stored"])
def test_2_1_a_mount_that_shows_the_file_is_used(archive, users, layout):
    point = users(archive.parent, "--layout", layout)
    x = npzfs.load(archive)["x"]
    assert x.filename.startswith(str(point))
    same(x, rows())


def test_2_1_so_is_a_mount_of_a_directory_above_and_of_the_archive_alone(archive, users):
    (archive.parent / "below").mkdir()
    archive = archive.rename(archive.parent / "below/a.npz")
    above = users(archive.parents[1])
    assert npzfs.path(archive, "x") == above / "below/a.npz/x.npy"
    alone = users(archive)
    assert npzfs.path(archive, "x") == alone / "x.npy"


def test_2_1_a_gzipped_npy_is_found_in_a_mount(source, users):
    (source / "g.npy.gz").write_bytes(gzip.compress(npy(rows())))
    point = users(source)
    assert npzfs.path(source / "g.npy.gz") == point / "g.npy"


def test_2_2_a_mount_that_only_claims_to_show_the_file_is_not_used(archive, tmp_path, users):
    other = tmp_path / "other"
    other.mkdir()
    np.savez(other / "a.npz", x=rows() + 1)
    point = users(other, "-o", f"fsname={archive.parent}")
    assert any(m.source == str(archive.parent) for m in mounts_in(point))
    same(npzfs.load(archive)["x"], rows())


def test_2_2_so_it_is_if_the_times_are_equal(archive, tmp_path, users):
    other = tmp_path / "other"
    other.mkdir()
    np.savez_compressed(other / "a.npz", x=rows() + 1)
    time = archive.stat().st_mtime_ns
    os.utime(other / "a.npz", ns=(time, time))
    point = users(other, "-o", f"fsname={archive.parent}")
    assert npzfs.path(archive).is_relative_to(point)
    same(npzfs.load(archive)["x"], rows())


def test_2_2_a_mount_without_a_directory_of_the_members_is_not_used(archive, users, runtime):
    flat = users(archive.parent, "--layout", "flat")
    assert (flat / "a_x.npy").exists()
    assert npzfs.path(archive).is_relative_to(runtime)
    with pytest.raises(npzfs.Error, match="no directory of the archive's members"):
        npzfs.load(flat / "a.npz")
    same(npzfs.load(flat / "a_x.npy"), rows())


def test_2_2_a_mount_of_another_user_is_not_used(archive, users, monkeypatch):
    point = users(archive.parent)
    assert npzfs.path(archive).is_relative_to(point)
    table = _table.mounts
    monkeypatch.setattr(_table, "mounts", lambda: [m._replace(user=12345) for m in table()])
    assert not npzfs.path(archive).is_relative_to(point)


def test_2_1_a_mount_of_root_is_used_by_all(archive, users, monkeypatch):
    point = users(archive.parent)
    table = _table.mounts
    monkeypatch.setattr(_table, "mounts", lambda: [m._replace(user=0) for m in table()])
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert npzfs.path(archive).is_relative_to(point)


def test_2_3_a_private_mount_is_made_for_the_directory_and_shared(archive, runtime):
    np.savez(archive.with_name("b.npz"), x=rows())
    first, second = npzfs.load(archive)["x"], npzfs.load(archive.with_name("b.npz"))["x"]
    assert Path(first.filename).is_relative_to(runtime)
    (mounted,) = mounts_in(runtime)
    assert mounted.source == str(archive.parent)
    assert Path(second.filename).is_relative_to(mounted.point)
    home = Path(mounted.point).parent
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in (home, home.parent))


def test_2_3_all_processes_of_the_user_share_it(archive, runtime):
    other = start_python(LOAD, archive)
    name = other.stdout.readline().strip()
    assert npzfs.load(archive)["x"].filename == name
    assert len(mounts_in(runtime)) == 1
    out, _ = other.communicate("\n")
    assert out.strip() == str(rows()[7, 3])


def test_2_3_processes_that_begin_at_once_share_it(archive, runtime):
    started = [start_python(LOAD, archive) for _ in range(4)]
    names = {one.stdout.readline().strip() for one in started}
    assert len(names) == len(mounts_in(runtime)) == 1, names
    for one in started:
        assert one.communicate("\n")[0].strip() == str(rows()[7, 3])


def test_2_3_a_file_beside_the_private_mounts_is_shown_too(runtime):
    """A mount must not lie in what it shows: so this one lies elsewhere."""
    np.savez(runtime / "a.npz", x=rows())
    x = npzfs.load(runtime / "a.npz")["x"]
    assert not Path(x.filename).is_relative_to(runtime)
    same(x, rows())


def test_2_3_a_directory_that_others_may_enter_is_not_used(archive, runtime):
    (runtime / "npzfs").mkdir(mode=0o755)
    assert not npzfs.path(archive).is_relative_to(runtime)


@pytest.mark.parametrize("sent", [None, signal.SIGTERM, signal.SIGKILL])
def test_2_4_it_ends_with_the_last_process_however_that_ends(archive, runtime, sent):
    process = start_python(LOAD, archive)
    process.stdout.readline()
    assert len(mounts_in(runtime)) == 1
    if sent is None:
        process.communicate("\n")
    else:
        process.send_signal(sent)
        process.communicate()
    poll(lambda: not mounts_in(runtime), 10, "the mount is gone")


def test_2_4_a_forked_child_keeps_it_and_does_not_end_it(archive, runtime):
    fork = """
import os, sys, npzfs
x = npzfs.load(sys.argv[1])["x"]
if os.fork() == 0:
    print(x[7, 3], flush=True)
    sys.stdin.readline()
    print(npzfs.load(sys.argv[1])["x"][299, 3], flush=True)
"""
    process = start_python(fork, archive)
    assert process.stdout.readline().strip() == str(rows()[7, 3])
    process.wait(60)  # the parent; the child has its pipes
    assert len(mounts_in(runtime)) == 1
    assert process.communicate("\n")[0].strip() == str(rows()[299, 3])
    poll(lambda: not mounts_in(runtime), 10, "the mount is gone")
    x = npzfs.load(archive)["x"]
    assert in_child(lambda: float(x[7, 3])) == rows()[7, 3]
    assert npzfs.load(archive)["x"][1, 1] == rows()[1, 1]


def filename_of(path):
    return npzfs.load(path)["x"].filename


def test_2_4_a_spawned_child_shares_it(archive, runtime):
    name = filename_of(archive)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert set(pool.map(filename_of, [archive] * 4)) == {name}
    assert len(mounts_in(runtime)) == 1


def test_2_5_what_a_killed_server_has_left_is_removed_by_the_next_mount(archive, runtime, tmp_path):
    process = start_python(LOAD, archive)
    point = Path(process.stdout.readline().strip()).parents[1]
    os.kill(server_of(point), signal.SIGKILL)
    process.kill()
    process.communicate()
    assert len(mounts_in(runtime)) == 1
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other/b.npz", x=rows())
    now = npzfs.path(tmp_path / "other/b.npz")
    assert [m.point for m in mounts_in(runtime)] == [str(now.parent)]
    assert list((runtime / "npzfs").iterdir()) == [now.parent.parent]


def test_2_6_a_mount_for_a_block(archive, runtime):
    with npzfs.mount(archive.parent, layout="stored", verify="always", cache_size="8M") as root:
        assert isinstance(root, Path)
        with np.load(root / "a.npz") as z:
            same(z["x"], rows())
        assert npzfs.path(archive, "x") == root / "a.npz.d/x.npy"
    assert mounts_in(runtime) == []
    assert list((runtime / "npzfs").iterdir()) == []


def test_2_6_an_archive_alone_can_be_mounted(archive):
    with npzfs.mount(str(archive)) as root:
        same(np.load(root / "x.npy"), rows())


def test_2_6_it_ends_when_the_block_fails(archive, runtime):
    with pytest.raises(RuntimeError), npzfs.mount(archive.parent):
        raise RuntimeError
    assert mounts_in(runtime) == []


def test_2_6_a_forked_child_that_leaves_the_block_does_not_end_it(archive):
    text = """
import os, sys, npzfs
with npzfs.mount(sys.argv[1]) as root:
    child = os.fork()
    if child == 0:
        sys.exit()
    os.waitpid(child, 0)
    print(sorted(os.listdir(root)))
print(root.exists())
"""
    assert run_python(text, archive.parent).splitlines() == ["['a.npz']", "False"]


def test_2_6_arrays_outlive_the_block(archive, runtime):
    with npzfs.mount(archive.parent) as root:
        x = np.load(root / "a.npz/x.npy", mmap_mode="r")
    assert mounts_in(runtime) == []
    # Without the lock the server would end, though not at once.
    assert [*_servers._held] == [str(root.parent)]
    same(x, rows())


def test_2_6_other_processes_do_not_use_it(archive, runtime):
    with npzfs.mount(archive.parent) as root:
        name = run_python("import npzfs, sys; print(npzfs.path(sys.argv[1]))", archive)
        assert not Path(name).is_relative_to(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"layout": "odd"}, "odd"), ({"nonsense": 1}, "--nonsense"), ({"ttl": "soon"}, "soon")],
)
def test_2_6_a_wrong_option_is_an_error_with_the_message_of_the_program(archive, options, message):
    with pytest.raises(npzfs.Error, match=message), npzfs.mount(archive.parent, **options):
        pass


def test_2_7_the_path_of_a_member_is_for_other_libraries(archive):
    path = npzfs.path(archive, "x")
    same(np.load(path, mmap_mode="r"), rows())
    assert npzfs.path(archive, "x.npy") == path
    assert npzfs.path(archive) == path.parent
    with pytest.raises(KeyError, match="y is not a file in the archive"):
        npzfs.path(archive, "y")


@pytest.mark.parametrize("named", ["/none/npzfs", os.devnull])
def test_2_8_the_program_can_be_named(archive, monkeypatch, named):
    monkeypatch.setenv("NPZFS", named)
    with pytest.raises(npzfs.Error, match="cannot run the program") as raised:
        npzfs.load(archive)
    assert raised.value.filename == named


def test_2_8_an_error_of_mounting_has_the_words_of_the_program(archive, monkeypatch, tmp_path):
    refusing = tmp_path / "npzfs"
    refusing.write_text("#!/bin/sh\necho 'npzfs: cannot open /dev/fuse: do this' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("NPZFS", str(refusing))
    with pytest.raises(npzfs.Error, match="cannot open /dev/fuse: do this") as raised:
        npzfs.load(archive)
    assert raised.value.filename == str(archive.parent)
    assert mounts_in(tmp_path) == []


def test_2_8_an_error_of_the_private_mount_is_passed_on(archive, monkeypatch):
    def stat(path, *arguments, stat=os.stat, **keywords):
        if str(path).endswith("/mnt/a.npz"):
            raise OSError(errno.ENOMEM, "no memory")
        return stat(path, *arguments, **keywords)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(npzfs.Error, match="no memory, in the mount") as raised:
        npzfs.load(archive)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOMEM, str(archive))


NOBODY = 65534


def as_nobody(directory):
    """Loads and replaces an archive as an ordinary user; returns the mountpoint it saw."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.environ.update(XDG_RUNTIME_DIR=str(directory / "run"), XDG_CACHE_HOME=str(directory))
    (directory / "data").mkdir()
    os.chdir(directory / "data")
    np.savez_compressed("a.npz", x=rows())
    x = npzfs.load("a.npz")["x"]
    same(x, rows())
    same(pickle.loads(pickle.dumps(x[3:5])), rows()[3:5])
    with npzfs.mount(".", layout="stored") as root:
        same(np.load(root / "a.npz")["x"], rows())
    assert not root.exists()
    return str(Path(x.filename).parents[1])


def test_2_3_an_ordinary_user_has_mounts_too(archive, open_directory):
    """Through fusermount3. Without root all the other tests are such."""
    if os.getuid() == 0:
        # Imports all that loading needs: nobody may be unable to read this Python.
        pickle.loads(pickle.dumps(npzfs.load(archive)["x"]))
        point = in_child(as_nobody, open_directory)
        assert Path(point).is_relative_to(open_directory)
    poll(lambda: not mounts_in(open_directory), 10, "the mounts of the child are gone")


@pytest.fixture
def open_directory():
    """A directory of nobody, which pytest's own would be no way to."""
    with tempfile.TemporaryDirectory(prefix="npzfs-python-") as name:
        directory = Path(name)
        (directory / "run").mkdir(mode=0o700)
        if os.getuid() == 0:
            for path in (directory, directory / "run"):
                os.chown(path, NOBODY, NOBODY)
        yield directory
