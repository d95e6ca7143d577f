"""Rules 3: members of all methods, at all places of an archive."""

import errno
import os
import random
import stat
import struct
import subprocess
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zipmaker
from arrays import npy, same
from mounting import errno_of, in_child, tree
from zipmaker import BZIP2, DEFLATED, LZMA, STORED, XZ, ZSTD, Entry, Hole


def text(size):
    """Bytes that compress to different ratios in different places."""
    draw = random.Random(3)
    words = [draw.randbytes(draw.randrange(1, 12)) for _ in range(500)]
    out = bytearray()
    while len(out) < size:
        out += draw.choice(words) if draw.random() < 0.9 else draw.randbytes(300)
    return bytes(out[:size])


def check_random_reads(path, content, count=60, seed=1):
    draw = random.Random(seed)
    assert os.stat(path).st_size == len(content)
    with open(path, "rb", buffering=0) as file:
        for number in range(count):
            offset = draw.randrange(len(content) + 1) if number else max(0, len(content) - 5)
            size = draw.choice([1, 100, 4096, 131_072, 300_001])
            assert os.pread(file.fileno(), size, offset) == content[offset : offset + size]


STREAMS = {
    "stored": lambda data: (STORED, data),
    "level 1": lambda data: (DEFLATED, zipmaker.raw_deflate(data, 1)),
    "level 6": lambda data: (DEFLATED, zipmaker.raw_deflate(data, 6)),
    "level 9": lambda data: (DEFLATED, zipmaker.raw_deflate(data, 9)),
    "stored blocks": lambda data: (DEFLATED, zipmaker.raw_deflate(data, 0)),
    "fixed codes": lambda data: (DEFLATED, zipmaker.raw_deflate(data, 6, zlib.Z_FIXED)),
    "huffman only": lambda data: (DEFLATED, zipmaker.raw_deflate(data, 6, zlib.Z_HUFFMAN_ONLY)),
    "run lengths": lambda data: (DEFLATED, zipmaker.raw_deflate(data, 6, zlib.Z_RLE)),
    "pieces": lambda data: (
        DEFLATED,
        b"".join(zipmaker.deflate_pieces(data[i : i + 999] for i in range(0, len(data), 999))),
    ),
}


@pytest.mark.parametrize("size", [0, 1, 4095, 4097, 3_000_000])
def test_3_1_stored_and_deflated_members_are_served(source, mount, size):
    content = text(size)
    entries = []
    for name, encode in STREAMS.items():
        method, encoded = encode(content)
        entries.append(Entry(name.encode(), content, method, encoded=encoded))
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)
    for name in STREAMS:
        if size:
            check_random_reads(mnt / "a.npz" / name, content)
        assert (mnt / "a.npz" / name).read_bytes() == content, name


@pytest.mark.parametrize("fill", ["zeros", "noise"])
def test_3_1_the_extremes_of_compression(source, mount, fill):
    content = bytes(20_000_000) if fill == "zeros" else os.urandom(3_000_000)
    zipmaker.write(source / "a.npz", [Entry(b"x", content, DEFLATED)])
    mnt = mount(source)
    check_random_reads(mnt / "a.npz/x", content, 100)
    assert (mnt / "a.npz/x").read_bytes() == content


DECODED_WHOLE = {"bzip2": BZIP2, "lzma": LZMA, "xz": XZ, "zstd": ZSTD}


@pytest.mark.parametrize("method", DECODED_WHOLE)
def test_3_2_other_methods_are_decoded(source, mount, method):
    content = text(1_000_000)
    entries = [
        Entry(b"x", content, DECODED_WHOLE[method]),
        Entry(b"empty", b"", DECODED_WHOLE[method]),
        Entry(b"one", b"1", DECODED_WHOLE[method]),
    ]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)
    check_random_reads(mnt / "a.npz/x", content)
    assert tree(mnt / "a.npz") == {"x": content, "empty": b"", "one": b"1"}


