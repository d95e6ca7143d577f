"""Rules 9: indexes that one mount saves for the next."""

import contextlib
import gzip
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from mounting import poll, state
from noise import COLUMNS, ROWS, noise, write_archive


def saved(directory):
    return sorted(Path(directory).glob("*.index"))


@pytest.fixture
def archive(source):
    return write_archive(source)


@pytest.fixture
def indexes(tmp_path):
    return tmp_path / "indexes"


def read_all(path):
    assert (np.load(path) == noise()).all()


def first_mount(mount, source, indexes, *options):
    """Reads all of a member through a new mount."""
    one = mount(source, "--index-dir", indexes, *options)
    read_all(one / "a.npz/x.npy")
    one.stop()


def test_9_1_a_member_that_was_read_is_ready_in_the_next_mount(mount, source, archive, indexes):
    first_mount(mount, source, indexes)
    assert len(saved(indexes)) == 1
    assert indexes.stat().st_mode & 0o777 == 0o700
    one = mount(source, "--index-dir", indexes)
    x = np.load(one / "a.npz/x.npy", mmap_mode="r")
    assert state(one / "a.npz/x.npy") == "ready"
    for row in (ROWS - 1, 0, ROWS // 2, *np.random.default_rng(5).integers(0, ROWS, 50)):
        assert (x[row] == noise()[row]).all()
    read_all(one / "a.npz/x.npy")
    assert not one.log()


def test_9_1_it_is_saved_when_the_pass_ends_and_not_only_at_the_end(mount, archive, indexes):
    one = mount(archive.parent, "--index-dir", indexes)
    read_all(one / "a.npz/x.npy")
    poll(lambda: saved(indexes), 20, "the index is saved")
    one.kill()
    another = mount(archive.parent, "--index-dir", indexes)
    assert state(another / "a.npz/x.npy") == "ready"
    read_all(another / "a.npz/x.npy")


def test_9_1_a_member_that_was_half_read_goes_on_from_there(mount, source, archive, indexes):
    # Or it is read to its end to be verified.
    options = ("--index-dir", indexes, "--verify", "never")
    one = mount(source, *options)
    with open(one / "a.npz/x.npy", "rb") as file:
        file.seek(500_000)
        half = file.read(4000)
    one.stop()
    one = mount(source, *options)
    done, size = [int(word) for word in state(one / "a.npz/x.npy").split() if word.isdigit()]
    assert 504_000 <= done < size
    with open(one / "a.npz/x.npy", "rb") as file:
        file.seek(500_000)
        assert file.read(4000) == half
    # The CRC-32 of the whole is still checked: it is ready only if that was right.
    read_all(one / "a.npz/x.npy")
    assert state(one / "a.npz/x.npy") == "ready"


def test_9_1_a_gzipped_npy_is_saved_too(mount, source, indexes):
    plain = io.BytesIO()
    np.save(plain, noise())
    (source / "b.npy.gz").write_bytes(gzip.compress(plain.getvalue()))
    one = mount(source, "--index-dir", indexes)
    read_all(one / "b.npy")
    one.stop()
    one = mount(source, "--index-dir", indexes)
    assert state(one / "b.npy") == "ready"
    read_all(one / "b.npy")


def test_9_1_members_are_added_to_the_file_of_their_archive(mount, source, indexes):
    arrays = {name: noise(seed) for seed, name in enumerate("abc")}
    np.savez_compressed(source / "a.npz", **arrays)
    for names in ("b", "ca"):
        one = mount(source, "--index-dir", indexes)
        for name in names:
            assert (np.load(one / f"a.npz/{name}.npy") == arrays[name]).all()
        one.stop()
        assert len(saved(indexes)) == 1
    one = mount(source, "--index-dir", indexes)
    assert [state(one / f"a.npz/{name}.npy") for name in "abc"] == ["ready"] * 3


def test_9_2_an_archive_is_known_again_under_another_name(mount, source, archive, indexes):
    first_mount(mount, source, indexes)
    (source / "below").mkdir()
    shutil.copy2(archive, source / "below/copy.npz")
    archive.rename(source / "moved.npz")
    one = mount(source, "--index-dir", indexes)
    for name in ("below/copy.npz", "moved.npz"):
        assert state(one / name / "x.npy") == "ready"
        read_all(one / name / "x.npy")


def test_9_2_an_archive_with_another_content_is_not(mount, source, archive, indexes):
    first_mount(mount, source, indexes)
    times = archive.stat()
    np.savez_compressed(archive, x=noise(2))
    os.utime(archive, ns=(times.st_atime_ns, times.st_mtime_ns))
    one = mount(source, "--index-dir", indexes)
    assert state(one / "a.npz/x.npy").startswith("unverified: 0 of ")
    assert (np.load(one / "a.npz/x.npy") == noise(2)).all()


def gzipped(array, middle_level):
    """A .npy.gz in three gzip members, whose size and end do not tell what the middle is."""
    plain = io.BytesIO()
    np.save(plain, array)
    plain = plain.getvalue()
    third = len(plain) // 3
    start = gzip.compress(plain[:third], 6, mtime=0)
    # Zeros may follow a gzip member.
    middle = gzip.compress(plain[third : 2 * third], middle_level, mtime=0).ljust(3_000_000, b"\0")
    return start + middle + gzip.compress(plain[2 * third :], 6, mtime=0)


def rewrite_middle(path, array, later=0):
    """Overwrites the file in place, and keeps its size, times, start and end."""
    times, size = path.stat(), path.stat().st_size
    path.write_bytes(gzipped(array, 1))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + later))
    assert path.stat().st_size == size


