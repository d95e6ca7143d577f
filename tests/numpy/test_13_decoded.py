"""Rules 13: archives as files with their members decoded, which every reader of zips can read."""

import errno
import os
import struct
import subprocess
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import scipy.sparse
import zipmaker
from arrays import every_dtype, npy, same
from hostile import ZIPS
from mounting import errno_of, poll, state, tree
from test_1_tree import ONE
from test_3_writers import ARRAYS, HERE, NAMES, NODE_MODULES, SEVEN_METHODS, ZIP_OPTIONS, cnpy, run
from test_3_writers import files as files  # a fixture
from zipmaker import BZIP2, DEFLATED, LZMA, STORED, XZ, ZSTD, Entry

STORED_LAYOUT = ("--layout", "stored")
PASSWORD = b"secret"


def fields(extra):
    """The extra fields of a header, without sizes of 64 bits and padding."""
    found = []
    while len(extra) >= 4:
        tag, length = struct.unpack("<HH", extra[:4])
        if tag not in (1, 0xD935):
            found.append((tag, extra[4 : 4 + length]))
        extra = extra[4 + length :]
    return found


def told(info):
    """What the central directory says of a member, but for where and how it is encoded."""
    return (
        info.orig_filename,
        info.filename,
        info.date_time,
        info.comment,
        info.CRC,
        info.file_size,
        info.external_attr,
        info.internal_attr,
        info.create_system,
        fields(info.extra),
    )


def read(archive, info):
    """The bytes of a member, or why there are none."""
    try:
        with archive.open(info, pwd=PASSWORD if info.flag_bits & 1 else None) as file:
            return file.read()
    except (NotImplementedError, RuntimeError):
        return "not supported"
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError):
        return "damaged"
    except Exception as error:  # an error of the lzma module
        assert "LZMA" in type(error).__name__ or "LZMA" in str(error), error
        return "damaged"


def agree(original, decoded):
    """Asserts that zipfile finds in both archives the same. Returns the infos of the decoded."""
    with zipfile.ZipFile(original) as one, zipfile.ZipFile(decoded) as other:
        assert list(map(told, other.infolist())) == list(map(told, one.infolist()))
        for info, again in zip(one.infolist(), other.infolist(), strict=True):
            wanted, found = read(one, info), read(other, again)
            # Python 3.11 cannot decode all methods that npzfs can.
            if wanted != "not supported" or again.compress_type != STORED or info.flag_bits & 1:
                assert found == wanted, info
        return other.infolist()


def from_the_start(content):
    """Names and bytes, as a reader finds them who never looks at the central directory (cnpy)."""
    found, at = [], 0
    while content[at : at + 4] == b"PK\3\4":
        size, name_length, extra_length = struct.unpack("<IHH", content[at + 22 : at + 30])
        data = at + 30 + name_length + extra_length
        name = content[at + 30 : at + 30 + name_length]
        found.append((name, content[data : data + size], data))
        at = data + size
    return found


