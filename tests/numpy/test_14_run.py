"""Rules 14.1 to 14.7: a command that sees its data decoded, under their own paths."""

import fcntl
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hanging import Hanging
from mounting import poll
from noise import noise
from running import USER, as_user, running

ARRAY = np.arange(50_000)


@pytest.fixture(params=["root", "user"])
def runner(request):
    """An `npzfs run` of root and one of an ordinary user. Its source has `a.npz`."""
    with running(request.param == "root") as one:
        np.savez_compressed(one.source / "a.npz", x=ARRAY)
        yield one


only_root = pytest.mark.parametrize("runner", ["root"], indirect=True)
only_user = pytest.mark.parametrize("runner", ["user"], indirect=True)

LOOK = """
import os, sys, zipfile
import numpy as np
path = sys.argv[1] if len(sys.argv) > 1 else "source/a.npz"
assert zipfile.ZipFile(path).getinfo("x.npy").compress_type == zipfile.ZIP_STORED
assert (np.load(path)["x"] == np.arange(50_000)).all()
assert (np.load(path + ".d/x.npy", mmap_mode="r")[7:9] == [7, 8]).all()
"""


def test_14_1_the_command_sees_decoded_archives_under_their_own_paths(runner):
    before = (runner.source / "a.npz").read_bytes()
    process = runner.start("--", runner.interpreter, "-c", LOOK + "input()", stdin=subprocess.PIPE)
    runner.server()
    assert (runner.source / "a.npz").read_bytes() == before, "others see no change"
    assert not (runner.source / "a.npz.d").exists()
    out, err = process.communicate(b"\n", timeout=60)
    assert (process.returncode, out, err) == (0, b"", b"")


@pytest.mark.parametrize("layout", ["replace", "beside"])
def test_14_1_another_layout_can_be_had(runner, layout):
    names = runner.python("import os; print(*sorted(os.listdir('source')))", "--layout", layout)
    is_directory = runner.python(
        "import os; print(os.path.isdir('source/a.npz'))", "-o", f"layout={layout}"
    )
    assert names.split() == (["a.npz"] if layout == "replace" else ["a.npz", "a.npz.d"])
    assert is_directory.strip() == str(layout == "replace")


def test_14_1_any_path_of_the_source_will_do(runner):
    link = runner.directory / "link"
    link.symlink_to("source")
    (runner.source / "deep").mkdir()
    for source, cwd in [
        ("source", runner.directory),
        (".", runner.source),
        ("..", runner.source / "deep"),
        ("link", runner.directory),
        (link, Path("/")),
        ("./source/deep/../", runner.directory),
    ]:
        for path in (runner.source / "a.npz", link / "a.npz"):
            command = ["--", runner.interpreter, "-c", LOOK, path]
            assert runner.run(*command, source=source, cwd=cwd) == (0, "", ""), source


def test_14_1_two_sources_by_one_command_in_the_other(runner):
    second = runner.directory / "second"
    second.mkdir()
    np.savez_compressed(second / "b.npz", x=ARRAY)
    line = [runner.program, "run", second, "--", runner.interpreter, "-c"]
    code = LOOK + "path = 'second/b.npz'" + LOOK.replace("path =", "_ =")
    assert runner.run("--", *line, code) == (0, "", "")


def test_14_1_what_changes_outside_shows_inside(runner):
    watch = LOOK + (
        "print('ready', flush=True); deadline = time.monotonic() + 60\n"
        "while np.load('source/a.npz')['x'][0] != 5:\n"
        "    assert time.monotonic() < deadline\n"
        "    time.sleep(0.01)\n"
    )
    process = runner.start("--", runner.interpreter, "-c", "import time" + watch)
    assert process.stdout.readline() == b"ready\n"
    np.savez_compressed(runner.source / "new.npz", x=ARRAY + 5)
    os.rename(runner.source / "new.npz", runner.source / "a.npz")
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out, err) == (0, b"", b"")


def test_14_1_indexes_are_saved_where_the_caller_has_them(runner):
    np.savez_compressed(runner.source / "big.npz", x=noise())
    code = "import numpy as np; np.load('source/big.npz')['x']"
    assert runner.python(code) == ""
    poll(lambda: not runner.servers(), 10, "the server ends")
    assert list((runner.home / "cache/npzfs").glob("*.index"))


