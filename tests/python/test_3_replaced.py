"""Rules 1 to 3 of docs/python.md: archives and mounts that change while they are used."""

import gzip
import itertools
import os
import pickle
import shutil
import signal
import subprocess
from pathlib import Path

import npzfs
import numpy as np
import pytest
from arrays import npy, same
from conftest import LOAD, replace, rewrite, rows, server_of, start_python
from npzfs import _archive, _places, _servers


@pytest.fixture
def gzipped(source):
    path = source / "g.npy.gz"
    path.write_bytes(gzip.compress(npy(rows())))
    return path


CALLS = {
    "load": lambda path: npzfs.load(path),
    "load without a map": lambda path: npzfs.load(path, mmap_mode=None),
    "path": lambda path: npzfs.path(path),
    "path of a member": lambda path: npzfs.path(path, "x"),
    "state": lambda path: npzfs.state(path),
}


@pytest.mark.parametrize("name", CALLS)
def test_1_11_of_a_file_that_is_replaced_during_a_call_the_new_one_is_used(
    archive, monkeypatch, name
):
    changes = [replace]

    def shown(*arguments, shown=_places.shown):
        if changes:
            changes.pop()(archive)
        return shown(*arguments)

    monkeypatch.setattr(_places, "shown", shown)
    CALLS[name](archive)
    assert changes == []
    z = npzfs.load(archive)
    changes = [replace]
    same(pickle.loads(pickle.dumps(z))["x"], rows() + 1)


def test_1_11_so_it_is_of_a_gzipped_npy(gzipped, monkeypatch):
    def shown(*arguments, shown=_places.shown):
        monkeypatch.undo()
        replacement = gzipped.with_name("new")
        replacement.write_bytes(gzip.compress(npy(rows() + 1)))
        os.replace(replacement, gzipped)
        return shown(*arguments)

    runtime = os.environ["XDG_RUNTIME_DIR"]
    monkeypatch.setattr(_places, "shown", shown)
    x = npzfs.load(gzipped)
    # `undo` has undone the variable as well.
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    same(x, rows() + 1)


@pytest.mark.parametrize("mode", ["r", None])
def test_1_8_a_file_that_is_written_to_all_the_time_is_loaded(source, monkeypatch, mode):
    np.save(source / "b.npy", rows())
    times = itertools.count()

    def read(*arguments, read=_archive._read):
        os.utime(source / "b.npy", ns=(0, next(times)))
        return read(*arguments)

    monkeypatch.setattr(_archive, "_read", read)
    same(npzfs.load(source / "b.npy", mode), rows())


@pytest.mark.parametrize("change", [replace, rewrite])
def test_3_3_an_array_of_a_replaced_archive_is_stale(archive, change):
    z = npzfs.load(archive)
    pickled, old = pickle.dumps(z["x"][3]), archive.stat()
    change(archive)
    new = archive.stat()
    for use in (lambda: pickle.loads(pickled), lambda: z["x"]):
        with pytest.raises(npzfs.Stale) as raised:
            use()
        for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):
            assert error.path == str(archive)
            assert error.expected == (old.st_ino, old.st_size, old.st_mtime_ns)
            assert error.found == (new.st_ino, new.st_size, new.st_mtime_ns)
    same(npzfs.load(archive)["x"], rows() + 1)


def test_3_3_so_it_is_if_the_archive_lacks_the_member_now(archive):
    pickled = pickle.dumps(npzfs.load(archive)["x"])
    np.savez(archive, y=rows())
    with pytest.raises(npzfs.Stale):
        pickle.loads(pickled)


def test_3_3_so_it_is_if_the_archive_is_replaced_during_unpickling(archive, monkeypatch):
    pickled = pickle.dumps(npzfs.load(archive)["x"])

    def opened(*arguments, opened=npzfs.NpzFile):
        replace(archive)
        return opened(*arguments)

    monkeypatch.setattr(_archive, "NpzFile", opened)
    with pytest.raises(npzfs.Stale):
        pickle.loads(pickled)


def test_3_3_so_is_an_array_of_a_plain_npy(source, monkeypatch):
    np.save(source / "b.npy", rows())
    pickled = pickle.dumps(npzfs.load(source / "b.npy"))
    np.save(source / "new.npy", rows() + 1)
    time = (source / "b.npy").stat().st_mtime_ns
    os.utime(source / "new.npy", ns=(time, time))
    monkeypatch.setattr(
        _servers, "keep", lambda _: os.replace(source / "new.npy", source / "b.npy")
    )
    with pytest.raises(npzfs.Stale):
        pickle.loads(pickled)


