"""Rules 4: attributes of members, extended attributes, statfs."""

import errno
import os
import stat
import subprocess
import zlib

import numpy as np
import pytest
import zipmaker
from arrays import npy
from mounting import errno_of, poll
from zipmaker import BZIP2, DEFLATED, LZMA, STORED, XZ, ZSTD, Entry

ALL = ["method", "crc32", "encoded_size", "dtype", "shape", "fortran_order", "state"]


def npzfs_attributes(path):
    """All `user.npzfs.*` of a file: those that listxattr names, and those of rule 4.4."""
    listed = [n.removeprefix("user.npzfs.") for n in os.listxattr(path)]
    values = {name: os.getxattr(path, f"user.npzfs.{name}").decode() for name in listed}
    assert sum(map(len, values.values())) <= 1024
    for name in ALL[3:6]:
        assert name not in listed
        try:
            values[name] = os.getxattr(path, f"user.npzfs.{name}").decode()
        except OSError as error:
            assert error.errno == errno.ENODATA, error
    return values


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o444, 0o755, 0o640])
def test_4_1_member_attributes_come_from_archive_and_central_directory(source, mount, mode):
    content = npy(np.zeros(10_000))
    path = zipmaker.write(
        source / "a.npz",
        [Entry(b"x.npy", content, DEFLATED), Entry(b"d/y.npy", content), Entry(b"zero")],
    )
    if os.geteuid() == 0:
        os.chown(path, 12, 34)
    path.chmod(mode)
    os.utime(path, ns=(1, 1_000_000_000_123_456_789))
    real = os.stat(path)
    mnt = mount(source)
    for name, size in (("x.npy", len(content)), ("d/y.npy", len(content)), ("zero", 0)):
        shown = os.stat(mnt / "a.npz" / name)
        assert shown.st_mode == stat.S_IFREG | mode & 0o444
        assert (shown.st_uid, shown.st_gid) == (real.st_uid, real.st_gid)
        assert shown.st_mtime_ns == 1_000_000_000_123_456_789
        assert (shown.st_size, shown.st_nlink) == (size, 1)
        with open(mnt / "a.npz" / name, "rb") as file:
            assert os.fstat(file.fileno()) == shown


