"""Starts `npzfs run`, as root and as an ordinary user, and finds its server."""

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from mounting import binary, poll

# An ordinary user that no system has.
USER = 54321


def as_user(*command):
    """`command` as the ordinary user, with no group but the user's own."""
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--", *command]


@contextlib.contextmanager
def running(is_root):
    """A `Runner` in a new directory. It is stopped in the end."""
    # Not in pytest's directory, which an ordinary user may not enter.
    directory = Path(tempfile.mkdtemp(prefix="npzfs-run-"))
    one = Runner(directory, is_root)
    try:
        one.set_up()
        yield one
    finally:
        one.stop()
    shutil.rmtree(directory)


class Runner:
    """Runs commands by `npzfs run` in a directory that an ordinary user may enter."""

    def __init__(self, directory, is_root):
        self.directory, self.is_root = directory, is_root
        self.source = directory / "source"
        self.started, self.bound = [], []

    def set_up(self):
        self.directory.chmod(0o755)
        self.source.mkdir()
        # The user may neither reach the program where it was built nor the home of root.
        self.program = self.directory / "npzfs"
        shutil.copy(binary(), self.program)
        self.home = self.directory / "home"
        self.home.mkdir()
        self.interpreter, self.packages = sys.executable, ""
        if not self.is_root:
            # The Python that runs this test may lie in the home of root as well.
            name = f"bin/python{sys.version_info.major}.{sys.version_info.minor}"
            self.interpreter = str(self._bind("python", sys.base_prefix) / name)
            self.packages = str(self._bind("packages", sysconfig.get_path("purelib")))
            os.chown(self.home, USER, USER)
            os.chown(self.source, USER, USER)

    def _bind(self, name, path):
        point = self.directory / name
        point.mkdir()
        # Read-only: removing the directory must not remove what is bound.
        subprocess.run(["mount", "-o", "bind,ro", path, point], check=True)
        self.bound.append(point)
        return point

    def environment(self):
        kept = {k: v for k, v in os.environ.items() if k not in ("RUST_LOG", "CACHE_DIRECTORY")}
        own = {"HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / "cache")}
        return kept | own | ({"PYTHONPATH": self.packages} if self.packages else {})

    def line(self, *arguments, source=None):
        """`npzfs run`: options, then "--" and the command; SOURCE is put before the "--"."""
        end = arguments.index("--")
        source = self.source if source is None else source
        line = [self.program, "run", *arguments[:end], source, *arguments[end:]]
        line = [str(each) for each in line]
        return line if self.is_root else as_user(*line)

    def start(self, *arguments, source=None, **keywords):
        """The running command, with pipes for its output unless `keywords` say otherwise."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        line = self.line(*arguments, source=source)
        keywords = {"cwd": self.directory, "env": self.environment(), **pipes} | keywords
        process = subprocess.Popen(line, **keywords)
        self.started.append(process)
        return process

    def run(self, *arguments, **keywords):
        """The ended command: `(exit code, standard output, standard error)`."""
        process = self.start(*arguments, **keywords)
        out, err = process.communicate(timeout=120)
        return process.returncode, *((each or b"").decode() for each in (out, err))

    def python(self, code, *options, **keywords):
        """What `code` prints that a Python runs inside. It must succeed and say nothing else."""
        command = [*options, "--", self.interpreter, "-c", code]
        code, out, err = self.run(*command, **keywords)
        assert (code, err) == (0, ""), f"{code}: {err}"
        return out

    def servers(self):
        """The process numbers of servers of this runner."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                except OSError:
                    continue
                # A zombie waits for its present parent, which is not this process.
                if b"--role=server" in words and os.fsencode(self.source) in words and state != "Z":
                    found.append(int(entry.name))
        return found

    def server(self):
        return poll(self.servers, 10, "there is a server")[0]

    def stop(self):
        """Ends what runs, and asserts that nothing is left."""
        try:
            for process in self.started:
                if process.poll() is None:
                    process.kill()
                process.communicate(timeout=60)
            poll(lambda: not self.servers(), 10, "the server ends")
        finally:
            for pid in self.servers():
                os.kill(pid, 9)
            for point in self.bound:
                subprocess.run(["umount", point], check=True)
        table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        assert str(self.directory) not in table