def test_3_3_a_read_that_fails_because_the_archive_was_rewritten_is_stale(archive):
    generation = npzfs.load(archive).generation
    rewrite(archive)
    with (
        pytest.raises(npzfs.Stale),
        _archive._explained(str(archive), str(archive), "x.npy", generation),
    ):
        raise OSError


def test_3_3_a_gzipped_npy_that_a_mount_shows_no_longer_is_an_error(gzipped):
    pickled = pickle.dumps(npzfs.load(gzipped))
    np.save(gzipped.with_name("g.npy"), rows() + 1)
    with pytest.raises(npzfs.Error, match="can no longer be mapped"):
        pickle.loads(pickled)
    with pytest.raises(npzfs.Error, match="does not show it decoded"):
        npzfs.path(gzipped)


@pytest.mark.parametrize("change", [replace, os.remove])
def test_3_3_without_a_map_the_opened_archive_is_read_as_by_numpy(archive, change):
    with npzfs.load(archive, mmap_mode=None) as z:
        change(archive)
        same(z["x"], rows())


def test_3_3_so_it_is_if_it_is_replaced_during_the_read(archive, monkeypatch):
    def read(*arguments, read=_archive._read):
        replace(archive)
        return read(*arguments)

    monkeypatch.setattr(_archive, "_read", read)
    with npzfs.load(archive, mmap_mode=None) as z:
        same(z["x"], rows())


def test_3_3_maps_of_a_replaced_archive_keep_their_bytes(archive):
    x = npzfs.load(archive)["x"]
    replace(archive)
    same(x, rows())


def test_3_3_an_archive_that_is_gone_is_not_found(archive):
    pickled = pickle.dumps(npzfs.load(archive)["x"])
    os.remove(archive)
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickled)


def test_2_6_an_archive_that_was_opened_in_a_block_is_mapped_after_it(archive):
    with npzfs.mount(archive.parent) as root:
        z = npzfs.load(archive)
        assert z["x"].filename.startswith(str(root))
    x = z["x"]
    assert isinstance(x, npzfs.Array)
    same(x, rows())


def test_2_1_so_it_is_after_the_end_of_a_mount_of_the_user(archive, tmp_path):
    point = tmp_path / "mnt"
    point.mkdir()
    subprocess.run([_servers.program(), archive, point], check=True)
    z = npzfs.load(archive)
    assert z["x"].filename == str(point / "x.npy")
    subprocess.run([_servers.program(), "unmount", point], check=True)
    assert isinstance(z["x"], npzfs.Array)


def test_2_5_an_archive_that_is_open_finds_the_mount_after_the_server_was_killed(archive):
    z = npzfs.load(archive)
    os.kill(server_of(npzfs.path(archive).parent), signal.SIGKILL)
    assert isinstance(z["x"], npzfs.Array)
    same(z["x"], rows())
    os.kill(server_of(npzfs.path(archive).parent), signal.SIGKILL)
    assert z.path_of("x") == str(npzfs.path(archive, "x"))


def test_2_5_so_it_does_after_the_directory_of_the_mount_was_removed(archive, runtime):
    """As logind does with $XDG_RUNTIME_DIR when the user has logged out everywhere."""
    z = npzfs.load(archive)
    before = z["x"]
    point = npzfs.path(archive).parent
    ((descriptor, locked),) = _servers._held.values()
    subprocess.run([_servers.program(), "unmount", "--lazy", point], check=True)
    shutil.rmtree(runtime / "npzfs")
    assert isinstance(z["x"], npzfs.Array)
    same(z["x"], rows())
    same(before, rows())
    # Without the lock the server of `before` would end, though not at once.
    assert _servers._is(descriptor, locked)


def test_2_5_a_mount_whose_server_was_killed_is_replaced(archive):
    process = start_python(LOAD, archive)
    point = Path(process.stdout.readline().strip()).parents[1]
    os.kill(server_of(point), signal.SIGKILL)
    same(npzfs.load(archive)["x"], rows())
    process.kill()
    process.communicate()