def test_3_2_deflate64_of_7z(source, mount, tmp_path):
    # Nothing in Python writes deflate64. Noise and matches over 32 KiB, which deflate cannot have.
    noise = random.Random(4).randbytes(50_000)
    content = noise + noise + text(500_000) + bytes(300_000)
    (tmp_path / "x").write_bytes(content)
    command = ["7z", "a", "-tzip", "-mm=Deflate64", "-mx=9", source / "a.npz", tmp_path / "x"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with zipfile.ZipFile(source / "a.npz") as archive:
        assert archive.getinfo("x").compress_type == 9
    check_random_reads(mount(source) / "a.npz/x", content)


@pytest.mark.parametrize("method", DECODED_WHOLE)
def test_3_2_many_threads_wait_for_one_decode(source, mount, method):
    content = text(2_000_000)
    zipmaker.write(source / "a.npz", [Entry(b"x", content, DECODED_WHOLE[method])])
    mnt = mount(source)
    with ThreadPoolExecutor(8) as pool:
        tries = [
            pool.submit(check_random_reads, mnt / "a.npz/x", content, 20, seed) for seed in range(8)
        ]
        for one in tries:
            one.result()


def test_3_3_an_encrypted_member_is_listed_and_cannot_be_opened(source, mount):
    entries = [
        Entry(b"open.npy", b"yes"),
        Entry(b"secret.npy", b"no", encoded=bytes(14), flags=zipmaker.ENCRYPTED),
        Entry(b"secret too.npy", b"no", DEFLATED, bytes(18), flags=zipmaker.ENCRYPTED),
    ]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)
    assert sorted(os.listdir(mnt / "a.npz")) == ["open.npy", "secret too.npy", "secret.npy"]
    assert (mnt / "a.npz/open.npy").read_bytes() == b"yes"
    for name in ("secret.npy", "secret too.npy"):
        assert os.stat(mnt / "a.npz" / name).st_size == 2
        for _ in range(2):
            assert errno_of(open, mnt / "a.npz" / name, "rb") == errno.EACCES
        assert mnt.log_lines(name, "encrypted")
    assert os.getxattr(mnt / "a.npz/secret.npy", "user.npzfs.state") == b"refused: encrypted"


@pytest.mark.parametrize("method", [1, 6, 10, 19, 96, 97, 98, 65_535])
def test_3_3_an_unknown_method_is_listed_and_cannot_be_opened(source, mount, method):
    entry = Entry(b"odd.npy", b"12345", method, encoded=b"xyz", version_needed=63)
    zipmaker.write(source / "a.npz", [entry, Entry(b"good", b"yes")])
    mnt = mount(source)
    path = mnt / "a.npz/odd.npy"
    assert tree_names(mnt / "a.npz") == ["good", "odd.npy"]
    assert os.stat(path).st_size == 5
    for _ in range(2):
        assert errno_of(open, path, "rb") == errno.EOPNOTSUPP
    assert mnt.log_lines("odd.npy", f"{method}")
    assert os.getxattr(path, "user.npzfs.method") == b"method %d" % method
    state = os.getxattr(path, "user.npzfs.state")
    assert state == b"refused: method %d is not supported" % method
    assert (mnt / "a.npz/good").read_bytes() == b"yes"


def tree_names(path):
    return sorted(os.listdir(path))


def test_3_4_the_last_of_a_repeated_name_wins(source, mount):
    zipmaker.write(
        source / "a.npz",
        [
            Entry(b"x.npy", b"first"),
            Entry(b"y.npy", b"other"),
            Entry(b"x.npy", b"second", DEFLATED),
            Entry(b"d/z.npy", b"1"),
            Entry(b"x.npy", b"the last"),
            Entry(b"d/z.npy", b"22", DEFLATED),
        ],
    )
    assert tree(mount(source) / "a.npz") == {
        "d/": "dir",
        "d/z.npy": b"22",
        "x.npy": b"the last",
        "y.npy": b"other",
    }


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_3_4_an_appended_array_replaces_the_old_one(source, mount):
    np.savez(source / "a.npz", x=np.zeros(3), y=np.ones(2))
    with zipfile.ZipFile(source / "a.npz", "a") as archive:
        archive.writestr("x.npy", npy(np.arange(7)))
    mnt = mount(source)
    same(np.load(mnt / "a.npz/x.npy"), np.load(source / "a.npz")["x"])
    same(np.load(mnt / "a.npz/x.npy"), np.arange(7))


