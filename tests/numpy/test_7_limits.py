"""Rules 7.9 to 7.12: how much of descriptors, disk and log files and users may take."""

import bz2
import errno
import gzip
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
import zipmaker
from arrays import npy, same
from mounting import Child, errno_of, in_child, poll
from zipmaker import BZIP2, DEFLATED, LZMA, STORED, XZ, ZSTD, Entry

METHODS = {"bzip2": BZIP2, "lzma": LZMA, "xz": XZ, "zstd": ZSTD}


def descriptors(mnt):
    return len(os.listdir(f"/proc/{mnt.pid}/fd"))


def held_on_disk(mnt):
    """Bytes of files without a name that the server has open."""
    total = 0
    for number in os.listdir(f"/proc/{mnt.pid}/fd"):
        path = f"/proc/{mnt.pid}/fd/{number}"
        try:
            if os.readlink(path).endswith(" (deleted)"):
                total += os.stat(path).st_blocks * 512
        except OSError:
            pass  # closed meanwhile
    return total


@pytest.mark.parametrize("method", METHODS)
def test_7_9_members_that_are_decoded_whole_do_not_take_all_descriptors(source, mount, method):
    content = [b"%d" % number * 1000 for number in range(300)]
    entries = [Entry(b"%d" % n, data, METHODS[method]) for n, data in enumerate(content)]
    zipmaker.write(source / "a.npz", entries)
    np.savez(source / "good.npz", x=np.arange(100))
    mnt = mount(source, under=["prlimit", "--nofile=256:256"])
    for _ in range(2):
        for number, data in enumerate(content):
            assert (mnt / f"a.npz/{number}").read_bytes() == data
            assert descriptors(mnt) < 200
        same(np.load(mnt / "good.npz/x.npy"), np.arange(100))
    # Through handles that were opened before their files went.
    handles = [open(mnt / f"a.npz/{number}", "rb", buffering=0) for number in range(300)]
    for handle, data in zip(handles, content, strict=True):
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert handle.read(10_000) == data
        handle.close()
    assert not mnt.log()


def test_7_9_handles_do_not_take_all_descriptors(source, mount):
    (source / "many").mkdir()
    for number in range(300):
        (source / f"many/{number}").write_bytes(b"%d" % number)
        zipmaker.write(source / f"many/{number}.npz", [Entry(b"x", b"%d" % number)])
    np.savez(source / "good.npz", x=np.arange(100))
    mnt = mount(source, under=["prlimit", "--nofile=256:256"])
    for kind in ("", ".npz/x"):
        handles, refused = [], 0
        for number in range(300):
            try:
                handles.append(open(mnt / f"many/{number}{kind}", "rb", buffering=0))
            except OSError as error:
                assert error.errno == errno.ENFILE
                refused += 1
        assert 60 < len(handles) < 200 and refused
        assert descriptors(mnt) < 256
        # Others look, list, and read what is open.
        assert len(os.listdir(mnt / "many")) == 600
        assert os.stat(mnt / "many/299").st_size == 3
        assert os.stat(mnt / "good.npz/x.npy").st_size > 0
        assert handles[-1].read(10)
        for handle in handles:
            handle.close()
        poll(lambda: loads(mnt / "good.npz/x.npy"), 20, "handles are released")


def loads(path):
    try:
        return (np.load(path) == np.arange(100)).all()
    except OSError:
        return False


