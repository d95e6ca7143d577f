"""Rules 9.6 to 9.8 and 10.9: for which archives a saved index or a decoded copy is used."""

import gzip
import io
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import zipmaker
from forging import with_crc32
from mounting import poll, state
from noise import COLUMNS, ROWS, noise, write_archive
from zipmaker import DEFLATED, STORED, Entry

VICTIM, ATTACKER, NOBODY = 1001, 1002, 65534
MTIME = 1_700_000_000_123_456_789


def saved(directory):
    return sorted(Path(directory).glob("*.index"))


def npy(array):
    plain = io.BytesIO()
    np.save(plain, array)
    return plain.getvalue()


@pytest.fixture
def indexes(tmp_path):
    return tmp_path / "indexes"


@pytest.fixture
def copies(tmp_path):
    return tmp_path / "copies"


def same_length(content):
    """`content` as DEFLATE in stored blocks: the encoded length follows from the length alone."""
    coder = zlib.compressobj(0, zlib.DEFLATED, -15)
    return coder.compress(content) + coder.flush()


def write_zip(path, content, claimed):
    """An archive of `content` whose central directory is that of one of `claimed`."""
    crc32 = zlib.crc32(claimed)
    zipmaker.write(path, [Entry(b"x.npy", content, DEFLATED, same_length(content), crc32=crc32)])


def write_gz(path, content, claimed):
    """A `.npy.gz` of `content` with the trailer of one of `claimed`."""
    trailer = struct.pack("<II", zlib.crc32(claimed), len(claimed))
    path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + same_length(content) + trailer)


