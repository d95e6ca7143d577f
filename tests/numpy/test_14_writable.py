"""Rules 14.8 to 14.12: a command that writes where its data are."""

import os
import signal
import subprocess

import numpy as np
import pytest
import zipmaker
from hanging import Hanging
from mounting import poll, tree
from running import USER, as_user, running

ARRAY = np.arange(50_000)

HEAD = """
import errno, os, sys, zipfile
import numpy as np
archive, member = "source/a.npz", "source/a.npz.d/x.npy"
"""


@pytest.fixture(params=["root", "user"])
def runner(request):
    """An `npzfs run` of root and one of an ordinary user. Its source has `a.npz`."""
    with running(request.param == "root") as one:
        np.savez_compressed(one.source / "a.npz", x=ARRAY, y=np.eye(3))
        (one.source / "deep").mkdir()
        (one.source / "notes").write_text("old")
        yield one


@pytest.fixture
def changes(runner):
    """Runs `code` with a place for writes. Returns what this place has afterwards."""
    place = runner.home / "changes"

    def run(code):
        assert runner.python(HEAD + code, "--writable", place) == ""
        poll(lambda: not runner.servers(), 10, "the server ends")
        return {path: what for path, what in tree(place / "upper").items() if what != "dir"}

    return run


def test_14_8_what_numpy_saves_goes_to_the_directory(runner, changes):
    before = tree(runner.source)
    written = changes(
        "np.save('source/deep/new.npy', [1, 2])\n"
        "np.savez_compressed('source/new.npz', x=[3])\n"
        "np.savetxt('source/notes', [4])\n"
        "assert (np.load('source/deep/new.npy') == [1, 2]).all()\n"
        "assert np.load('source/new.npz')['x'] == [3]\n"
        "assert sorted(os.listdir('source')) == \\\n"
        "    ['a.npz', 'a.npz.d', 'deep', 'new.npz', 'notes']\n"
    )
    assert sorted(written) == ["deep/new.npy", "new.npz", "notes"]
    assert tree(runner.source) == before
    # The next command goes on from there.
    changes(
        "assert (np.load('source/deep/new.npy') == [1, 2]).all()\nos.unlink('source/new.npz')\n"
    )
    changes("assert not os.path.exists('source/new.npz')\n")


def test_14_8_savez_over_an_archive_replaces_it(runner, changes):
    before = (runner.source / "a.npz").read_bytes()
    written = changes(
        "assert len(np.load(archive)['x']) == 50_000\n"
        "np.savez(archive, z=[5, 6])\n"
        "assert np.load(archive).files == ['z'] and (np.load(archive)['z'] == [5, 6]).all()\n"
    )
    assert sorted(written) == ["a.npz"]
    assert (runner.source / "a.npz").read_bytes() == before


def test_14_8_a_map_for_writing_copies_the_member(runner, changes):
    before = (runner.source / "a.npz").read_bytes()
    written = changes(
        "mapped = np.lib.format.open_memmap(member, mode='r+')\n"
        "assert (mapped == np.arange(50_000)).all()\n"
        "mapped[7] = 77\n"
        "mapped.flush()\n"
        "assert np.load(member, mmap_mode='r')[7] == 77\n"
        "np.load(member, mmap_mode='r+')[8] = 88\n"
        "assert list(np.load(member)[6:10]) == [6, 77, 88, 9]\n"
    )
    assert list(written) == ["a.npz.d/x.npy"]
    assert (runner.source / "a.npz").read_bytes() == before


def test_14_8_an_archive_is_appended_to(changes):
    changes(
        "with zipfile.ZipFile(archive, 'a') as zip:\n"
        "    zip.writestr('z.npy', open('source/a.npz.d/y.npy', 'rb').read())\n"
        "assert zipfile.ZipFile(archive).testzip() is None\n"
        "loaded = np.load(archive)\n"
        "assert loaded.files == ['x', 'y', 'z'] and (loaded['z'] == np.eye(3)).all()\n"
        "assert (loaded['x'] == np.arange(50_000)).all()\n"
    )


