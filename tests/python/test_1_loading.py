"""Rules 1 of docs/python.md: what `npzfs.load` gives."""

import gzip
import os
import pickle
import zipfile

import npzfs
import numpy as np
import pytest
from arrays import every_dtype, npy, same
from conftest import rows, run_python

ARRAYS = every_dtype()


def test_1_1_an_archive_has_the_interface_of_npzfile(archive):
    with np.load(archive) as wanted, npzfs.load(archive) as z:
        assert isinstance(z, np.lib.npyio.NpzFile)
        assert z.files == wanted.files == list(z) == list(z.keys()) == ["x", "names"]
        assert len(z) == 2
        for key in ("x", "x.npy", "y", "names.npy"):
            assert (key in z) == (key in wanted)
        same(z["x.npy"], z["x"])
        same(z.f.x, wanted["x"])
        assert [key for key, _ in z.items()] == z.files
        for got, expected in zip(z.values(), wanted.values()):
            same(got, expected)
        assert z.get("y") is None
        assert z.get("y", 3) == 3
        assert z.zip.namelist() == wanted.zip.namelist()
        assert z.fid.name == str(archive)
        assert "x, names" in repr(z)
        assert dir(z.f) == dir(wanted.f)


@pytest.mark.parametrize("opener", [np.load, npzfs.load])
def test_1_1_a_key_that_is_not_there_is_a_key_error(archive, opener):
    with opener(archive) as z:
        with pytest.raises(KeyError, match="y is not a file in the archive"):
            z["y"]
        with pytest.raises(AttributeError, match="y"):
            _ = z.f.y


def test_1_1_a_repeated_name_is_the_last_one_as_for_numpy(source):
    with zipfile.ZipFile(source / "a.npz", "w") as out, pytest.warns(UserWarning):
        for value in (1, 2):
            out.writestr("x.npy", npy(np.full(3, value)))
    with np.load(source / "a.npz") as wanted, npzfs.load(source / "a.npz") as z:
        assert z.files == wanted.files
        assert z["x"].tolist() == wanted["x"].tolist() == [2, 2, 2]


@pytest.mark.parametrize("mode", ["r", "c", None])
@pytest.mark.parametrize("saver", [np.savez, np.savez_compressed])
def test_1_2_every_array_is_that_of_the_archive(source, saver, mode):
    saver(source / "a.npz", **{f"k{n}": array for n, array in enumerate(ARRAYS.values())})
    with np.load(source / "a.npz") as wanted, npzfs.load(source / "a.npz", mode) as z:
        for key, name in zip(wanted, ARRAYS):
            try:
                same(z[key], wanted[key])
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error


def test_1_2_members_are_maps_in_the_mode_that_is_asked_for(archive):
    read_only = npzfs.load(archive)["x"]
    assert isinstance(read_only, npzfs.Array)
    assert isinstance(read_only, np.memmap)
    assert not read_only.flags.writeable
    private = npzfs.load(archive, mmap_mode="c")["x"]
    private[0, 0] = 7
    assert (private[0, 0], read_only[0, 0], npzfs.load(archive)["x"][0, 0]) == (7, 0, 0)
    plain = npzfs.load(archive, mmap_mode=None)["x"]
    assert type(plain) is np.ndarray
    assert plain.flags.writeable


LONG_HEADER = """
import sys, numpy as np, npzfs
fields = [(f"{'field' * 20}{n}", "f4") for n in range(200)]
np.savez(sys.argv[1] + "/h.npz", x=np.zeros(3, fields))
for call in (np.load, npzfs.load):
    for keywords in ({}, {"allow_pickle": True}, {"max_header_size": 100_000}):
        try:
            print(call(sys.argv[1] + "/h.npz", "r", **keywords)["x"].shape)
        except ValueError as error:
            print(error.args[0].splitlines()[0])
        except TypeError:  # NumPy 1.23 has no such argument
            print("TypeError")
"""


def test_1_2_a_long_header_is_treated_as_by_numpy(source):
    lines = run_python(LONG_HEADER, source).splitlines()
    assert lines[:3] == lines[3:], lines