KINDS = {
    "zip": (".npz", write_zip, lambda mnt, stem: mnt / f"{stem}.npz/x.npy"),
    "gzip": (".npy.gz", write_gz, lambda mnt, stem: mnt / f"{stem}.npy"),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def wrong_from_the_middle(content):
    wrong = bytearray(content)
    middle = len(wrong) // 2
    wrong[middle:-70_000] = bytes(len(wrong) - 70_000 - middle)
    return bytes(wrong)


def set_back(path, owner):
    os.chown(path, owner, owner)
    os.utime(path, ns=(MTIME, MTIME))


def is_right(path, content):
    """Whether rows are right: from the last to the first, through a handle and the page cache."""
    with open(path, "rb", buffering=0) as file:
        for offset in range(len(content) - 4096, 0, -4096 * 25):
            if os.pread(file.fileno(), 4096, offset) != content[offset : offset + 4096]:
                return False
    return path.read_bytes() == content


@kinds
@pytest.mark.parametrize("way", ["in place", "by rename"])
def test_9_6_what_was_read_in_part_of_a_damaged_archive_is_not_used_for_the_restored_one(
    source, mount, indexes, kind, way
):
    suffix, write, member = KINDS[kind]
    content = npy(noise())
    path, good = source / f"a{suffix}", source.parent / "backup"
    write(good, content, content)
    write(path, wrong_from_the_middle(content), content)
    for one in (path, good):
        set_back(one, 0)
    one = mount(source, "--index-dir", indexes, "--verify", "never")
    with open(member(one, "a"), "rb", buffering=0) as file:
        # Beyond the damage, not to the end, where the CRC-32 would tell.
        assert os.pread(file.fileno(), 4096, len(content) * 3 // 4)
    one.stop()
    assert len(saved(indexes)) == 1
    if way == "in place":
        shutil.copyfile(good, path)
    else:
        shutil.copyfile(good, path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)
    set_back(path, 0)
    for _ in range(2):
        one = mount(source, "--index-dir", indexes)
        assert is_right(member(one, "a"), content)
        assert not one.log()
        one.stop()


def test_9_6_what_was_read_in_part_is_used_for_the_same_file(source, mount, indexes):
    archive = write_archive(source)
    options = ("--index-dir", indexes, "--verify", "never")

    def done():
        return int(state(one / "a.npz/x.npy").split()[1])

    def read_some():
        with open(one / "a.npz/x.npy", "rb", buffering=0) as file:
            os.pread(file.fileno(), 4096, 2_000_000)

    one = mount(source, *options)
    read_some()
    one.stop()
    one = mount(source, *options)
    assert done() > 2_000_000
    one.stop()
    # Whoever may change the mode may change the bytes, and set its times back.
    archive.chmod(0o640)
    one = mount(source, *options)
    assert done() == 0
    # It is found out again, and saved in its place.
    read_some()
    one.stop()
    one = mount(source, *options)
    assert done() > 2_000_000


@kinds
@pytest.mark.parametrize("owner", [ATTACKER, VICTIM, NOBODY])
@pytest.mark.parametrize("read_before", ["part", "all"])
def test_9_7_what_is_saved_of_a_forged_archive_is_not_used_for_another_owners(
    source, mount, indexes, kind, owner, read_before
):
    suffix, write, member = KINDS[kind]
    content = npy(noise())
    forged = with_crc32(wrong_from_the_middle(content), zlib.crc32(content))
    # Of a .npy.gz the last 64 KiB are part of what it is known by.
    if kind == "gzip":
        forged = wrong_from_the_middle(content)[:-70_004] + forged[-4:] + content[-70_000:]
        spot = len(content) - 70_000
        wanted = zlib.crc32(content[:spot])
        forged = with_crc32(forged[:spot], wanted) + content[spot:]
        assert zlib.crc32(forged) == zlib.crc32(content)
    write(source / f"victim{suffix}", content, content)
    write(source / f"forged{suffix}", forged, content)
    set_back(source / f"victim{suffix}", VICTIM if owner != NOBODY else NOBODY)
    set_back(source / f"forged{suffix}", owner)
    one = mount(source, "--index-dir", indexes)
    if read_before == "all":
        assert member(one, "forged").read_bytes() == forged
    else:
        with open(member(one, "forged"), "rb", buffering=0) as file:
            assert os.pread(file.fileno(), 4096, len(forged) - 80_000)
    one.stop()
    one = mount(source, "--index-dir", indexes)
    path = member(one, "victim")
    if owner == VICTIM:
        # Then the owner has deceived nobody else. It is found out all the same, span by span.
        poll(lambda: right_or_error(path, content), 20, "what was saved is dropped")
    else:
        assert is_right(path, content)
        assert not one.log_lines("is rebuilt"), one.log()


def right_or_error(path, content):
    try:
        return is_right(path, content)
    except OSError:
        return False


@kinds
@pytest.mark.parametrize("owner", [ATTACKER, NOBODY])
def test_10_9_a_copy_of_a_forged_archive_is_not_shown_for_another_owners(
    source, mount, copies, kind, owner
):
    suffix, write, member = KINDS[kind]
    content = npy(noise())
    forged = with_crc32(wrong_from_the_middle(content), zlib.crc32(content))
    write(source / f"victim{suffix}", content, content)
    write(source / f"forged{suffix}", forged, content)
    set_back(source / f"victim{suffix}", VICTIM if owner != NOBODY else NOBODY)
    set_back(source / f"forged{suffix}", owner)
    one = mount(source, "--disk-cache", copies)
    with open(member(one, "forged"), "rb", buffering=0) as file:
        for _ in range(3):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            assert b"".join(iter(lambda: os.read(file.fileno(), 1 << 20), b"")) == forged
    poll(lambda: list(copies.glob("*.decoded")), 20, "the copy is made")
    assert is_right(member(one, "victim"), content)
    one.stop()
    one = mount(source, "--disk-cache", copies)
    assert is_right(member(one, "victim"), content)


def test_9_7_an_archive_that_is_given_to_another_user_loses_its_index(source, mount, indexes):
    archive = write_archive(source)
    one = mount(source, "--index-dir", indexes)
    assert (np.load(one / "a.npz/x.npy") == noise()).all()
    one.stop()
    for owner, wanted in ((VICTIM, "unverified: 0 of "), (0, "ready")):
        os.chown(archive, owner, owner)
        one = mount(source, "--index-dir", indexes)
        assert state(one / "a.npz/x.npy").startswith(wanted)
        one.stop()


def test_9_7_what_a_fuse_filesystem_says_of_owners_counts_for_itself_alone(source, mount, indexes):
    write_archive(source)
    one = mount(source, "--index-dir", indexes)
    assert (np.load(one / "a.npz/x.npy") == noise()).all()
    one.stop()
    fuse = mount(source, "--layout", "beside", "--index-dir-size", "0")
    real, shown = os.stat(source / "a.npz"), os.stat(fuse / "a.npz")
    assert real.st_uid == shown.st_uid and real.st_mtime_ns == shown.st_mtime_ns
    for place, wanted in ((fuse.path, "unverified: 0 of "), (source, "ready")):
        one = mount(place, "--index-dir", indexes)
        assert state(one / "a.npz/x.npy").startswith(wanted)
        one.stop()


def test_9_3_what_another_user_could_have_written_is_not_used(source, mount, indexes):
    write_archive(source)
    one = mount(source, "--index-dir", indexes)
    assert (np.load(one / "a.npz/x.npy") == noise()).all()
    one.stop()
    os.chown(saved(indexes)[0], NOBODY, -1)
    one = mount(source, "--index-dir", indexes)
    assert state(one / "a.npz/x.npy").startswith("unverified: 0 of ")
    assert len(one.log_lines(f"user {NOBODY}")) == 1, one.log()
    assert (np.load(one / "a.npz/x.npy", mmap_mode="r")[ROWS - 1] == noise()[ROWS - 1]).all()


@pytest.mark.parametrize("whose", ["file", "directory"])
def test_10_5_a_copy_that_another_user_could_have_written_is_not_used(source, mount, copies, whose):
    write_archive(source)
    content = npy(noise())
    one = mount(source, "--disk-cache", copies)
    with open(one / "a.npz/x.npy", "rb", buffering=0) as file:
        for _ in range(3):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            while os.read(file.fileno(), 1 << 20):
                pass
    copy = poll(lambda: list(copies.glob("*.decoded")), 20, "the copy is made")[0]
    one.stop()
    times = copy.stat()
    copy.write_bytes(bytes(len(content)))
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.chown(copy if whose == "file" else copies, NOBODY, -1)
    one = mount(source, "--disk-cache", copies)
    assert is_right(one / "a.npz/x.npy", content)
    assert len(one.log_lines(f"user {NOBODY}")) == 1, one.log()


def test_9_8_that_a_stored_member_was_right_is_used_for_the_same_file(source, mount, indexes):
    content = npy(np.zeros((ROWS, COLUMNS), "<f4"))
    path = zipmaker.write(source / "a.npz", [Entry(b"x", content, STORED)])
    set_back(path, 0)
    one = mount(source, "--index-dir", indexes)
    assert state(one / "a.npz/x").startswith("unverified: 0 of ")
    assert (one / "a.npz/x").read_bytes() == content
    poll(lambda: state(one / "a.npz/x") == "ready", 20, "it is compared")
    one.stop()
    one = mount(source, "--index-dir", indexes)
    assert state(one / "a.npz/x") == "ready"
    one.stop()
    # A backup that is damaged, with the same times.
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    set_back(path, 0)
    one = mount(source, "--index-dir", indexes, "--verify", "always")
    assert state(one / "a.npz/x").startswith("unverified: 0 of ")
    with pytest.raises(OSError, match="Input/output error"):
        open(one / "a.npz/x", "rb")


def test_9_8_an_archive_of_many_stored_members_is_saved_a_few_times(source, mount, indexes):
    content = bytes(1 << 20)
    entries = [Entry(b"%d" % number, content, STORED) for number in range(300)]
    zipmaker.write(source / "a.npz", entries)
    one = mount(source, "--index-dir", indexes)
    written = set()
    for number in range(300):
        assert (one / f"a.npz/{number}").read_bytes() == content
        written |= {(path.name, path.stat().st_ino) for path in saved(indexes)}
    one.stop()
    assert len(written) <= 2
    one = mount(source, "--index-dir", indexes)
    assert {state(one / f"a.npz/{number}") for number in range(300)} == {"ready"}


def test_9_2_a_gzipped_npy_that_was_moved_is_known_again(source, mount, indexes):
    (source / "b.npy.gz").write_bytes(gzip.compress(npy(noise())))
    one = mount(source, "--index-dir", indexes)
    assert (np.load(one / "b.npy") == noise()).all()
    one.stop()
    (source / "d").mkdir()
    shutil.move(source / "b.npy.gz", source / "d/c.npy.gz")
    one = mount(source, "--index-dir", indexes)
    assert state(one / "d/c.npy") == "ready"
