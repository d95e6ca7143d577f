"""Private mounts: made in a directory of the user, and kept by locks.

A private mount has a directory with mode 0700: `mnt` in it is the mountpoint, and the directory
itself is the file that `npzfs --while-locked` waits for. Every process that uses the mount holds a
shared lock on it. The kernel drops the lock when the process ends, in whatever way; a forked child
has the descriptor, and the lock with it. The server has an exclusive lock from the moment it
decides to end. So whoever gets a shared lock and then sees the mount can rely on its server.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import stat
import subprocess
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from . import _table
from ._errors import Error

Option = str | int | float | os.PathLike[str]

# The locks of this process: descriptors by the directory of the mount. They are never closed, but
# for those of `mount`, since arrays may be mapped until the process ends.
_held: dict[str, int] = {}
# The mountpoints of `mount`. Those of other processes are not used: they may end at any time.
_own: set[str] = set()
_guard = threading.RLock()

# The file, beside the mountpoint, that a process locks while it mounts.
_STARTING = "starting"


def _renew_guard() -> None:
    global _guard
    _guard = threading.RLock()


os.register_at_fork(after_in_child=_renew_guard)


def program() -> str:
    """The program `npzfs`: $NPZFS, else the one beside this Python, else the first in $PATH."""
    found = os.environ.get("NPZFS")
    if found:
        return found
    schemes = ["posix_prefix", "posix_user", "venv"]
    known = sysconfig.get_scheme_names()
    directories = [sysconfig.get_path("scripts")]
    directories += [sysconfig.get_path("scripts", name) for name in schemes if name in known]
    for directory in directories:
        beside = os.path.join(directory, "npzfs")
        if os.access(beside, os.X_OK):
            return beside
    found = shutil.which("npzfs")
    if found is None:
        raise Error(errno.ENOENT, "the program npzfs is not installed", "npzfs")
    return found


def is_private(point: str) -> bool:
    """Whether a mountpoint is one of this module."""
    base, name = os.path.split(os.path.dirname(point))
    return os.path.basename(point) == "mnt" and name.startswith("npzfs-") and base in _bases()


def is_own(point: str) -> bool:
    """Whether `mount` of this process, or of the one it was forked from, has made the mount."""
    return point in _own


def shared(directory: str) -> str:
    """The mountpoint of a private mount of `directory`, which all processes of the user share.

    The directory is known by its device and inode: it may be renamed, and another may get its name.
    """
    identity = os.stat(directory)
    name = f"npzfs-{identity.st_dev:x}-{identity.st_ino:x}"
    with _guard:
        for number in itertools.count(1):
            home = os.path.join(_base(directory), name if number == 1 else f"{name}-{number}")
            point = os.path.join(home, "mnt")
            # A server that is about to end keeps its name to itself for a while.
            if not _hold(home):
                continue
            if not _answers(point):
                _sweep(os.path.dirname(home))
                with _alone(home):
                    if not _answers(point):
                        # Changes of the source show at once: the caller may have just saved it.
                        _start(directory, point, {"ttl": 0})
            return point
    raise AssertionError("the loop has no end")


@contextlib.contextmanager
def mount(
    source: str | os.PathLike[str], *, layout: str = "replace", **options: Option
) -> Iterator[Path]:
    """Mounts a directory or an archive, for a block.

    `options` are those of `npzfs --help`, with `_` for `-`: `verify="always"`. Arrays that are
    mapped can still be read after the block, as long as this process runs.
    """
    source = os.path.abspath(os.fspath(source))
    process = os.getpid()
    with _guard:
        home = tempfile.mkdtemp(prefix="npzfs-", dir=_base(source))
        # Another process may look whether the new directory is one that nobody uses.
        while not _hold(home):
            home = tempfile.mkdtemp(prefix="npzfs-", dir=_base(source))
        point = os.path.join(home, "mnt")
        try:
            _start(source, point, {"layout": layout, **options})
        except BaseException:
            _release(home)
            raise
        _own.add(point)
    try:
        yield Path(point)
    finally:
        _own.discard(point)
        # A child that was forked within the block leaves it, too.
        if os.getpid() == process:
            _end(home, point)


def _end(home: str, point: str) -> None:
    with _guard:
        if _run("unmount", point) is None:
            _release(home)
        else:
            # In use. Its server ends when nobody has the mount open, or this process ends.
            _run("unmount", "--lazy", point)


def _bases() -> list[str]:
    """Where private mounts may lie; the first that can be used is taken."""
    places = [tempfile.gettempdir(), "/dev/shm", "/var/tmp"]
    bases = [os.path.join(os.path.realpath(place), f"npzfs-{os.getuid()}") for place in places]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # The variable of another user is kept by some ways to become root.
    if os.path.isabs(runtime) and os.path.isdir(runtime) and os.stat(runtime).st_uid == os.getuid():
        bases.insert(0, os.path.join(os.path.realpath(runtime), "npzfs"))
    return bases


def _base(source: str) -> str:
    """A directory for mounts of `source`, and not in it: what is shown must not grow by itself."""
    reasons = []
    inside = os.path.join(os.path.realpath(source), "")
    for base in _bases():
        if base.startswith(inside):
            reasons.append(f"{base} lies in {source}")
            continue
        try:
            os.makedirs(base, mode=0o700, exist_ok=True)
        except OSError as error:
            reasons.append(str(error))
            continue
        found = os.lstat(base)
        is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if is_ours and not found.st_mode & 0o077:
            return base
        reasons.append(f"{base} is not a directory for this user alone")
    raise Error(errno.EACCES, f"no directory for private mounts: {'; '.join(reasons)}", source)


def _hold(home: str) -> bool:
    """Locks the directory of a mount for this process. False if its server is about to end."""
    if home in _held:
        # Somebody may have unmounted it and removed the directory.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(home), os.fstat(_held[home])):
                return True
        os.close(_held.pop(home))
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(home, 0o700)
        try:
            fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # Another process may have taken the directory for an unused one and removed it.
            if os.path.samestat(os.stat(home), os.fstat(fd)):
                _held[home] = fd
                return True
        except BlockingIOError:
            os.close(fd)
            return False
        except FileNotFoundError:
            pass
        os.close(fd)


@contextlib.contextmanager
def _alone(home: str) -> Iterator[None]:
    """Only one process at a time mounts in the directory, since a second mount covers the first."""
    path = os.path.join(home, _STARTING)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _release(home: str) -> None:
    """Gives up the lock, and removes the directory if nothing is mounted in it."""
    with contextlib.suppress(OSError):
        _remove(home)
    os.close(_held.pop(home))


def _remove(home: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(os.path.join(home, "mnt"))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(home, _STARTING))
    os.rmdir(home)


def _answers(point: str) -> bool:
    """Whether a mount is there and alive."""
    try:
        return os.stat(point).st_dev != os.stat(os.path.dirname(point)).st_dev
    except OSError:
        # Its server was killed: the program replaces a dead mount when it mounts there. Or there is
        # no such directory.
        return False


def _start(source: str, point: str, options: dict[str, Option]) -> None:
    """Mounts, and returns when the mount answers."""
    # A dead mount refuses even this, and is replaced.
    with contextlib.suppress(OSError):
        os.mkdir(point, 0o700)
    line = [f"--while-locked={os.path.dirname(point)}"]
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            line += [option] if value else []
        else:
            line.append(f"{option}={os.fspath(value) if hasattr(value, '__fspath__') else value}")
    said = _run(*line, "--", source, point)
    if said is not None:
        raise Error(errno.EIO, said, source)


def _run(*line: str) -> str | None:
    """Runs the program. Returns its error, if there was one."""
    ended = subprocess.run(
        [program(), *line],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if ended.returncode == 0:
        return None
    lines = os.fsdecode(ended.stderr).splitlines()
    return lines[0].removeprefix("npzfs: ") if lines else f"npzfs ended with {ended.returncode}"


def _sweep(base: str) -> None:
    """Removes what servers have left: empty directories, and mounts whose server was killed."""
    for name in os.listdir(base):
        home = os.path.join(base, name)
        if home in _held:
            continue
        try:
            fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        # Nobody uses the mount if it can be locked, and its server, if there is one, still waits.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            point = os.path.join(home, "mnt")
            is_mounted = any(mounted.point == point for mounted in _table.mounts())
            if is_mounted and not _answers(point):
                _run("unmount", "--lazy", point)
            _remove(home)
        os.close(fd)