def test_1_2_results_are_ordinary_arrays(archive):
    x = npzfs.load(archive)["x"]
    for result in (x + 1, x[[1, 2]], x[x > 5], x.mean(axis=0), np.sqrt(x)):
        assert type(result) is np.ndarray
    for scalar in (x.sum(), x[0, 0], x.mean()):
        assert type(scalar) is np.float64
    assert type(x[1:3].T) is npzfs.Array


@pytest.mark.parametrize("mode", ["r+", "w+", "x"])
def test_1_3_modes_that_write_are_refused(archive, mode):
    before = archive.read_bytes()
    with pytest.raises(ValueError, match="npzfs only reads"):
        npzfs.load(archive, mmap_mode=mode)
    assert archive.read_bytes() == before


@pytest.mark.parametrize("opener", [np.load, npzfs.load])
def test_1_3_so_is_an_encoding_that_numpy_refuses(archive, opener):
    with pytest.raises(ValueError, match="encoding must be"):
        opener(archive, encoding="utf-8")


def test_1_3_an_unknown_argument_is_refused(archive):
    with pytest.raises(TypeError):
        npzfs.load(archive, pickles=True)


@pytest.mark.parametrize("mode", ["r", None])
def test_1_4_object_arrays_are_refused_unless_they_are_allowed(source, mode):
    wanted = np.array([None, "text", (1, 2)], object)
    np.savez(source / "o.npz", o=wanted)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        npzfs.load(source / "o.npz", mode)["o"]
    assert npzfs.load(source / "o.npz", mode, allow_pickle=True)["o"].tolist() == wanted.tolist()


def test_1_4_so_they_are_with_names_of_fields_that_are_not_latin_1(source):
    with pytest.warns(UserWarning, match="format 3.0"):
        np.savez(source / "o.npz", o=np.array([(None,)], [("\u2030", object)]))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        npzfs.load(source / "o.npz")["o"]
    assert npzfs.load(source / "o.npz", allow_pickle=True)["o"].tolist() == [(None,)]


def test_1_5_a_member_that_is_no_array_is_its_bytes(source):
    with zipfile.ZipFile(source / "a.npz", "w") as out:
        out.writestr("notes.txt", "text")
        out.writestr("broken.npy", b"no header")
    with np.load(source / "a.npz") as wanted, npzfs.load(source / "a.npz") as z:
        for key in ("notes.txt", "broken"):
            assert z[key] == wanted[key]


LONG = "long" * 70
NAMES = ["/leading", "a//b", "a/b", "./c", "d/e", "../up", LONG, "\u00e9", "both", "both.npy/x"]


@pytest.mark.parametrize("mode", ["r", None])
def test_1_6_every_name_gives_its_array_though_some_have_no_map(source, mode):
    with zipfile.ZipFile(source / "a.npz", "w") as out:
        for number, name in enumerate(NAMES):
            out.writestr(f"{name}.npy", npy(np.full(3, number)))
    with np.load(source / "a.npz") as wanted, npzfs.load(source / "a.npz", mode) as z:
        assert z.files == wanted.files
        for key in z.files:
            assert z[key].tolist() == wanted[key].tolist(), key
        mapped = [key for key in z.files if isinstance(z[key], np.memmap)]
        without = {"a//b", "../up", "both", LONG} if mode == "r" else {*NAMES}
        assert mapped == [key for key in NAMES if key not in without]


def write_gzip(path, array):
    path.write_bytes(gzip.compress(npy(array)))


def test_1_7_a_gzipped_npy_gives_its_array(source):
    write_gzip(source / "a.npy.gz", rows())
    for mode in ("r", "c", None):
        same(npzfs.load(source / "a.npy.gz", mode), rows())
    assert isinstance(npzfs.load(source / "a.npy.gz"), npzfs.Array)


def test_1_7_a_gzipped_npy_beside_a_plain_one_is_decoded_into_memory(source):
    write_gzip(source / "a.npy.gz", rows())
    np.save(source / "a.npy", rows() + 1)
    same(npzfs.load(source / "a.npy.gz"), rows())
    same(npzfs.load(source / "a.npy"), rows() + 1)


