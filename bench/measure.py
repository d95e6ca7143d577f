"""The measurements: each runs in a process of its own, times one thing and checks every byte of it.

Bytes are checked after the clock has stopped, never beside it: a check between two reads would
give a server time to read ahead for nothing. What is read goes to memory that has been touched
before. Times are in seconds.
"""

import mmap
import multiprocessing
import os
import subprocess
import time
import zlib

import numpy as np

FORK = multiprocessing.get_context("fork")
BLOCK = 1 << 20


class WrongBytes(Exception):
    """The bytes that were read are not those that were written."""


class Failed(Exception):
    """A measurement that came to no end, or to a bad one."""


def check(right, what):
    if not right:
        raise WrongBytes(what)


def in_child(limit, work, *arguments):
    """What `work` returns in a new process, or raises; Failed after `limit` seconds."""
    return finish(limit, start(work, *arguments))


def start(work, *arguments):
    """A process that runs `work`, and the end of a pipe that will hold what it returns."""
    receiver, sender = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_run, args=(sender, work, arguments), daemon=True)
    child.start()
    sender.close()
    return child, receiver


def finish(limit, started):
    child, receiver = started
    if not receiver.poll(limit):
        # It may hang in a page fault until the server has ended: nobody waits for it here.
        child.kill()
        raise Failed(f"no end after {limit:.0f} s")
    try:
        result = receiver.recv()
    except EOFError:
        child.join()
        raise Failed(f"the reader ended with {child.exitcode}") from None
    child.join()
    if isinstance(result, WrongBytes):
        raise result
    if isinstance(result, Exception):
        raise Failed(f"{type(result).__name__}: {result}")
    return result


def _run(sender, work, arguments):
    try:
        result = work(*arguments)
    except Exception as error:
        # An exception of another library may not survive the pipe; its words do.
        result = error if isinstance(error, WrongBytes) else RuntimeError(repr(error))
    sender.send(result)


def check_rows(array, rows_crc, numbers=None):
    """Compares the checksum of each row: of all, or of those with these numbers."""
    numbers = range(len(rows_crc)) if numbers is None else numbers
    check(len(array) == len(numbers), f"{len(array)} rows, not {len(numbers)}")
    for row, number in zip(array, numbers):
        check(zlib.crc32(row) == rows_crc[number], f"row {number}")


def cat(path, size, crc):
    """Reads a file from its start to its end with read(2)."""
    buffer = memoryview(np.ones(size, "u1"))
    begin = time.perf_counter()
    at = 0
    with open(path, "rb", buffering=0) as file:
        while read := file.readinto(buffer[at:at + BLOCK]):
            at += read
    seconds = time.perf_counter() - begin
    check(at == size and zlib.crc32(buffer) == crc, f"{path}: {at} bytes")
    return seconds


def load(path, rows_crc):
    """np.load without a memory map."""
    begin = time.perf_counter()
    array = np.load(path)
    seconds = time.perf_counter() - begin
    check_rows(array, rows_crc)
    return seconds


def load_key(archive, key, rows_crc):
    """np.load(archive)[key]."""
    begin = time.perf_counter()
    with np.load(archive) as members:
        array = members[key]
    seconds = time.perf_counter() - begin
    check_rows(array, rows_crc)
    return seconds


