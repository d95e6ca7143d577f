"""Rules 2 of docs/python.md: locks of private mounts, and what can go wrong with them."""

import errno
import fcntl
import os
import select
import subprocess
from pathlib import Path

import npzfs
import numpy as np
import pytest
from arrays import same
from conftest import LOAD, mounts_in, rows, run_python, start_python
from joblib.externals.loky import get_reusable_executor
from mounting import Child, poll
from npzfs import _servers


def home_of(name):
    """The directory of the private mount in which a member is shown."""
    return Path(name).parents[2]


def other_archive(archive, number=0):
    directory = archive.parents[1] / f"other{number}"
    directory.mkdir()
    np.savez(directory / "b.npz", x=rows())
    return directory / "b.npz"


def is_free(path):
    try:
        with _servers._locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return True
    except BlockingIOError:
        return False


def test_2_3_processes_with_other_directories_have_a_mount_of_their_own(archive, tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o700)
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path / "theirs")}
    other = start_python(LOAD, archive, env=environment)
    assert Path(other.stdout.readline()).is_relative_to(tmp_path / "theirs")
    assert npzfs.path(archive, "x").is_relative_to(tmp_path / "run")
    other.communicate("\n")


def home_that_was_left(archive, runtime):
    """The directory of a private mount that ended well."""
    process = start_python(LOAD, archive)
    home = home_of(process.stdout.readline().strip())
    process.communicate("\n")
    poll(lambda: not mounts_in(runtime), 10, "the mount is gone")
    poll(lambda: is_free(home), 10, "the server ends")
    return home


GROUPS = [
    ["0::/user.slice/user-1.slice/session-1.scope\n"],
    ["0::/user.slice/user-1.slice/session-2.scope\n"],
    [f"0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_{n}\n" for n in (0, 1)],
    ["0::/system.slice/slurmstepd.scope/job_7/step_1/user/task_0\n"],
    ["0::/system.slice/slurmstepd.scope/job_8/step_0/user/task_0\n"],
    [f"9:freezer:/slurm/uid_1/job_7/step_0/task_{n}\n0::/\n" for n in (0, 1)],
    ["9:freezer:/slurm/uid_1/job_7/step_batch\n0::/\n"],
    [""],
]


def test_2_3_processes_that_are_killed_apart_have_a_mount_of_their_own(tmp_path, monkeypatch):
    """The server is one of the processes of a control group, and is killed with them."""
    numbers = []
    for texts in GROUPS:
        found = set()
        for text in texts:
            (tmp_path / "cgroup").write_text(text)
            monkeypatch.setattr(_servers, "_GROUPS", str(tmp_path / "cgroup"))
            found.add(_servers._group())
        assert len(found) == 1, texts
        numbers += found
    assert len(set(numbers)) == len(GROUPS)


def test_2_3_a_control_group_has_mounts_of_its_own(archive, runtime, tmp_path, monkeypatch):
    first = npzfs.path(archive)
    (tmp_path / "cgroup").write_text(GROUPS[0][0])
    monkeypatch.setattr(_servers, "_GROUPS", str(tmp_path / "cgroup"))
    assert npzfs.path(archive) != first
    monkeypatch.setattr(_servers, "_GROUPS", str(tmp_path / "none"))
    assert npzfs.path(archive) != first
    assert len(mounts_in(runtime)) == 3


