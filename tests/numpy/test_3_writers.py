"""Rule 3.13: archives of real writers hold what np.load finds in them."""

import errno
import os
import shutil
import struct
import subprocess
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from arrays import npy, same
from mounting import errno_of

HERE = Path(__file__).resolve().parent
NODE_MODULES = HERE.parents[1] / ".venv/node/node_modules"

DRAW = np.random.default_rng(8)
ARRAYS = {
    "x": DRAW.normal(size=(2000, 17)).astype("f4"),
    "labels": np.arange(30_000, dtype=">i8") // 7,
    "structured": np.ones(9, [("a", "<i4"), ("b", "S3")]),
    "fortran": np.asfortranarray(DRAW.normal(size=(50, 60))),
    "scalar": np.array(2.5),
    "none": np.zeros((0, 3)),
    "noise": DRAW.integers(0, 256, 300_000).astype("u1"),
}


@pytest.fixture
def files(tmp_path):
    """A directory with a .npy for each of ARRAYS, to be archived."""
    directory = tmp_path / "files"
    directory.mkdir()
    for key, array in ARRAYS.items():
        np.save(directory / f"{key}.npy", array)
    return directory


def run(files, *command, **keywords):
    assert shutil.which(command[0]), f"{command[0]} is missing: tests/run installs it"
    done = subprocess.run(
        command, cwd=files, stdin=subprocess.DEVNULL, capture_output=True, text=True, **keywords
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


NAMES = [f"{key}.npy" for key in ARRAYS]


def check(path, mounted, methods=None):
    """The mounted archive holds ARRAYS and what zipfile lists; returns its zipfile infos."""
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    found = []
    for top, _, names in os.walk(mounted):
        found += [os.path.relpath(os.path.join(top, name), mounted) for name in names]
    assert sorted(found) == sorted(infos)
    for key, array in ARRAYS.items():
        for mmap_mode in (None, "r", "c"):
            same(np.load(mounted / f"{key}.npy", mmap_mode=mmap_mode), array)
        assert (mounted / f"{key}.npy").read_bytes() == npy(array)
    if methods is not None:
        assert {info.compress_type for info in infos.values()} <= methods
    return infos


ZIP_OPTIONS = {
    "default": [],
    "stored": ["-0"],
    "best": ["-9"],
    "descriptors": ["-fd"],
    "zip64": ["-fz"],
    "bzip2": ["-Z", "bzip2"],
    "no extra": ["-X"],
}


@pytest.mark.parametrize("options", ZIP_OPTIONS)
def test_3_13_info_zip(source, mount, files, options):
    run(files, "zip", "-q", *ZIP_OPTIONS[options], source / "a.npz", *NAMES)
    infos = check(source / "a.npz", mount(source) / "a.npz", {0, 8, 12})
    if options == "descriptors":
        assert all(info.flag_bits & 8 for info in infos.values())
    if options == "bzip2":
        assert infos["x.npy"].compress_type == 12


def test_3_13_info_zip_with_a_comment(source, mount, files):
    archive = source / "a.npz"
    run(files, "zip", "-q", archive, *NAMES)
    subprocess.run(["zip", "-q", "-z", archive], input=b"a comment\n.\n", check=True)
    with zipfile.ZipFile(archive) as written:
        assert written.comment.startswith(b"a comment")
    check(archive, mount(source) / "a.npz")


def test_3_13_info_zip_of_a_directory_with_symlinks(source, mount, files):
    (files / "sub/empty").mkdir(parents=True)
    shutil.copy(files / "x.npy", files / "sub/copy.npy")
    (files / "link").symlink_to("x.npy")
    run(files, "zip", "-q", "-r", "-y", source / "a.npz", ".")
    mnt = mount(source)
    check(source / "a.npz", mnt / "a.npz")
    assert (mnt / "a.npz/link").read_bytes() == b"x.npy"
    assert os.listdir(mnt / "a.npz/sub/empty") == []
    same(np.load(mnt / "a.npz/sub/copy.npy"), ARRAYS["x"])


def test_3_13_info_zip_from_and_to_a_pipe(source, mount, files):
    command = f"cat x.npy | zip -q - - > {source / 'a.npz'}"
    run(files, "bash", "-o", "pipefail", "-c", command)
    mnt = mount(source)
    assert os.listdir(mnt / "a.npz") == ["-"]
    assert (mnt / "a.npz/-").read_bytes() == npy(ARRAYS["x"])


def test_3_13_info_zip_encrypted(source, mount, files):
    run(files, "zip", "-q", "-P", "secret", source / "a.npz", "x.npy")
    mnt = mount(source)
    assert os.listdir(mnt / "a.npz") == ["x.npy"]
    assert errno_of(open, mnt / "a.npz/x.npy", "rb") == errno.EACCES


def test_3_13_info_zip_names_are_those_of_zipfile(source, mount, files):
    names = ["caf\u00e9.npy", "\u6570.npy"]
    for name in names:
        shutil.copy(files / "x.npy", files / name)
    run(files, "zip", "-q", source / "a.npz", *NAMES, *names)
    check(source / "a.npz", mount(source) / "a.npz")


SEVEN_METHODS = {"Copy": 0, "Deflate": 8, "Deflate64": 9, "BZip2": 12, "LZMA": 14, "xz": 95}


@pytest.mark.parametrize("method", SEVEN_METHODS)
@pytest.mark.parametrize("level", [1, 9])
def test_3_13_7_zip(source, mount, files, method, level):
    options = [f"-mm={method}", f"-mx={level}"]
    run(files, "7z", "a", "-tzip", *options, source / "a.npz", *NAMES)
    infos = check(source / "a.npz", mount(source) / "a.npz")
    assert infos["x.npy"].compress_type == SEVEN_METHODS[method]


def test_3_13_7_zip_with_ppmd_is_refused(source, mount, files):
    run(files, "7z", "a", "-tzip", "-mm=PPMd", source / "a.npz", "x.npy")
    path = mount(source) / "a.npz/x.npy"
    assert errno_of(open, path, "rb") == errno.EOPNOTSUPP
    state = os.getxattr(path, "user.npzfs.state")
    assert state == b"refused: method 98 is not supported"


@pytest.mark.parametrize("method", ["ZipCrypto", "AES256"])
def test_3_13_7_zip_encrypted(source, mount, files, method):
    run(files, "7z", "a", "-tzip", "-psecret", f"-mem={method}", source / "a.npz", "x.npy")
    path = mount(source) / "a.npz/x.npy"
    assert os.stat(path).st_size == len(npy(ARRAYS["x"]))
    assert errno_of(open, path, "rb") == errno.EACCES
    assert os.getxattr(path, "user.npzfs.state") == b"refused: encrypted"


@pytest.mark.parametrize("compression", ["store", "deflate"])
def test_3_13_bsdtar(source, mount, files, compression):
    options = ["--format", "zip", "--options", f"zip:compression={compression}"]
    run(files, "bsdtar", *options, "-cf", source / "a.npz", *NAMES)
    check(source / "a.npz", mount(source) / "a.npz", {0, 8})


def test_3_13_bsdtar_to_a_pipe(source, mount, files):
    command = f"bsdtar --format zip -cf - {' '.join(NAMES)} | cat > {source / 'a.npz'}"
    run(files, "bash", "-o", "pipefail", "-c", command)
    check(source / "a.npz", mount(source) / "a.npz")


@pytest.mark.parametrize("options", ["cfM", "cf0M", "cf"])
def test_3_13_jar(source, mount, files, options):
    run(files, "jar", options, source / "a.npz", *NAMES)
    infos = check(source / "a.npz", mount(source) / "a.npz")
    # jar writes descriptors after deflated data.
    assert bool(infos["x.npy"].flag_bits & 8) == (options != "cf0M")


@pytest.mark.parametrize(
    "options", [[], ["--stored"], ["--stream"], ["--zip64"], ["--stream", "--zip64"]]
)
def test_3_13_yazl_of_node(source, mount, files, options):
    assert (NODE_MODULES / "yazl").is_dir(), "yazl is missing: tests/run installs it"
    environment = os.environ | {"NODE_PATH": str(NODE_MODULES)}
    script = HERE / "writers/yazl.js"
    run(files, "node", script, source / "a.npz", *options, *NAMES, env=environment)
    infos = check(source / "a.npz", mount(source) / "a.npz")
    if "--stream" in options:
        assert infos["x.npy"].flag_bits & 8


@pytest.mark.parametrize("method", ["STORED", "DEFLATED", "BZIP2", "LZMA"])
def test_3_13_zipfile_of_python(source, mount, files, method):
    with zipfile.ZipFile(source / "a.npz", "w", getattr(zipfile, f"ZIP_{method}")) as archive:
        for name in NAMES:
            archive.write(files / name, name)
    check(source / "a.npz", mount(source) / "a.npz")


@pytest.mark.parametrize("saver", [np.savez, np.savez_compressed])
def test_3_13_np_savez_to_a_pipe(source, mount, saver):
    read, write = os.pipe()

    def copy():
        with os.fdopen(read, "rb") as pipe, open(source / "a.npz", "wb") as out:
            shutil.copyfileobj(pipe, out)

    copier = threading.Thread(target=copy)
    copier.start()
    with os.fdopen(write, "wb") as pipe:
        saver(pipe, **ARRAYS)
    copier.join()
    infos = check(source / "a.npz", mount(source) / "a.npz")
    assert all(info.flag_bits & 8 for info in infos.values())


@pytest.mark.parametrize("saver", [np.savez, np.savez_compressed])
def test_3_13_np_savez(source, mount, saver):
    saver(source / "a.npz", **ARRAYS)
    check(source / "a.npz", mount(source) / "a.npz", {0, 8})


@pytest.mark.filterwarnings("ignore:Constructing a DIA matrix")
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia"])
def test_3_13_scipy_sparse(source, mount, kind, compressed):
    matrix = scipy.sparse.random(500, 300, 0.01, kind, random_state=1)
    scipy.sparse.save_npz(source / "a.npz", matrix, compressed)
    mnt = mount(source)
    with np.load(source / "a.npz") as archive:
        assert sorted(f"{key}.npy" for key in archive) == sorted(os.listdir(mnt / "a.npz"))
        for key in archive:
            same(np.load(mnt / f"a.npz/{key}.npy", mmap_mode="r"), archive[key])
    beside = mount(source, "--layout", "beside")
    assert (scipy.sparse.load_npz(beside / "a.npz") != matrix).nnz == 0


def cnpy(path, arrays):
    """Archives as rogersce/cnpy writes them: no date, no attributes, headers padded to 16 bytes."""
    body, central = b"", b""
    for key, array in arrays.items():
        text = f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': {array.shape}, }}"
        text += " " * (16 - (10 + len(text)) % 16 - 1) + "\n"
        data = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + array.tobytes()
        name = f"{key}.npy".encode()
        common = struct.pack(
            "<HHHHHIIIHH", 20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(name), 0
        )
        central += b"PK\1\2" + struct.pack("<H", 20) + common
        central += struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name
        body += b"PK\3\4" + common + name + data
    end = struct.pack(
        "<4sHHHHIIH", b"PK\5\6", 0, 0, len(arrays), len(arrays), len(central), len(body), 0
    )
    path.write_bytes(body + central + end)


def test_3_13_cnpy(source, mount):
    arrays = {key: ARRAYS[key] for key in ("x", "labels", "none", "noise")}
    cnpy(source / "a.npz", arrays)
    path = mount(source) / "a.npz"
    assert sorted(os.listdir(path)) == sorted(f"{key}.npy" for key in arrays)
    with np.load(source / "a.npz") as archive:
        for key in arrays:
            for mmap_mode in (None, "r", "c"):
                got = np.load(path / f"{key}.npy", mmap_mode=mmap_mode)
                assert got.dtype == archive[key].dtype
                assert got.tobytes() == archive[key].tobytes() == arrays[key].tobytes()


def test_3_13_two_writers_on_one_archive(source, mount, files):
    archive = source / "a.npz"
    np.savez(archive, **{key: ARRAYS[key] for key in ("x", "labels")})
    rest = [name for name in NAMES if name not in ("x.npy", "labels.npy")]
    run(files, "zip", "-q", archive, *rest[:2])
    run(files, "7z", "a", "-tzip", archive, *rest[2:])
    check(archive, mount(source) / "a.npz")
