"""Reads which npzfs mounts there are. Asks the kernel, never a server."""

from __future__ import annotations

import os
import re
from typing import NamedTuple


class Mounted(NamedTuple):
    """One npzfs mount, from its line in /proc/self/mountinfo."""

    point: str
    source: str
    """The source as the server has resolved it, or the text of `-o fsname=`."""
    device: int
    user: int
    """The user who has mounted it."""


def mounts() -> list[Mounted]:
    """All npzfs mounts, oldest first."""
    found = []
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            # Fields as in proc_pid_mountinfo(5).
            before, _, after = line.rstrip(b"\n").partition(b" - ")
            kind, source, options = after.split(b" ")[:3]
            if kind != b"fuse.npzfs":
                continue
            fields = before.split(b" ")
            major, minor = fields[2].split(b":")
            user = re.search(rb"user_id=(\d+)", options)
            found.append(
                Mounted(
                    _unescaped(fields[4]),
                    _unescaped(source),
                    os.makedev(int(major), int(minor)),
                    int(user[1]) if user else -1,
                )
            )
    return found


def _unescaped(field: bytes) -> str:
    """Undoes the kernel's octal escapes of space, tab, newline, backslash and `#`."""
    return os.fsdecode(re.sub(rb"\\([0-3][0-7]{2})", lambda m: bytes([int(m[1], 8)]), field))
