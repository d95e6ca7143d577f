"""Rules 4 of docs/python.md: what a damaged archive gives."""

import errno
import pickle
import signal
import struct
import zipfile

import npzfs
import numpy as np
import pytest
from arrays import same
from conftest import rows, start_python
from npzfs._errors import offset_in


def data_offset(path, name):
    """Where the data of a member starts, by its local header."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        info = archive.getinfo(name)
        file.seek(info.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
        return info.header_offset + 30 + name_length + extra_length


def damage(path, name, offset, new):
    with open(path, "r+b") as file:
        file.seek(data_offset(path, name) + offset)
        file.write(new)


@pytest.mark.parametrize("mode", ["r", "c", None])
def test_4_1_a_damaged_member_is_an_error_with_its_place(archive, mode):
    # A block of type 3 does not exist.
    damage(archive, "x.npy", 0, b"\x07")
    with npzfs.load(archive, mode) as z:
        with pytest.raises(npzfs.Damaged) as raised:
            z["x"]
        for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):
            assert isinstance(error, npzfs.Error)
            assert (error.path, error.member) == (str(archive), "x.npy")
            assert error.offset == 0
            assert error.message.startswith("corrupt: ")
            assert error.message in str(error)
        assert z["names"].tolist() == ["one", "two"]


def test_4_1_so_it_is_by_its_path_in_a_mount_and_for_shape_and_dtype(archive):
    damage(archive, "x.npy", 0, b"\x07")
    for call in (npzfs.shape, npzfs.dtype):
        with pytest.raises(npzfs.Damaged) as raised:
            call(archive, "x")
        assert (raised.value.path, raised.value.member) == (str(archive), "x.npy")
    member = npzfs.path(archive, "x")
    with pytest.raises(npzfs.Damaged) as raised:
        npzfs.load(member)
    assert (raised.value.path, raised.value.member) == (str(member), None)


def test_4_1_a_wrong_checksum_has_no_place(source):
    np.savez(source / "a.npz", x=rows())
    damage(source / "a.npz", "x.npy", 5000, b"\xff")
    with pytest.raises(npzfs.Damaged, match="CRC-32") as raised:
        npzfs.load(source / "a.npz")["x"]
    assert raised.value.offset is None
    assert npzfs.state(source / "a.npz", "x").startswith("corrupt: ")


STATES = {
    "corrupt: corrupt stream at byte 17 bit 3: block type 3": 17,
    "corrupt: the stream is cut off after 5 decoded bytes": 5,
    "corrupt: it ends after 7 of 9 decoded bytes": 7,
    "corrupt: zstd after 4096 decoded bytes: invalid": 4096,
    "corrupt: CRC-32 of decoded bytes 0..24 is c715039b, not 8ac60993": None,
    "corrupt: the stream decodes to 6 bytes, not 7": None,
}


@pytest.mark.parametrize("state", STATES)
def test_4_1_the_place_is_that_of_the_message(state):
    assert offset_in(state) == STATES[state]


def test_4_2_an_archive_that_cannot_be_read_has_its_state(archive):
    archive.write_bytes(archive.read_bytes()[:-10])
    for call in (npzfs.load, npzfs.path):
        with pytest.raises(npzfs.Damaged, match="no end of central directory") as raised:
            call(archive)
        found = raised.value
        assert (found.path, found.member, found.offset) == (str(archive), None, None)
    assert npzfs.state(archive).startswith("pending: ")


@pytest.mark.parametrize("content", [b"", bytes(1000), b"PK\x03\x04"])
@pytest.mark.parametrize("mode", ["r", "c"])
def test_4_2_so_has_a_file_called_npz_that_is_none(source, content, mode):
    (source / "a.npz").write_bytes(content)
    with pytest.raises(npzfs.Damaged) as raised:
        npzfs.load(source / "a.npz", mode)
    assert (raised.value.path, raised.value.member) == (str(source / "a.npz"), None)


# Of the first member, in its header and in the central directory: the flags, and the method.
REFUSED = {"encrypted": (6, 8, 9, errno.EACCES), "method 97": (8, 10, 97, errno.EOPNOTSUPP)}


@pytest.mark.parametrize("reason", REFUSED)
def test_4_3_a_member_that_cannot_be_decoded_is_refused(archive, reason):
    local, central, value, number = REFUSED[reason]
    data = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        start = opened.start_dir
    data[local] = data[start + central] = value
    archive.write_bytes(data)
    with npzfs.load(archive) as z:
        with pytest.raises(npzfs.Error, match=f"refused: {reason}") as raised:
            z["x"]
        assert (raised.value.errno, raised.value.filename) == (number, str(archive))
        assert z["names"].tolist() == ["one", "two"]
    with pytest.raises(npzfs.Error, match=f"refused: {reason}"):
        npzfs.shape(archive, "x")


def test_4_4_damage_that_a_map_meets_later_ends_the_process(source):
    """SIGBUS, as with any mapped file: no handler in Python can make an error of it."""
    array = np.random.default_rng(1).normal(size=1_000_000)
    np.savez_compressed(source / "a.npz", x=array)
    damage(source / "a.npz", "x.npy", 4_000_000, b"\xff" * 3000)
    text = """
import faulthandler, npzfs, numpy as np, sys
with npzfs.mount(sys.argv[1], verify="never") as root:
    x = npzfs.load(root / "a.npz")["x"]
    print(x[0], flush=True)
    x.sum()
"""
    process = start_python(text, source)
    out, _ = process.communicate(timeout=120)
    assert (out.strip(), process.returncode) == (str(array[0]), -signal.SIGBUS)


def test_4_4_a_mount_that_compares_first_has_the_error_instead(source):
    array = np.random.default_rng(1).normal(size=1_000_000)
    np.savez_compressed(source / "a.npz", x=array, y=array[:10])
    damage(source / "a.npz", "x.npy", 4_000_000, b"\xff" * 3000)
    with npzfs.mount(source, verify="always") as root, npzfs.load(root / "a.npz") as z:
        with pytest.raises(npzfs.Damaged):
            z["x"]
        same(z["y"], array[:10])