def right_or_error(path):
    """Whether the changed array is read; the only other result allowed is an error."""
    try:
        return (np.load(path) == changed_in_the_middle()).all()
    except (OSError, ValueError):
        return False


def changed_in_the_middle():
    changed = noise()
    changed[ROWS // 2 - 100 : ROWS // 2 + 100] = noise(2)[:200]
    return changed


def test_9_2_a_gzipped_npy_of_the_same_second_is_another(mount, source, indexes):
    path = source / "b.npy.gz"
    path.write_bytes(gzipped(noise(), 6))
    second = 1_700_000_000_000_000_000
    os.utime(path, ns=(second, second + 123_456_789))
    one = mount(source, "--index-dir", indexes)
    read_all(one / "b.npy")
    one.stop()
    # With what is left of its times by those who keep fewer digits.
    for fraction in (123_456_700, 123_456_000, 0):
        os.utime(path, ns=(second, second + fraction))
        one = mount(source, "--index-dir", indexes)
        assert state(one / "b.npy") == "ready"
        one.stop()
    os.utime(path, ns=(second, second + 123_456_789))
    rewrite_middle(path, changed_in_the_middle(), later=4_000_000)
    one = mount(source, "--index-dir", indexes)
    assert state(one / "b.npy").startswith("unverified: 0 of ")
    assert (np.load(one / "b.npy") == changed_in_the_middle()).all()
    assert len(one.log_lines("it is of another archive")) == 1, one.log()
    one.stop()
    one = mount(source, "--index-dir", indexes)
    assert state(one / "b.npy") == "ready"


@pytest.mark.parametrize("read_before", [ROWS, ROWS // 2])
@pytest.mark.parametrize("read_first", [0, ROWS // 2, ROWS - 1])
def test_9_2_a_gzipped_npy_that_was_changed_in_the_middle_is_read_right(
    mount, source, indexes, read_before, read_first
):
    path = source / "b.npy.gz"
    path.write_bytes(gzipped(noise(), 6))
    one = mount(source, "--index-dir", indexes)
    assert (np.load(one / "b.npy", mmap_mode="r")[:read_before] == noise()[:read_before]).all()
    one.stop()
    assert len(saved(indexes)) == 1
    rewrite_middle(path, changed_in_the_middle())

    one = mount(source, "--index-dir", indexes)
    # Not mapped: an error there would be SIGBUS. A handle that was opened before the index is found
    # wrong reads right bytes or none (rule 11.8).
    with open(one / "b.npy", "rb") as file, contextlib.suppress(OSError):
        file.seek(128 + read_first * 4 * COLUMNS)
        assert file.read(4 * COLUMNS) == changed_in_the_middle()[read_first].tobytes()
    poll(lambda: right_or_error(one / "b.npy"), 20, "its index is dropped")
    assert state(one / "b.npy") == "ready"
    assert len(one.log_lines("is rebuilt")) == 1, one.log()
    assert len(one.log().splitlines()) == 1, one.log()
    one.stop()
    one = mount(source, "--index-dir", indexes)
    assert state(one / "b.npy") == "ready"
    assert (np.load(one / "b.npy") == changed_in_the_middle()).all()
    assert not one.log()


def test_9_2_a_member_that_was_damaged_since_costs_its_own_index_alone(mount, source, indexes):
    arrays = {name: noise(seed) for seed, name in enumerate("ab")}
    np.savez_compressed(source / "a.npz", **arrays)
    one = mount(source, "--index-dir", indexes)
    for name in "ab":
        assert (np.load(one / f"a.npz/{name}.npy") == arrays[name]).all()
    one.stop()
    path = source / "a.npz"
    times = path.stat()
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 4)
        file.write(b"\xff" * 100)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    one = mount(source, "--index-dir", indexes, "--verify", "never")
    with open(one / "a.npz/a.npy", "rb") as file:
        for _ in range(3):
            with pytest.raises(OSError, match="Input/output error"):
                file.seek(128)
                file.read()
    with open(one / "a.npz/a.npy", "rb") as file:
        # What is before the damage is there.
        file.seek(128)
        assert file.read(4000) == arrays["a"].tobytes()[:4000]
        with pytest.raises(OSError, match="Input/output error"):
            file.read()

    def is_corrupt():
        # Reads that fail because the index was wrong may end the pass just before the end.
        with contextlib.suppress(OSError), open(one / "a.npz/a.npy", "rb") as file:
            file.seek(-1, os.SEEK_END)
            file.read()
        return state(one / "a.npz/a.npy").startswith("corrupt")

    poll(is_corrupt, 20, "the damage is found")
    assert (np.load(one / "a.npz/b.npy") == arrays["b"]).all()
    assert len(one.log_lines("is rebuilt")) == 1, one.log()
    one.stop()
    one = mount(source, "--index-dir", indexes)
    assert state(one / "a.npz/b.npy") == "ready"
    assert state(one / "a.npz/a.npy").startswith("unverified: 0 of ")


@pytest.mark.parametrize("where", [3, 9, 20, 57, 70, 90, 150, -3000, -1, "cut", "empty", "mode"])
def test_9_3_a_damaged_index_is_rebuilt(mount, source, archive, indexes, where):
    first_mount(mount, source, indexes)
    [path] = saved(indexes)
    content = bytearray(path.read_bytes())
    if where == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif where == "empty":
        path.write_bytes(b"")
    elif where == "mode":
        path.chmod(0o666)
    else:
        content[where] ^= 0x10
        path.write_bytes(content)
    one = mount(source, "--index-dir", indexes)
    x = np.load(one / "a.npz/x.npy", mmap_mode="r")
    for row in (ROWS - 1, *np.random.default_rng(5).integers(0, ROWS, 50)):
        assert (x[row] == noise()[row]).all()
    read_all(one / "a.npz/x.npy")
    assert len(one.log_lines("is rebuilt")) <= 1, one.log()
    del x
    one.stop()
    one = mount(source, "--index-dir", indexes)
    assert state(one / "a.npz/x.npy") == "ready"
    read_all(one / "a.npz/x.npy")


def test_9_4_the_least_recently_used_go_when_there_are_too_many(mount, source, indexes):
    options = ("--index-dir", indexes, "--index-dir-size", "20K")
    np.savez_compressed(source / "a.npz", x=noise())
    first_mount(mount, source, *options[1:2], *options[2:])
    [first] = saved(indexes)
    taken = first.stat().st_size
    assert taken < 20 << 10
    os.utime(first, (1, 1))
    for seed in range(2, 12):
        (source / "a.npz").unlink()
        np.savez_compressed(source / "a.npz", x=noise(seed))
        one = mount(source, *options)
        assert (np.load(one / "a.npz/x.npy") == noise(seed)).all()
        one.stop()
        left = saved(indexes)
        assert sum(path.stat().st_blocks * 512 for path in left) <= 20 << 10
        if first not in left:
            break
    assert first not in left and left


def test_9_5_nothing_is_saved_when_nothing_may_be(mount, source, archive, indexes):
    first_mount(mount, source, indexes, "--index-dir-size", "0")
    assert not indexes.exists()


def test_9_5_a_directory_that_cannot_be_used_costs_a_line(mount, source, archive, tmp_path):
    (tmp_path / "file").write_text("no directory")
    one = mount(source, "--index-dir", tmp_path / "file/indexes")
    read_all(one / "a.npz/x.npy")
    assert len(one.log_lines("no indexes are saved")) == 1


def test_9_5_a_full_disk_costs_a_line(mount, source, archive, indexes):
    # No file may grow beyond a few blocks, as on a disk that is full.
    one = mount(source, "--index-dir", indexes, under=("prlimit", "--fsize=4096"))
    read_all(one / "a.npz/x.npy")
    poll(lambda: one.log_lines("no index saved"), 20, "it says so")
    assert (np.load(one / "a.npz/x.npy", mmap_mode="r")[7] == noise()[7]).all()
    assert not list(indexes.iterdir())


def test_9_5_the_directory_may_lie_below_the_mount(mount, source, archive):
    """The index directory lies below the mount, as ~/.cache does when ~ is mounted over itself."""
    for _ in range(2):
        one = mount(source, "--index-dir", source / ".cache/npzfs", at=source)
        read_all(one / "a.npz/x.npy")
        one.stop()
    assert len(saved(source / ".cache/npzfs")) == 1


def test_9_4_what_is_removed_while_it_is_in_use_is_saved_again(mount, source, indexes):
    arrays = {name: noise(seed) for seed, name in enumerate("ab")}
    np.savez_compressed(source / "a.npz", **arrays)
    one = mount(source, "--index-dir", indexes)
    assert (np.load(one / "a.npz/a.npy") == arrays["a"]).all()
    poll(lambda: saved(indexes), 20, "the index is saved")
    saved(indexes)[0].unlink()
    assert (np.load(one / "a.npz/b.npy") == arrays["b"]).all()
    one.stop()
    one = mount(source, "--index-dir", indexes)
    assert [state(one / f"a.npz/{name}.npy") for name in "ab"] == ["ready"] * 2


def test_9_3_damaged_windows_are_rebuilt(mount, source, archive, indexes):
    first_mount(mount, source, indexes)
    [path] = saved(indexes)
    content = bytearray(path.read_bytes())
    # Windows are what has no checksum that is looked at before they are used.
    [streams] = np.frombuffer(content, "<u4", 1, 12)
    table = np.frombuffer(content, "<u8", 4 * streams, 72).reshape(-1, 4)
    [checkpoints] = np.frombuffer(content, "<u8", 1, int(table[0, 2]) + 56)
    [block_crcs] = np.frombuffer(content, "<u4", 1, int(table[0, 2]) + 88)
    windows = int(table[0, 2]) + 96 + 48 * int(checkpoints) + 4 * int(block_crcs)
    assert len(content) - windows > 100
    for at in range(windows, len(content), 7):
        content[at] ^= 0x55
    path.write_bytes(content)

    for lines in (1, 0):
        one = mount(source, "--index-dir", indexes)
        x = np.load(one / "a.npz/x.npy", mmap_mode="r")
        assert state(one / "a.npz/x.npy") == "ready"
        for row in (ROWS - 1, *range(0, ROWS, 10)):
            assert (x[row] == noise()[row]).all()
        del x
        one.stop()
        assert len(one.log_lines("is rebuilt")) == lines, one.log()
        assert len(one.log().splitlines()) == lines, one.log()


def test_9_3_an_index_may_be_cut_short_while_it_is_used(mount, source, archive, indexes):
    first_mount(mount, source, indexes)
    one = mount(source, "--index-dir", indexes)
    assert state(one / "a.npz/x.npy") == "ready"
    os.truncate(saved(indexes)[0], 0)
    with open(one / "a.npz/x.npy", "rb") as file:
        for row in (ROWS - 1, *np.random.default_rng(5).integers(0, ROWS, 50)):
            file.seek(128 + int(row) * 4 * COLUMNS)
            assert file.read(4 * COLUMNS) == noise()[row].tobytes()
    one.stop()


def test_9_3_an_index_that_this_mount_cannot_use_is_replaced(mount, source, archive, indexes):
    """The spans are longer than a quarter of the cache."""
    first_mount(mount, source, indexes)
    small = ("--index-dir", indexes, "--cache-size", "256K")
    one = mount(source, *small)
    read_all(one / "a.npz/x.npy")
    one.stop()
    assert len(one.log_lines("is rebuilt")) == 1, one.log()
    one = mount(source, *small)
    assert state(one / "a.npz/x.npy") == "ready"
    read_all(one / "a.npz/x.npy")
    assert not one.log()


def test_9_4_an_index_that_is_too_large_is_no_reason_to_remove_others(mount, source, indexes):
    np.savez_compressed(source / "a.npz", x=noise())
    indexes.mkdir()
    other = indexes / "other.index"
    other.write_bytes(b"of another archive")
    first_mount(mount, source, indexes, "--index-dir-size", "4K")
    assert saved(indexes) == [other]