def check_all_readers(path):
    """Asserts that the tools that test a zip find nothing wrong with it."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
        wanted = [archive.read(info) for info in infos]
    for command in (["unzip", "-tqq"], ["7z", "t", "-bd"], ["bsdtar", "-tf"], ["zip", "-T", "-q"]):
        done = subprocess.run([*command, path], capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{command}: {said}"
        assert "arning" not in said, f"{command}: {said}"
    # The test of an extraction to a pipe reads all bytes.
    files = [data for info, data in zip(infos, wanted, strict=True) if not info.is_dir()]
    out = subprocess.run(["bsdtar", "-xOf", path], capture_output=True, check=True).stdout
    assert out == b"".join(files)
    assert [data for _, data, _ in from_the_start(path.read_bytes())] == wanted


def node(files, path, *options):
    assert (NODE_MODULES / "yazl").is_dir(), "yazl is missing: tests/run installs it"
    environment = os.environ | {"NODE_PATH": str(NODE_MODULES)}
    run(files, "node", HERE / "writers/yazl.js", path, *options, *NAMES, env=environment)


def write_with_tools(source, files):
    """Archives of the same arrays by every tool that writes zips."""
    for name, options in ZIP_OPTIONS.items():
        run(files, "zip", "-q", *options, source / f"zip {name}.npz", *NAMES)
    subprocess.run(
        ["zip", "-q", "-z", source / "zip default.npz"], input=b"a comment\n.\n", check=True
    )
    for method in SEVEN_METHODS:
        run(files, "7z", "a", "-tzip", f"-mm={method}", source / f"7z {method}.npz", *NAMES)
    for compression in ("store", "deflate"):
        options = ["--format", "zip", "--options", f"zip:compression={compression}"]
        run(files, "bsdtar", *options, "-cf", source / f"bsdtar {compression}.npz", *NAMES)
    pipe = f"bsdtar --format zip -cf - {' '.join(NAMES)} | cat > '{source}/bsdtar pipe.npz'"
    run(files, "bash", "-o", "pipefail", "-c", pipe)
    for options in ("cfM", "cf0M", "cf"):
        run(files, "jar", options, source / f"jar {options}.npz", *NAMES)
    for options in ([], ["--stored"], ["--stream"], ["--zip64"], ["--stream", "--zip64"]):
        node(files, source / f"yazl {' '.join(options)}.npz", *options)
    for method in ("STORED", "DEFLATED", "BZIP2", "LZMA"):
        path = source / f"zipfile {method}.npz"
        with zipfile.ZipFile(path, "w", getattr(zipfile, f"ZIP_{method}")) as archive:
            for name in NAMES:
                archive.write(files / name, name)
    np.savez(source / "savez.npz", **ARRAYS)
    np.savez_compressed(source / "savez_compressed.npz", **ARRAYS)
    cnpy(source / "cnpy.npz", {key: ARRAYS[key] for key in ("x", "labels", "none", "noise")})


def test_13_1_every_reader_finds_what_every_writer_wrote(source, mount, files):
    write_with_tools(source, files)
    mnt = mount(source, *STORED_LAYOUT)
    names = sorted(path.name for path in source.iterdir())
    assert len(names) > 25
    for name in names:
        infos = agree(source / name, mnt / name)
        assert {info.compress_type for info in infos} == {STORED}
        check_all_readers(mnt / name)
        with np.load(source / name) as one, np.load(mnt / name) as other:
            assert other.files == one.files
            try:
                wanted = {key: one[key] for key in one.files}
            except NotImplementedError:
                wanted = ARRAYS
            for key, array in wanted.items():
                if isinstance(array, bytes):  # the manifest that jar adds
                    assert other[key] == array
                else:
                    assert other[key].dtype == array.dtype
                    assert other[key].tobytes("A") == array.tobytes("A")
        with zipfile.ZipFile(mnt / name) as archive:
            for info in filter(lambda info: not info.is_dir(), infos):
                beside = mnt / f"{name}.d" / info.filename
                assert beside.read_bytes() == archive.read(info)


def test_13_1_arrays_of_every_dtype(source, mount):
    arrays = every_dtype()
    np.savez_compressed(source / "a.npz", **arrays)
    with np.load(mount(source, *STORED_LAYOUT) / "a.npz") as archive:
        assert archive.files == list(arrays)
        with np.load(source / "a.npz") as original:
            for key in arrays:
                same(archive[key], original[key])


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_13_1_scipy_loads_a_matrix(source, mount, kind):
    matrix = scipy.sparse.random(500, 300, 0.01, kind, random_state=1)
    scipy.sparse.save_npz(source / "a.npz", matrix)
    loaded = scipy.sparse.load_npz(mount(source, *STORED_LAYOUT) / "a.npz")
    assert loaded.format == kind
    assert (loaded != matrix).nnz == 0


def odd_entries():
    """Members of all methods, with names, fields and sizes of all kinds."""
    small, large = b"small", np.arange(30_000).tobytes()
    stamp = b"UT\5\0\1\0\2\3\4"
    unicode = b"\1" + struct.pack("<I", zlib.crc32(b"plain")) + "\u00e9.npy".encode()
    unicode = struct.pack("<HH", 0x7075, len(unicode)) + unicode
    entries = [Entry(b"%d.npy" % m, large, m) for m in (STORED, DEFLATED, BZIP2, LZMA, XZ, ZSTD)]
    return [
        *entries,
        Entry(b"twice.npy", b"the first", DEFLATED),
        Entry(b"twice.npy", large, DEFLATED),
        Entry(b"../up", small, DEFLATED),
        Entry(b"/root", small, DEFLATED),
        Entry(b"", small),
        Entry(b"caf\x82.npy", small, flags=0),
        Entry(b"plain", small, DEFLATED, flags=0, extra=unicode),
        Entry(b"dir/", b"", external_attributes=0o40755 << 16 | 16),
        Entry(
            b"dir/x.npy", large, DEFLATED, extra=stamp, comment=b"of x", time=0x5678, date=0x5A21
        ),
        Entry(b"link", b"dir/x.npy", external_attributes=0o120777 << 16),
        Entry(b"with descriptor", large, DEFLATED, descriptor=True),
        Entry(b"wide", small, DEFLATED, zip64=True),
        Entry(b"empty.npy", b"", DEFLATED),
        Entry(b"a gap before", small, DEFLATED, gap=b"junk" * 99),
        Entry(b"made on DOS", small, made_by=20, external_attributes=32),
        Entry(b"last.npy", large, DEFLATED),
    ]


@pytest.mark.parametrize("prefix", [b"", b"#!/bin/sh\n" * 99])
def test_13_1_names_times_attributes_fields_and_comments_are_kept(source, mount, prefix):
    zipmaker.write(source / "a.npz", odd_entries(), prefix=prefix, comment=b"of all")
    mnt = mount(source, *STORED_LAYOUT)
    infos = agree(source / "a.npz", mnt / "a.npz")
    assert all(info.compress_type == STORED for info in infos)
    with zipfile.ZipFile(mnt / "a.npz") as archive:
        assert archive.comment == b"of all"
        assert archive.testzip() is None
        for info, entry in zip(infos, odd_entries(), strict=True):
            assert archive.read(info) == entry.data
    found = from_the_start((mnt / "a.npz").read_bytes())
    assert [x[:2] for x in found] == [(entry.name, entry.data) for entry in odd_entries()]


def test_13_1_the_directory_stands_beside_it(source, mount):
    zipmaker.write(source / "foo.npz", ONE)
    (source / "real.npz.d").mkdir()
    zipmaker.write(source / "real.npz", ONE)
    mnt = mount(source, *STORED_LAYOUT)
    shown = tree(mnt.path)
    assert [shown.pop(name)[:4] for name in ("foo.npz", "real.npz")] == [b"PK\3\4"] * 2
    assert shown == {
        "foo.npz.d/": "dir",
        "foo.npz.d/sub/": "dir",
        "foo.npz.d/sub/y.npy": b"y bytes",
        "foo.npz.d/x.npy": b"x bytes",
        "real.npz.d/": "dir",
    }
    assert sorted(os.listdir(mnt.path)) == ["foo.npz", "foo.npz.d", "real.npz", "real.npz.d"]


def test_13_1_an_empty_archive(source, mount):
    np.savez(source / "a.npz")
    path = mount(source, *STORED_LAYOUT) / "a.npz"
    assert path.read_bytes() == b"PK\5\6" + bytes(18)
    assert np.load(path).files == []


def test_13_2_its_size_is_known_before_anything_is_decoded(source, mount):
    content = np.random.default_rng(1).integers(0, 9, 5_000_000).astype("u1").tobytes()
    path = zipmaker.write(source / "a.npz", [Entry(b"x.npy", content, DEFLATED)])
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    path.chmod(0o640)
    shown = mount(source, *STORED_LAYOUT) / "a.npz"
    status = os.stat(shown)
    assert status.st_size >= len(content)
    assert status.st_mtime_ns == 1_700_000_000_123_456_789
    assert (status.st_mode, status.st_blocks) == (0o100440, os.stat(path).st_blocks)
    assert zipfile.ZipFile(shown).namelist() == ["x.npy"]
    assert state(shown.with_name("a.npz.d") / "x.npy") == f"unverified: 0 of {len(content)} bytes"
    assert len(shown.read_bytes()) == status.st_size
    with open(shown, "rb") as file:
        assert os.fstat(file.fileno()) == os.stat(shown)


def test_13_2_its_attributes(source, mount):
    zipmaker.write(source / "a.npz", ONE)
    path = mount(source, *STORED_LAYOUT) / "a.npz"
    assert os.listxattr(path) == ["user.npzfs.state"]
    assert state(path) == "ready"
    assert errno_of(os.getxattr, path, "user.npzfs.crc32") == errno.ENODATA


@pytest.mark.parametrize("options", [["-mem=ZipCrypto"], ["-mem=AES256"]])
def test_13_3_encrypted_members_can_be_decrypted(source, mount, files, options):
    archive = source / "a.npz"
    run(files, "7z", "a", "-tzip", "-psecret", *options, archive, *NAMES)
    path = mount(source, *STORED_LAYOUT) / "a.npz"
    agree(archive, path)
    run(files, "7z", "t", "-psecret", path)
    run(files, "bsdtar", "--passphrase", "secret", "-tf", path)


def test_13_3_encrypted_members_with_data_descriptors(source, mount, files):
    # The password is checked against the time of such a member, not against its CRC-32.
    run(files, "bash", "-c", f"cat x.npy | zip -q -P secret - - > {source / 'a.npz'}")
    path = mount(source, *STORED_LAYOUT) / "a.npz"
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[0].flag_bits & 9 == 9
        assert archive.read("-", pwd=PASSWORD) == npy(ARRAYS["x"])
    run(files, "unzip", "-tqq", "-P", "secret", path)


def test_13_3_members_of_other_methods_can_be_read_by_who_knows_them(source, mount, files):
    archive = source / "a.npz"
    run(files, "7z", "a", "-tzip", "-mm=PPMd", archive, "x.npy")
    run(files, "7z", "a", "-tzip", archive, "labels.npy")
    path = mount(source, *STORED_LAYOUT) / "a.npz"
    run(files, "7z", "t", path)
    assert np.array_equal(np.load(path)["labels"], ARRAYS["labels"])
    out = subprocess.run(["7z", "x", "-so", path, "x.npy"], capture_output=True, check=True)
    assert out.stdout == npy(ARRAYS["x"])


def test_13_4_arrays_are_aligned(source, mount):
    draw = np.random.default_rng(1)
    arrays = {f"a{size}": draw.integers(0, 9, size).astype("f4") for size in range(0, 800, 31)}
    arrays |= {f"b{size}": np.arange(size) for size in (16_384, 100_000, 123_456)}
    # Of a large array before others, whose size is no multiple of 64, the items are aligned.
    odd = {f"odd{size}": np.arange(size, dtype="f4") for size in (30_001, 30_002, 30_004)}
    arrays |= odd | {"last": np.arange(50_001, dtype="i2")}
    np.savez_compressed(source / "a.npz", **arrays)
    content = (mount(source, *STORED_LAYOUT) / "a.npz").read_bytes()
    found = from_the_start(content)
    assert [name for name, _, _ in found] == [f"{key}.npy".encode() for key in arrays]
    for name, data, start in found:
        header = 10 + struct.unpack("<H", data[8:10])[0]
        key = name.decode().removesuffix(".npy")
        assert (start + header) % (odd[key].nbytes & -odd[key].nbytes if key in odd else 64) == 0


def test_13_4_a_stored_member_can_be_mapped_at_its_place(source, mount):
    array = np.arange(1_000_000, dtype="f8").reshape(1000, 1000)
    np.savez_compressed(source / "a.npz", x=array, y=np.arange(3))
    path = mount(source, *STORED_LAYOUT) / "a.npz"
    with zipfile.ZipFile(path) as archive:
        with archive.open("x.npy") as member:
            version = np.lib.format.read_magic(member)
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            length = member.tell()
        start = archive.getinfo("x.npy").header_offset
    assert version == (1, 0)
    with open(path, "rb") as file:
        file.seek(start + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
    offset = start + 30 + name_length + extra_length + length
    assert offset % 64 == 0
    mapped = np.memmap(path, dtype, "r", offset, shape)
    assert np.array_equal(mapped, array)


def test_13_5_members_follow_each_other_without_gaps(source, mount):
    sizes = [1, 70_000, 70_001, 5, 200_003, 65_536, 65_535, 0, 99_999]
    entries = [Entry(b"%d" % n, b"\1" * size, DEFLATED) for n, size in enumerate(sizes)]
    zipmaker.write(source / "a.npz", entries)
    path = mount(source, *STORED_LAYOUT) / "a.npz"
    assert [len(data) for _, data, _ in from_the_start(path.read_bytes())] == sizes
    out = subprocess.run(f"cat {path} | bsdtar -xOf -", shell=True, capture_output=True, check=True)
    assert out.stdout == b"\1" * sum(sizes)


@pytest.mark.parametrize("over", [-1, 0, 1 << 20])
def test_13_5_members_around_4_gib(source, mount, over):
    size = 0xFFFFFFFF + over
    # A megabyte of zeros, a thousandth of that.
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = coder.compress(bytes(1 << 20)) + coder.flush(zlib.Z_FULL_FLUSH)
    rest = zipmaker.raw_deflate(bytes(size % (1 << 20)), 9)
    large = Entry(
        b"large.npy",
        method=DEFLATED,
        encoded=[piece] * (size >> 20) + [rest],
        size=size,
        crc32=zipmaker.crc32_of_zeros(size),
        zip64=True,
    )
    zipmaker.write(source / "a.npz", [large, Entry(b"after.npy", b"after it", DEFLATED)])
    path = mount(source, *STORED_LAYOUT, "--verify", "background") / "a.npz"
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        assert [info.file_size for info in infos] == [size, 8]
        assert infos[0].extract_version == (45 if size >= 0xFFFFFFFF else 20)
        assert infos[1].header_offset >= size
        # Nothing of the large member has been decoded for that.
        assert archive.read("after.npy") == b"after it"
        with archive.open("large.npy") as file:
            assert file.read(100) == bytes(100)
    if over != 0:  # unzip reads no archive with a stored member of exactly that size
        done = subprocess.run(["unzip", "-p", path, "after.npy"], capture_output=True, check=True)
        assert done.stdout == b"after it"


def test_13_10_many_members(source, mount):
    entries = [Entry(b"%d.npy" % n, b"%d" % n) for n in range(70_000)]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source, *STORED_LAYOUT)
    with zipfile.ZipFile(mnt / "a.npz") as archive:
        assert len(archive.infolist()) == 70_000
        for n in (0, 1, 69_999, 33_333):
            assert archive.read(f"{n}.npy") == b"%d" % n
    found = from_the_start((mnt / "a.npz").read_bytes())
    assert [data for _, data, _ in found] == [entry.data for entry in entries]
    assert mnt.peak_memory() < 200 << 20


def test_13_9_what_is_no_archive_is_shown_raw(source, mount):
    np.savez(source / "a.npz", x=np.arange(100))
    whole = (source / "a.npz").read_bytes()
    (source / "a.npz").write_bytes(whole[:-1])
    mnt = mount(source, *STORED_LAYOUT)
    assert (mnt / "a.npz").read_bytes() == whole[:-1]
    assert state(mnt / "a.npz").startswith("pending: ")
    assert not (mnt / "a.npz.d").exists()
    with open(source / "a.npz", "ab") as file:
        file.write(whole[-1:])

    def is_decoded():
        return (mnt / "a.npz.d").exists() and zipfile.is_zipfile(mnt / "a.npz")

    poll(is_decoded, 2.5, "it is an archive")
    assert np.array_equal(np.load(mnt / "a.npz")["x"], np.arange(100))


def test_13_9_an_archive_larger_than_a_file_can_be_is_shown_raw(source, mount):
    entries = [Entry(b"%d" % n, b"x", BZIP2, size=1 << 62, zip64=True) for n in range(3)]
    content = zipmaker.write(source / "a.npz", entries).read_bytes()
    mnt = mount(source, *STORED_LAYOUT)
    assert (mnt / "a.npz").read_bytes() == content
    assert sorted(os.listdir(mnt / "a.npz.d")) == ["0", "1", "2"]


def test_13_7_hostile_archives_agree_with_zipfile_or_fail(source, mount):
    for number, (_, content, _) in enumerate(ZIPS):
        (source / f"{number}.npz").write_bytes(content)
    np.savez_compressed(source / "good.npz", x=np.arange(3))
    mnt = mount(source, *STORED_LAYOUT)
    checked = 0
    for number, (name, content, _) in enumerate(ZIPS):
        path = mnt / f"{number}.npz"
        if not (mnt / f"{number}.npz.d").is_dir():
            assert path.read_bytes() == content, name
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                one, other = zipfile.ZipFile(source / f"{number}.npz"), zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
            # Every directory can be read that zipfile can read in the original.
            with pytest.raises((zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError)):
                zipfile.ZipFile(source / f"{number}.npz")
            continue
        with one, other:
            if not one.infolist():  # zipfile sees the end record in the comment
                continue
            for info, again in zip(one.infolist(), other.infolist(), strict=True):
                if info.file_size < 1 << 28:
                    wanted, found = read(one, info), read(other, again)
                    assert found in (wanted, "damaged") or wanted == "not supported", name
                    checked += 1
    assert checked > 100
    assert np.load(mnt / "good.npz")["x"].sum() == 3, "the mount still answers"
