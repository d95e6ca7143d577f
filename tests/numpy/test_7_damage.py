"""Rules 7: archives that are unfinished, damaged, or made to do harm."""

import errno
import mmap
import os
import random
import signal
import struct
import zipfile
import zlib

import numpy as np
import pytest
import zipmaker
from arrays import npy, same
from mounting import Ended, errno_of, in_child, poll, state, tree
from zipmaker import BZIP2, DEFLATED, LZMA, STORED, XZ, ZSTD, Entry

SOON = 2.5

NO_END = "pending: no end of central directory record"


def good_archive(path):
    """Archives and files of every kind."""
    np.savez(path, x=np.arange(100), y=np.eye(3))
    return path.read_bytes()


def not_archives(directory):
    good = good_archive(directory / "good.npz")
    (directory / "good.npz").unlink()
    return {
        "empty": (b"", "pending: "),
        "text": (b"this is no zip\n" * 99, "pending: "),
        "zeros": (bytes(100_000), "pending: "),
        "half": (good[: len(good) // 2], "pending: "),
        "no end record": (good[:-22], "pending: "),
        "end record cut": (good[:-1], "pending: "),
        "an npy": (npy(np.arange(3)), "pending: "),
        "directory overwritten": (
            good.replace(b"PK\1\2", b"XX\1\2"),
            "corrupt: ",
        ),
        "directory beyond the file": (zipmaker.end_record(1, 46, 1 << 30), "corrupt: "),
    }


@pytest.mark.parametrize("layout", ["replace", "beside"])
def test_7_1_what_is_no_zip_is_a_plain_file_that_says_why(source, mount, layout):
    cases = not_archives(source)
    for name, (content, _) in cases.items():
        (source / f"{name}.npz").write_bytes(content)
    mnt = mount(source, "--layout", layout)
    assert tree(mnt.path) == {f"{name}.npz": content for name, (content, _) in cases.items()}
    for name, (_, wanted) in cases.items():
        path = mnt / f"{name}.npz"
        assert state(path).startswith(wanted), (name, state(path))
        assert len(state(path)) > len(wanted)
        assert os.listxattr(path) == ["user.npzfs.state"]
        assert os.stat(path).st_size == os.stat(source / f"{name}.npz").st_size
    assert state(mnt / "text.npz") == state(mnt / "empty.npz") == state(mnt / "half.npz") == NO_END


def test_7_1_an_archive_nobody_may_read_is_a_plain_file(source, mount):
    good_archive(source / "a.npz")
    os.truncate(source / "a.npz", 100)
    os.chmod(source / "a.npz", 0)
    mnt = mount(source)
    assert os.lstat(mnt / "a.npz").st_mode == 0o100000


def test_7_2_a_pending_archive_becomes_a_directory(source, mount):
    good = good_archive(source / "a.npz")
    os.remove(source / "a.npz")
    mnt = mount(source)
    with open(source / "a.npz", "wb") as out:
        for at in range(0, len(good), 200):
            out.write(good[at : at + 200])
            out.flush()
            if at + 200 < len(good):
                poll(lambda at=at: (mnt / "a.npz").read_bytes() == good[: at + 200], SOON, "grows")
                assert state(mnt / "a.npz") == NO_END
    poll((mnt / "a.npz").is_dir, SOON, "it becomes a directory")
    same(np.load(mnt / "a.npz/x.npy", mmap_mode="r"), np.arange(100))
    kinds = {entry.name: entry.is_dir() for entry in os.scandir(mnt.path)}
    assert kinds["a.npz"]


def test_7_2_a_listing_follows_what_becomes_an_archive(source, mount):
    """Keeps the mtime of the directory: if it changed, the kernel itself would drop the listing."""
    good = good_archive(source / "a.npz")
    (source / "a.npz").write_bytes(good[:200])
    mnt = mount(source)

    def is_listed_as_directory():
        with os.scandir(mnt.path) as entries:
            [entry] = entries
            return entry.is_dir(follow_symlinks=False)

    assert (mnt / "a.npz").is_file()
    assert not is_listed_as_directory()
    with open(source / "a.npz", "ab") as file:
        file.write(good[200:])
    poll(is_listed_as_directory, SOON, "it is listed as a directory")


def test_7_2_a_corrupt_archive_is_repaired_and_broken_again(source, mount):
    good = good_archive(source / "a.npz")
    mnt = mount(source)
    for _ in range(2):
        (source / "a.npz").write_bytes(good.replace(b"PK\1\2", b"XX\1\2"))
        poll((mnt / "a.npz").is_file, SOON, "it becomes a file")
        assert state(mnt / "a.npz").startswith("corrupt: ")
        assert errno_of(os.stat, mnt / "a.npz/x.npy") == errno.ENOTDIR
        (source / "a.npz").write_bytes(good)
        poll((mnt / "a.npz").is_dir, SOON, "it becomes a directory")
        same(np.load(mnt / "a.npz/x.npy"), np.arange(100))


def test_7_3_truncated_at_any_length(source, mount):
    good = good_archive(source / "a.npz")
    os.remove(source / "a.npz")
    lengths = sorted({*range(0, len(good), 13), *range(len(good) - 60, len(good))})
    for length in lengths:
        (source / f"{length}.npz").write_bytes(good[:length])
    mnt = mount(source)
    assert tree(mnt.path) == {f"{length}.npz": good[:length] for length in lengths}


def test_7_3_an_end_record_after_data_that_is_cut(source, mount):
    entries = [Entry(b"x", noise(100_000), DEFLATED), Entry(b"y", noise(1000), DEFLATED)]
    good = zipmaker.write(source / "a.npz", entries).read_bytes()
    central = good.index(b"PK\1\2")
    for cut in (1, 10, 1000, 50_000, central):
        (source / f"{cut}.npz").write_bytes(good[: central - cut] + good[central:])
    mnt = mount(source)
    contents = {entry.name.decode(): entry.data for entry in entries}
    for cut in (1, 10, 1000, 50_000, central):
        path = mnt / f"{cut}.npz"
        if path.is_file():
            assert state(path).startswith("corrupt: ")
            continue
        for name, content in contents.items():
            try:
                assert (path / name).read_bytes() == content
            except OSError as error:
                assert error.errno == errno.EIO


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


BAD_LOCAL_HEADERS = {
    "signature": Entry(b"x", b"12345", local={"signature": b"PK\3\5"}),
    "another name": Entry(b"x", b"12345", local={"name": b"y"}),
    "another method": Entry(b"x", b"12345", local={"method": DEFLATED}),
    "a name beyond the file": Entry(b"x", b"12345", local={"name_length": 65_535}),
    "extra beyond the file": Entry(b"x", b"12345", local={"extra_length": 65_535}),
    "offset in the central directory": Entry(b"x", b"12345", header_offset=120),
    "offset beyond the file": Entry(b"x", b"12345", header_offset=1 << 30),
    "data beyond the central directory": Entry(b"x", b"12345", encoded_size=60, size=60),
    "data beyond the file": Entry(b"x", b"12345", encoded_size=1 << 30, size=1 << 30),
    "deflated beyond the file": Entry(b"x", b"12345", DEFLATED, encoded_size=1 << 30),
}


@pytest.mark.parametrize("damage", BAD_LOCAL_HEADERS)
def test_7_4_a_corrupt_local_header_is_eio_at_open(source, mount, damage):
    entries = [BAD_LOCAL_HEADERS[damage], Entry(b"good", b"good")]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)
    path = mnt / "a.npz/x"
    if damage.startswith("offset") and (mnt / "a.npz").is_file():
        assert state(mnt / "a.npz").startswith("corrupt: ")
        return
    for _ in range(2):
        assert errno_of(open, path, "rb") == errno.EIO
    assert state(path).startswith("corrupt: ")
    assert state(path).count("corrupt") == 1
    assert mnt.log_lines("a.npz", "x")
    assert (mnt / "a.npz/good").read_bytes() == b"good"


def test_7_4_stored_sizes_that_disagree(source, mount):
    entries = [Entry(b"x", b"12345", size=50), Entry(b"y", b"12345", size=3), Entry(b"z", b"1")]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)
    for name in "xy":
        assert errno_of(open, mnt / f"a.npz/{name}", "rb") == errno.EIO
    assert (mnt / "a.npz/z").read_bytes() == b"1"


