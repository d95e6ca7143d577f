"""Rules 5 of docs/python.md: np.load, and what is known without decoding."""

import functools
import gzip
import io
import os
import re
import zipfile

import npzfs
import numpy as np
import pytest
from arrays import every_dtype, npy, same
from conftest import rows, run_python
from npzfs import _servers


@pytest.fixture
def installed():
    npzfs.install()
    yield
    npzfs.uninstall()


def test_5_1_np_load_honours_its_mode_for_archives(archive, source, installed):
    (source / "g.npy.gz").write_bytes(gzip.compress(npy(rows())))
    for mode in ("r", "c"):
        with np.load(archive, mmap_mode=mode) as z:
            assert isinstance(z["x"], npzfs.Array)
            assert z["x"].mode == mode
        assert isinstance(np.load(str(source / "g.npy.gz"), mode), npzfs.Array)
    np.savez(source / "o.npz", o=np.array([None]))
    assert np.load(source / "o.npz", "r", True)["o"].tolist() == [None]


def test_5_1_all_other_calls_are_as_before(archive, source, installed):
    with open(archive, "rb") as opened:
        for file, mode in ((archive, None), (archive, "r+"), (opened, "r")):
            with np.load(file, mmap_mode=mode) as loaded:
                assert type(loaded) is np.lib.npyio.NpzFile
                same(loaded["x"], rows())
    np.save(source / "b.npy", rows())
    assert type(np.load(source / "b.npy", mmap_mode="r")) is np.memmap
    assert np.load(io.BytesIO(npy(rows()))).shape == rows().shape
    archive.rename(source / "a.zip")
    assert type(np.load(source / "a.zip", mmap_mode="r")) is np.lib.npyio.NpzFile


class WithPath(io.FileIO):
    """An open file that knows its path, as that of fsspec does."""

    def __fspath__(self):
        return self.name


def test_5_1_an_open_file_stays_one(archive, installed):
    with WithPath(str(archive)) as opened:
        assert type(np.load(opened, mmap_mode="r")) is np.lib.npyio.NpzFile
    assert isinstance(np.load(os.fsencode(archive), "r"), npzfs.NpzFile)


def test_5_2_uninstall_keeps_what_others_have_put_over_it(archive):
    before = np.load
    npzfs.install()
    np.load = wrapper = functools.partial(np.load)
    try:
        npzfs.uninstall()
        assert np.load is wrapper
        assert type(np.load(archive, mmap_mode="r")) is np.lib.npyio.NpzFile
        npzfs.install()
        assert isinstance(np.load(archive, mmap_mode="r"), npzfs.NpzFile)
        npzfs.uninstall()
        assert np.load is wrapper
    finally:
        np.load = before


def test_5_2_uninstall_gives_back_the_old_function(archive):
    before = np.load
    npzfs.install()
    npzfs.install()
    assert np.load is not before
    assert np.load.__doc__ == before.__doc__
    npzfs.uninstall()
    assert np.load is before
    npzfs.uninstall()
    assert np.load is before


def test_5_3_shape_and_dtype_are_those_of_the_array(source):
    arrays = {f"k{n}": array for n, array in enumerate(every_dtype().values())}
    np.savez_compressed(source / "a.npz", **arrays)
    with np.load(source / "a.npz") as wanted:
        for key in arrays:
            assert npzfs.shape(source / "a.npz", key) == wanted[key].shape
            assert npzfs.dtype(source / "a.npz", key) == wanted[key].dtype


def test_5_3_so_they_are_of_files_that_are_one_array(source):
    np.save(source / "b.npy", rows())
    assert (npzfs.shape(source / "b.npy"), npzfs.dtype(source / "b.npy")) == ((300, 200), "<f8")
    assert _servers._held == {}, "a plain .npy needs no mount"
    (source / "g.npy.gz").write_bytes(gzip.compress(npy(rows())))
    assert npzfs.shape(source / "g.npy.gz") == rows().shape
    assert npzfs.dtype(source / "g.npy.gz") == rows().dtype
    with zipfile.ZipFile(source / "a.npz", "w") as out:
        out.writestr("notes.txt", "text")
    for arguments in ((source / "a.npz",), (source / "a.npz", "notes.txt")):
        with pytest.raises(npzfs.Error, match="not an array"):
            npzfs.shape(*arguments)


def test_5_3_the_state_is_that_of_the_server_and_nothing_is_decoded_for_it(source):
    # Large enough not to be compared as a whole when it is opened.
    np.savez_compressed(source / "a.npz", x=np.zeros((3, 1_000_000)))
    assert npzfs.state(source / "a.npz") == "ready"
    for _ in range(2):
        state = npzfs.state(source / "a.npz", "x")
        assert state == "unverified: 0 of 24000128 bytes"
    assert npzfs.shape(source / "a.npz", "x") == (3, 1_000_000)
    assert npzfs.dtype(source / "a.npz", "x") == "f8"
    state = npzfs.state(source / "a.npz", "x")
    assert 0 < int(re.fullmatch(r"unverified: (\d+) of 24000128 bytes", state)[1]) < 2 << 20
    assert npzfs.load(source / "a.npz")["x"].sum() == 0


def test_5_4_importing_the_package_mounts_nothing_and_needs_only_numpy():
    text = """
import sys
before = set(sys.modules)
import npzfs, numpy
added = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(added - set(sys.stdlib_module_names)))
print(npzfs._servers._held)
"""
    names, held = run_python(text).splitlines()
    assert {"npzfs", "numpy"} <= set(names.split())
    assert held == "{}"
    text = "import sys, numpy; print(*{name.partition('.')[0] for name in sys.modules})"
    third_party = run_python(text)
    assert set(names.split()) - {"npzfs"} <= set(third_party.split())