@pytest.mark.parametrize("path", ["source/a.npz", "source/a.npz.d/x.npy", "source/notes"])
def test_14_8_existing_files_are_opened_in_every_way(changes, path):
    changes(
        f"path = {path!r}\n"
        "whole = open(path, 'rb').read()\n"
        "for mode in (os.R_OK, os.W_OK, os.R_OK | os.W_OK):\n"
        "    assert os.access(path, mode)\n"
        "for flags in (os.O_RDONLY, os.O_RDONLY | os.O_CREAT, os.O_RDWR | os.O_CREAT, os.O_RDWR):\n"
        "    fd = os.open(path, flags)\n"
        "    assert os.pread(fd, len(whole) + 1, 0) == whole\n"
        "    os.close(fd)\n"
        "try: os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)\n"
        "except FileExistsError: pass\n"
        "else: raise AssertionError(path)\n"
        "fd = os.open(path, os.O_WRONLY | os.O_APPEND)\n"
        "os.write(fd, b'more')\n"
        "assert open(path, 'rb').read() == whole + b'more'\n"
        "os.truncate(path, 3)\n"
        "assert open(path, 'rb').read() == whole[:3]\n"
        "os.chmod(path, 0o600); os.utime(path, (1, 1)); os.rename(path, path + '2')\n"
        "os.unlink(path + '2'); assert not os.path.exists(path)\n"
    )


def test_14_8_names_whose_kind_is_not_known_yet_are_listed(runner, changes):
    # The kind of a large archive is known when it is opened, which a listing does not wait for.
    entries = [zipmaker.Entry(b"%05d.npy" % number, b"x") for number in range(5000)]
    zipmaker.write(runner.source / "large.npz", entries)
    changes(
        "with os.scandir('source') as entries:\n"
        "    kinds = {entry.name: entry.is_dir() for entry in entries}\n"
        "assert kinds == {'a.npz': 0, 'a.npz.d': 1, 'deep': 1, 'large.npz': 0,\n"
        "                 'large.npz.d': 1, 'notes': 0}, kinds\n"
        "os.unlink('source/large.npz.d/00007.npy')\n"
        "assert len(os.listdir('source/large.npz.d')) == 4999\n"
        "assert len(zipfile.ZipFile('source/large.npz').namelist()) == 5000\n"
    )


LARGE = (2 << 30) + (1 << 20)


def test_14_8_files_of_more_than_2_gib_are_read(runner, changes):
    with open(runner.source / "large", "wb") as file:
        file.truncate(LARGE)
        file.seek(LARGE - 4)
        file.write(b"last")
    written = changes(
        f"fd = os.open('source/large', os.O_RDONLY)\n"
        f"assert os.pread(fd, 9, {LARGE} - 5) == b'\\0last'\n"
        f"assert os.stat('source/large').st_size == {LARGE}\n"
    )
    assert written == {}


@pytest.mark.slow
def test_14_8_files_of_more_than_2_gib_are_copied(runner, changes):
    with open(runner.source / "large", "wb") as file:
        file.truncate(LARGE)
        file.seek(LARGE - 4)
        file.write(b"last")
    place = runner.home / "changes/upper/large"
    code = f"fd = os.open('source/large', os.O_RDWR); os.pwrite(fd, b'L', {LARGE} - 4)\n"
    try:
        assert runner.python(HEAD + code, "--writable", runner.home / "changes") == ""
        with open(place, "rb") as file:
            assert os.fstat(file.fileno()).st_size == LARGE
            assert os.pread(file.fileno(), 9, LARGE - 5) == b"\0Last"
    finally:
        place.unlink()


def test_14_9_an_archive_and_the_files_of_its_members_are_copied_apart(changes):
    changes(
        "np.load(member, mmap_mode='r+')[7] = 77\n"
        "assert np.load(archive)['x'][7] == 7\n"
        "np.savez(archive, x=[5])\n"
        "assert np.load(member)[7] == 77\n"
        "np.savez_compressed('source/new.npz', x=[5])\n"
        "assert zipfile.ZipFile('source/new.npz').getinfo('x.npy').compress_type == 8\n"
        "assert not os.path.exists('source/new.npz.d')\n"
    )


def test_14_10_write_bits_are_those_of_the_source(runner, changes):
    for name, mode in [("a.npz", 0o640), ("notes", 0o400), ("deep", 0o755)]:
        (runner.source / name).chmod(mode)
        os.chown(runner.source / name, *([0 if runner.is_root else USER] * 2))
    changes(
        "mode = lambda name: os.stat('source/' + name).st_mode & 0o777\n"
        "modes = {name: mode(name) for name in os.listdir('source')}\n"
        "assert modes == {'a.npz': 0o640, 'a.npz.d': 0o750, 'deep': 0o755, 'notes': 0o400}, modes\n"
        "assert os.stat(member).st_mode & 0o777 == 0o640\n"
        "if os.getuid() != 0:\n"
        "    try: open('source/notes', 'a')\n"
        "    except PermissionError: pass\n"
        "    else: raise AssertionError\n"
    )


