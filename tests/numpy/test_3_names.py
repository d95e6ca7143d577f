"""Rules 3: names of members."""

import os
import struct
import subprocess
import zipfile
import zlib

import numpy as np
import pytest
import zipmaker
from mounting import poll, tree
from zipmaker import UTF8, Entry


def byte_tree(path):
    """The same as `tree`, with names as bytes."""
    return {os.fsencode(name): what for name, what in tree(path).items()}


def make(source, *names, flags=UTF8):
    """An archive whose members hold their own number."""
    entries = [Entry(name, b"%d" % n, flags=flags) for n, name in enumerate(names)]
    return zipmaker.write(source / "a.npz", entries)


def test_3_6_names_are_neutralised(source, mount):
    make(
        source,
        b"/absolute.npy",
        b"//twice.npy",
        b"./here.npy",
        b"a/./b//c.npy",
        b"/./d/./",
        b"...",
        b"..x",
        b" ",
    )
    assert tree(mount(source) / "a.npz") == {
        "absolute.npy": b"0",
        "twice.npy": b"1",
        "here.npy": b"2",
        "a/": "dir",
        "a/b/": "dir",
        "a/b/c.npy": b"3",
        "d/": "dir",
        "...": b"5",
        "..x": b"6",
        " ": b"7",
    }


UPWARD = [b"..", b"../up.npy", b"a/../b.npy", b"a/..", b"/.."]
LEFT_OUT = [*UPWARD, b"n\0ul", b"", b".", b"/", b"./", b"//./"]


@pytest.mark.parametrize("name", LEFT_OUT)
def test_3_6_names_that_mean_nothing_are_left_out(source, mount, name):
    make(source, b"good.npy", name)
    mnt = mount(source)
    assert tree(mnt.path) == {"a.npz/": "dir", "a.npz/good.npy": b"0"}
    assert not (mnt / "up.npy").exists()


def test_3_6_one_warning_for_one_generation(source, mount):
    make(source, b"good.npy", *LEFT_OUT)
    mnt = mount(source)
    for _ in range(3):
        assert tree(mnt / "a.npz") == {"good.npy": b"0"}
        os.stat(mnt / "a.npz")
    assert len(mnt.log_lines("a.npz")) == 1, mnt.log()
    make(source, b"better.npy", b"../up.npy")
    poll(lambda: os.listdir(mnt / "a.npz") == ["better.npy"], 2.5, "the new generation shows")
    assert tree(mnt / "a.npz") == {"better.npy": b"0"}
    assert len(mnt.log_lines("a.npz")) == 2, mnt.log()


def test_3_6_an_ordinary_archive_is_not_worth_a_warning(source, mount):
    np.savez(source / "a.npz", x=np.arange(3))
    mnt = mount(source)
    tree(mnt.path)
    assert mnt.log_lines("a.npz") == []


def test_3_6_names_that_become_equal_count_as_repeated(source, mount):
    make(source, b"/x.npy", b"x.npy", b"./y.npy", b"d//z", b"d/./z", b"/y.npy")
    assert tree(mount(source) / "a.npz") == {"x.npy": b"1", "y.npy": b"5", "d/": "dir", "d/z": b"4"}


def test_3_7_utf_8_names_and_others_keep_their_bytes(source, mount):
    names = ["h\u00e9.npy".encode(), b"\xff\xfe.npy", b"\xc3(\x80", "\u6570/\u7ec4.npy".encode()]
    make(source, *names)
    assert byte_tree(mount(source) / "a.npz") == {
        names[0]: b"0",
        b"\xff\xfe.npy": b"1",
        b"\xc3(\x80": b"2",
        "\u6570/".encode(): "dir",
        names[3]: b"3",
    }


def test_3_7_without_bit_11_names_are_cp437_as_in_zipfile(source, mount):
    # All bytes but NUL, `/`, and those that Python's zipfile cuts a name at.
    every_byte = bytes(set(range(1, 256)) - {ord("/")})
    pieces = [every_byte[at : at + 40] for at in range(0, 255, 40)]
    path = make(source, *(b"n" + piece for piece in pieces), flags=0)
    with zipfile.ZipFile(path) as archive:
        wanted = {name.encode() for name in archive.namelist()}
    assert "\u00e9".encode() in b"".join(wanted)
    assert set(byte_tree(mount(source) / "a.npz")) == wanted


def test_3_7_names_of_np_savez_in_any_script(source, mount):
    keys = ["\u03b1\u03b2", "\u6570\u7ec4", "\U0001f600", "caf\u00e9", "e\u0301"]
    np.savez(source / "a.npz", **{key: np.arange(3) for key in keys})
    mnt = mount(source)
    assert sorted(os.listdir(mnt / "a.npz")) == sorted(f"{key}.npy" for key in keys)
    for key in keys:
        assert np.array_equal(np.load(mnt / f"a.npz/{key}.npy"), np.arange(3))


