"""Rules 4.4 and 4.6: what tools do with extended attributes."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import zipmaker
from arrays import npy
from mounting import in_child
from zipmaker import DEFLATED, Entry


def header(text):
    """A `.npy` of these header bytes and no data."""
    text = text.encode()
    return b"\x93NUMPY\2\0" + len(text).to_bytes(4, "little") + text


def dictionary(descr="'<f4'", shape="(0,)"):
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}")


def value(path, name):
    try:
        return os.getxattr(path, f"user.npzfs.{name}").decode()
    except OSError:
        return None


def test_4_4_long_headers(source, mount):
    fields = str([(f"field_{n}_of_three_thousand", "<f8") for n in range(3000)])
    axes = str((1,) * 64)
    contents = {
        "fields": dictionary(fields),
        "a long name": dictionary(f"[('{'n' * 100_000}', '<f8')]"),
        "axes": dictionary(shape=axes),
        "65 axes": dictionary(shape=str((1,) * 65)),
        "a mebibyte": dictionary(" " * (1 << 20) + "'<f4'"),
    }
    zipmaker.write(
        source / "a.npz", [Entry(n.encode() + b".npy", c, DEFLATED) for n, c in contents.items()]
    )
    mnt = mount(source)
    got = {n: [value(mnt / f"a.npz/{n}.npy", w) for w in ("dtype", "shape")] for n in contents}
    assert len(fields) > 64 << 10
    assert got == {
        "fields": [None, "(0,)"],
        "a long name": [None, "(0,)"],
        "axes": ["<f4", axes],
        "65 axes": [None, None],
        "a mebibyte": [None, None],
    }


@pytest.fixture
def odd(source):
    """Members called `.npy` that are no arrays, one with a very long dtype, and a good one."""
    fields = str([(f"f{n}", "<f8") for n in range(2000)])
    entries = [
        Entry(b"text.npy", b"no array"),
        Entry(b"empty.npy", b""),
        Entry(b"fields.npy", dictionary(fields), DEFLATED),
        Entry(b"good.npy", npy(np.arange(10)), DEFLATED),
    ]
    zipmaker.write(source / "a.npz", entries)
    return {entry.name.decode(): entry.data for entry in entries}


COMMANDS = {
    "rsync": ["rsync", "-aX"],
    "cp": ["cp", "-r", "--preserve=mode,timestamps,xattr"],
    "shutil": None,
}


@pytest.mark.parametrize("tool", COMMANDS)
def test_4_6_tools_copy_what_is_listed(source, mount, odd, tmp_path, tool):
    mnt = mount(source)
    if COMMANDS[tool]:
        subprocess.run([*COMMANDS[tool], f"{mnt.path}/", tmp_path / "copy"], check=True)
    else:
        shutil.copytree(mnt.path, tmp_path / "copy")
    found = {path.name: path.read_bytes() for path in (tmp_path / "copy").rglob("*.npy")}
    assert found == odd


def test_4_6_an_overlay_copies_a_member_up(source, mount, odd, tmp_path):
    mnt = mount(source)
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()

    def change():
        for name in odd:
            path = tmp_path / "merged/a.npz" / name
            path.chmod(0o640)
            with open(path, "ab") as file:
                file.write(b"more")
            assert path.read_bytes() == odd[name] + b"more"

    layers = f"lowerdir={mnt.path},upperdir={tmp_path / 'upper'},workdir={tmp_path / 'work'}"
    merged = tmp_path / "merged"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, merged], check=True)
    try:
        in_child(change)
    finally:
        subprocess.run(["umount", merged], check=True)
    for name, content in odd.items():
        assert (mnt / "a.npz" / name).read_bytes() == content
