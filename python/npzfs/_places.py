"""Finds the mount that shows a file, or has one made."""

from __future__ import annotations

import contextlib
import errno
import os

from . import _servers, _table
from ._errors import Damaged, Error, Generation, state_of

File = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def is_archive(name: str) -> bool:
    return name.lower().endswith(".npz")


def is_gzipped_npy(name: str) -> bool:
    return name.lower().endswith(".npy.gz")


def shown(real: str, found: os.stat_result) -> str:
    """The path at which a mount shows the file `real`, a path without symbolic links.

    A file in a mount is shown where it is. Else the newest mount of this user or of root is taken
    that shows it, and last a private mount of its directory.
    """
    mounts = _table.mounts()
    if any(mounted.device == found.st_dev for mounted in mounts):
        _servers.keep(real)
        return real
    directory = os.path.dirname(real)
    for mounted in reversed(mounts):
        # Anybody can make a mount that claims to show our files.
        if mounted.user not in (os.getuid(), 0):
            continue
        if _servers.is_private(mounted.point) and not _servers.is_own(mounted.point):
            continue
        # It has no symbolic links: the server has resolved them. It is not resolved again, because
        # that could wait for a filesystem that hangs.
        source = mounted.source
        if source == real:
            path = mounted.point
        elif real.startswith(os.path.join(source, "")):
            path = _name_in_mount(mounted.point, os.path.relpath(real, source))
        else:
            continue
        # A mount whose server was killed, or that shows another file, is none to look into.
        with contextlib.suppress(OSError):
            if _is_same(os.stat(path), found) and _has_members(path):
                return path
    point = _servers.shared(directory)
    path = _name_in_mount(point, os.path.basename(real))
    try:
        there = os.stat(path)
    except OSError as error:
        Generation.of(found).require(real)
        raise Error(error.errno, f"{error.strerror}, in the mount {point}", real) from error
    if not _is_same(there, found):
        Generation.of(found).require(real)
        raise Error(errno.ENOENT, f"the mount {point} does not show the file", real)
    return path


def members(path: str, archive: str) -> str:
    """The directory with the members of an archive that a mount shows at `path`.

    Raises `Damaged` if the mount shows it raw, because it is no readable archive.
    """
    directory = _directory(path)
    if directory is not None:
        return directory
    state = state_of(path)
    if state is None:
        raise Error(
            errno.EINVAL, "not an archive: only files called .npz are shown as one", archive
        )
    if state == "ready":
        raise Error(errno.ENOENT, "this mount shows no directory of the archive's members", archive)
    raise Damaged(archive, None, None, state)


def _directory(path: str) -> str | None:
    for directory in (path, path + ".d"):
        if os.path.isdir(directory) and state_of(directory) is not None:
            return directory
    return None


def _has_members(path: str) -> bool:
    """Whether the mount shows the members, or the decoded array, of a file."""
    if is_archive(path) or os.path.isdir(path):
        return _directory(path) is not None
    return state_of(path) is not None


def _name_in_mount(point: str, name: str) -> str:
    """A `.npy.gz` is shown as a `.npy`, or, if there is one already, as it is."""
    path = os.path.join(point, name)
    if is_gzipped_npy(name) and state_of(path[: -len(".gz")]) is not None:
        return path[: -len(".gz")]
    return path


def _is_same(there: os.stat_result, found: os.stat_result) -> bool:
    """Whether a file in a mount, with the attributes `there`, is the file with those of `found`.

    What lies in archives has inode numbers of its own, so the modification time, in nanoseconds,
    and the owner are compared. Members are compared once more, by their checksums.
    """
    known = there.st_mtime_ns, there.st_uid, there.st_gid
    return known == (found.st_mtime_ns, found.st_uid, found.st_gid)