def test_3_5_slashes_make_directories(source, mount):
    zipmaker.write(
        source / "a.npz",
        [
            Entry(b"top.npy", b"top"),
            Entry(b"implied/by/name.npy", b"deep"),
            Entry(b"empty/"),
            Entry(b"empty/in/empty/"),
            Entry(b"implied/"),
            Entry(b"implied/second.npy", b"2"),
            Entry(b"dir with data/", b"ignored"),
        ],
    )
    assert tree(mount(source) / "a.npz") == {
        "dir with data/": "dir",
        "empty/": "dir",
        "empty/in/": "dir",
        "empty/in/empty/": "dir",
        "implied/": "dir",
        "implied/by/": "dir",
        "implied/by/name.npy": b"deep",
        "implied/second.npy": b"2",
        "top.npy": b"top",
    }


def test_3_5_keys_with_slashes_of_np_savez(source, mount):
    arrays = {"run/1/x": np.arange(3), "run/2/x": np.eye(2), "run": np.ones(1), "/root": np.ones(2)}
    np.savez(source / "a.npz", **arrays)
    mnt = mount(source)
    for key, array in arrays.items():
        same(np.load(mnt / f"a.npz/{key.lstrip('/')}.npy", mmap_mode="r"), array)


def test_3_12_a_member_lies_wherever_the_central_directory_says(source, mount):
    x, y = npy(np.arange(1000)), npy(np.arange(50.0))
    extra = struct.pack("<HH5s", 99, 5, b"12345")
    odd = [
        Entry(b"x.npy", x, DEFLATED, gap=b"PK\3\4 a gap", local_extra=extra),
        Entry(b"y.npy", y, STORED, extra=struct.pack("<HH", 0xFB, 0), comment=b"PK\1\2 note"),
    ]
    zipmaker.write(source / "a.npz", odd)
    assert tree(mount(source) / "a.npz") == {"x.npy": x, "y.npy": y}


def test_3_12_the_local_header_need_not_repeat_sizes_and_crc(source, mount):
    x = npy(np.arange(1000))
    zero = {"crc32": 0, "size": 0, "encoded_size": 0}
    entries = [
        Entry(b"32 bits", x, DEFLATED, descriptor=True),
        Entry(b"64 bits", x, DEFLATED, descriptor=True, zip64=True),
        Entry(b"stored", x, STORED, descriptor=True),
        Entry(b"zip64", x, DEFLATED, zip64=True),
        # The descriptor without its signature, which APPNOTE 4.3.9.3 allows.
        Entry(b"unsigned", x, DEFLATED, flags=zipmaker.DATA_DESCRIPTOR, local=zero),
        Entry(b"after", gap=struct.pack("<III", 1, 2, 3), data=b"1"),
    ]
    zipmaker.write(source / "a.npz", entries)
    wanted = {entry.name.decode(): entry.data for entry in entries}
    assert tree(mount(source) / "a.npz") == wanted


def test_3_12_zip64_records_of_a_small_archive(source, mount):
    path = zipmaker.write(source / "a.npz", [Entry(b"x", b"1", zip64=True)], zip64_end=True)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("x") == b"1"
    assert tree(mount(source) / "a.npz") == {"x": b"1"}


@pytest.mark.parametrize("adjusted", [True, False])
def test_3_12_junk_before_the_archive(source, mount, adjusted):
    junk = b"#!/bin/sh\nexec unzip $0\nPK\3\4" + os.urandom(10_000)
    entries = [Entry(b"x", b"1" * 99, DEFLATED), Entry(b"y", b"2")]
    if adjusted:
        zipmaker.write(source / "a.npz", entries, prefix=junk)
    else:
        # As `cat stub archive.zip`: offsets count from where the archive starts.
        plain = zipmaker.write(source.parent / "plain.zip", entries).read_bytes()
        (source / "a.npz").write_bytes(junk + plain)
    with zipfile.ZipFile(source / "a.npz") as archive:
        assert archive.read("x") == b"1" * 99
    assert tree(mount(source) / "a.npz") == {"x": b"1" * 99, "y": b"2"}


