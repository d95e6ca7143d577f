"""Mounts a source with the real program, and inspects the mount."""

import faulthandler
import gc
import os
import pickle
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
import traceback
from pathlib import Path

# A mount that lives longer is taken for a hang: its server is killed, so that whoever waits for
# it gets an error. A wait in the kernel for a FUSE server cannot be ended in another way.
LIMIT = 600

# Kills the process group $2 and the mount $3, unless its standard input ends within $1 seconds.
WATCHDOG = r"""
read -r -t "$1" _
if [ $? -gt 128 ]; then
    echo "watchdog: the mount is older than $1 s; killing its server" >&2
    kill -KILL -- "-$2"
    umount -f -l "$3" || fusermount3 -u -z "$3"
fi
"""


def binary():
    """The program to test: $NPZFS, else what cargo built last."""
    if "NPZFS" in os.environ:
        return Path(os.environ["NPZFS"]).resolve()
    root = Path(__file__).resolve().parents[2]
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    built = [target / profile / "npzfs" for profile in ("release", "debug")]
    built = [path for path in built if path.exists()]
    assert built, f"no npzfs in {target}: run `cargo build --release`, or set NPZFS"
    return max(built, key=lambda path: path.stat().st_mtime)


def why_not_mountable():
    """What this machine lacks for a mount, or None."""
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse (modprobe fuse; in a container: --device /dev/fuse)"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse cannot be opened: {error.strerror} (chmod 666 /dev/fuse)"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "fusermount3 is missing (apt-get install fuse3)"
    return None


def mounted(path):
    """Whether something is mounted exactly at `path`; asks the kernel, not the server."""
    want = str(path).replace("\\", r"\134").replace(" ", r"\040").replace("\n", r"\012")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return any(line.split(" ")[4] == want for line in table)


def poll(condition, seconds, what):
    """Waits until `condition()` is true, and returns what it returned.

    It fails after ten times `seconds`, for a busy machine may need that long.
    """
    deadline = time.monotonic() + 10 * seconds
    while True:
        late = time.monotonic() > deadline
        value = condition()
        if value:
            return value
        assert not late, f"not within {10 * seconds} s: {what}"
        time.sleep(0.01)


def forget_inodes():
    """Has the kernel forget all inodes that nobody uses. For a test that runs `alone`."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


def state(path):
    """The extended attribute `user.npzfs.state` of a file."""
    return os.getxattr(path, "user.npzfs.state").decode()


class Mount:
    """A running `npzfs -f`. `mount / "a.npz"` is a path in it.

    `under` is a command that runs the program, such as prlimit.
    """

    def __init__(self, source, mountpoint, log_path, *options, under=()):
        self.source, self.path = Path(source), Path(mountpoint)
        self.log_path = Path(log_path)
        self.path.mkdir(exist_ok=True)
        lacking = why_not_mountable()
        assert lacking is None, f"cannot mount here: {lacking}"
        command = [*under, binary(), "-f", *map(str, options), str(source), str(mountpoint)]
        environment = {k: v for k, v in os.environ.items() if k != "RUST_LOG"}
        # Indexes of one test are for no other.
        environment["XDG_CACHE_HOME"] = str(self.log_path.parent.absolute() / "cache")
        environment.pop("CACHE_DIRECTORY", None)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment | {"RUST_BACKTRACE": "1"},
                start_new_session=True,
            )
            self.watchdog = subprocess.Popen(
                ["bash", "-c", WATCHDOG, "watchdog", str(LIMIT), str(self.pid), str(mountpoint)],
                stdin=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            poll(self._is_up, 10, "the mount answers")
        except BaseException:
            self._abandon()
            raise

    def _is_up(self):
        ended = self.process.poll()
        assert ended is None, f"npzfs ended with {ended} before it mounted:\n{self.log()}"
        return mounted(self.path) and os.stat(self.path)

    @property
    def pid(self):
        return self.process.pid

    def __truediv__(self, name):
        return self.path / name

    def log(self):
        return self.log_path.read_text(errors="surrogateescape")

    def log_lines(self, *words):
        """Lines of the log that hold all of `words`, in any case."""
        lines = self.log().splitlines()
        return [x for x in lines if all(word.lower() in x.lower() for word in words)]

    def peak_memory(self):
        """Peak resident set of the server in bytes."""
        return 1024 * int(self._status("VmHWM").split()[0])

    def memory(self):
        """Resident set of the server in bytes."""
        return 1024 * int(self._status("VmRSS").split()[0])

    def _status(self, key):
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return line.split(":")[1]
        raise AssertionError(f"no {key} for the server")

    def pause(self):
        """Stops the server: from here on, only the kernel's caches answer."""
        os.killpg(self.pid, signal.SIGSTOP)
        poll(lambda: self._status("State").split()[0] == "T", 5, "the server stops")

    def resume(self):
        os.killpg(self.pid, signal.SIGCONT)

    def stop(self):
        """Ends the server as a service manager does, and asserts that it ended without errors."""
        if self.process.returncode is not None:
            return
        gc.collect()  # memory maps of the test keep the mount busy
        self.resume()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(15)
        except subprocess.TimeoutExpired:
            code = "a hang: it did not end within 15 s after SIGTERM"
        left = mounted(self.path)
        self._abandon()
        log = self.log()
        assert "watchdog:" not in log, f"something hung:\n{log}"
        assert "panicked" not in log, f"the server panicked:\n{log}"
        assert code == 0, f"the server ended with {code}:\n{log}"
        assert not left, f"still mounted after SIGTERM:\n{log}"

    def kill(self):
        """Ends the server with SIGKILL, and clears the dead mount."""
        self._abandon()

    def _abandon(self):
        """Ends the server and removes the mount, in whatever state they are."""
        if self.process.returncode is None and self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait(5)
        self.watchdog.stdin.close()
        self.watchdog.wait(5)
        if mounted(self.path):
            subprocess.run(["umount", "-f", "-l", self.path], check=False)