def test_14_10_a_user_writes_what_belongs_to_others(runner, changes):
    others = runner.source / "others"
    others.mkdir()
    np.savez_compressed(others / "b.npz", x=ARRAY)
    for path in (others, others / "b.npz"):
        os.chown(path, 4321, 4322)
    (others / "secret").write_text("x")
    (others / "secret").chmod(0o600)
    changes(
        "np.save('source/others/new.npy', [1])\n"
        "np.load('source/others/b.npz.d/x.npy', mmap_mode='r+')[7] = 77\n"
        "np.savez('source/others/b.npz', x=[5])\n"
        "owner = os.stat('source/others/b.npz').st_uid\n"
        "assert owner == (os.getuid() or 4321), owner\n"
        "if os.getuid() != 0:\n"
        "    for flags in (os.O_RDONLY, os.O_RDWR):\n"
        "        try: os.open('source/others/secret', flags)\n"
        "        except PermissionError: pass\n"
        "        else: raise AssertionError('the secret of somebody else')\n"
    )
    assert (others / "b.npz").stat().st_uid == 4321


@pytest.mark.parametrize("runner", ["root"], indirect=True)
def test_14_10_the_source_itself_keeps_its_owner(runner):
    os.chown(runner.source, USER, USER)
    runner.source.chmod(0o2700)
    script = "cat source/notes; echo new >source/new; cat source/new; stat -c %u:%g:%a source"
    user = as_user("sh", "-c", script)
    expected = f"oldnew\n{USER}:{USER}:2700\n"
    assert runner.run("--writable", "home/changes", "--", *user) == (0, expected, "")


@pytest.mark.parametrize("runner", ["root"], indirect=True)
def test_14_10_a_source_whose_owner_has_no_number_in_the_container_is_written_all_the_same(runner):
    os.chown(runner.source, USER, USER)
    script = "echo new >source/new; cat source/new; stat -c %u source source/new"
    line = runner.line("--writable", "home/changes", "--", "sh", "-c", script)
    # Root alone has a number here.
    line = ["unshare", "--user", "--map-root-user", "--mount", *line]
    ended = subprocess.run(
        line, cwd=runner.directory, env=runner.environment(), capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"new\n0\n0\n", b"")


