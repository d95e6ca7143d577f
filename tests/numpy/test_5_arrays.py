"""Rules 5: what NumPy loads."""

import errno
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
import zipmaker
from arrays import every_dtype, npy, same
from mounting import errno_of, in_child
from zipmaker import DEFLATED, STORED, Entry, Hole

ARRAYS = every_dtype()
SAVERS = {"savez": np.savez, "savez_compressed": np.savez_compressed}


@pytest.fixture(scope="module")
def dtypes(shared):
    """A mount with an archive of each kind that holds all of ARRAYS; keys are numbers."""
    source, mount = shared
    for name, save in SAVERS.items():
        save(source / f"{name}.npz", **{str(n): array for n, array in enumerate(ARRAYS.values())})
    (source / "native").mkdir()
    for number, array in enumerate(ARRAYS.values()):
        np.save(source / f"native/{number}.npy", array)
    return mount(source)


@pytest.mark.parametrize("mmap_mode", [None, "r", "c"])
@pytest.mark.parametrize("saver", SAVERS)
def test_5_1_every_dtype_loads_as_from_the_archive(dtypes, saver, mmap_mode):
    with np.load(dtypes.source / f"{saver}.npz") as archive:
        for number, name in enumerate(ARRAYS):
            wanted = archive[str(number)]
            got = np.load(dtypes / f"{saver}.npz/{number}.npy", mmap_mode=mmap_mode)
            try:
                same(got, wanted)
            except AssertionError as error:
                raise AssertionError(name) from error
            assert isinstance(got, np.memmap) == (mmap_mode is not None), name


@pytest.mark.parametrize("saver", SAVERS)
def test_5_1_every_member_is_the_file_that_np_save_writes(dtypes, saver):
    for number, name in enumerate(ARRAYS):
        native = (dtypes.source / f"native/{number}.npy").read_bytes()
        assert (dtypes / f"{saver}.npz/{number}.npy").read_bytes() == native, name


def test_5_1_plain_npys_load_too(dtypes):
    for number, name in enumerate(ARRAYS):
        for mmap_mode in (None, "r", "c"):
            wanted = np.load(dtypes.source / f"native/{number}.npy", mmap_mode=mmap_mode)
            got = np.load(dtypes / f"native/{number}.npy", mmap_mode=mmap_mode)
            assert got.tobytes() == wanted.tobytes(), name


@pytest.mark.parametrize("saver", SAVERS)
def test_5_1_slices_of_a_memory_map(source, mount, saver):
    array = np.random.default_rng(1).normal(size=(20_000, 64)).astype("f4")
    SAVERS[saver](source / "a.npz", x=array, y=np.asfortranarray(array))
    mnt = mount(source)
    for key in "xy":
        mapped = np.load(mnt / f"a.npz/{key}.npy", mmap_mode="r")
        for part in (np.s_[::997], np.s_[:, 3], np.s_[-5:], np.s_[5:9, ::7], np.s_[::-1000]):
            assert np.array_equal(mapped[part], array[part])
        rows = np.random.default_rng(2).integers(0, len(array), 500)
        assert np.array_equal(mapped[rows], array[rows])
        assert np.float64(mapped.sum(dtype="f8")) == np.asarray(mapped).sum(dtype="f8")
        assert np.array_equal(mapped, array)


