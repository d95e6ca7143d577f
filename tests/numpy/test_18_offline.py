"""Rules 18: archives without a mount."""

import gzip
import json
import os
import subprocess
import zipfile

import numpy as np
import pytest
from mounting import binary, state


def npzfs(*arguments):
    return subprocess.run([binary(), *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """No test finds or leaves indexes in the home directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def listed(*arguments):
    """The members of all archives: path of the archive and name, and what is said of them."""
    ended = npzfs("ls", "--json", *arguments)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    members = {}
    for line in lines:
        for member in line["members"]:
            members[line["archive"], member.pop("name")] = member
    return ended, members


def damage(path, member):
    """Changes a byte in the middle of a member."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
    with open(path, "r+b") as file:
        file.seek(info.header_offset + 30 + len(member) + info.compress_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0xFF]))


@pytest.fixture
def archives(source):
    """a.npz with several kinds of members, below/b.npz, and c.npy.gz."""
    rng = np.random.default_rng(1)
    np.savez_compressed(
        source / "a.npz",
        x=rng.integers(0, 9, (300, 20)).astype("<f4"),
        f=np.asfortranarray(rng.normal(size=(30, 40))),
        scalar=np.float64(3),
        fields=np.zeros(7, dtype=[("name", "S5"), ("at", "<i2", (2,))]),
        objects=np.array([1, "two", None], dtype=object),
    )
    (source / "below").mkdir()
    np.savez(source / "below/b.npz", y=rng.normal(size=1000))
    with gzip.open(source / "c.npy.gz", "wb") as file:
        np.save(file, np.arange(5000, dtype="<i4"))
    (source / "notes.txt").write_text("no archive")
    return source


def test_18_1_members_are_listed_as_numpy_finds_them(archives):
    ended, members = listed(archives)
    assert (ended.returncode, ended.stderr) == (0, "")
    wanted = {(str(archives / "c.npy.gz"), None): np.arange(5000, dtype="<i4")}
    for name in ("a.npz", "below/b.npz"):
        with np.load(archives / name, allow_pickle=True) as archive:
            wanted |= {(str(archives / name), f"{key}.npy"): archive[key] for key in archive}
    assert list(members) == sorted(wanted, key=lambda key: key[0])
    for key, array in wanted.items():
        member = members[key]
        assert member["shape"] == list(array.shape)
        said = member["dtype"]
        assert np.dtype(eval(said) if said.startswith("[") else said) == array.dtype
        assert member["fortran_order"] == (array.ndim == 2 and array.flags.f_contiguous)
    with zipfile.ZipFile(archives / "a.npz") as archive:
        for info in archive.infolist():
            member = members[str(archives / "a.npz"), info.filename]
            assert member["size"] == info.file_size
            assert member["encoded_size"] == info.compress_size
            assert member["crc32"] == f"{info.CRC:08x}"
            assert member["method"] == "deflated"


def test_18_1_the_table_has_a_line_for_each_member(archives):
    np.savez_compressed(archives / "line\nbreak.npz", z=np.zeros(3))
    ended = npzfs("ls", archives)
    lines = ended.stdout.splitlines()
    assert lines[0].split() == [
        *("SIZE", "ENCODED", "RATIO", "METHOD", "DTYPE", "SHAPE", "STATE", "NAME")
    ]
    assert len(lines) == 1 + 5 + 1 + 1 + 1
    (line,) = [line for line in lines if line.endswith("a.npz/f.npy")]
    assert "deflated  <f8     (30, 40) F " in line
    (line,) = [line for line in lines if "break" in line]
    assert line.endswith(r"line\nbreak.npz/z.npy")


def test_18_1_links_are_followed_but_not_in_circles(archives, tmp_path):
    (archives / "below/up").symlink_to(archives)
    (archives / "link.npz").symlink_to("below/b.npz")
    (tmp_path / "named").symlink_to(archives / "below")
    _, members = listed(archives)
    assert {os.path.relpath(path, archives) for path, _ in members} == {
        "a.npz",
        "below/b.npz",
        "c.npy.gz",
        "link.npz",
    }
    _, members = listed(tmp_path / "named")
    assert list(members) == [(str(tmp_path / "named/b.npz"), "y.npy")]


def test_18_2_the_state_is_what_mounts_have_saved(source, mount, tmp_path):
    large = np.random.default_rng(2).integers(0, 200, 3_000_000).astype("u1")
    np.savez_compressed(source / "a.npz", large=large, small=np.arange(10))
    index = tmp_path / "index"

    def states():
        _, members = listed("--index-dir", index, source)
        return [member["state"] for member in members.values()]

    assert states() == ["", ""]
    assert not index.exists()
    mounted = mount(source, "--index-dir", index)
    np.testing.assert_array_equal(np.load(mounted / "a.npz/large.npy"), large)
    mounted.stop()
    # It does not count as a use of the index files, whose oldest go first.
    before = {file: os.stat(index / file).st_mtime_ns for file in os.listdir(index)}
    assert states()[0] == "verified, indexed"
    assert before == {file: os.stat(index / file).st_mtime_ns for file in os.listdir(index)}