def tree(path):
    """Everything below `path`: relative name -> bytes of a file, "-> text" of a link, or kind.

    Descends by what the listing says (d_type), and asserts that lstat agrees with it, and that
    everything is named once.
    """
    found = {}
    with os.scandir(path) as entries:
        entries = sorted(entries, key=lambda entry: entry.name)
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names), names
    for entry in entries:
        mode = os.lstat(entry.path).st_mode
        assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(mode), entry.path
        assert entry.is_file(follow_symlinks=False) == stat.S_ISREG(mode), entry.path
        assert entry.is_symlink() == stat.S_ISLNK(mode), entry.path
        name = os.path.basename(entry.path)
        if stat.S_ISDIR(mode):
            found[name + "/"] = "dir"
            found |= {f"{name}/{below}": what for below, what in tree(entry.path).items()}
        elif stat.S_ISREG(mode):
            found[name] = Path(entry.path).read_bytes()
        elif stat.S_ISLNK(mode):
            found[name] = f"-> {os.readlink(entry.path)}"
        else:
            found[name] = stat.filemode(mode)[0]
    return found


def errno_of(call, *arguments, **keywords):
    """The errno that a call fails with, or None when it succeeds."""
    try:
        result = call(*arguments, **keywords)
    except OSError as error:
        return error.errno
    if hasattr(result, "close"):
        result.close()
    return None


class Ended(Exception):
    """A child process ended without a result."""

    def __init__(self, signal_number, code):
        super().__init__(f"signal {signal_number}, exit code {code}")
        self.signal, self.code = signal_number, code


class Child:
    """`function` running in a forked process; `result()` waits for what it returns."""

    def __init__(self, function, *arguments):
        sys.stdout.flush()
        sys.stderr.flush()
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            # Some children are expected to die by SIGBUS, and `Ended` reports every signal. The
            # handler of pytest would print a traceback as well.
            faulthandler.disable()
            code = 1
            try:
                answer = (True, function(*arguments))
                code = 0
            except BaseException:
                answer = (False, traceback.format_exc())
            with os.fdopen(write, "wb") as out:
                pickle.dump(answer, out)
            os._exit(code)
        os.close(write)

    def running(self):
        return self.pid is not None and not select.select([self._read], [], [], 0)[0]

    def result(self, seconds=60):
        """What the function returned; fails as it failed, or with how the process ended."""
        ready = select.select([self._read], [], [], seconds)[0]
        if not ready:
            os.kill(self.pid, signal.SIGKILL)
        with os.fdopen(self._read, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        self.pid = None
        assert ready, f"the child did not end within {seconds} s"
        if os.WIFSIGNALED(status):
            raise Ended(os.WTERMSIG(status), None)
        if not answer:
            raise Ended(None, os.WEXITSTATUS(status))
        good, value = pickle.loads(answer)
        assert good, f"in the child:\n{value}"
        return value


def in_child(function, *arguments, seconds=60):
    return Child(function, *arguments).result(seconds)
