"""Rules 17: members as files beside their archive, as loaders want them that unpack archives."""

import errno
import os
import pickle
import shutil
import stat

import numpy as np
import pytest
import zipmaker
from arrays import every_dtype, npy, same
from mounting import errno_of, in_child, poll, state, tree
from test_2_gzip import gz
from test_7_memory import MIB, large_archive
from zipmaker import DEFLATED, Entry

FLAT = ("--layout", "flat")
NNUNET = (*FLAT, "--flat-name", "data={stem}.npy")


def entries(**members):
    """Entries of an archive: `x=b"..."` is the member x.npy."""
    return [Entry(key.encode() + b".npy", data, DEFLATED) for key, data in members.items()]


def files(mnt):
    """Everything that the mount shows but the archives."""
    return {name: what for name, what in tree(mnt.path).items() if not name.endswith(".npz")}


def agrees(mnt, count):
    """Asserts that each listing has `count` names, each once, and that lookups find them."""
    names = os.listdir(mnt.path)
    assert len(names) == len(set(names)) == count
    scanned = list(os.scandir(mnt.path))
    assert sorted(entry.name for entry in scanned) == sorted(names)
    for entry in scanned:
        found = os.lstat(mnt / entry.name)
        assert entry.is_file(follow_symlinks=False) == stat.S_ISREG(found.st_mode)


def test_17_1_members_stand_beside_their_archive(source, mount):
    (source / "d").mkdir()
    arrays = every_dtype()
    np.savez_compressed(source / "d/a.npz", **arrays)
    mnt = mount(source, *FLAT)
    names = [f"a_{key}.npy" for key in arrays]
    assert sorted(os.listdir(mnt / "d")) == sorted([*names, "a.npz"])
    with np.load(source / "d/a.npz") as original:
        for key in arrays:
            same(np.load(mnt / f"d/a_{key}.npy"), original[key])
    assert errno_of(os.stat, mnt / "d/a.npz.d") == errno.ENOENT
    assert errno_of(os.stat, mnt / "d/a_none.npy") == errno.ENOENT
    assert errno_of(os.stat, mnt / "a_x.npy") == errno.ENOENT


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ([], {"a_x.npy", "a_y.npy"}),
        (["{key} of {stem}"], {"x of a", "y of a"}),
        (["{stem}{key}"], {"ax", "ay"}),
        (["x={stem}.npy"], {"a.npy", "a_y.npy"}),
        (["x={stem}.npy", "y={stem}-{key}.npy", "{key}{stem}"], {"a.npy", "a-y.npy"}),
        (["x=1{stem}", "x=2{stem}", "{stem}.{key}", "{key}.{stem}"], {"2a", "y.a"}),
    ],
)
def test_17_1_the_names_follow_the_template(source, mount, options, wanted):
    zipmaker.write(source / "a.npz", entries(x=b"1", y=b"2"))
    mnt = mount(source, *FLAT, *(f"--flat-name={option}" for option in options))
    assert set(files(mnt)) == wanted
    agrees(mnt, 3)


def nnunet_cases(folder, count):
    """Preprocessed cases as nnU-Net saves them; returns the arrays of each."""
    draw = np.random.default_rng(1)
    cases = {}
    for number in range(count):
        name = f"case_{number:03}"
        data = draw.normal(size=(2, 30, 40, 50)).astype("f4")
        seg = draw.integers(-1, 3, (1, 30, 40, 50)).astype("i1")
        np.savez_compressed(folder / f"{name}.npz", data=data, seg=seg)
        (folder / f"{name}.pkl").write_bytes(pickle.dumps({"spacing": (1, 1, number)}))
        cases[name] = (data, seg)
    return cases


def read_with_nnunet(folder, before):
    """In a child: what nnU-Net's data set gives, after the unpacking that comes before training.

    Both are nnU-Net's own code, which needs no torch for this.
    """
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetNumpy
    from nnunetv2.training.dataloading.utils import _convert_to_npy

    # What unpack_dataset has its processes do.
    for name in sorted(os.listdir(folder)):
        if name.endswith(".npz"):
            _convert_to_npy(os.path.join(folder, name), True, False, True)
    dataset = nnUNetDatasetNumpy(folder, folder_with_segs_from_previous_stage=before)
    found = {}
    for name in dataset.identifiers:
        data, seg, previous, properties = dataset[name]
        is_mapped = isinstance(data, np.memmap) and isinstance(seg, np.memmap)
        found[name] = (np.array(data), np.array(seg), np.array(previous), properties, is_mapped)
    return found


