"""Finds the mount that shows a file, or has one made."""

from __future__ import annotations

import errno
import os

from . import _servers, _table
from ._errors import Damaged, Error, Generation, Stale, state_of


def shown(real: str, found: os.stat_result) -> str:
    """The path at which a mount shows the file `real`, a path without symbolic links.

    A file in a mount is shown where it is. Else the newest mount of this user or of root is taken
    that shows it, and last a private mount of its directory.
    """
    mounts = _table.mounts()
    if any(mounted.device == found.st_dev for mounted in mounts):
        return real
    directory = os.path.dirname(real)
    for mounted in reversed(mounts):
        # Anybody can make a mount that claims to show our files.
        if mounted.user not in (os.getuid(), 0):
            continue
        if _servers.is_private(mounted.point) and not _servers.is_own(mounted.point):
            continue
        # The server has resolved its links. They are not looked at again: a source may hang.
        source = mounted.source
        if source == real:
            path = mounted.point
        elif real.startswith(os.path.join(source, "")):
            path = _name_in_mount(mounted.point, os.path.relpath(real, source))
        else:
            continue
        if _is_same(path, found) and _has_members(path):
            return path
    point = _servers.shared(directory)
    path = _name_in_mount(point, os.path.basename(real))
    if not _is_same(path, found):
        opened, now = Generation.of(found), Generation.of(os.stat(real))
        if opened != now:
            raise Stale(real, opened, now)
        raise Error(errno.ENOENT, f"the mount {point} does not show the file", real)
    return path


def members(path: str) -> str:
    """The directory with the members of an archive that a mount shows at `path`.

    Raises `Damaged` if the mount shows it raw, because it is no readable archive.
    """
    directory = _directory(path)
    if directory is not None:
        return directory
    state = state_of(path)
    if state is None:
        raise Error(errno.EINVAL, "not an archive: only files called .npz are shown as one", path)
    if state == "ready":
        raise Error(errno.ENOENT, "this mount shows no directory of the archive's members", path)
    raise Damaged(path, None, None, state)


def _directory(path: str) -> str | None:
    for directory in (path, path + ".d"):
        if os.path.isdir(directory) and state_of(directory) is not None:
            return directory
    return None


def _has_members(path: str) -> bool:
    """Whether the mount shows what is in a file, too: not each layout does, for each file."""
    if path.lower().endswith(".npz") or os.path.isdir(path):
        return _directory(path) is not None
    return state_of(path) is not None


def _name_in_mount(point: str, name: str) -> str:
    """A `.npy.gz` is shown as a `.npy`, or, if there is one already, as it is."""
    path = os.path.join(point, name)
    if name.lower().endswith(".npy.gz") and state_of(path[: -len(".gz")]) is not None:
        return path[: -len(".gz")]
    return path


def _is_same(path: str, found: os.stat_result) -> bool:
    """Whether the file at `path` in a mount is the file with the attributes `found`.

    What lies in archives has inode numbers of its own, so the modification time, in nanoseconds,
    and the owner have to do. Members are compared once more, by their checksums.
    """
    try:
        there = os.stat(path)
    except OSError:
        return False
    known = there.st_mtime_ns, there.st_uid, there.st_gid
    return known == (found.st_mtime_ns, found.st_uid, found.st_gid)