@pytest.mark.parametrize("method", [STORED, DEFLATED, ZSTD])
def test_7_4_an_empty_member_with_a_crc(source, mount, method):
    entries = [Entry(b"x", b"", method, crc32=1), Entry(b"good", b"", method)]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)
    assert errno_of(open, mnt / "a.npz/x", "rb") == errno.EIO
    assert (mnt / "a.npz/good").read_bytes() == b""


def bad_block():
    """A stream that is valid, then has a block of the reserved type; and the valid bytes."""
    good = b"".join(bytes([seed % 251]) * 1000 + noise(3096, seed) for seed in range(500))
    coder = zlib.compressobj(6, zlib.DEFLATED, -15)
    encoded = coder.compress(good) + coder.flush(zlib.Z_FULL_FLUSH)
    return good, encoded + b"\x07" + noise(10_000)


def test_7_5_bytes_before_bad_deflate_are_readable(source, mount):
    good, encoded = bad_block()
    size = len(good) + 1_000_000
    entry = Entry(b"x", method=DEFLATED, encoded=encoded, size=size, crc32=1)
    zipmaker.write(source / "a.npz", [entry, Entry(b"good", good, DEFLATED)])
    mnt = mount(source, "--verify", "never")
    with open(mnt / "a.npz/x", "rb", buffering=0) as file:
        descriptor = file.fileno()
        for offset in range(0, len(good), 4096):
            wanted = good[offset : offset + 4096]
            assert os.pread(descriptor, len(wanted), offset) == wanted, offset
        assert errno_of(os.pread, descriptor, 4096, len(good)) == errno.EIO
        assert errno_of(os.pread, descriptor, 4096, size - 4096) == errno.EIO
        for offset in (0, 1_000_000, len(good) - 4096):
            assert os.pread(descriptor, 4096, offset) == good[offset : offset + 4096]
    assert state(mnt / "a.npz/x").startswith("corrupt: ")
    assert (mnt / "a.npz/good").read_bytes() == good