def test_17_1_nnunet_maps_the_cases_and_unpacks_none(source, mount):
    for folder in ("now", "before"):
        (source / folder).mkdir()
    cases = nnunet_cases(source / "now", 3)
    for name, (_, seg) in cases.items():
        np.savez_compressed(source / f"before/{name}.npz", seg=seg + 1)
    mnt = mount(source, *NNUNET)
    found = in_child(read_with_nnunet, str(mnt / "now"), str(mnt / "before"))
    assert sorted(found) == sorted(cases)
    for number, (name, (data, seg)) in enumerate(cases.items()):
        got_data, got_seg, previous, properties, is_mapped = found[name]
        assert is_mapped
        same(got_data, data)
        same(got_seg, seg)
        same(previous, seg + 1)
        assert properties == {"spacing": (1, 1, number)}
    assert not list(source.glob("*/*.npy"))


def test_17_2_the_archive_is_a_file_with_its_members_decoded(source, mount):
    (source / "not.npz").write_bytes(b"not a zip")
    odd = [Entry(b"dir/x.npy", b"1"), Entry(b"notes.txt", b"2"), *entries(x=b"3")]
    zipmaker.write(source / "a.npz", odd)
    flat, stored = mount(source, *FLAT), mount(source, "--layout", "stored")
    for name in ("a.npz", "not.npz"):
        assert (flat / name).read_bytes() == (stored / name).read_bytes()
        assert os.stat(flat / name).st_ino == os.stat(stored / name).st_ino
        assert state(flat / name) == state(stored / name)
    assert sorted(np.load(flat / "a.npz").files) == ["dir/x", "notes.txt", "x"]


def test_17_3_what_is_no_file(source, mount):
    long = b"l" * 250
    members = [b"x.npy", b"dir/x.npy", b"notes.txt", b"noext", long + b".npy", b"kept/", b"kept"]
    for name in ("a.npz", "UP.NPZ", "...npz", "..npz"):
        zipmaker.write(source / name, [Entry(member, b"bytes") for member in members])
    (source / "link.npz").symlink_to("a.npz")
    mnt = mount(source, *FLAT, "--flat-name", "x={stem}")
    assert files(mnt) == {"UP.NPZ": (mnt / "UP.NPZ").read_bytes(), "a": b"bytes"}
    # The shortest stem leaves room for the long key.
    mnt = mount(source, *FLAT, "--flat-name", "{stem}{key}.npy")
    names = {b"a" + long + b".npy", b"." + long + b".npy"}
    shown = set(os.listdir(os.fsencode(mnt.path)))
    assert names <= shown
    assert b".." + long + b".npy" not in shown
    assert {b"ax.npy", b".x.npy", b"..x.npy", b"UP.NPZ"} <= shown
    agrees(mnt, 5 + 5)


@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "npy.gz"])
def test_17_4_a_name_of_the_source_wins(source, mount, kind):
    zipmaker.write(source / "a.npz", entries(x=b"x", y=b"y"))
    real = source / "a_x.npy"
    if kind == "file":
        real.write_bytes(b"real")
        wanted = {"a_x.npy": b"real"}
    elif kind == "directory":
        real.mkdir()
        wanted = {"a_x.npy/": "dir"}
    elif kind == "symlink":
        real.symlink_to("nowhere")
        wanted = {"a_x.npy": "-> nowhere"}
    else:
        array = np.arange(5)
        real = source / "a_x.npy.gz"
        real.write_bytes(gz(npy(array)))
        wanted = {"a_x.npy.gz": real.read_bytes()}
    mnt = mount(source, *FLAT, "--ttl", "0")
    shown = files(mnt)
    if kind == "npy.gz":
        same(np.load(mnt / "a_x.npy"), array)
        del shown["a_x.npy"]
    assert shown == wanted | {"a_y.npy": b"y"}
    agrees(mnt, 4 if kind == "npy.gz" else 3)
    real.rmdir() if kind == "directory" else real.unlink()
    assert files(mnt) == {"a_x.npy": b"x", "a_y.npy": b"y"}


def test_17_5_of_two_members_of_one_name_one_is_shown(source, mount):
    zipmaker.write(source / "a.npz", entries(b_c=b"short", b_d=b"only"))
    zipmaker.write(source / "a_b.npz", entries(c=b"long"))
    mnt = mount(source, *FLAT, "--ttl", "0")
    assert files(mnt) == {"a_b_c.npy": b"long", "a_b_d.npy": b"only"}
    agrees(mnt, 4)
    (source / "a_b.npz").unlink()
    assert files(mnt) == {"a_b_c.npy": b"short", "a_b_d.npy": b"only"}


def test_17_5_of_two_members_of_one_archive_the_one_with_its_own_template(source, mount):
    zipmaker.write(source / "a.npz", entries(y=b"y", x=b"x", z=b"z"))
    names = ("--flat-name", "z={stem}_y.npy", "--flat-name", "x={stem}_y.npy")
    mnt = mount(source, *FLAT, *names)
    assert files(mnt) == {"a_y.npy": b"z"}
    agrees(mnt, 2)