def scan(path, rows_crc, times=1):
    """Opens a memory map and adds up all of it, `times` times."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        array = np.load(path, mmap_mode="r")
        np.asarray(array).reshape(-1).view("<u8").sum()
        seconds.append(time.perf_counter() - begin)
    check_rows(np.asarray(array), rows_crc)
    return seconds


def rows(path, numbers, rows_crc, budget, advice=None, barrier=None):
    """Copies rows out of a memory map, until `budget` seconds are over."""
    array = np.load(path, mmap_mode="r")
    if advice is not None:
        array._mmap.madvise(advice)
    array = np.asarray(array)
    got = np.ones((len(numbers), array.shape[1]), array.dtype)
    seconds = []
    if barrier:
        barrier.wait(60)
    end = time.perf_counter() + budget
    for number, place in zip(numbers, got):
        begin = time.perf_counter()
        place[:] = array[number]
        now = time.perf_counter()
        seconds.append(now - begin)
        if now > end:
            break
    check_rows(got[:len(seconds)], rows_crc, numbers[:len(seconds)])
    return seconds


def random_rows(path, numbers, rows_crc, budget):
    """As `rows`, with the advice that reads are random: the kernel does not read around."""
    return rows(path, numbers, rows_crc, budget, mmap.MADV_RANDOM)


def rows_in_processes(limit, path, shares, rows_crc, budget):
    """Rows a second of several processes that read at once, each its share."""
    barrier = FORK.Barrier(len(shares))
    started = [start(rows, path, share, rows_crc, budget, None, barrier) for share in shares]
    times = [finish(limit, one) for one in started]
    return sum(map(len, times)) / max(map(sum, times))


def one_row(path, number, rows_crc):
    """Opens a memory map and copies one row: what a user waits for."""
    begin = time.perf_counter()
    array = np.load(path, mmap_mode="r")
    row = np.array(array[number])
    seconds = time.perf_counter() - begin
    check_rows([row], rows_crc, [number])
    return seconds


def list_and_stat(directory, sizes):
    """Lists a directory and asks for the size of every file in it."""
    begin = time.perf_counter()
    with os.scandir(directory) as entries:
        found = {entry.name: entry.stat().st_size for entry in entries}
    seconds = time.perf_counter() - begin
    check(found == sizes, f"{directory}: {len(found)} files")
    return seconds


def list_names(directory, names):
    """Lists a directory."""
    begin = time.perf_counter()
    found = os.listdir(directory)
    seconds = time.perf_counter() - begin
    check(set(found) == names, f"{directory}: {len(found)} names")
    return seconds


def walk(directory, files):
    """Walks a tree and asks for the size of every file. Checks the number and the sum of sizes."""
    begin = time.perf_counter()
    count = size = 0
    pending = [directory]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    pending.append(entry.path)
                else:
                    size += entry.stat().st_size
                    count += 1
    seconds = time.perf_counter() - begin
    check((count, size) == files, f"{directory}: {count} files of {size} bytes")
    return seconds


def read_tails(directory):
    """Reads the end of every archive in a tree, where its central directory lies."""
    begin = time.perf_counter()
    for parent, _, names in os.walk(directory):
        for name in names:
            file = os.open(os.path.join(parent, name), os.O_RDONLY)
            os.pread(file, 4096, max(0, os.fstat(file).st_size - 4096))
            os.close(file)
    return time.perf_counter() - begin


def load_each(paths, expected):
    """np.load of one small file after another."""
    seconds, arrays = [], []
    for path in paths:
        begin = time.perf_counter()
        arrays.append(np.load(path))
        seconds.append(time.perf_counter() - begin)
    for path, array, want in zip(paths, arrays, expected):
        check(np.array_equal(array, want), path)
    return seconds


def load_each_key(archive, keys, expected):
    """np.load(archive)[key] of one key after another, the archive being open."""
    seconds, arrays = [], []
    with np.load(archive) as members:
        for key in keys:
            begin = time.perf_counter()
            arrays.append(members[key])
            seconds.append(time.perf_counter() - begin)
    for key, array, want in zip(keys, arrays, expected):
        check(np.array_equal(array, want), key)
    return seconds


def drop_pages(path):
    """Takes the pages of a file out of the kernel's cache, if they are clean and not mapped."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def warm(path):
    """Reads a file, so that its pages are in the kernel's cache."""
    with open(path, "rb", buffering=0) as file:
        block = bytearray(BLOCK)
        while file.readinto(block):
            pass


def engine_seconds(program, data, kind):
    """The engine's own speed in memory: the median of its passes."""
    start, end = data.encoded_range(kind)
    size = data.file_size(kind)
    command = [program, data.path("deflated", f"{kind}.npz"), str(start), str(end), str(size)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed((done.stderr.strip().splitlines() or ["no message"])[-1])
    passes = sorted(map(float, done.stdout.split()))
    return passes[len(passes) // 2]


def epochs(directory, crcs, count, mapped):
    """Passes over all archives of a directory, each pass in another order: the time of each pass.

    Reads the one array of each archive as a loader does that knows nothing of a mount; `mapped`, as
    one that maps the members of the archives' directories, and sums them.
    """
    def loaded(number):
        with np.load(os.path.join(directory, f"{number:05}.npz")) as archive:
            return archive["x"]

    def summed(number):
        array = np.load(os.path.join(directory, f"{number:05}.npz", "x.npy"), mmap_mode="r")
        array.sum()
        return array

    read = summed if mapped else loaded
    found = []
    for epoch in range(count):
        order = np.random.default_rng(epoch).permutation(len(crcs))
        start = time.perf_counter()
        arrays = [read(number) for number in order]
        found.append(time.perf_counter() - start)
        for number, array in zip(order, arrays, strict=True):
            check(zlib.crc32(array) == crcs[number], f"archive {number} in epoch {epoch}")
    return found