def test_3_8_a_name_that_is_a_file_and_a_directory(source, mount):
    make(source, b"x", b"x/y.npy", b"deep/er/f", b"deep/er", b"e/", b"e")
    assert tree(mount(source) / "a.npz") == {
        "x/": "dir",
        "x/y.npy": b"1",
        "x.member": b"0",
        "deep/": "dir",
        "deep/er/": "dir",
        "deep/er/f": b"2",
        "deep/er.member": b"3",
        "e/": "dir",
        "e.member": b"5",
    }


def test_3_8_taken_names_are_counted_on(source, mount):
    make(source, b"x", b"x/y", b"x.member", b"z/1", b"z.member/2", b"z", b"z.member.2")
    assert tree(mount(source) / "a.npz") == {
        "x/": "dir",
        "x/y": b"1",
        "x.member": b"2",
        "x.member.2": b"0",
        "z/": "dir",
        "z/1": b"3",
        "z.member/": "dir",
        "z.member/2": b"4",
        "z.member.2": b"6",
        "z.member.3": b"5",
    }


def test_3_8_the_last_of_repeated_names_is_the_one_that_moves(source, mount):
    make(source, b"x", b"x/y", b"x")
    assert tree(mount(source) / "a.npz") == {"x/": "dir", "x/y": b"1", "x.member": b"2"}


def shortened(name, extension):
    tail = b"~%08x" % zlib.crc32(name) + extension
    return name[: 255 - len(tail)] + tail


@pytest.mark.parametrize("size", [255, 256, 257, 1000, 65_535])
@pytest.mark.parametrize("extension", [b".npy", b""])
def test_3_9_long_names_are_shortened(source, mount, size, extension):
    long = b"k" * (size - len(extension)) + extension
    other = b"k" * (size - len(extension) - 1) + b"j" + extension
    make(source, long, other, b"short")
    wanted = {b"short": b"2"}
    for number, name in enumerate((long, other)):
        shown = name if size <= 255 else shortened(name, extension)
        assert len(shown) == min(size, 255)
        wanted[shown] = b"%d" % number
    assert byte_tree(mount(source) / "a.npz") == wanted


def test_3_9_long_directories_are_shortened_too(source, mount):
    long = b"d" * 300
    make(source, long + b"/x", long + b"/y", b"a/" + b"e" * 255 + b"/z")
    assert byte_tree(mount(source) / "a.npz") == {
        shortened(long, b"") + b"/": "dir",
        shortened(long, b"") + b"/x": b"0",
        shortened(long, b"") + b"/y": b"1",
        b"a/": "dir",
        b"a/" + b"e" * 255 + b"/": "dir",
        b"a/" + b"e" * 255 + b"/z": b"2",
    }


def test_3_10_other_bytes_mean_nothing(source, mount):
    names = [b"back\\slash.npy", b"C:\\x.npy", b"new\nline", b"a:b*c?d", b"-rf", b"\x7f\x01", b"~"]
    make(source, *names)
    wanted = {name: b"%d" % number for number, name in enumerate(names)}
    assert byte_tree(mount(source) / "a.npz") == wanted


def unicode_path(name, shown, version=1, crc32=None):
    """An Info-ZIP Unicode Path field (APPNOTE 4.6.9)."""
    crc32 = zlib.crc32(name) if crc32 is None else crc32
    field = struct.pack("<BI", version, crc32) + shown
    return struct.pack("<HH", 0x7075, len(field)) + field


def test_3_7_unicode_path_fields(source, mount):
    fields = {
        b"plain 1": (unicode_path(b"plain 1", "\u540d\u524d".encode()), "\u540d\u524d"),
        b"plain 2": (unicode_path(b"plain 2", b"d/\xc3\xa9.npy"), "d/\u00e9.npy"),
        b"plain 3": (unicode_path(b"plain 3", b"wrong", version=2), "plain 3"),
        b"plain 4": (unicode_path(b"plain 4", b"wrong", crc32=1), "plain 4"),
        b"plain 5": (unicode_path(b"plain 5", b""), "plain 5"),
        b"plain 6": (unicode_path(b"plain 6", b"\xff"), "plain 6"),
        b"plain 7": (b"\x75\x70\x03\0\1\0\0", "plain 7"),
        b"plain 8": (b"\x75\x70\xff\0\1", "plain 8"),
        b"plain 9": (unicode_path(b"plain 9", b"first") + unicode_path(b"plain 9", b"2"), "2"),
    }
    entries = [Entry(name, name, extra=extra) for name, (extra, _) in fields.items()]
    path = zipmaker.write(source / "a.npz", entries)
    wanted = {shown: name for name, (_, shown) in fields.items()}
    shown = tree(mount(source) / "a.npz")
    assert shown.pop("d/") == "dir"
    assert shown == wanted
    # Which reads local headers, and refuses archives with fields that are cut short.
    for entry in entries:
        entry.local_extra = entry.extra
    path = zipmaker.write(source / "b.npz", [*entries[:2], entries[3]])
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    listed = subprocess.run(
        ["bsdtar", "-tf", path], capture_output=True, text=True, env=environment
    )
    names = listed.stdout.splitlines()
    assert set(names) == {"\u540d\u524d", "d/\u00e9.npy", "plain 4"}, listed