def test_14_1_what_is_no_directory_cannot_be_covered(runner):
    for source in ("source/a.npz", "/"):
        code, out, err = runner.run("--", "true", source=source)
        assert (code, out, err.count("\n")) == (125, "", 1)
        assert "cannot be covered" in err


@only_root
def test_14_1_users_that_root_switches_to_read_what_modes_allow(runner):
    (runner.source / "open").write_text("open")
    (runner.source / "sealed").write_text("sealed")
    (runner.source / "sealed").chmod(0o600)
    for options, name, code in [
        ([], "open", 0),
        ([], "sealed", 1),
        (["-o", "allow_root"], "open", 1),
    ]:
        user = as_user("cat", f"source/{name}")
        ended, out, _ = runner.run(*options, "--", *user)
        assert (ended, out) == (code, "" if code else name), (options, name)


@only_user
@pytest.mark.parametrize("option", ["allow_other", "allow_root", "default_permissions"])
def test_14_1_options_about_others_change_nothing_for_an_ordinary_user(runner, option):
    # The user may read it as a member of the group alone, which has no number in the namespace.
    path = runner.source / "of_the_group"
    path.write_text("read")
    os.chown(path, 0, 4322)
    path.chmod(0o640)
    line = runner.line("-o", option, "--", "cat", path)
    line[line.index("--clear-groups")] = "--groups=4322"
    ended = subprocess.run(line, capture_output=True, env=runner.environment(), check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"read", b"")


TELL = """
import json, os, signal
status = dict(l.split(":", 1) for l in open("/proc/self/status").read().splitlines() if ":" in l)
print(json.dumps({
    "pid": os.getpid(), "parent": os.getppid(), "ids": [*os.getresuid(), *os.getresgid()],
    "group": os.getpgrp(), "session": os.getsid(0), "environment": dict(os.environ),
    "cwd": os.getcwd(), "fds": sorted(map(int, os.listdir("/proc/self/fd"))),
    "children": open(f"/proc/self/task/{os.getpid()}/children").read(),
    "blocked": status["SigBlk"].strip(), "ignored": status["SigIgn"].strip(),
    "nice": os.nice(0), "umask": os.umask(0), "limits": open("/proc/self/limits").read(),
}))
"""


def test_14_2_the_command_is_the_process_that_was_started(runner):
    read, write = os.pipe()

    def prepare():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        os.umask(0o027)

    keywords = {"pass_fds": [write], "preexec_fn": prepare, "process_group": 0}
    process = runner.start("--", runner.interpreter, "-c", TELL, **keywords)
    told = json.loads(process.communicate(timeout=60)[0])
    line = [runner.interpreter, "-c", TELL]
    if not runner.is_root:
        line = runner.line("--", *line)[: -len(line) - 4] + line
    environment = runner.environment()
    bare = subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=runner.directory, env=environment, **keywords,
    )  # fmt: skip
    without = json.loads(bare.communicate(timeout=60)[0])
    assert (told.pop("pid"), told.pop("group")) == (process.pid, process.pid)
    assert without.pop("pid") == without.pop("group")
    assert told == without
    assert told["ids"] == [0 if runner.is_root else USER] * 6
    os.close(read)
    os.close(write)


def test_14_2_a_working_directory_in_the_source_is_entered_through_the_mount(runner):
    below = runner.source / "deep/deeper"
    below.mkdir(parents=True)
    np.savez_compressed(below / "b.npz", x=ARRAY)
    code = LOOK.replace("source/a.npz", "b.npz") + "print(os.getcwd())"
    assert runner.python(code, cwd=below) == f"{below}\n"
    assert runner.python(code, cwd=below, source="..") == f"{below}\n"