def test_4_2_blocks_are_those_of_the_encoded_bytes(source, mount):
    contents = {
        "stored": (npy(np.zeros(10_000)), STORED),
        "deflated": (npy(np.zeros(10_000)), DEFLATED),
        "bzip2": (bytes(500_000), BZIP2),
        "none": (b"", STORED),
        "512": (bytes(512), STORED),
        "513": (bytes(513), STORED),
    }
    encoded = {n: zipmaker.encode(data, method) for n, (data, method) in contents.items()}
    entries = [Entry(n.encode(), data, method) for n, (data, method) in contents.items()]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)
    for name in contents:
        shown = os.stat(mnt / "a.npz" / name)
        assert shown.st_blocks == -(-len(encoded[name]) // 512), name
        assert shown.st_blksize == 131_072, name
    command = ["du", "-B1", *(mnt / "a.npz" / name for name in contents)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sizes = dict(reversed(line.split("\t")) for line in told.splitlines())
    assert sizes == {
        str(mnt / "a.npz" / name): str(-(-len(encoded[name]) // 512) * 512) for name in contents
    }


def test_4_2_blocks_of_plain_files_are_the_sources(source, mount):
    (source / "full").write_bytes(os.urandom(100_000))
    with open(source / "sparse", "wb") as out:
        out.truncate(50_000_000)
    os.sync()
    mnt = mount(source)
    for name in ("full", "sparse"):
        assert os.stat(mnt / name).st_blocks == os.stat(source / name).st_blocks


METHODS = {
    "stored": STORED,
    "deflated": DEFLATED,
    "bzip2": BZIP2,
    "lzma": LZMA,
    "xz": XZ,
    "zstd": ZSTD,
}


@pytest.mark.parametrize("method", METHODS)
def test_4_3_method_crc32_and_encoded_size(source, mount, method):
    content = npy(np.arange(1000))
    encoded = zipmaker.encode(content, METHODS[method])
    entries = [Entry(b"x.npy", content, METHODS[method], encoded), Entry(b"e", b"")]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)
    shown = npzfs_attributes(mnt / "a.npz/x.npy")
    assert shown["method"] == method
    assert shown["crc32"] == f"{zlib.crc32(content):08x}"
    assert shown["encoded_size"] == str(len(encoded))
    assert npzfs_attributes(mnt / "a.npz/e")["crc32"] == "00000000"


def test_4_3_method_of_deflate64(source, mount, tmp_path):
    (tmp_path / "x").write_bytes(bytes(100_000))
    command = ["7z", "a", "-tzip", "-mm=Deflate64", source / "a.npz", tmp_path / "x"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert npzfs_attributes(mount(source) / "a.npz/x")["method"] == "deflate64"


HEADERS = {
    "vector": (np.zeros(3, "<f4"), "<f4", "(3,)", "False"),
    "matrix": (np.zeros((3, 4), ">i8"), ">i8", "(3, 4)", "False"),
    "scalar": (np.array(True), "|b1", "()", "False"),
    "fortran": (np.zeros((2, 5), "c8", order="F"), "<c8", "(2, 5)", "True"),
    "empty": (np.zeros((0, 7), "u1"), "|u1", "(0, 7)", "False"),
    "text": (np.array(["abc"]), "<U3", "(1,)", "False"),
    "time": (np.zeros(2, "M8[ns]"), "<M8[ns]", "(2,)", "False"),
    "structured": (
        np.zeros(2, [("a", "<i4"), ("b", "<f8", (2, 3))]),
        "[('a', '<i4'), ('b', '<f8', (2, 3))]",
        "(2,)",
        "False",
    ),
}


@pytest.mark.parametrize("savez", [np.savez, np.savez_compressed])
def test_4_4_what_the_npy_header_says(source, mount, savez):
    savez(source / "a.npz", **{name: array for name, (array, *_) in HEADERS.items()})
    mnt = mount(source)
    for name, (_, dtype, shape, order) in HEADERS.items():
        shown = npzfs_attributes(mnt / f"a.npz/{name}.npy")
        got = (shown["dtype"], shown["shape"], shown["fortran_order"])
        assert got == (dtype, shape, order), name


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_4_4_every_header_version(source, mount, version):
    content = npy(np.zeros((2, 3), "<i2"), version)
    zipmaker.write(source / "a.npz", [Entry(b"x.npy", content, DEFLATED)])
    shown = npzfs_attributes(mount(source) / "a.npz/x.npy")
    assert (shown["dtype"], shown["shape"], shown["fortran_order"]) == ("<i2", "(2, 3)", "False")


def test_4_4_an_object_array_says_so(source, mount):
    np.savez(source / "a.npz", x=np.array([{}, None, 1], dtype=object))
    shown = npzfs_attributes(mount(source) / "a.npz/x.npy")
    assert (shown["dtype"], shown["shape"]) == ("|O", "(3,)")


def test_4_4_what_is_no_npy_has_no_dtype(source, mount):
    wanted = {
        b"text.txt": b"hello",
        b"empty.npy": b"",
        b"cut.npy": npy(np.zeros(3))[:50],
        b"not.npy": b"\x93NUMPX" + bytes(200),
        b"literal.npy": npy(np.zeros(3)).replace(b"descr", b"desc!"),
    }
    zipmaker.write(source / "a.npz", [Entry(name, data) for name, data in wanted.items()])
    mnt = mount(source)
    for name in wanted:
        path = mnt / "a.npz" / os.fsdecode(name)
        assert sorted(npzfs_attributes(path)) == ["crc32", "encoded_size", "method", "state"]
        for attribute in ("dtype", "shape", "fortran_order"):
            assert errno_of(os.getxattr, path, f"user.npzfs.{attribute}") == errno.ENODATA


def test_4_5_state_of_members(source, mount):
    content = npy(np.arange(1000))
    entries = [Entry(name.encode(), content, method) for name, method in METHODS.items()]
    entries += [
        Entry(b"encrypted", content, flags=zipmaker.ENCRYPTED),
        Entry(b"method 97", content, 97, encoded=b"x"),
    ]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)
    states = {e.name: npzfs_attributes(e.path)["state"] for e in os.scandir(mnt / "a.npz")}
    assert states == {
        "stored": f"unverified: 0 of {len(content)} bytes",
        "deflated": f"unverified: 0 of {len(content)} bytes",
        "bzip2": "slow: bzip2 members are decoded whole on first use",
        "lzma": "slow: lzma members are decoded whole on first use",
        "xz": "slow: xz members are decoded whole on first use",
        "zstd": "slow: zstd members are decoded whole on first use",
        "encrypted": "refused: encrypted",
        "method 97": "refused: method 97 is not supported",
    }
    assert npzfs_attributes(mnt / "a.npz") == {"state": "ready"}
    assert npzfs_attributes(mount(source, "--layout", "beside") / "a.npz") == {"state": "ready"}


def test_4_5_state_of_a_deflated_member_tells_how_far_its_first_pass_is(source, mount):
    content = os.urandom(8_000_000)
    zipmaker.write(source / "a.npz", [Entry(b"x", content, DEFLATED)])
    path = mount(source, "--verify", "never") / "a.npz/x"

    def state():
        # Not the others: they read the header, and so start the first pass.
        return os.getxattr(path, "user.npzfs.state").decode()

    assert state() == f"indexing: 0 of {len(content)} bytes decoded"
    with open(path, "rb") as file:
        assert file.read(100) == content[:100]
        words = state().split()
        assert words[0] == "indexing:"
        assert words[2:] == ["of", str(len(content)), "bytes", "decoded"]
        assert 100 <= int(words[1]) < len(content)
        assert file.read() == content[100:]
        poll(lambda: state() == "ready", 5, "the pass is complete")


def test_4_6_foreign_names_have_no_value(source, mount):
    (source / "plain").write_bytes(b"x")
    os.setxattr(source / "plain", "user.own", b"of the source")
    np.savez(source / "a.npz", x=np.arange(3))
    mnt = mount(source)
    for path in (mnt / "a.npz/x.npy", mnt / "a.npz", mnt / "plain", mnt.path):
        for name in (
            "user.other",
            "user.npzfs.",
            "user.npzfs.nothing",
            "user.own",
            "security.selinux",
            "system.posix_acl_access",
            "trusted.x",
        ):
            assert errno_of(os.getxattr, path, name) == errno.ENODATA, (path, name)


def test_4_6_a_listing_names_what_has_a_value(source, mount):
    np.savez(source / "a.npz", x=np.arange(3))
    (source / "plain").write_bytes(b"x")
    mnt = mount(source)
    assert sorted(npzfs_attributes(mnt / "a.npz/x.npy")) == sorted(ALL)
    names = [f"user.npzfs.{name}" for name in ("crc32", "encoded_size", "method", "state")]
    assert sorted(os.listxattr(mnt / "a.npz/x.npy")) == names
    assert os.listxattr(mnt / "a.npz") == ["user.npzfs.state"]
    assert os.listxattr(mnt / "plain") == []
    assert os.listxattr(mnt.path) == []


def test_4_6_getfattr_reads_them(source, mount):
    np.savez(source / "a.npz", x=np.arange(3, dtype="<i8"))
    path = mount(source) / "a.npz/x.npy"
    command = ["getfattr", "--absolute-names", "--only-values", "-n", "user.npzfs.dtype", path]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b"<i8"


def test_4_6_setting_and_removing_is_erofs(source, mount):
    np.savez(source / "a.npz", x=np.arange(3))
    (source / "plain").write_bytes(b"x")
    mnt = mount(source)
    for path in (mnt / "a.npz/x.npy", mnt / "a.npz", mnt / "plain", mnt.path):
        for name in ("user.npzfs.state", "user.new"):
            assert errno_of(os.setxattr, path, name, b"v") == errno.EROFS
            assert errno_of(os.removexattr, path, name) == errno.EROFS


def test_4_7_statfs_answers_from_the_source(source, mount):
    np.savez(source / "a.npz", x=np.arange(3))
    mnt = mount(source)
    for path in (mnt.path, mnt / "a.npz", mnt / "a.npz/x.npy"):
        real, shown = os.statvfs(source), os.statvfs(path)
        for field in ("f_bsize", "f_frsize", "f_blocks", "f_files", "f_namemax"):
            assert getattr(shown, field) == getattr(real, field), field
        for field in ("f_bfree", "f_bavail", "f_ffree"):
            # Others write to this disk too.
            slack = real.f_blocks // 50
            assert abs(getattr(shown, field) - getattr(real, field)) <= slack, field
        assert shown.f_bavail > 0
        assert shown.f_flag & os.ST_RDONLY
        assert shown.f_flag & os.ST_NOSUID
        assert shown.f_flag & os.ST_NODEV