def test_5_1_other_ways_to_load(source, mount):
    array = np.arange(10_000, dtype="<i4").reshape(100, 100)
    np.savez_compressed(source / "a.npz", x=array)
    path = mount(source) / "a.npz/x.npy"
    same(np.load(str(path)), array)
    with open(path, "rb") as file:
        same(np.load(file), array)
    same(np.array(np.lib.format.open_memmap(path, mode="r")), array)
    same(np.array(np.memmap(path, "<i4", "r", 128, (100, 100))), array)
    same(np.fromfile(path, "<i4", offset=128).reshape(100, 100), array)
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        same(np.load("x.npy", mmap_mode="r"), array)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("saver", SAVERS)
def test_5_2_object_arrays(source, mount, saver):
    objects = np.array([{"a": [1, 2]}, None, "text", 3.5], dtype=object)
    SAVERS[saver](source / "a.npz", x=objects)
    path = mount(source) / "a.npz/x.npy"
    got = np.load(path, allow_pickle=True)
    assert got.dtype == object
    assert got.tolist() == objects.tolist()
    with pytest.raises(ValueError, match="allow_pickle=False"):
        np.load(path)
    with pytest.raises(ValueError, match="can't be memory-mapped"):
        np.load(path, mmap_mode="r", allow_pickle=True)


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("mmap_mode", [None, "r", "c"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_5_3_every_version_of_the_format(source, mount, version, mmap_mode, method):
    fields = [("\u00e9" if version < (3, 0) else "\u6570", "<i4"), ("b", "<f8")]
    arrays = [np.arange(24.0).reshape(2, 3, 4), np.ones(5, fields)]
    if version < (3, 0):
        arrays[1] = np.ones(5, [("a", "<i4")])
    entries = [Entry(b"%d.npy" % n, npy(array, version), method) for n, array in enumerate(arrays)]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)
    for number, array in enumerate(arrays):
        same(np.load(mnt / f"a.npz/{number}.npy", mmap_mode=mmap_mode), array)


def padded(array, alignment):
    """A version 1.0 file whose data starts at a multiple of `alignment`, as writers before 2018."""
    text = f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': {array.shape}, }}"
    size = 10 + len(text) + 1
    text += " " * (-size % alignment) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + array.tobytes()


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("mmap_mode", [None, "r", "c"])
@pytest.mark.parametrize("alignment", [1, 16, 4096])
def test_5_3_every_alignment_of_the_data(source, mount, alignment, mmap_mode, method):
    array = np.arange(1000.0)
    content = padded(array, alignment)
    zipmaker.write(source / "a.npz", [Entry(b"x.npy", content, method)])
    path = mount(source) / "a.npz/x.npy"
    got = np.load(path, mmap_mode=mmap_mode)
    assert np.array_equal(got, array)


@pytest.mark.parametrize("mmap_mode", ["r", "c"])
def test_5_4_a_stored_member_over_4_gib(source, mount, mmap_mode):
    rows = (4 << 30) // 4096 + 100
    header = npy(np.zeros((0, 1024), "<f4")).replace(b"(0, 1024)", b"(%d, 1024)" % rows)
    header = header.replace(b" " * (len(str(rows)) - 1) + b"\n", b"\n")
    assert len(header) == 128
    marks = {5: 1.5, rows // 2: 2.5, 1_048_575: 3.5, 1_048_576: 4.5, rows - 1: 5.5}
    pieces, at = [header], 0
    for row, mark in sorted(marks.items()):
        pieces += [Hole((row - at) * 4096), np.full(1024, mark, "<f4").tobytes()]
        at = row + 1
    size = 128 + rows * 4096
    entries = [
        # A CRC-32 that is not checked: reading it all would take its time.
        Entry(b"big.npy", encoded=pieces, size=size, crc32=1, zip64=True),
        Entry(b"after.npy", npy(np.arange(9))),
    ]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)
    assert os.stat(mnt / "a.npz/big.npy").st_size == size
    mapped = np.load(mnt / "a.npz/big.npy", mmap_mode=mmap_mode)
    assert mapped.shape == (rows, 1024)
    for row, mark in marks.items():
        assert (mapped[row] == mark).all()
        assert not mapped[row - 1].any() or row - 1 in marks
    same(np.load(mnt / "a.npz/after.npy"), np.arange(9))


@pytest.mark.slow
def test_5_4_a_deflated_member_over_4_gib(source, mount):
    # 256 MiB of rows, each with its number, and 4 GiB of zeros: seconds to decode.
    rows, zeros = 1 << 16, 4 << 30
    numbered = np.repeat(np.arange(rows, dtype="<u4"), 1024).tobytes()
    chunk = bytes(1 << 24)
    header = npy(np.zeros((0, 1024), "<u4"))
    total = rows + zeros // 4096
    header = header.replace(b"(0, 1024)", b"(%d, 1024)" % total)
    header = header.replace(b" " * (len(str(total)) - 1) + b"\n", b"\n")
    pieces = list(zipmaker.deflate_pieces([header, *[chunk] * (zeros >> 24), numbered]))
    crc32 = zipmaker.crc32_combine(
        zipmaker.crc32_combine(zlib.crc32(header), zipmaker.crc32_of_zeros(zeros), zeros),
        zlib.crc32(numbered),
        len(numbered),
    )
    size = len(header) + zeros + len(numbered)
    entry = Entry(b"big.npy", method=DEFLATED, encoded=pieces, size=size, crc32=crc32, zip64=True)
    zipmaker.write(source / "a.npz", [entry])
    mnt = mount(source)
    mapped = np.load(mnt / "a.npz/big.npy", mmap_mode="r")
    for row in (0, 1 << 20, total - rows - 1, total - rows, total - 1000, total - 1):
        number = max(0, row - (total - rows))
        assert (mapped[row] == number).all(), row
    assert mnt.peak_memory() < 160 << 20


def test_5_5_changes_of_a_private_map_stay_private(source, mount):
    np.savez(source / "a.npz", x=np.arange(100_000))
    before = (source / "a.npz").read_bytes()
    mnt = mount(source)
    private = np.load(mnt / "a.npz/x.npy", mmap_mode="c")
    private[::7] = -1
    assert private[7] == -1
    assert private[8] == 8
    same(np.load(mnt / "a.npz/x.npy"), np.arange(100_000))
    assert np.load(mnt / "a.npz/x.npy", mmap_mode="r")[7] == 7
    assert (source / "a.npz").read_bytes() == before


def load_key(path, key):
    with np.load(path) as archive:
        return archive[key].sum()


def test_5_10_np_load_of_the_archive_itself_needs_beside(source, mount):
    np.savez(source / "a.npz", x=np.arange(100))
    mnt = mount(source)
    assert errno_of(np.load, mnt / "a.npz") == errno.EISDIR
    beside = mount(source, "--layout", "beside")
    assert in_child(load_key, beside / "a.npz", "x") == 4950
    same(np.load(beside / "a.npz.d/x.npy", mmap_mode="r"), np.arange(100))
    with zipfile.ZipFile(beside / "a.npz") as archive:
        assert archive.testzip() is None