def test_14_2_the_terminal_and_its_keys_are_the_commands(runner):
    code = (
        "import os, time\n"
        "assert os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()\n"
        "try:\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    os.stat('source/a.npz.d')\n"
        "    os._exit(42)\n"
    )
    line = runner.line("--", runner.interpreter, "-c", code)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(runner.directory)
        os.execvpe(line[0], line, runner.environment())
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 1000)
    server = runner.server()
    os.write(terminal, b"\x03")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 42, shown
    poll(lambda: server not in runner.servers(), 10, "the server ends")


def test_14_2_the_command_stops_and_continues_and_the_server_does_not(runner):
    process = runner.start("--", "sh", "-c", "echo ready; read x; exit 9", stdin=subprocess.PIPE,
                           process_group=0)  # fmt: skip
    assert process.stdout.readline() == b"ready\n"
    os.killpg(process.pid, signal.SIGTSTP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    state = Path(f"/proc/{runner.server()}/stat").read_text().rpartition(")")[2].split()[0]
    assert state == "S"
    os.killpg(process.pid, signal.SIGCONT)
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 9


@only_user
def test_14_2_other_users_groups_and_setuid_programs_have_no_effect(runner):
    (runner.source / "of_root").write_text("")
    program = runner.directory / "id"
    shutil.copy(shutil.which("id"), program)
    program.chmod(0o4755)
    code = (
        "import os, subprocess\n"
        "print(os.stat('source/of_root').st_uid, os.stat('source').st_uid)\n"
        "try: os.setgroups([os.getgid()])\n"
        "except PermissionError: print('refused')\n"
        "print(subprocess.check_output(['./id', '-u'], text=True))\n"
    )
    assert runner.python(code).split() == ["65534", str(USER), "refused", str(USER)]
    outside = subprocess.check_output(as_user(str(program), "-u"), text=True)
    assert outside == "0\n", "it has an effect outside"


@pytest.mark.parametrize("code", [0, 1, 2, 7, 125, 255])
def test_14_3_the_exit_code_is_that_of_the_command(runner, code):
    assert runner.run("--", "sh", "-c", f"exit {code}")[0] == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_14_3_a_signal_ends_the_command_and_nothing_comes_between(runner, number):
    process = runner.start("--", "sh", "-c", "ulimit -c 0; echo ready; exec sleep 60")
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.wait(60) == -number


def test_14_3_what_cannot_be_run_ends_as_with_env(runner):
    path = {"PATH": "/usr/bin:/bin"}
    (runner.directory / "data").write_text("no program")
    for command, code in [("no-such-command", 127), ("./none", 127), ("./data", 126)]:
        ended, out, err = runner.run("--", command, env=runner.environment() | path)
        assert (ended, out) == (code, ""), err
        assert err.startswith(f"npzfs: cannot run {command}: ") and err.count("\n") == 1


def test_14_3_an_error_of_npzfs_is_125(runner):
    for options, source, named in [
        ([], "none", "none does not exist"),
        (["-o", "nonsense"], None, "nonsense"),
        (["--while-locked", "."], None, "--while-locked"),
        (["-o", "allow_root", "--writable", "home/changes"], None, "allow_root"),
        (["--memory-limit", "1M"], None, "--memory-limit"),
        (["--log-file", "/none/log"], None, "cannot write the log file /none/log"),
    ]:
        code, out, err = runner.run(*options, "--", "true", source=source)
        assert (code, out) == (125, "") and named in err, err
        assert err.startswith("npzfs: ") and err.count("\n") == 1, err


def test_14_3_a_wrong_command_line_is_125_and_names_the_help(runner):
    line = runner.line("--", "true")
    without, wrong = line[:-2], [*line[:-2], "--ttl", "soon", *line[-2:]]
    for line, named in [(without, "COMMAND"), (wrong, "soon")]:
        ended = subprocess.run(line, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stdout) == (125, "")
        first, *rest = ended.stderr.splitlines()
        assert first.startswith("error: ") and named in ended.stderr and "--help" in rest[-1]


@only_user
def test_14_3_a_server_that_cannot_be_started_gives_one_line(runner):
    line = runner.line("--", "true")
    # A user with no other processes: the command and one more, which is to start the server.
    line[line.index(f"--reuid={USER}")] = f"--reuid={USER + 1}"
    ended = subprocess.run(["prlimit", "--nproc=2", *line], capture_output=True, check=False)
    said = b"npzfs: cannot set up the server: Resource temporarily unavailable\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (125, b"", said)


@only_user
def test_14_3_a_device_that_cannot_be_passed_to_the_server_gives_one_line(runner):
    # The kernel passes no more descriptors of a user than one process may have.
    code = (
        "import socket\n"
        "ours, theirs = socket.socketpair()\n"
        "for _ in range(2): socket.send_fds(ours, [b'x'], [0] * 250)\n"
        "print('ready', flush=True); input()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(as_user(runner.interpreter, "-c", code), **pipes) as holder:
        assert holder.stdout.readline() == b"ready\n"
        line = ["prlimit", "--nofile=400", *runner.line("--", "true")]
        ended = subprocess.run(
            line, capture_output=True, env=runner.environment(), check=False, timeout=60
        )
        holder.communicate(b"\n")
    said = b"npzfs: cannot set up the server: Too many references: cannot splice\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (125, b"", said)


def test_14_4_a_process_left_in_the_background_keeps_the_mount(runner):
    # As a daemon does it: in a session of its own, with the command ended.
    code = LOOK + (
        "read, write = os.pipe()\n"
        "if os.fork(): os.read(read, 1); os._exit(3)\n"
        "os.setsid(); os.write(write, b'x'); os.close(1); os.close(2)\n"
        "os.read(0, 1)\n"
        "assert (np.load('source/a.npz')['x'] == np.arange(50_000)).all()\n"
        "open('home/done', 'w').write('done')\n"
    )
    process = runner.start("--", runner.interpreter, "-c", code, stdin=subprocess.PIPE)
    assert process.wait(60) == 3
    assert len(runner.servers()) == 1
    process.stdin.write(b"x")
    process.stdin.flush()
    poll(lambda: (runner.home / "done").exists(), 10, "the background process reads the mount")
    poll(lambda: not runner.servers(), 10, "the server ends")


def test_14_4_an_open_file_alone_keeps_the_mount(runner):
    ours, theirs = socket.socketpair()
    code = (
        "import os, socket\n"
        f"theirs = socket.socket(fileno={theirs.fileno()})\n"
        "socket.send_fds(theirs, [b'x'], [os.open('source/a.npz.d/x.npy', os.O_RDONLY)])\n"
    )
    command = ["--", runner.interpreter, "-c", code]
    assert runner.run(*command, pass_fds=[theirs.fileno()]) == (0, "", "")
    _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    if runner.is_root:
        with os.fdopen(fd, "rb", closefd=False) as file:
            assert (np.load(file) == ARRAY).all()
    assert len(runner.servers()) == 1
    os.close(fd)
    poll(lambda: not runner.servers(), 10, "the server ends")
    ours.close()
    theirs.close()


def test_14_4_killing_everything_but_the_server_leaves_nothing(runner):
    process = runner.start("--", "sh", "-c", "sleep 60 & echo $!; wait")
    child = int(process.stdout.readline())
    server = runner.server()
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert runner.servers() == [server], "its child still uses the mount"
    os.kill(child, signal.SIGKILL)
    poll(lambda: not runner.servers(), 10, "the server ends")


@pytest.mark.slow
@only_root
def test_14_4_a_source_that_hangs_at_the_end_keeps_the_server_for_a_minute(runner):
    content = runner.directory / "content"
    content.mkdir()
    np.savez_compressed(content / "big.npz", x=noise())
    hanging = Hanging(content, runner.source / "hung", runner.directory / "control")
    code = (
        "import numpy as np\n"
        "mapped = np.load('source/hung/big.npz.d/x.npy', mmap_mode='r')\n"
        "mapped[0].sum(); print('ready', flush=True); input()\n"
    )
    # Nothing decodes the member to its end, so its index is saved at the end.
    options = ["--verify", "never", "--writable", "home/changes"]
    command = [*options, "--", runner.interpreter, "-c", code]
    process = runner.start(*command, stdin=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        hanging.hang("getattr", "read")
        assert process.communicate(b"\n", timeout=60) == (b"", b"")
        poll(hanging.held, 10, "the server saves an index")
        poll(lambda: not runner.servers(), 10, "the server ends")
        assert os.listdir(runner.home / "changes") == ["upper"]
    finally:
        hanging.end()


def test_14_4_signals_do_not_end_a_server_whose_command_runs(runner):
    command = ["--", runner.interpreter, "-c", LOOK + "input()\n" + LOOK, "source/a.npz"]
    process = runner.start(*command, stdin=subprocess.PIPE)
    server = runner.server()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
        poll(lambda: Path(f"/proc/{server}/cwd").readlink() == Path("/"), 10, "it serves")
        os.kill(server, number)
    out, err = process.communicate(b"\n", timeout=60)
    assert (process.returncode, out, err) == (0, b"", b"")


def test_14_5_the_log_goes_to_standard_error_or_a_file(runner):
    whole = bytearray((runner.source / "a.npz").read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    (runner.source / "bad.npz").write_bytes(whole)
    read = ["--", "sh", "-c", "echo out; cat source/bad.npz.d/x.npy 2>&1 >&2"]
    code, out, err = runner.run(*read)
    assert code == 1 and out.startswith("out\ncat: ") and "bad.npz: x.npy" in err, err
    assert all(line.startswith("npzfs: ") for line in err.splitlines())
    log = runner.home / "log"
    code, out, err = runner.run("--log-file", log, *read)
    assert code == 1 and out.startswith("out\ncat: ") and err == ""
    assert "bad.npz: x.npy" in log.read_text()


def test_14_5_the_output_ends_with_the_command(runner):
    # The process in the background has no hand in the pipes; nor has the server from then on.
    process = runner.start("--", "sh", "-c", "sleep 60 <&- >&- 2>&- & echo $!")
    out, err = process.communicate(timeout=30)
    assert err == b""
    assert len(runner.servers()) == 1
    os.kill(int(out), signal.SIGKILL)


def test_14_5_the_server_holds_no_descriptor_of_the_command(runner):
    with open(runner.directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = runner.start("--", "sleep", "60", pass_fds=[lock.fileno()])
        server = runner.server()
        poll(lambda: Path(f"/proc/{server}/cwd").readlink() == Path("/"), 10, "it serves")
    held = [os.readlink(fd) for fd in Path(f"/proc/{server}/fd").iterdir()]
    assert str(runner.directory / "lock") not in held
    process.kill()
    process.wait(60)
    with open(runner.directory / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@only_root
def test_14_6_where_namespaces_are_switched_off_the_error_names_the_setting(runner):
    # The setting of a user namespace holds for those below it: this test changes no other.
    script = (
        "echo 0 >/proc/sys/user/max_user_namespaces && "
        'exec setpriv --inh-caps=-all --bounding-set=-all --no-new-privs -- "$@"'
    )
    line = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"]
    place = runner.directory / "changes"
    line += [runner.program, "run", "--writable", place, runner.source, "--", "true"]
    ended = subprocess.run(
        line, capture_output=True, text=True, env=runner.environment(), check=False
    )
    assert ended.returncode == 125 and ended.stdout == ""
    poll(lambda: os.listdir(place) == ["upper"], 10, "the server ends")
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert "user.max_user_namespaces is 0" in ended.stderr
    assert "sysctl -w user.max_user_namespaces=" in ended.stderr


def test_14_7_without_a_place_for_writes_they_are_refused(runner):
    code = (
        "import errno, os\n"
        "import numpy as np\n"
        "def refused(call, *arguments, **keywords):\n"
        "    try: call(*arguments, **keywords)\n"
        "    except OSError as error: assert error.errno == errno.EROFS, error\n"
        "    else: raise AssertionError(call)\n"
        "refused(np.save, 'source/new.npy', [1])\n"
        "refused(np.savez, 'source/a.npz', x=[1])\n"
        "refused(np.load, 'source/a.npz.d/x.npy', mmap_mode='r+')\n"
        "refused(os.mkdir, 'source/new')\n"
        "refused(os.unlink, 'source/a.npz')\n"
    )
    before = (runner.source / "a.npz").read_bytes()
    assert runner.python(code) == ""
    assert (runner.source / "a.npz").read_bytes() == before
