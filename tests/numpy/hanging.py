"""A filesystem that hangs on request, to be mounted within a source. Needs root."""

import contextlib
import ctypes
import os
import select
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path

from mounting import mounted, poll

# Numbers of requests, linux/fuse.h.
OPERATIONS = {"lookup": 1, "getattr": 3, "open": 14, "read": 15, "readdir": 28}
OPEN, READ, STATFS, RELEASE, FLUSH, INIT = 14, 15, 17, 18, 25, 26
OPENDIR, READDIR, RELEASEDIR, ACCESS = 27, 28, 29, 34
FORGET, INTERRUPT, DESTROY, BATCH_FORGET = 2, 36, 38, 42
ENOENT, ENOSYS = 2, 38
# Of what the kernel offers with INIT; the last in the second word.
ASYNC_READ, FLOCK_LOCKS, INIT_EXT, PASSTHROUGH = 1 << 0, 1 << 10, 1 << 30, 1 << 5


class Hanging:
    """Shows the files of `content` in `path`; `hang("read")` has it answer no read any more.

    What it does not answer it answers once it hangs in something else, or `hang()` in nothing.
    """

    def __init__(self, content, path, control):
        self.path, self.control = Path(path), Path(control)
        self.control.write_text("")
        self.path.mkdir()
        command = [sys.executable, __file__, str(content), str(path), str(control)]
        self.process = subprocess.Popen(command)
        poll(lambda: mounted(self.path) and os.listdir(self.path) is not None, 10, "it is mounted")

    def hang(self, *operations):
        # In one step: the server may read it at any moment.
        draft = self.control.with_suffix(".draft")
        draft.write_text(" ".join(operations))
        draft.rename(self.control)

    def held(self):
        """The number of requests that wait for an answer."""
        count = self.control.with_suffix(".held")
        return int("0" + count.read_text()) if count.exists() else 0

    def released(self):
        """The number of files that were open in it and are closed now."""
        log = self.control.with_suffix(".released")
        return log.stat().st_size if log.exists() else 0

    def end(self):
        """From now on every request that would hang gets an error."""
        subprocess.run(["umount", "-f", "-l", self.path], check=False)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def attributes(ino, path):
    at = os.lstat(path)
    mode = stat.S_IFDIR | 0o755 if stat.S_ISDIR(at.st_mode) else stat.S_IFREG | 0o644
    times = [int(at.st_mtime)] * 3
    return struct.pack("<6Q10I", ino, at.st_size, 1, *times, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(content, names, opcode, node, body):
    """The body of the reply, or an errno."""
    path = content if node <= 1 else content / names[node - 2]
    if opcode == INIT:
        # Reads are asynchronous, as in every server. With a stack of two, npzfs can pass no file of
        # this filesystem through: the kernel would wait then, and not npzfs.
        # Locks are asked for here, and refused.
        flags, flags2, stack = ASYNC_READ | FLOCK_LOCKS | INIT_EXT, PASSTHROUGH, 2
        # Readers beyond the number of background requests wait for a free one. One that is killed
        # there reads a page in the foreground before it gives up (filemap_create_folio,
        # mm/filemap.c). No signal ends that read once this process has seen it, and a server that
        # is killed would stay.
        background, congested = 1024, 1024
        sizes = (131072, flags, background, congested, 131072, 1, 0, 0, flags2, stack)
        return struct.pack("<4I2H2I2H2I24x", 7, 40, *sizes)
    if opcode == OPERATIONS["lookup"]:
        name = os.fsdecode(body.rstrip(b"\0"))
        if name not in names:
            return ENOENT
        ino = names.index(name) + 2
        # Good for no time: each look asks.
        return struct.pack("<4Q2I", ino, 0, 0, 0, 0, 0) + attributes(ino, content / name)
    if opcode == OPERATIONS["getattr"]:
        return struct.pack("<Q2I", 0, 0, 0) + attributes(node, path)
    if opcode in (OPEN, OPENDIR):
        return struct.pack("<Q2I", 0, 0, 0)
    if opcode == READ:
        _, offset, size = struct.unpack_from("<QQI", body)
        return path.read_bytes()[offset : offset + size]
    if opcode == READDIR:
        _, offset, _ = struct.unpack_from("<QQI", body)
        entries = b""
        for number, name in enumerate(names[offset:], offset + 1):
            raw = os.fsencode(name)
            entries += struct.pack("<QQII", number + 1, number, len(raw), 8) + raw
            entries += bytes(-len(entries) % 8)
        return entries
    if opcode == STATFS:
        return struct.pack("<5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
    if opcode in (RELEASE, RELEASEDIR, FLUSH, ACCESS):
        return b""
    return ENOSYS


def serve(content, path, control):
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.mount(b"hanging", os.fsencode(path), b"fuse.hanging", 6, options.encode())
    assert failed == 0, os.strerror(ctypes.get_errno())
    names = sorted(os.listdir(content))
    held = []

    def hangs(request):
        return struct.unpack_from("<I", request, 4)[0] in [
            OPERATIONS[name] for name in control.read_text().split()
        ]

    while True:
        ready = next((request for request in held if not hangs(request)), None)
        if ready is not None:
            held.remove(ready)
            request = ready
        elif held and not select.select([device], [], [], 0.02)[0]:
            continue
        else:
            try:
                request = os.read(device, 1 << 18)
            except OSError:
                return  # it was unmounted
        _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            continue
        if hangs(request):
            held.append(request)
            control.with_suffix(".held").write_text(str(len(held)))
            continue
        if opcode == RELEASE:
            with open(control.with_suffix(".released"), "ab") as log:
                log.write(b".")
        said = answer(content, names, opcode, node, request[40:])
        error, said = (-said, b"") if isinstance(said, int) else (0, said)
        with contextlib.suppress(OSError):  # the reader is gone
            os.write(device, struct.pack("<IiQ", 16 + len(said), error, unique) + said)
        if opcode == DESTROY:
            return


if __name__ == "__main__":
    serve(*map(Path, sys.argv[1:]))
