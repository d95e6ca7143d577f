"""Private mounts: made in a directory of the user, and kept by locks.

A private mount has a directory with mode 0700, its home: `mnt` in it is the mountpoint, and
`npzfs --while-locked` gets the home itself as FILE. Every process that uses the mount has a shared
lock on its home. The kernel drops the lock when the process ends, in whatever way; a forked child
has the descriptor, and the lock with it. The server has an exclusive lock from the moment it
decides to end. So a process that gets a shared lock and then sees the mount can rely on its server.

The directory of the homes is locked as well: shared to make and lock a home, exclusively to remove
one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from . import _table
from ._errors import Error, absolute

Option = str | int | float | os.PathLike[str] | Sequence[str]

# The locks of this process, by home: the descriptor, and what it was opened on. They are kept until
# the process ends, but for those of `mount`, since arrays may be mapped that long.
_held: dict[str, tuple[int, os.stat_result]] = {}
# The mountpoints of `mount`. Those of other processes are not used: they may end at any time.
_own: set[str] = set()
# Homes of `mount` whose mounts were in use at the end of the block, and the devices of the mounts.
_detached: dict[str, int] = {}
_guard = threading.Lock()

# The file, beside the mountpoint, that a process locks while it mounts.
_STARTING = "starting"
_GROUPS = "/proc/self/cgroup"


def _renew_guard() -> None:
    global _guard
    _guard = threading.Lock()


os.register_at_fork(after_in_child=_renew_guard)


def program() -> str:
    """The program `npzfs`: $NPZFS, else the one of the wheel, else the first in $PATH."""
    found = os.environ.get("NPZFS")
    if found:
        return found
    # `pip install --target` records another place than the one where it puts programs.
    of_wheel = [os.path.join(os.path.dirname(__file__), "../bin/npzfs")]
    with contextlib.suppress(metadata.PackageNotFoundError):
        files = metadata.files("npzfs") or []
        of_wheel += [str(file.locate()) for file in files if file.name == "npzfs"]
    for path in of_wheel:
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return os.path.realpath(path)
    found = shutil.which("npzfs")
    if found is None:
        raise Error(errno.ENOENT, "the program npzfs is not installed", "npzfs")
    return found


def is_private(point: str) -> bool:
    """Whether a mountpoint is one of this module, in any process."""
    return _home(point) == os.path.dirname(point)


def is_own(point: str) -> bool:
    """Whether `mount` of this process, or of the one it was forked from, has made the mount."""
    return point in _own


def keep(path: str) -> None:
    """Locks the private mount in which a path lies, if it lies in one, for this process."""
    home = _home(path)
    if home is not None and os.path.isdir(home):
        with _guard:
            if not _hold(home):
                raise Error(errno.ENOENT, "the private mount with this path is about to end", path)


def _home(path: str) -> str | None:
    """The home of the private mount in which a path lies.

    By the path alone: other processes may have another $XDG_RUNTIME_DIR or $TMPDIR.
    """
    found = re.match(r"(.*/npzfs(?:-\d+)?/npzfs-[^/]+)/mnt(?:/|\Z)", path, re.DOTALL)
    return None if found is None else found[1]


def shared(directory: str) -> str:
    """The mountpoint of a private mount of `directory`, which processes of the user share.

    The directory is known by its device and inode: it may be renamed, and another may get its name.
    """
    identity = os.stat(directory)
    base = _base(directory)
    name = f"npzfs-{identity.st_dev:x}-{identity.st_ino:x}-{_group():08x}"
    home = first = os.path.join(base, name)
    with _guard:
        known, number = set(_held), 1
        # A server that is about to end has the lock until its mount is gone.
        while not _hold(home):
            number += 1
            home = f"{first}-{number}"
        point = os.path.join(home, "mnt")
        try:
            if not _answers(point):
                _sweep(base)
                # A second mount would cover the first.
                with _locked(os.path.join(home, _STARTING), fcntl.LOCK_EX, os.O_CREAT):
                    if not _answers(point):
                        # Changes of the source show at once: the caller may have just saved it.
                        _start(directory, point, {"ttl": 0})
        except BaseException:
            # Arrays of an earlier mount may still need the lock.
            if home not in known:
                _release(home)
            raise
        return point


@contextlib.contextmanager
def mount(
    source: str | os.PathLike[str], *, layout: str = "replace", **options: Option
) -> Iterator[Path]:
    """Mounts a directory or an archive, for a block.

    `options` are those of `npzfs --help`, with `_` for `-`: `verify="always"`. A list gives an
    option more than once. Arrays that are mapped can still be read after the block, as long as this
    process runs.
    """
    source = absolute(os.fspath(source))
    process = os.getpid()
    with _guard:
        _release_unused()
        home = os.path.join(_base(source), f"npzfs-{secrets.token_hex(8)}")
        is_new = _hold(home)
        assert is_new, "no other process knows the name"
        point = os.path.join(home, "mnt")
        try:
            _start(source, point, {"layout": layout, **options})
            device = os.stat(point).st_dev
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
            with _guard:
                _end(home, point, device)


def _end(home: str, point: str, device: int) -> None:
    if _run("unmount", point) is None:
        _release(home)
        return
    # In use, or unmounted by somebody else. The lock keeps the server for the maps of it.
    _detached[home] = device
    error = _run("unmount", "--lazy", point)
    if error is not None and point in _mountpoints():
        raise Error(errno.EBUSY, error, point)


def _release_unused() -> None:
    """Releases detached mounts of which nothing is mapped any more."""
    if _detached:
        # Fields as in proc_pid_maps(5).
        maps = Path("/proc/self/maps").read_bytes()
        for home, device in list(_detached.items()):
            if b" %02x:%02x " % (os.major(device), os.minor(device)) not in maps:
                del _detached[home]
                _release(home)


def _group() -> int:
    """A number for the control groups of this process: a private mount is for one number.

    Service managers and batch systems kill all processes of a group at once, the server as well.
    Slurm does so for each step of a job, and has groups of single tasks below.
    """
    try:
        groups = Path(_GROUPS).read_bytes()
    except FileNotFoundError:  # a kernel without control groups
        groups = b""
    return zlib.crc32(re.sub(rb"(/job_[^/\n]+/step_[^/\n]+)/[^\n]*", rb"\1", groups))


def _bases() -> list[str]:
    """Where private mounts may lie; the first that can be used is taken."""
    places = [tempfile.gettempdir(), "/dev/shm", "/var/tmp"]
    bases = [os.path.join(os.path.realpath(place), f"npzfs-{os.getuid()}") for place in places]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # sudo and su may keep the variable of the other user.
    if os.path.isabs(runtime) and os.path.isdir(runtime) and os.stat(runtime).st_uid == os.getuid():
        bases.insert(0, os.path.join(os.path.realpath(runtime), "npzfs"))
    return bases


def _base(source: str) -> str:
    """A directory for mounts of `source`, and not in it: a mount must not lie in what it shows."""
    reasons = []
    inside = os.path.join(os.path.realpath(source), "")
    for base in _bases():
        if base.startswith(inside):
            reasons.append(f"{base} lies in {source}")
            continue
        try:
            os.makedirs(base, mode=0o700, exist_ok=True)
            found = os.lstat(base)
            is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
            if is_ours and not found.st_mode & 0o077:
                with _locked(base, fcntl.LOCK_SH):  # not each filesystem has locks
                    return base
        except OSError as error:
            reasons.append(str(error))
        else:
            reasons.append(f"{base} is not a directory for this user alone")
    raise Error(errno.EACCES, f"no directory for private mounts: {'; '.join(reasons)}", source)


@contextlib.contextmanager
def _locked(path: str, kind: int, flags: int = 0) -> Iterator[None]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(fd, kind)
        try:
            yield
        finally:
            # A child that was forked meanwhile has the descriptor, and would keep the lock.
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _hold(home: str) -> bool:
    """Makes and locks a home for this process. False if its server is about to end."""
    if home in _held:
        fd, locked = _held[home]
        if _is(fd, locked) and _is(home, locked):
            return True
        # Its directory was removed, or the program has closed the descriptor. In the first case
        # the lock is kept all the same, for arrays that are mapped.
        del _held[home]
    with _locked(os.path.dirname(home), fcntl.LOCK_SH):
        with contextlib.suppress(FileExistsError):
            os.mkdir(home, 0o700)
        fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        _held[home] = fd, os.fstat(fd)
        return True


def _is(file: int | str, known: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(file), known)
    except OSError:
        return False


def _release(home: str) -> None:
    """Gives up the lock, and removes the directory if no process uses it."""
    fd, locked = _held.pop(home)
    # A program that has closed all its descriptors may have another file with this number.
    if _is(fd, locked):
        os.close(fd)
    with contextlib.suppress(FileNotFoundError):  # $XDG_RUNTIME_DIR is removed at the last logout
        _sweep(os.path.dirname(home))


def _sweep(base: str) -> None:
    """Removes what servers have left: empty homes, and mounts whose server was killed."""
    with _locked(base, fcntl.LOCK_EX):
        mountpoints = _mountpoints()
        for home in {os.path.join(base, name) for name in os.listdir(base)} - set(_held):
            point = os.path.join(home, "mnt")
            # One that another process or a server has locked stays, as does one with other files.
            with contextlib.suppress(OSError), _locked(home, fcntl.LOCK_EX | fcntl.LOCK_NB):
                if point in mountpoints and not _answers(point):
                    _run("unmount", "--lazy", point)
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(point)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(home, _STARTING))
                os.rmdir(home)


def _mountpoints() -> set[str]:
    return {mounted.point for mounted in _table.mounts()}


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
    for name, given in options.items():
        if name in ("foreground", "while_locked"):
            raise Error(errno.EINVAL, f"not an option of a mount for a block: {name}", source)
        option = "--" + name.replace("_", "-")
        for value in given if isinstance(given, (list, tuple)) else [given]:
            if isinstance(value, bool):
                line += [option] if value else []
            else:
                text = os.fspath(value) if isinstance(value, os.PathLike) else value
                line.append(f"{option}={text}")
    error = _run(*line, "--", source, point)
    if error is not None:
        raise Error(errno.EIO, error, source)
    if not _answers(point):  # --help and --version end well
        raise Error(errno.EINVAL, "the program has ended without a mount", source)


def _run(*line: str) -> str | None:
    """Runs the program. Returns its error, if there was one."""
    command = [program(), *line]
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
    except OSError as error:
        raise Error(error.errno, f"cannot run the program: {error.strerror}", command[0]) from error
    if ended.returncode == 0:
        return None
    lines = os.fsdecode(ended.stderr).splitlines()
    return lines[0].removeprefix("npzfs: ") if lines else f"npzfs ended with {ended.returncode}"