def test_2_3_a_directory_without_locks_is_not_used(archive, runtime, monkeypatch):
    def flock(fd, kind, flock=fcntl.flock):
        if Path(os.readlink(f"/proc/self/fd/{fd}")).is_relative_to(runtime):
            raise OSError(errno.ENOSYS, "no locks")
        flock(fd, kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert not npzfs.path(archive).is_relative_to(runtime)
    names = [os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()]
    assert str(runtime / "npzfs") not in names


HOLD = "import sys; from npzfs import _servers; print(_servers._hold(sys.argv[1]))"


def test_2_3_a_process_that_removes_old_directories_makes_no_other_take_a_second_one(
    archive, runtime, monkeypatch
):
    home = home_that_was_left(archive, runtime)
    others = []

    def rmdir(path, rmdir=os.rmdir):
        if path == str(home / "mnt"):
            others.append(start_python(HOLD, home))
            poll(lambda: waits_for_lock(others[0].pid) or has_output(others[0]), 10, "it waits")
        rmdir(path)

    monkeypatch.setattr(os, "rmdir", rmdir)
    _servers._sweep(str(runtime / "npzfs"))
    (other,) = others
    assert other.communicate("\n")[0].strip() == "True"


def waits_for_lock(pid):
    lines = Path("/proc/locks").read_text().splitlines()
    return any("-> FLOCK" in line and line.split()[5] == str(pid) for line in lines)


def has_output(process):
    return select.select([process.stdout], [], [], 0)[0]


@pytest.mark.parametrize("moment", ["_start", "_mountpoints"])
def test_2_4_a_child_that_is_forked_during_a_load_keeps_no_lock_of_it(
    archive, runtime, monkeypatch, moment
):
    function, children = getattr(_servers, moment), []
    held, end = os.pipe()

    def forking(*arguments):
        if not children:
            children.append(Child(lambda: os.close(end) or os.read(held, 1)))
        return function(*arguments)

    monkeypatch.setattr(_servers, moment, forking)
    home = home_of(npzfs.path(archive, "x"))
    assert is_free(home.parent)
    assert is_free(home / "starting")
    os.close(end)
    assert children[0].result() == b""
    os.close(held)


def test_2_4_a_path_in_the_mount_of_another_process_keeps_that_mount(archive, runtime):
    other = start_python(LOAD, archive)
    name = other.stdout.readline().strip()
    by_member, by_directory = npzfs.load(name), npzfs.load(Path(name).parent)["x"]
    assert [*_servers._held] == [str(home_of(name))]
    other.communicate("\n")
    same(by_member, rows())
    same(by_directory, rows())
    assert len(mounts_in(runtime)) == 1


CLOSING = """
import os, sys, npzfs
x = npzfs.load(sys.argv[1])["x"]
os.closerange(3, 1000)
others = [open(sys.argv[1], "rb") for _ in range(int(sys.argv[2]))]
print(npzfs.load(sys.argv[1])["x"][7, 3], {other.read(2) for other in others})
"""


@pytest.mark.parametrize("count", [0, 5])
def test_2_4_a_program_may_close_all_descriptors(archive, count):
    """Numbers that the package knew may then be those of other files."""
    expected = f"{rows()[7, 3]} {set([b'PK'] * count)}"
    assert run_python(CLOSING, archive, count) == expected


def test_2_4_a_worker_that_is_kept_for_later_keeps_the_mount(archive):
    worker = get_reusable_executor(1)
    try:
        name = worker.submit(lambda: npzfs.load(archive)["x"].filename).result()
        assert worker.submit(lambda: [*_servers._held]).result() == [str(home_of(name))]
    finally:
        worker.shutdown(kill_workers=True)


def test_2_5_the_directory_of_a_mount_that_ended_well_is_removed_by_the_next(archive, runtime):
    home_that_was_left(archive, runtime)
    now = npzfs.path(other_archive(archive), "x")
    assert list((runtime / "npzfs").iterdir()) == [home_of(now)]


def test_2_6_arrays_that_outlive_their_blocks_cost_nothing_once_they_are_gone(archive, runtime):
    for _ in range(4):
        with npzfs.mount(archive.parent) as root:
            x = npzfs.load(root / "a.npz")["x"]
    same(x, rows())
    # That of x, and the one before, whose array lived until x was replaced.
    assert len(_servers._held) == len(list((runtime / "npzfs").iterdir())) == 2


def test_2_6_a_mount_that_somebody_else_has_unmounted_ends_without_an_error(archive, runtime):
    with npzfs.mount(archive.parent) as root:
        subprocess.run([_servers.program(), "unmount", root], check=True)
    assert mounts_in(runtime) == []


def test_2_6_an_option_may_be_given_more_than_once(archive):
    names = ["{stem}+{key}.npy", "x={stem}.npy"]
    with npzfs.mount(archive.parent, layout="flat", flat_name=names) as root:
        assert sorted(os.listdir(root)) == ["a+names.npy", "a.npy", "a.npz"]


@pytest.mark.parametrize("option", ["foreground", "while_locked", "help", "version"])
def test_2_6_options_that_make_no_mount_for_a_block_are_refused(archive, runtime, option):
    value = str(archive) if option == "while_locked" else True
    with pytest.raises(npzfs.Error), npzfs.mount(archive.parent, **{option: value}):
        pass
    assert (mounts_in(runtime), _servers._held) == ([], {})


def test_2_8_a_directory_that_cannot_be_mounted_leaves_nothing(archive, runtime, monkeypatch):
    monkeypatch.setenv("NPZFS", "/bin/false")
    for number in range(3):
        with pytest.raises(npzfs.Error, match="ended with 1"):
            npzfs.load(other_archive(archive, number))
    assert _servers._held == {}
    assert list((runtime / "npzfs").iterdir()) == []


def test_2_8_the_program_of_the_wheel_comes_before_that_in_the_path(tmp_path, monkeypatch):
    """As pip installs it, and as `pip install --target` does, which records another place."""
    text = "from npzfs import _servers; print(_servers.program())"
    monkeypatch.delenv("NPZFS", raising=False)
    programs = {}
    for directory in ("path", "bin", "lib/site/bin"):
        (tmp_path / directory).mkdir(parents=True)
        programs[directory] = tmp_path / directory / "npzfs"
        programs[directory].touch(0o755)
    site = tmp_path / "lib/site"
    # A link would lead to the directory beside the package that is tested.
    subprocess.run(["cp", "-r", Path(npzfs.__file__).parent, site / "npzfs"], check=True)
    (site / "npzfs-1.dist-info").mkdir()
    (site / "npzfs-1.dist-info/METADATA").write_text("Name: npzfs\nVersion: 1\n")
    (site / "npzfs-1.dist-info/RECORD").write_text("../../bin/npzfs,,\n")
    places = {"PATH": f"{programs['path'].parent}:{os.environ['PATH']}", "PYTHONPATH": str(site)}
    for directory in ("lib/site/bin", "bin", "path"):
        assert run_python(text, env=os.environ | places) == str(programs[directory])
        programs[directory].unlink()
