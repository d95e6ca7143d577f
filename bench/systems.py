"""The systems that are compared: how each shows an archive as files, in a fresh mount.

A view is one part of the data; a system shows it as a directory of .npy files, natively or through
a mount. A fresh mount has none of its pages in the kernel's cache.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from measure import Failed

# A mount may have to inflate an archive first.
MOUNT_LIMIT = 300  # seconds
END_LIMIT = 30  # seconds


class Unavailable(Exception):
    """The system cannot show this view here; says why."""


@dataclass(frozen=True)
class View:
    """One part of the data."""

    # The directory of the extracted files.
    native: str
    # An archive, or a tree of them.
    source: str
    # Where the members are, below a mount of the directory of `source`.
    below: str = ""
    # The one extracted file, where the view has no more.
    array: str | None = None

    @property
    def is_archive(self):
        return self.source.endswith(".npz")


def view(data, name):
    """`stored/KIND`, `deflated/KIND`, `many`, `tree`, `flat` or `epoch-SIZE`."""
    if "/" in name:
        method, kind = name.split("/")
        return View(data.path("native"), data.path(method, f"{kind}.npz"), f"{kind}.npz",
                    data.path("native", f"{kind}.npy"))
    if name == "many":
        return View(data.path("native-many"), data.path("many", "many.npz"), "many.npz")
    return View(data.path(f"native-{name}"), data.path(name))


@dataclass
class Shown:
    """A view as a directory of files, and the process that serves it, if there is one."""

    directory: str
    server: subprocess.Popen | None = None

    def memory(self, field):
        """A field of the server's /proc/PID/status in MiB."""
        with open(f"/proc/{self.server.pid}/status") as status:
            line = next(line for line in status if line.startswith(field))
        return int(line.split()[1]) / 1024

    def cpu_seconds(self):
        """Processor time that the server has used."""
        with open(f"/proc/{self.server.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Native:
    """The extracted files on the same disk."""

    name = "native"

    def missing(self):
        return None

    @contextlib.contextmanager
    def show(self, view):
        yield Shown(view.native)

    def source(self, view):
        """The file whose pages a read of the one array needs."""
        return view.array


class Mounted:
    """A FUSE filesystem: a command that runs in the foreground until it is unmounted."""

    def __init__(self, name, command, shows_trees=False, below=False):
        self.name = name
        self.command = command
        self.shows_trees = shows_trees
        self.below = below  # whether the mount holds archives, not members

    def missing(self):
        program = self.command[0]
        return None if shutil.which(program) else "not installed"

    def source(self, view):
        return view.source

    def arguments(self, view, mnt):
        source = view.source
        if self.below and view.is_archive:
            source = os.path.dirname(source)
        return [part.format(source=source, mnt=mnt) for part in self.command]

    @contextlib.contextmanager
    def show(self, view, cache=None, options=()):
        """A mount that finds nothing of earlier ones, except in the directory `cache`."""
        if not (view.is_archive or self.shows_trees):
            raise Unavailable("one archive a mount")
        with tempfile.TemporaryDirectory(prefix="npzfs-bench-") as work:
            mnt = os.path.join(work, "mnt")
            os.mkdir(mnt)
            with open(os.path.join(work, "log"), "w+") as log:
                server = subprocess.Popen(
                    [*self.arguments(view, mnt), *options], stdin=subprocess.DEVNULL, stdout=log,
                    stderr=log, env=os.environ | {"XDG_CACHE_HOME": cache or work})
                try:
                    self._await(server, mnt, log)
                    yield Shown(os.path.join(mnt, view.below) if self.below else mnt, server)
                finally:
                    end(server, mnt)

    def _await(self, server, mnt, log):
        deadline = time.monotonic() + MOUNT_LIMIT
        while not os.path.ismount(mnt):
            if server.poll() is not None:
                log.seek(0)
                words = (log.read().strip().splitlines() or ["no message"])[-1]
                raise Failed(f"does not mount: {words}")
            if time.monotonic() > deadline:
                raise Failed(f"no mount after {MOUNT_LIMIT} s")
            time.sleep(0.002)


class BareFuse(Mounted):
    """One stored file served by pread: what the FUSE transport delivers."""

    def __init__(self, program, threads):
        super().__init__("bare fuser", [program, "{source}", "{mnt}", str(threads)])

    def source(self, view):
        return view.array

    def arguments(self, view, mnt):
        if not view.array:
            raise Unavailable("one file a mount")
        return [part.format(source=view.array, mnt=mnt) for part in self.command]


class Squashfs:
    """The extracted files in a squashfs image (zstd, its default level), read by the kernel."""

    name = "squashfs"

    def missing(self):
        if not shutil.which("mksquashfs"):
            return "not installed"
        return None if os.geteuid() == 0 else "needs root"

    def source(self, view):
        """The image, which is made on first need."""
        source = view.array or view.native
        name = os.path.basename(source).removesuffix(".npy")
        image = os.path.join(os.path.dirname(view.native), "squashfs", f"{name}.squashfs")
        if not os.path.exists(image):
            subprocess.run(
                ["mksquashfs", source, image + ".new", "-comp", "zstd", "-quiet", "-no-progress"],
                check=True, stdout=subprocess.DEVNULL)
            os.rename(image + ".new", image)
            os.sync()
        return image

    @contextlib.contextmanager
    def show(self, view):
        image = self.source(view)
        with tempfile.TemporaryDirectory(prefix="npzfs-bench-") as mnt:
            done = subprocess.run(["mount", "-t", "squashfs", "-o", "ro,loop", image, mnt],
                                  capture_output=True, text=True)
            if done.returncode != 0:
                raise Failed(f"does not mount: {done.stderr.strip()}")
            try:
                yield Shown(mnt)
            finally:
                subprocess.run(["umount", mnt], check=True)


class NumPy:
    """np.load(archive)[key], without any mount."""

    name = "np.load(npz)"

    def missing(self):
        return None

    def source(self, view):
        return view.source

    @contextlib.contextmanager
    def show(self, view):
        yield Shown(view.source)


def end(server, mnt):
    """Unmounts and waits for the server; kills it if it does not end."""
    for options in (["-u"], ["-uz"]):
        if server.poll() is None and os.path.ismount(mnt):
            subprocess.run(["fusermount3", *options, mnt], stderr=subprocess.DEVNULL)
    try:
        server.wait(END_LIMIT)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGKILL)
        server.wait()
        print(f"{server.args[0]} did not end after it was unmounted", file=sys.stderr)
    if os.path.ismount(mnt):
        subprocess.run(["fusermount3", "-uz", mnt], check=True)


def systems(npzfs, bare_fuse, threads):
    """All of them, in the order of the table."""
    beside = os.path.join(os.path.dirname(sys.executable), "ratarmount")
    ratarmount = beside if os.path.exists(beside) else "ratarmount"
    return [
        Native(),
        Mounted("npzfs", [npzfs, "-f", "{source}", "{mnt}"], shows_trees=True, below=True),
        NumPy(),
        BareFuse(bare_fuse, threads),
        Mounted("ratarmount", [ratarmount, "-f", "--index-file", ":memory:", "{source}", "{mnt}"]),
        Mounted("mount-zip", ["mount-zip", "-f", "{source}", "{mnt}"]),
        Mounted("fuse-zip", ["fuse-zip", "-f", "-r", "{source}", "{mnt}"]),
        Mounted("fuse-archive", ["fuse-archive", "-f", "{source}", "{mnt}"]),
        Squashfs(),
    ]