def test_1_8_other_files_are_loaded_as_by_numpy(source):
    np.save(source / "a.npy", rows())
    same(npzfs.load(source / "a.npy"), rows())
    assert isinstance(npzfs.load(source / "a.npy"), np.memmap)
    assert type(npzfs.load(str(source / "a.npy"), None)) is np.ndarray
    (source / "a.pickle").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="allow_pickle"):
        npzfs.load(source / "a.pickle")
    assert npzfs.load(os.fsencode(source / "a.pickle"), allow_pickle=True) == [1]
    with pytest.raises(FileNotFoundError):
        npzfs.load(source / "none.npz")
    with pytest.raises(IsADirectoryError):
        npzfs.load(source)


def test_1_8_an_archive_with_another_name_cannot_be_mapped(archive, source):
    archive.rename(source / "a.zip")
    with pytest.raises(npzfs.Error, match=r"called \.npz") as raised:
        npzfs.load(source / "a.zip")
    assert raised.value.filename == str(source / "a.zip")
    same(npzfs.load(source / "a.zip", mmap_mode=None)["x"], rows())


@pytest.mark.parametrize("layout", ["replace", "beside", "stored"])
def test_1_9_a_path_in_a_mount_is_used_where_it_is(archive, layout):
    with npzfs.mount(archive.parent, layout=layout) as root:
        z = npzfs.load(root / "a.npz")
        assert sorted(z.files) == ["names", "x"]
        same(z["x"], rows())
        assert z["x"].filename.startswith(str(root))
        if layout == "replace":
            assert (z.zip, z.fid) == (None, None)
            same(npzfs.load(root / "a.npz/x.npy"), rows())


def test_1_9_a_directory_that_cannot_be_listed_is_an_error(archive, monkeypatch):
    def scandir(_):
        raise PermissionError

    with npzfs.mount(archive.parent) as root:
        monkeypatch.setattr(os, "scandir", scandir)
        with pytest.raises(PermissionError):
            npzfs.load(root / "a.npz")
        monkeypatch.undo()


def test_1_10_arrays_outlive_their_archive(archive):
    with npzfs.load(archive) as z:
        x = z["x"]
    same(x, rows())
    with pytest.raises(ValueError, match="closed"):
        z["x"]
    assert (z.zip, z.fid) == (None, None)


def test_1_11_a_file_that_has_just_been_saved_is_loaded(archive):
    for value in range(5):
        np.savez(archive, x=np.full(10, value))
        assert npzfs.load(archive)["x"].tolist() == [value] * 10
        np.savez(archive.with_name("next.npz"), x=np.full(10, -value))
        os.replace(archive.with_name("next.npz"), archive)
        assert npzfs.load(archive)["x"].tolist() == [-value] * 10


def test_1_12_links_lead_to_the_archive(archive, tmp_path):
    (tmp_path / "link.npz").symlink_to(archive)
    same(npzfs.load(tmp_path / "link.npz")["x"], rows())
    write_gzip(archive.with_name("g.npy.gz"), rows())
    (tmp_path / "link").symlink_to(archive.with_name("g.npy.gz"))
    same(npzfs.load(tmp_path / "link"), rows())
    assert npzfs.path(tmp_path / "link").name == "g.npy"


def test_1_12_two_dots_after_a_link_lead_to_the_directory_above_its_target(
    archive, tmp_path, monkeypatch
):
    """Not to that in which the link is, as they do in the text of the path."""
    write_gzip(archive.with_name("g.npy.gz"), rows())
    np.save(archive.with_name("b.npy"), rows())
    (archive.parent / "below").mkdir()
    (tmp_path / "link").symlink_to(archive.parent / "below")
    for name in ("a.npz", "g.npy.gz", "b.npy"):
        (tmp_path / name).write_bytes(b"another file")
    above = tmp_path / "link/.."
    arrays = [npzfs.load(above / name) for name in ("g.npy.gz", "b.npy")]
    for x in (*arrays, npzfs.load(above / "a.npz")["x"]):
        same(x, rows())
        same(pickle.loads(pickle.dumps(x)), rows())
    monkeypatch.chdir(tmp_path)
    same(npzfs.load("link/../a.npz")["x"], rows())
    assert npzfs.path(above / "a.npz", "x") == npzfs.path(archive, "x")
    with npzfs.mount(above) as root:
        same(np.load(root / "a.npz/x.npy"), rows())