def test_18_2_members_that_cannot_be_read_say_why(archives):
    damage(archives / "a.npz", "x.npy")
    raw = (archives / "below/b.npz").read_bytes()
    at = raw.rindex(b"PK\x01\x02")
    # Bit 0 of the flags of the entry: encrypted.
    (archives / "below/b.npz").write_bytes(raw[: at + 8] + b"\x01" + raw[at + 9 :])
    _, members = listed(archives)
    assert members[str(archives / "below/b.npz"), "y.npy"]["state"] == "encrypted"


def test_18_3_every_member_is_compared_with_its_checksum(archives):
    ended = npzfs("verify", archives)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("7 members in 3 archives, ") and "all right" in ended.stdout

    damage(archives / "a.npz", "x.npy")
    damage(archives / "below/b.npz", "y.npy")
    raw = bytearray((archives / "c.npy.gz").read_bytes())
    raw[-8] ^= 1  # of the CRC-32 at the end
    (archives / "c.npy.gz").write_bytes(raw)
    (archives / "d.npz").write_bytes(b"PK\x03\x04 cut")
    ended = npzfs("verify", archives)
    *lines, last = ended.stdout.splitlines()
    assert ended.returncode == 1
    assert sorted(line.split(": ")[0] for line in lines) == [
        str(archives / name) for name in ("a.npz/x.npy", "below/b.npz/y.npy", "c.npy.gz", "d.npz")
    ]
    assert last.endswith(": 4 damaged or not checked")

    report = json.loads(npzfs("verify", "--json", archives).stdout)
    assert (report["archives"], report["members"]) == (3, 7)
    assert {(os.path.basename(one["path"]), one["member"]) for one in report["damaged"]} == {
        ("a.npz", "x.npy"),
        ("b.npz", "y.npy"),
        ("c.npy.gz", None),
        ("d.npz", None),
    }
    (error,) = [one["error"] for one in report["damaged"] if one["member"] == "y.npy"]
    assert error.startswith("corrupt: its CRC-32 is ")


@pytest.fixture
def large(source):
    """Three archives with a member each whose index is saved."""
    rng = np.random.default_rng(3)
    for name in "abc":
        x = rng.integers(0, 200, (3000, 1000)).astype("u1")
        np.savez_compressed(source / f"{name}.npz", x=x)
    return source


def test_18_4_a_mount_needs_no_pass_over_what_was_indexed(large, mount, tmp_path):
    index = tmp_path / "index"
    ended = npzfs("index", "--index-dir", index, large)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("3 members in 3 archives, 8.6 MiB ")
    assert ended.stdout.endswith(": 0 were known\n")
    _, members = listed("--index-dir", index, large)
    assert [member["state"] for member in members.values()] == ["verified, indexed"] * 3

    mounted = mount(large, "--index-dir", index)
    for name in "abc":
        # The state is known before anything is read.
        assert state(mounted / f"{name}.npz/x.npy") == "ready"
        rows = np.load(mounted / f"{name}.npz/x.npy", mmap_mode="r")
        with np.load(large / f"{name}.npz") as archive:
            np.testing.assert_array_equal(rows[::7], archive["x"][::7])


def test_18_4_what_is_indexed_is_not_decoded_again(large, tmp_path):
    index = tmp_path / "index"
    assert npzfs("index", "--index-dir", index, large / "a.npz").returncode == 0
    damage(large / "b.npz", "x.npy")
    # Two at once, and beside each other.
    line = [binary(), "index", "--index-dir", index, large]
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        out, _ = process.communicate(timeout=60)
        named, last = out.splitlines()
        assert process.returncode == 1
        assert named.startswith(f"{large / 'b.npz/x.npy'}: ")
        assert last.endswith("1 were known, 1 failed") or last.endswith("2 were known, 1 failed")
    again = npzfs("index", "--index-dir", index, large / "a.npz", large / "c.npz")
    assert again.returncode == 0
    assert again.stdout == "2 members in 2 archives, 0 B (0 B/s): 2 were known\n"


def test_18_4_a_directory_that_cannot_be_made_is_named(large, tmp_path):
    (tmp_path / "file").touch()
    ended = npzfs("index", "--index-dir", tmp_path / "file/index", large)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"npzfs: no index can be saved: {tmp_path / 'file/index'}: ")


def test_18_5_what_cannot_be_read_makes_the_exit_status_1(archives, tmp_path):
    os.mkfifo(tmp_path / "fifo.npz")
    for verb in ("ls", "verify", "index"):
        assert npzfs(verb, archives / "a.npz").returncode == 0
        for path, words in (
            (archives / "notes.txt", "its name ends neither in .npz nor in .npy.gz"),
            (archives / "none.npz", "No such file or directory"),
            (tmp_path / "fifo.npz", "it is not a regular file"),
        ):
            ended = npzfs(verb, path, archives / "a.npz")
            assert ended.returncode == 1
            assert f"{path}: {words}\n" in ended.stdout + ended.stderr
            assert "a.npz" in ended.stdout or "5 members" in ended.stdout
        assert npzfs(verb).returncode == 2