def test_17_6_many_archives_are_listed_once_and_agree_with_lookups(source, mount):
    zipmaker.write(source / "0.npz", entries(x=b"x bytes", y=b"y bytes"))
    for number in range(1, 700):
        os.link(source / "0.npz", source / f"{number}.npz")
    for number in range(500):
        (source / f"case_{number}_x.npy").touch()
    mnt = mount(source, *FLAT)
    agrees(mnt, 700 * 3 + 500)
    assert (mnt / "699_y.npy").read_bytes() == b"y bytes"


def test_17_6_an_archive_that_needs_too_much_memory_does_not_hide_the_others(source, mount):
    large_archive(source / "large.npz", 1_000_000)
    np.savez(source / "good.npz", x=np.arange(100))
    mnt = mount(source, *FLAT, "--memory-limit", "64M")
    for _ in range(3):
        names = sorted(entry.name for entry in os.scandir(mnt.path))
        assert names == ["good.npz", "good_x.npy", "large.npz"]
        assert errno_of(os.stat, mnt / "large_00000001.npy") == errno.ENOMEM
    same(in_child(np.load, mnt / "good_x.npy"), np.arange(100))
    assert len(mnt.log_lines("large.npz", "not listed")) == 1
    assert mnt.peak_memory() < 96 * MIB


def test_17_7_attributes_and_numbers_are_those_of_the_member(source, mount):
    np.savez_compressed(source / "a.npz", x=np.arange(1000), y=np.zeros((3, 4), "f4"))
    (source / "a.npz").chmod(0o640)
    flat, stored = mount(source, *FLAT), mount(source, "--layout", "stored")
    for key in "xy":
        one, other = flat / f"a_{key}.npy", stored / f"a.npz.d/{key}.npy"
        wanted, found = os.stat(other), os.stat(one)
        for field in ("st_mode", "st_ino", "st_size", "st_blocks", "st_mtime_ns", "st_uid"):
            assert getattr(found, field) == getattr(wanted, field), field
        assert os.listxattr(one) == os.listxattr(other)
        for name in [*os.listxattr(one), "user.npzfs.dtype", "user.npzfs.shape"]:
            assert os.getxattr(one, name) == os.getxattr(other, name)


def test_17_7_damage_is_that_of_the_member(source, mount):
    good, bad = os.urandom(3000), os.urandom(3000)
    entry = Entry(b"bad.npy", bad, crc32=1)
    zipmaker.write(source / "a.npz", [*entries(good=good), entry])
    mnt = mount(source, *FLAT)
    assert errno_of(open, mnt / "a_bad.npy") == errno.EIO
    assert state(mnt / "a_bad.npy").startswith("corrupt: ")
    assert (mnt / "a_good.npy").read_bytes() == good


def test_17_7_the_files_come_and_go_with_the_archive(source, mount):
    content = zipmaker.write(source / "whole", entries(x=b"x bytes")).read_bytes()
    mnt = mount(source, *FLAT, "--ttl", "0.1")
    with open(source / "a.npz", "wb") as archive:
        archive.write(content[:20])
        archive.flush()
        assert poll(lambda: (mnt / "a.npz").exists(), 5, "the raw file")
        assert state(mnt / "a.npz").startswith("pending: ")
        assert errno_of(os.stat, mnt / "a_x.npy") == errno.ENOENT
        assert sorted(os.listdir(mnt.path)) == ["a.npz", "whole"]
        archive.write(content[20:])
    shown = ["a.npz", "a_x.npy", "whole"]
    assert poll(lambda: sorted(os.listdir(mnt.path)) == shown, 5, "the member")
    assert poll(lambda: os.path.exists(mnt / "a_x.npy"), 5, "the member")
    assert (mnt / "a_x.npy").read_bytes() == b"x bytes"
    os.truncate(source / "a.npz", 20)
    assert poll(lambda: sorted(os.listdir(mnt.path)) == ["a.npz", "whole"], 5, "it goes")
    assert poll(lambda: not os.path.exists(mnt / "a_x.npy"), 5, "it goes")


def test_17_7_a_new_generation_is_a_new_file(source, mount):
    mnt = mount(source, *FLAT, "--ttl", "0")
    for size in (1000, 2000):
        np.savez_compressed(source / "new.npz", x=np.full(size, size))
        shutil.move(source / "new.npz", source / "a.npz")
        number = os.stat(mnt / "a_x.npy").st_ino
        same(np.load(mnt / "a_x.npy"), np.full(size, size))
        if size == 1000:
            old, first = np.load(mnt / "a_x.npy", mmap_mode="r"), number
    assert number != first
    same(np.array(old), np.full(1000, 1000))
    np.savez_compressed(source / "a.npz", x=np.full(5000, 3))
    same(np.load(mnt / "a_x.npy"), np.full(5000, 3))
    assert os.stat(mnt / "a_x.npy").st_ino not in (first, number)