def test_7_5_in_a_mapping_damage_is_sigbus(source, mount):
    good, encoded = bad_block()
    size = len(good) + 1_000_000
    entry = Entry(b"x", method=DEFLATED, encoded=encoded, size=size, crc32=1)
    zipmaker.write(source / "a.npz", [entry])
    mnt = mount(source, "--verify", "never")

    def touch(offset):
        with open(mnt / "a.npz/x", "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        return mapped[offset : offset + 100]

    assert in_child(touch, 0) == good[:100]
    assert in_child(touch, 1_000_000) == good[1_000_000:1_000_100]
    with pytest.raises(Ended) as ended:
        in_child(touch, len(good) + 500_000)
    assert ended.value.signal == signal.SIGBUS


@pytest.mark.parametrize("method", [BZIP2, LZMA, XZ, ZSTD, DEFLATED])
def test_7_5_flipped_bits_never_give_wrong_bytes_to_a_later_open(source, mount, method):
    content = noise(1000) * 30 + noise(30_000, 2)
    encoded = zipmaker.encode(content, method)
    draw = random.Random(7)
    count = 40
    for number in range(count):
        flipped = bytearray(encoded)
        for _ in range(1 + number % 3):
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        entry = Entry(b"x", content, method, encoded=bytes(flipped))
        zipmaker.write(source / f"{number}.npz", [entry])
    mnt = mount(source)
    for number in range(count):
        path = mnt / f"{number}.npz/x"
        errno_of(path.read_bytes)
        # By now the CRC-32 is known. A flip may still be harmless, as in padding.
        try:
            assert path.read_bytes() == content
        except OSError as error:
            assert error.errno == errno.EIO


WRONG = {
    "crc32": {"crc32": 12345},
    "too short": {"size": 2_000_001},
    "too long": {"size": 1_999_999},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_7_6_a_mismatch_once_known_is_eio_at_every_later_open(source, mount, wrong):
    content = noise(2_000_000)
    zipmaker.write(source / "a.npz", [Entry(b"x.npy", content, DEFLATED, **WRONG[wrong])])
    mnt = mount(source)
    path = mnt / "a.npz/x.npy"
    assert errno_of(path.read_bytes) in (None, errno.EIO)
    poll(lambda: errno_of(open, path, "rb") == errno.EIO, 5, "open fails with EIO")
    for _ in range(5):
        assert errno_of(open, path, "rb") == errno.EIO
    assert state(path).startswith("corrupt: ")
    assert len(mnt.log_lines("x.npy")) == 1, mnt.log()


@pytest.mark.parametrize("method", [BZIP2, LZMA, XZ, ZSTD])
def test_7_6_members_that_are_decoded_whole_are_checked_at_open(source, mount, method):
    content = noise(100_000)
    entries = [
        Entry(b"crc", content, method, crc32=1),
        Entry(b"short", content, method, size=100_001),
        Entry(b"long", content, method, size=99_999),
        Entry(b"cut", content, method, encoded=zipmaker.encode(content, method)[:-2000]),
        Entry(b"junk", content, method, encoded=noise(5000)),
        Entry(b"good", content, method),
    ]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)
    for entry in entries[:-1]:
        path = mnt / "a.npz" / entry.name.decode()

        def first_page(path=path):
            with open(path, "rb", buffering=0) as file:
                return os.pread(file.fileno(), 4096, 0)

        assert errno_of(first_page) == errno.EIO, path
        assert errno_of(open, path, "rb") == errno.EIO, path
        assert state(path).startswith("corrupt: ")
    assert (mnt / "a.npz/good").read_bytes() == content


def test_7_6_a_rewritten_archive_gets_a_new_chance(source, mount):
    content = noise(100_000)
    zipmaker.write(source / "a.npz", [Entry(b"x", content, DEFLATED, crc32=1)])
    mnt = mount(source)
    errno_of((mnt / "a.npz/x").read_bytes)
    poll(lambda: errno_of(open, mnt / "a.npz/x", "rb") == errno.EIO, 5, "open fails with EIO")
    zipmaker.write(source / "a.npz", [Entry(b"x", content, DEFLATED)])
    poll(lambda: errno_of(open, mnt / "a.npz/x", "rb") is None, SOON, "the new one opens")
    assert (mnt / "a.npz/x").read_bytes() == content


def test_7_7_stored_members_are_served_as_they_stand_if_nothing_is_verified(source, mount):
    content = noise(3_000_000)
    zipmaker.write(source / "a.npz", [Entry(b"x", content, STORED, crc32=1)])
    mnt = mount(source, "--verify", "never")
    with open(mnt / "a.npz/x", "rb", buffering=0) as file:
        for offset in (0, 2_000_000, 1_000_000):
            assert os.pread(file.fileno(), 5000, offset) == content[offset : offset + 5000]


def visit(path):
    """Lists and reads everything, as a user might. Errors are allowed; it must end."""
    for top, dirs, files in os.walk(path):
        for name in [*dirs, *files]:
            full = os.path.join(top, name)
            errno_of(os.lstat, full)
            try:
                for attribute in os.listxattr(full):
                    errno_of(os.getxattr, full, attribute)
                if name in files:
                    with open(full, "rb") as file:
                        file.read(200_000)
                        file.seek(max(0, os.fstat(file.fileno()).st_size - 5000))
                        file.read(5000)
            except OSError as error:
                assert error.errno in (
                    errno.EIO, errno.EACCES, errno.EOPNOTSUPP, errno.ENODATA,
                    # Of members that can only be decoded whole, and have no room.
                    errno.EFBIG, errno.ENOSPC,
                ), (full, error)  # fmt: skip


def test_7_8_flipped_bytes_anywhere(source, mount):
    entries = [
        Entry(b"x.npy", npy(np.arange(50)), DEFLATED),
        Entry(b"d/y.npy", npy(np.eye(2)), STORED, zip64=True),
        Entry(b"d/z.npy", npy(np.eye(3)), DEFLATED, descriptor=True),
    ]
    good = zipmaker.write(source / "good.npz", entries, comment=b"c", zip64_end=True).read_bytes()
    draw = random.Random(11)
    for at in range(0, len(good), 2):
        changed = bytearray(good)
        changed[at] = draw.choice([0, 0xFF, changed[at] ^ 0x80, changed[at] ^ 1])
        (source / f"{at}.npz").write_bytes(changed)
    mnt = mount(source)
    in_child(visit, mnt.path)
    assert tree(mnt / "good.npz")["x.npy"] == npy(np.arange(50))
    assert mnt.peak_memory() < 200 << 20


def long_names(count, size):
    """Names of directories in directories, all different: few bytes, many directories."""
    return [b"%d/" % n + b"a/" * (size // 2) + b"x" for n in range(count)]


def overlapping(count):
    """Many members that share the same bytes: a large bomb in a small file."""
    content = bytes(50_000_000)
    first = Entry(b"0", content, DEFLATED)
    same_place = [
        Entry(b"%d" % n, content, DEFLATED, encoded=b"", header_offset=0, crc32=0)
        for n in range(1, count)
    ]
    for entry in same_place:
        entry.encoded_size = len(zipmaker.encode(content, DEFLATED))
    return [first, *same_place]


HARMFUL = {
    "a bomb": lambda: [Entry(b"x", bytes(300_000_000), DEFLATED)],
    "a lying size": lambda: [
        Entry(b"d", b"1" * 99, DEFLATED, size=1 << 60, zip64=True),
        Entry(b"b", b"1" * 99, BZIP2, size=1 << 60, zip64=True),
        Entry(b"z", b"1" * 99, ZSTD, size=1 << 60, zip64=True),
        Entry(b"s", b"1" * 99, STORED, size=1 << 62, encoded_size=1 << 62, zip64=True),
        Entry(b"m", b"1" * 99, DEFLATED, size=(1 << 64) - 1, zip64=True),
    ],
    "deep names": lambda: [Entry(name) for name in long_names(100, 65_000)],
    "overlapping members": lambda: overlapping(20),
    "a header that never ends": lambda: [
        Entry(b"x.npy", b"\x93NUMPY\2\0" + struct.pack("<I", (1 << 32) - 1) + b"(" * 3_000_000),
        Entry(b"y.npy", b"\x93NUMPY\1\0" + struct.pack("<H", 65_535) + b"[" * 65_535),
        Entry(b"z.npy", b"\x93NUMPY\2\0" + struct.pack("<I", 3_000_000) + b"{'a':" * 600_000),
    ],
    "a great lzma dictionary": lambda: [
        Entry(b"l", b"1", LZMA, encoded=b"\x09\x14\x05\0" + struct.pack("<BI", 93, (1 << 32) - 1)
              + bytes(100), size=1 << 32),
    ],
    "a great zstd window": lambda: [
        # RFC 8878: no single segment, a window of 2^41 bytes or so, and one raw block.
        Entry(b"z", b"1", ZSTD, encoded=b"\x28\xb5\x2f\xfd\x00\xff\x09\0\x001", size=1),
    ],
}  # fmt: skip


@pytest.mark.parametrize("harm", HARMFUL)
def test_7_8_memory_is_bounded(source, mount, harm):
    zipmaker.write(source / "a.npz", HARMFUL[harm]())
    (source / "b.npy.gz").write_bytes(zlib.compress(b"\x93NUMPY\2\0\xff\xff\xff\xff", wbits=31))
    np.savez(source / "good.npz", x=np.arange(100))
    mnt = mount(source)
    if harm == "deep names":
        # Too deep for paths; only the top is looked at.
        errno_of(os.listdir, mnt / "a.npz")
    else:
        in_child(visit, mnt.path)
    same(np.load(mnt / "good.npz/x.npy"), np.arange(100))
    assert mnt.peak_memory() < 200 << 20


END_RECORDS = {
    "65534 members of none": zipmaker.end_record(65_534, 0, 0),
    "4 GiB of directory": zipmaker.end_record(1, 0xFFFFFFFE, 0),
    "zip64: 2^64 members": zipmaker.end_record((1 << 64) - 1, 100, 0, zip64_at=0),
    "zip64: a directory of 2^63": zipmaker.end_record(1 << 40, 1 << 63, 0, zip64_at=0),
    "zip64: located beyond the file": zipmaker.end_record(1, 46, 0, zip64_at=1 << 62),
    "zip64: located in itself": zipmaker.end_record(1, 0xFFFFFFFF, 0xFFFFFFFF, zip64_at=56),
    "disk 7": b"PK\5\6\7\0\7\0" + bytes(14),
    "only signatures": b"PK\5\6" * 50_000,
}


def names_by_zipfile(path):
    """The names that zipfile lists, or None if it refuses the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return None


@pytest.mark.parametrize("record", END_RECORDS)
def test_7_8_end_records_that_promise_too_much(source, mount, record):
    (source / "a.npz").write_bytes(END_RECORDS[record])
    (source / "b.npz").write_bytes(b"PK\1\2" + bytes(100) + END_RECORDS[record])
    mnt = mount(source)
    in_child(visit, mnt.path)
    for name in ("a.npz", "b.npz"):
        # Python's zipfile believes neither counts nor disk numbers.
        members = names_by_zipfile(source / name)
        assert (mnt / name).is_dir() == (members is not None), name
        if members is None:
            assert (mnt / name).read_bytes() == (source / name).read_bytes()
        else:
            assert sorted(os.listdir(mnt / name)) == members
    assert mnt.peak_memory() < 100 << 20


def test_7_8_random_bytes(source, mount):
    for seed in range(100):
        content = bytearray(noise(400, seed))
        content[:4] = b"PK\3\4"
        content[-22:] = zipmaker.end_record(1 + seed % 3, 46 * (1 + seed % 3), 50 + seed)
        at = 50 + seed
        content[at : at + 4] = b"PK\1\2"
        (source / f"{seed}.npz").write_bytes(content)
        (source / f"{seed}.npy.gz").write_bytes(b"\x1f\x8b\x08\0" + noise(300, seed))
    mnt = mount(source)
    in_child(visit, mnt.path)
    assert mnt.peak_memory() < 100 << 20
