"""The errors of the package. Each is an OSError with errno and file name."""

from __future__ import annotations

import errno
import os
import re
from typing import Any, NamedTuple


class Error(OSError):
    """An operation of npzfs failed: with the message of the server or of the program."""


class Damaged(Error):
    """A member, or a whole archive, cannot be read.

    `offset` counts bytes: of the encoded member where a deflate stream is invalid, of the decoded
    member where any stream ends early or one of another method is invalid. It is None if the damage
    has no place, as with a wrong CRC-32.
    """

    def __init__(self, path: str, member: str | None, offset: int | None, message: str) -> None:
        where = path if member is None else f"{path}, {member}"
        super().__init__(errno.EIO, message, where)
        self.path = path
        self.member = member
        self.offset = offset
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.member, self.offset, self.message)


class Generation(NamedTuple):
    """One version of a file."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Generation:
        return cls(stat.st_ino, stat.st_size, stat.st_mtime_ns)

    def require(self, path: str) -> None:
        """Raises `Stale` if the file has another generation now."""
        found = Generation.of(os.stat(path))
        if found != self:
            raise Stale(path, self, found)


class Stale(Error):
    """An archive is not the one that an array or an open NpzFile came from."""

    def __init__(self, path: str, expected: Generation, found: Generation) -> None:
        message = f"the archive was replaced: it was {expected}, now it is {found}"
        super().__init__(errno.ESTALE, message, path)
        self.path = path
        self.expected = expected
        self.found = found

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.expected, self.found)


def offset_in(state: str) -> int | None:
    """The place of the damage that the state of a member names, in bytes."""
    found = re.search(r"at byte (\d+)|after (\d+) (?:of \d+ )?decoded bytes", state)
    return None if found is None else int(found[1] or found[2])


def state_of(path: str) -> str | None:
    """The extended attribute `user.npzfs.state` of a file in a mount, if it has one."""
    try:
        return os.getxattr(path, "user.npzfs.state").decode()
    except OSError:
        return None


def absolute(path: str) -> str:
    """`path` from the root. os.path.abspath takes `..` for the directory before a symbolic link."""
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