def test_7_9_one_user_does_not_take_what_others_need(source, mount):
    assert os.geteuid() == 0, "only root can be two users: run this test as root"
    os.chmod(source, 0o755)
    for number in range(200):
        (source / f"{number}").write_bytes(b"x")
    mnt = mount(source, "-o", "allow_other", under=["prlimit", "--nofile=256:256"])
    code = (
        "import os, sys\n"
        "os.setuid(65534)\n"
        "handles = []\n"
        "try:\n"
        "    for n in range(200): handles.append(open(f'{sys.argv[1]}/{n}'))\n"
        "except OSError as error: print(len(handles), error.errno, flush=True)\n"
        "sys.stdin.read()\n"
    )
    for parent in mnt.path.parents:
        if os.stat(parent).st_mode & 0o011 != 0o011:
            os.chmod(parent, os.stat(parent).st_mode | 0o011)
    greedy = subprocess.Popen(
        [sys.executable, "-c", code, mnt.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    count, number = map(int, greedy.stdout.readline().split())
    assert number == errno.ENFILE and count < 100
    with open(mnt / "199") as file:
        assert file.read() == "x"
    greedy.communicate()


def test_7_10_a_bomb_does_not_fill_the_disk(source, mount):
    bomb = bz2.compress(bytes(100_000_000))
    entries = [Entry(b"bomb%d" % n, bytes(100_000_000), BZIP2, encoded=bomb) for n in range(3)]
    entries.append(Entry(b"small", b"s" * 1000, BZIP2))
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source, "--scratch-size", "250M")
    for _ in range(2):
        for number in range(3):
            path = mnt / f"a.npz/bomb{number}"
            with open(path, "rb", buffering=0) as file:
                assert os.pread(file.fileno(), 4096, 99_000_000) == bytes(4096)
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert held_on_disk(mnt) <= 250 << 20
    assert (mnt / "a.npz/small").read_bytes() == b"s" * 1000
    assert not mnt.log()


def test_7_10_one_that_is_too_large_fails_alone_and_is_told_once(source, mount):
    content = bytes(3_000_000)
    zipmaker.write(source / "a.npz", [Entry(b"large", content, XZ), Entry(b"small", b"s", XZ)])
    mnt = mount(source, "-o", "scratch_size=2M")
    with open(mnt / "a.npz/large", "rb", buffering=0) as file:
        for number in range(200):
            assert errno_of(os.pread, file.fileno(), 4096, number * 4096) == errno.EFBIG
    assert (mnt / "a.npz/small").read_bytes() == b"s"
    assert len(mnt.log_lines("a.npz: large", "--scratch-size")) == 1, mnt.log()
    assert len(mnt.log().splitlines()) == 1


def test_7_11_the_log_does_not_grow_with_reads(source, mount, tmp_path):
    """Reads for which there is no room, on a disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", disk], check=True)
    try:
        members = [Entry(b"%d" % number, bytes(3_000_000), BZIP2) for number in range(20)]
        zipmaker.write(source / "a.npz", members)
        mnt = mount(source, "--scratch-size", "1G", under=["env", f"TMPDIR={disk}"])
        for number in range(20):
            with open(mnt / f"a.npz/{number}", "rb", buffering=0) as file:
                for page in range(40):
                    assert errno_of(os.pread, file.fileno(), 4096, page * 4096) == errno.ENOSPC
        lines = mnt.log().splitlines()
        assert 1 <= len(lines) <= 3, mnt.log()
        assert "no room" in lines[0]
        mnt.stop()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_7_11_the_log_does_not_grow_with_opens(source, mount):
    secret = Entry(b"secret", b"no", encoded=bytes(14), flags=zipmaker.ENCRYPTED)
    zipmaker.write(source / "a.npz", [secret])
    mnt = mount(source)
    for _ in range(50):
        assert errno_of(open, mnt / "a.npz/secret", "rb") == errno.EACCES
        assert errno_of(open, mnt / "a.npz/nothing", "rb") == errno.ENOENT
    assert len(mnt.log().splitlines()) == 1, mnt.log()


def test_7_12_a_small_member_does_not_wait_for_large_ones(source, mount):
    size = 600_000_000
    bomb = bz2.compress(bytes(size // 100)) * 100  # streams may follow each other in bzip2
    large = [Entry(b"large%d" % n, b"", BZIP2, encoded=bomb, size=size, crc32=1) for n in range(3)]
    zipmaker.write(source / "large.npz", large)
    zipmaker.write(source / "small.npz", [Entry(b"x", b"small" * 100, BZIP2)])
    mnt = mount(source, "--scratch-size", "3G")

    def read(name):
        with open(mnt / name, "rb", buffering=0) as file:
            return os.pread(file.fileno(), 10, 0)

    readers = [Child(lambda n=n: read(f"large.npz/large{n}")) for n in range(3)]
    poll(lambda: held_on_disk(mnt) > 0, 20, "the first is being decoded")
    assert in_child(lambda: read("small.npz/x")) == b"smallsmall"
    # The readers are killed: then nobody waits for the rest.
    for reader in readers:
        os.kill(reader.pid, signal.SIGKILL)
    poll(lambda: held_on_disk(mnt) < 1 << 20, 60, "what nobody waits for is given up")


def test_7_9_stored_and_deflated_members_need_one_descriptor_for_their_archive(source, mount):
    entries = [Entry(b"%d" % n, b"%d" % n, (STORED, DEFLATED)[n % 2]) for n in range(300)]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source, under=["prlimit", "--nofile=256:256"])
    handles = [open(mnt / f"a.npz/{number}", "rb", buffering=0) for number in range(300)]
    assert [handle.read(9) for handle in handles] == [b"%d" % n for n in range(300)]
    for handle in handles:
        handle.close()


def test_7_9_listing_does_not_take_all_descriptors(source, mount):
    content = gzip.compress(npy(np.arange(10)))
    for number in range(1500):
        (source / f"{number}.npy.gz").write_bytes(content)
    mnt = mount(source, under=["prlimit", "--nofile=512:512"])
    child = Child(lambda: sorted(os.listdir(mnt.path)))
    most = 0
    while child.running():
        most = max(most, descriptors(mnt))
    assert child.result() == sorted(f"{number}.npy" for number in range(1500))
    assert most < 400


def test_7_9_archives_that_nobody_has_open_make_room(source, mount):
    gz = gzip.compress(npy(np.arange(10)))
    for number in range(60):
        (source / f"{number}").write_bytes(b"x")
        (source / f"{number}.npy.gz").write_bytes(gz)
        zipmaker.write(source / f"{number}.npz", [Entry(b"x", b"member")])
    mnt = mount(source, under=["prlimit", "--nofile=64:64"])
    # A quarter of the descriptors each, and three eighths, beside what the server needs.
    for number in range(60):
        assert (mnt / f"{number}.npz/x").read_bytes() == b"member"
        same(np.load(mnt / f"{number}.npy"), np.arange(10))
    handles = [open(mnt / f"{number}", "rb", buffering=0) for number in range(24)]
    for number in range(60):
        assert (mnt / f"{number}.npz/x").stat().st_size == 6
        assert (mnt / f"{number}.npy").stat().st_size > 0
    for handle in handles:
        handle.close()
    assert not mnt.log()


def test_7_9_descriptors_are_those_of_the_hard_limit(source, mount):
    for number in range(300):
        (source / f"{number}").write_bytes(b"x")
    mnt = mount(source, under=["prlimit", "--nofile=128:1024"])
    handles = [open(mnt / f"{number}", "rb", buffering=0) for number in range(300)]
    for handle in handles:
        handle.close()


def test_7_9_a_file_of_a_member_is_closed_for_want_of_a_descriptor(source, mount):
    content = [b"%d" % number * 1000 for number in range(3)]
    entries = [Entry(b"%d" % n, data, BZIP2) for n, data in enumerate(content)]
    zipmaker.write(source / "a.npz", entries)
    mnt = mount(source)
    handles = [open(mnt / f"a.npz/{number}", "rb", buffering=0) for number in range(3)]
    for number in range(2):
        assert handles[number].read(10_000) == content[number]
    # From now on it has as many as it may have.
    before = resource.prlimit(mnt.pid, resource.RLIMIT_NOFILE)
    numbers = {int(number) for number in os.listdir(f"/proc/{mnt.pid}/fd")}
    most = next(number for number in range(len(numbers) + 1) if number not in numbers)
    resource.prlimit(mnt.pid, resource.RLIMIT_NOFILE, (most, before[1]))
    assert handles[2].read(10_000) == content[2]
    resource.prlimit(mnt.pid, resource.RLIMIT_NOFILE, before)
    for handle in handles:
        handle.close()


@pytest.fixture
def disk(tmp_path):
    """A disk of 10 MiB for what members are decoded to."""
    assert os.geteuid() == 0, "only root can mount a disk to be filled: run this test as root"
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10M", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def test_7_10_a_twentieth_of_the_disk_is_left_free(source, mount, disk):
    sizes = {"too large": (10 << 20) - (400 << 10), "right": (10 << 20) - (600 << 10)}
    members = [Entry(name.encode(), bytes(size), BZIP2) for name, size in sizes.items()]
    zipmaker.write(source / "a.npz", members)
    mnt = mount(source, "--scratch-size", "1G", under=["env", f"TMPDIR={disk}"])
    with open(mnt / "a.npz/too large", "rb", buffering=0) as file:
        assert errno_of(os.pread, file.fileno(), 10, 0) == errno.ENOSPC
    with open(mnt / "a.npz/right", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 10, 0) == bytes(10)
    mnt.stop()


def test_7_10_a_tenth_of_what_is_free_is_the_default(source, mount, disk):
    sizes = {"too large": (1 << 20) + (8 << 10), "right": (1 << 20) - (32 << 10)}
    members = [Entry(name.encode(), bytes(size), BZIP2) for name, size in sizes.items()]
    zipmaker.write(source / "a.npz", members)
    mnt = mount(source, under=["env", f"TMPDIR={disk}"])
    with open(mnt / "a.npz/too large", "rb", buffering=0) as file:
        assert errno_of(os.pread, file.fileno(), 10, 0) == errno.EFBIG
    with open(mnt / "a.npz/right", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 10, 0) == bytes(10)
    mnt.stop()