@pytest.mark.parametrize("how", ["renamed over", "overwritten"])
def test_14_11_an_archive_that_others_change_is_stale(runner, how):
    code = HEAD + (
        "mapped = np.load(member, mmap_mode='r')\n"
        "assert mapped[7] == np.load(archive)['x'][7] == 7\n"
        "print('ready', flush=True); input()\n"
        "def value(load):\n"
        "    try: return load()\n"
        "    except OSError as error: return errno.errorcode[error.errno]\n"
        "import time\n"
        "deadline = time.monotonic() + 60\n"
        "while (seen := value(lambda: np.load(archive)['x'][7])) == 7:\n"
        "    assert time.monotonic() < deadline\n"
        "    time.sleep(0.01)\n"
        "assert seen in ('ESTALE', 1007), seen\n"
        "assert value(lambda: np.load(member)[7]) in ('ESTALE', 1007)\n"
        "assert np.load('source/new.npz')['x'][7] == 1007\n"
        "assert mapped[7] == 7\n"
    )
    options = ["--writable", runner.home / "changes", "--", runner.interpreter, "-c", code]
    process = runner.start(*options, stdin=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    target = runner.source / ("new.npz" if how == "renamed over" else "a.npz")
    np.savez_compressed(target, x=ARRAY + 1000)
    if how == "renamed over":
        os.rename(target, runner.source / "a.npz")
    np.savez_compressed(runner.source / "new.npz", x=ARRAY + 1000)
    out, err = process.communicate(b"\n", timeout=100)
    assert (process.returncode, out, err) == (0, b"", b"")
    code = HEAD + "assert np.load(archive)['x'][7] == np.load(member)[7] == 1007"
    assert runner.python(code, "--writable", runner.home / "changes") == ""


def test_14_12_the_directory_is_made_and_keeps_the_upper_layer_alone(runner):
    place = runner.home / "new/changes"
    runner.source.chmod(0o751)
    code = "import os; os.mkdir('source/made'); print(oct(os.stat('source').st_mode))"
    assert runner.python(code, "--writable", "home/new/changes") == "0o40751\n"
    poll(lambda: not runner.servers(), 10, "the server ends")
    assert [path.name for path in place.iterdir()] == ["upper"]
    assert [path.name for path in (place / "upper").iterdir()] == ["made"]


def test_14_12_two_commands_with_one_directory_follow_each_other(runner):
    place = runner.home / "changes"
    script = "echo ready; read x; echo 1 >source/1"
    command = ["--writable", place, "--", "sh", "-c", script]
    first = runner.start(*command, stdin=subprocess.PIPE)
    assert first.stdout.readline() == b"ready\n"
    second = runner.start("--writable", place, "--", "cat", "source/1")
    poll(lambda: len(runner.servers()) == 2, 10, "the second waits")
    first.communicate(b"\n", timeout=60)
    assert second.communicate(timeout=60) == (b"1\n", b"")


def test_14_12_a_command_that_is_killed_while_it_waits_leaves_the_upper_layer_alone(runner):
    place = runner.home / "changes"
    first = runner.start("--writable", place, "--", "cat", stdin=subprocess.PIPE)
    poll(lambda: (place / "work/work").exists(), 10, "the first writes")
    second = runner.start("--writable", place, "--", "true")
    poll(lambda: len(runner.servers()) == 2, 10, "the second waits")
    second.kill()
    second.wait(60)
    first.communicate(timeout=60)
    poll(lambda: not runner.servers(), 10, "both servers end")
    assert os.listdir(place) == ["upper"]


@pytest.mark.slow
def test_14_12_a_directory_in_use_is_told(runner):
    place = runner.home / "changes"
    first = runner.start("--writable", place, "--", "sh", "-c", "echo ready; exec sleep 100")
    assert first.stdout.readline() == b"ready\n"
    code, out, err = runner.run("--writable", place, "--", "true")
    assert (code, out, err.count("\n")) == (125, "", 1)
    advice = "wait for its end, or give another directory\n"
    assert err.endswith(f"another npzfs run writes there; {advice}")


def test_14_12_a_killed_command_leaves_a_directory_that_can_be_used(runner):
    place = runner.home / "changes"
    first = runner.start("--writable", place, "--", "sh", "-c",
                         "echo 1 >source/1; echo ready; exec sleep 100")  # fmt: skip
    assert first.stdout.readline() == b"ready\n"
    os.kill(runner.server(), signal.SIGKILL)
    first.kill()
    first.wait(60)
    assert runner.run("--writable", place, "--", "cat", "source/1") == (0, "1\n", "")


def test_14_12_a_directory_that_will_not_do(runner):
    (runner.home / "file").write_text("")
    (runner.home / "sealed").mkdir(mode=0o555)
    before = tree(runner.source)
    cases = [
        ("source/deep", "outside"),
        ("source/new/one", "outside"),
        ("home/new/../../source/new", "outside"),
        (".", "outside"),
        ("home/file", "exists"),
    ]
    if not runner.is_root:
        cases.append(("home/sealed", "Permission denied"))
    for place, named in cases:
        code, out, err = runner.run("--writable", place, "--", "true")
        assert (code, out, err.count("\n")) == (125, "", 1), err
        assert "writes cannot go to" in err and named in err, err
    assert tree(runner.source) == before
    (runner.directory / "content").mkdir()
    fuse = Hanging(runner.directory / "content", runner.directory / "fuse", runner.home / "control")
    try:
        code, out, err = runner.run("--writable", fuse.path, "--", "true")
    finally:
        fuse.end()
    assert (code, out, err.count("\n")) == (125, "", 1), err
    assert "writes cannot go to" in err and "tmpfs" in err, err
    # An overlay is no place for the upper layer of another one.
    (runner.directory / "other").mkdir()
    line = [runner.program, "run", "--writable", "source/inner", "other", "--", "true"]
    code, out, err = runner.run("--writable", "home/changes", "--", *line)
    assert (code, out, err.count("\n")) == (125, "", 1), err
    assert "writes cannot go to" in err and "tmpfs" in err


def test_14_12_without_rights_in_a_container_it_is_the_same():
    # root without CAP_SYS_ADMIN, as in most containers: root alone has a number in its namespace.
    less = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"]
    code = HEAD + "np.load(member, mmap_mode='r+')[7] = 77; assert np.load(member)[7] == 77"
    with running(True) as runner:
        np.savez_compressed(runner.source / "a.npz", x=ARRAY)
        os.chown(runner.source / "a.npz", USER, USER)
        line = runner.line("--writable", "home/changes", "--", runner.interpreter, "-c", code)
        keywords = {"cwd": runner.directory, "env": runner.environment()}
        ended = subprocess.run(less + line, capture_output=True, check=False, **keywords)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