COMMENTS = {
    "none": b"",
    "short": b"a comment",
    "longest": b"c" * 65_535,
    "a fake end record": zipmaker.end_record(0, 0, 0),
    "a fake end record at the start": zipmaker.end_record(0, 0, 0) + b"and more" * 9,
    "signatures": b"PK\5\6" * 100,
    "a fake zip64 locator": b"PK\6\7" + bytes(16) + b"PK\6\6",
}


@pytest.mark.parametrize("comment", COMMENTS)
def test_3_12_comments(source, mount, comment):
    # Python's zipfile takes the last signature it sees, and is taken in by three of these.
    entries = [Entry(b"x", b"1"), Entry(b"y", b"2")]
    zipmaker.write(source / "a.npz", entries, comment=COMMENTS[comment])
    assert tree(mount(source) / "a.npz") == {"x": b"1", "y": b"2"}


@pytest.mark.slow
def test_3_12_a_member_beyond_4_gib_of_others(source, mount):
    size = (4 << 30) + 10
    big = Entry(b"big", encoded=[Hole(size)], size=size, crc32=0, zip64=True)
    x = npy(np.arange(100_000))
    zipmaker.write(source / "a.npz", [big, Entry(b"x.npy", x, DEFLATED), Entry(b"y", x)])
    mnt = mount(source)
    assert (mnt / "a.npz/x.npy").read_bytes() == x
    assert (mnt / "a.npz/y").read_bytes() == x
    assert os.stat(mnt / "a.npz/big").st_size == size


def test_3_14_an_empty_archive_is_an_empty_directory(source, mount):
    np.savez(source / "a.npz")
    mnt = mount(source)
    assert tree(mnt.path) == {"a.npz/": "dir"}


@pytest.mark.parametrize("count", [1, 10_000, 65_537])
def test_3_14_any_number_of_members(source, mount, count):
    wanted = {f"{number}.npy": b"%d" % number for number in range(count)}
    entries = [Entry(name.encode(), data) for name, data in wanted.items()]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)
    listed = os.listdir(mnt / "a.npz")
    assert len(listed) == count
    assert set(listed) == set(wanted)
    for number in random.Random(5).sample(range(count), min(count, 500)):
        assert (mnt / f"a.npz/{number}.npy").read_bytes() == b"%d" % number


def test_3_11_a_member_is_a_regular_file_whatever_its_attributes_say(source, mount):
    kinds = {
        "none": 0,
        "dos": 0x20,
        "dos directory": 0x10,
        "mode 0": 0o100000 << 16,
        "symlink": 0o120777 << 16,
        "fifo": 0o010644 << 16,
        "directory": 0o040755 << 16,
        "device": 0o020666 << 16,
        "setuid": 0o104777 << 16,
    }
    entries = [
        Entry(name.encode(), b"text", external_attributes=attributes)
        for name, attributes in kinds.items()
    ]
    entries.append(Entry(b"no date", b"text", date=0, time=0, made_by=20, external_attributes=0))
    entries.append(Entry(b"bad date", b"text", date=0xFFFF, time=0xFFFF))
    path = zipmaker.write(source / "a.npz", entries)
    path.chmod(0o640)
    mnt = mount(source)
    for name in [*kinds, "no date", "bad date"]:
        assert os.lstat(mnt / "a.npz" / name).st_mode == stat.S_IFREG | 0o440, name
        assert os.stat(mnt / "a.npz" / name).st_mtime_ns == os.stat(path).st_mtime_ns
        assert (mnt / "a.npz" / name).read_bytes() == b"text", name


def read_all_by(seed, paths, contents):
    for path, content in zip(paths, contents, strict=True):
        check_random_reads(path, content, 20, seed)


def test_3_1_processes_on_several_members_at_once(source, mount):
    contents = [text(400_000 + number) for number in range(6)]
    methods = [DEFLATED, STORED, DEFLATED, ZSTD, BZIP2, DEFLATED]
    entries = [
        Entry(b"%d" % number, content, method)
        for number, (content, method) in enumerate(zip(contents, methods, strict=True))
    ]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)
    paths = [mnt / f"a.npz/{number}" for number in range(6)]
    with ThreadPoolExecutor(4) as pool:
        tries = [pool.submit(in_child, read_all_by, n, paths, contents) for n in range(4)]
        for one in tries:
            one.result()
