"""The rows of the comparison: what is measured, in which state of the caches."""

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import measure
import numpy as np
from data import EPOCHS, KEYS, KINDS, small
from systems import NumPy, Unavailable, view

# Rows are picked so far apart that no two share a window that the kernel reads around a fault:
# one in every 64 of 4 KiB, not more than 16 from their middle, for the 128 KiB of a FUSE mount.
APART = 64
ASTRAY = 16
PICKS = 2000
# A reader of random rows stops after this many seconds: some systems take a second a row.
BUDGET = 5
PROCESSES = 4
OPENED = 500  # small members
IDLE = 2  # seconds


@dataclass
class Case:
    """One system in one run of a row."""

    data: object
    system: object
    programs: object
    run: int
    limit: float
    peaks: list = field(default_factory=list)
    extra: dict = field(default_factory=dict)

    @contextlib.contextmanager
    def show(self, name, cold_source=False, **options):
        """A fresh mount of a view, its source read from the host's cache or from the disk."""
        shown_view = view(self.data, name)
        if shown_view.array:
            source = self.system.source(shown_view)
            measure.drop_pages(source) if cold_source else measure.warm(source)
        with self.system.show(shown_view, **options) as shown:
            yield shown
            if shown.server and shown.server.poll() is None:
                self.peaks.append(shown.memory("VmHWM"))

    def child(self, work, *arguments):
        return measure.in_child(self.limit, work, *arguments)

    def picks(self):
        """Numbers of rows at random places, no two near each other."""
        rng = random.Random(self.run)
        places = [place + APART // 2 + rng.randint(-ASTRAY, ASTRAY)
                  for place in range(0, self.data.sizes.rows - APART + 1, APART)]
        rng.shuffle(places)
        return places[:PICKS]


@dataclass(frozen=True)
class Row:
    """One line of a table. `measure` gives samples in `unit`."""

    id: str
    group: str
    title: str
    unit: str
    measure: Callable
    without: tuple = ()

    @property
    def higher_is_better(self):
        return self.unit in ("MB/s", "rows/s")


def member(shown, kind):
    return os.path.join(shown.directory, f"{kind}.npy")


def speed(case, kind, seconds):
    return [case.data.file_size(kind) / one / 1e6 for one in seconds]


def micro(seconds):
    return [one * 1e6 for one in seconds]


def cached_scan(case):
    with case.show("stored/sensor") as shown:
        path, crc = member(shown, "sensor"), case.data.rows_crc("sensor")
        case.child(measure.scan, path, crc)
        return speed(case, "sensor", case.child(measure.scan, path, crc, 5))


def cached_rows(case):
    with case.show("stored/sensor") as shown:
        path, crc = member(shown, "sensor"), case.data.rows_crc("sensor")
        case.child(measure.scan, path, crc)
        return micro(case.child(measure.rows, path, case.picks(), crc, BUDGET))


def sequential(view_name, kind, how, cold_source=False):
    """A pass over a whole member: `cat`, `load` or `scan`."""
    def run(case):
        crc = case.data.rows_crc(kind)
        with case.show(f"{view_name}/{kind}", cold_source) as shown:
            if isinstance(case.system, NumPy):
                seconds = case.child(measure.load_key, shown.directory, kind, crc)
            elif how == "cat":
                size, whole = case.data.file_size(kind), case.data.file_crc(kind)
                seconds = case.child(measure.cat, member(shown, kind), size, whole)
            elif how == "load":
                seconds = case.child(measure.load, member(shown, kind), crc)
            else:
                [seconds] = case.child(measure.scan, member(shown, kind), crc)
        return speed(case, kind, [seconds])
    return run


def first_rows(view_name, kind, work=measure.rows, cold_source=False):
    """Random rows of a fresh mount."""
    def run(case):
        with case.show(f"{view_name}/{kind}", cold_source) as shown:
            crc = case.data.rows_crc(kind)
            return micro(case.child(work, member(shown, kind), case.picks(), crc, BUDGET))
    return run


def processes(count):
    def run(case):
        with case.show("stored/sensor") as shown:
            picks = case.picks()
            # The same number of rows for each process, however many there are.
            shares = [picks[one::PROCESSES] for one in range(count)]
            return [measure.rows_in_processes(case.limit, member(shown, "sensor"), shares,
                                              case.data.rows_crc("sensor"), BUDGET)]
    return run


def indexed(kind, work):
    """After one pass by another reader; then the mount's pages are dropped."""
    def run(case):
        crc = case.data.rows_crc(kind)
        with case.show(f"deflated/{kind}") as shown:
            path = member(shown, kind)
            case.child(measure.cat, path, case.data.file_size(kind), case.data.file_crc(kind))
            measure.drop_pages(path)
            return work(case, path, crc)
    return run


def saved(kind, work):
    """A fresh mount that finds what an earlier one has saved."""
    def run(case):
        if case.system.name != "npzfs":
            raise Unavailable("saves no index")
        crc = case.data.rows_crc(kind)
        with tempfile.TemporaryDirectory(prefix="npzfs-bench-cache-") as cache:
            with case.show(f"deflated/{kind}", cache=cache) as shown:
                path = member(shown, kind)
                case.child(measure.cat, path, case.data.file_size(kind), case.data.file_crc(kind))
            with case.show(f"deflated/{kind}", cache=cache) as shown:
                return work(case, member(shown, kind), crc)
    return run


def copied(kind, work, cold=False):
    """A fresh mount that finds the decoded copy of an earlier one, beside the native file."""
    def run(case):
        crc = case.data.rows_crc(kind)
        if case.system.name == "native":
            with case.show(f"stored/{kind}") as shown:
                read_in(member(shown, kind), cold)
                return work(case, member(shown, kind), crc)
        if case.system.name != "npzfs":
            raise Unavailable("keeps no decoded copy")
        # On the disk of the native file.
        with tempfile.TemporaryDirectory(prefix="copies-", dir=case.data.root) as copies:
            options = ("--disk-cache", copies, "--disk-cache-size", "1T")
            with case.show(f"deflated/{kind}", options=options) as shown:
                copy = await_copy(case, member(shown, kind), kind, copies)
            read_in(copy, cold)
            with case.show(f"deflated/{kind}", options=options) as shown:
                return work(case, member(shown, kind), crc)
    return run


def read_in(path, cold):
    """Leaves a file in the caches as if it was read in sequence; on the disk if it shall be `cold`.

    Its pages are in the same folios then, whoever wrote or read it before; and what lies below the
    disk has read it once.
    """
    measure.drop_pages(path)
    measure.warm(path)
    if cold:
        measure.drop_pages(path)


def await_copy(case, path, kind, copies):
    """Reads a member past the kernel's cache until it has a copy, and tells where."""
    end = time.monotonic() + case.limit
    while time.monotonic() < end:
        case.child(measure.cat, path, case.data.file_size(kind), case.data.file_crc(kind))
        measure.drop_pages(path)
        for name in os.listdir(copies):
            if name.endswith(".decoded"):
                return os.path.join(copies, name)
    raise measure.Failed(f"no decoded copy after {case.limit:.0f} s")


def scan_each(case, path, crc):
    return speed(case, "sensor", case.child(measure.scan, path, crc, 5))


def scan_once(case, path, crc):
    return speed(case, "sensor", case.child(measure.scan, path, crc))


def random_after(case, path, crc):
    return micro(case.child(measure.random_rows, path, case.picks(), crc, BUDGET))


def first_after(case, path, crc):
    return [case.child(measure.one_row, path, 0, crc) * 1e3]


def rows_after(case, path, crc):
    return micro(case.child(measure.rows, path, case.picks(), crc, BUDGET))


def last_after(case, path, crc):
    last = case.data.sizes.rows - 1
    return [case.child(measure.one_row, path, last, crc) * 1e3]


def one_row(kind, number):
    """The first or the last row of a fresh mount, with all that opening it takes."""
    def run(case):
        crc = case.data.rows_crc(kind)
        with case.show(f"deflated/{kind}") as shown:
            if isinstance(case.system, NumPy):
                return [case.child(measure.load_key, shown.directory, kind, crc) * 1e3]
            row = number % case.data.sizes.rows
            return [case.child(measure.one_row, member(shown, kind), row, crc) * 1e3]
    return run


def list_members(case):
    size = os.path.getsize(case.data.path("native-many", "00000.npy"))
    sizes = {f"{number:05}.npy": size for number in range(case.data.sizes.members)}
    with case.show("many") as shown:
        return [case.child(measure.list_and_stat, shown.directory, sizes) * 1e3]


def open_members(case):
    rng = random.Random(case.run)
    numbers = rng.sample(range(case.data.sizes.members), min(OPENED, case.data.sizes.members))
    arrays = [small(number) for number in numbers]
    with case.show("many") as shown:
        if isinstance(case.system, NumPy):
            keys = [f"{number:05}" for number in numbers]
            return micro(case.child(measure.load_each_key, shown.directory, keys, arrays))
        paths = [os.path.join(shown.directory, f"{number:05}.npy") for number in numbers]
        return micro(case.child(measure.load_each, paths, arrays))


def tree_files(case):
    count = case.data.sizes.archives * len(KEYS)
    return count, count * os.path.getsize(case.data.path("native-many", "00000.npy"))


def walk_tree(again):
    def run(case):
        with case.show("tree") as shown:
            files = tree_files(case)
            seconds = case.child(measure.walk, shown.directory, files)
            if again:
                seconds = case.child(measure.walk, shown.directory, files)
            elif case.system.name == "native":
                seconds += case.child(measure.read_tails, case.data.path("tree"))
            return [seconds * 1e3]
    return run


def list_flat(case):
    if not case.data.sizes.flat:
        raise Unavailable("at --scale 1 only")
    suffix = "npy" if case.system.name == "native" else "npz"
    names = {f"{number:06}.{suffix}" for number in range(case.data.sizes.flat)}
    with case.show("flat") as shown:
        return [case.child(measure.list_names, shown.directory, names) * 1e3]


def epoch(size, number, mapped=False):
    """Epoch `number` of a loader that reads all archives of a size in a fresh mount."""
    def run(case):
        is_decoded = case.system.name == "npzfs" and not mapped
        layout = {"options": ("--layout", "stored")} if is_decoded else {}
        crcs = np.load(case.data.path(f"epoch-{size}.crc.npy"))
        with case.show(f"epoch-{size}", **layout) as shown:
            seconds = case.child(measure.epochs, shown.directory, crcs, number, mapped)
            return [seconds[-1] * 1e3]
    return run


def idle(what):
    """What a server holds or uses while nobody asks, after a pass over a deflated member."""
    def run(case):
        with case.show("deflated/sensor") as shown:
            if not shown.server:
                raise Unavailable("no server")
            case.child(measure.cat, member(shown, "sensor"), case.data.file_size("sensor"),
                       case.data.file_crc("sensor"))
            time.sleep(IDLE)
            if what == "memory":
                return [shown.memory("VmRSS")]
            before = shown.cpu_seconds()
            time.sleep(IDLE)
            return [(shown.cpu_seconds() - before) / IDLE * 1e3]
    return run


def engine(case, kind):
    return speed(case, kind, [measure.engine_seconds(case.programs.engine_speed, case.data, kind)])


WAYS = {"cat": "read(2)", "load": "np.load", "scan": "sum of a memory map"}
NO_FILES = ("np.load(npz)",)
NO_INDEX = ("np.load(npz)", "bare fuser")


def all_rows():
    cached, stored, first, later, copy, many, epochs, server = (
        "Pages in the kernel's cache", "Stored member, source in the host's cache",
        "Deflated member, first pass", "Deflated member, rows", "Deflated member, decoded copy",
        "Many members, many archives",
        "A loader that reads many archives whole (native: the same archives by np.savez)",
        "The server")
    out = [
        Row("cached.scan", cached, "sum of a memory map, second process", "MB/s", cached_scan,
            NO_FILES),
        Row("cached.rows", cached, "4 KiB row, second process", "us", cached_rows, NO_FILES),
    ]
    out += [Row(f"stored.{how}", stored, words, "MB/s", sequential("stored", "sensor", how),
                () if how == "load" else NO_FILES) for how, words in WAYS.items()]
    out += [
        Row("stored.rows", stored, "random row", "us", first_rows("stored", "sensor"), NO_FILES),
        Row("stored.rows.advised", stored, "random row, MADV_RANDOM", "us",
            first_rows("stored", "sensor", measure.random_rows), NO_FILES),
        Row("stored.rows.1", stored, "random rows, 1 process", "rows/s", processes(1), NO_FILES),
        Row("stored.rows.4", stored, f"random rows, {PROCESSES} processes at once", "rows/s",
            processes(PROCESSES), NO_FILES),
        Row("disk.cat", stored, "read(2), source on the disk", "MB/s",
            sequential("stored", "sensor", "cat", cold_source=True), NO_FILES),
        # Without the advice a disk's read-ahead, of megabytes at times, is what is measured.
        Row("disk.rows.advised", stored, "random row, source on the disk, MADV_RANDOM", "us",
            first_rows("stored", "sensor", measure.random_rows, cold_source=True), NO_FILES),
    ]
    out += [Row(f"first.{kind}.{how}", first, f"{kind}: {words}", "MB/s",
                sequential("deflated", kind, how),
                () if how == "load" else NO_FILES)
            for kind in KINDS for how, words in WAYS.items()]
    out += [
        Row("row.first", later, "first row, cold, with opening", "ms", one_row("sensor", 0)),
        Row("row.last", later, "last row, cold, with opening", "ms", one_row("sensor", -1)),
        Row("row.last.indexed", later, "last row, after a pass", "ms",
            indexed("sensor", last_after), NO_INDEX),
        Row("rows.sensor.cold", later, "random row, no pass before", "us",
            first_rows("deflated", "sensor"), NO_INDEX),
    ]
    out += [
        Row("row.first.saved", later, "first row, saved index", "ms",
            saved("sensor", first_after), NO_INDEX),
        Row("row.last.saved", later, "last row, saved index", "ms", saved("sensor", last_after),
            NO_INDEX),
    ]
    out += [Row(f"rows.{kind}.saved", later, f"{kind}: random row, saved index", "us",
                saved(kind, rows_after), NO_INDEX) for kind in KINDS]
    out += [Row(f"rows.{kind}.indexed", later, f"{kind}: random row, after a pass", "us",
                indexed(kind, rows_after), NO_INDEX) for kind in KINDS]
    out += [
        Row("copy.scan", copy, "sum of a memory map", "MB/s", copied("sensor", scan_each),
            NO_INDEX),
        Row("copy.rows", copy, "random row", "us", copied("sensor", rows_after), NO_INDEX),
        Row("copy.disk.scan", copy, "sum of a memory map, copy on the disk", "MB/s",
            copied("sensor", scan_once, cold=True), NO_INDEX),
        Row("copy.disk.rows.advised", copy, "random row, copy on the disk, MADV_RANDOM", "us",
            copied("sensor", random_after, cold=True), NO_INDEX),
    ]
    out += [
        Row("many.list", many, "list and stat the members of one archive", "ms", list_members,
            NO_INDEX),
        Row("many.open", many, "np.load of a random member of it", "us", open_members,
            ("bare fuser",)),
        Row("tree.cold", many, "walk a tree of archives, cold", "ms", walk_tree(False), NO_INDEX),
        Row("tree.again", many, "walk it again", "ms", walk_tree(True), NO_INDEX),
        Row("flat.list", many, "list 100,000 archives", "ms", list_flat, NO_INDEX),
    ]
    for size in EPOCHS:
        for number, words in ((1, "first"), (2, "second")):
            out += [
                Row(f"epochs.{size}.{words}", epochs,
                    f"{size}: unchanged code, np.load(npz)[key], {words} epoch", "ms",
                    epoch(size, number), ("bare fuser",)),
                Row(f"epochs.{size}.{words}.mapped", epochs,
                    f"{size}: mapped members, summed, {words} epoch", "ms",
                    epoch(size, number, mapped=True), ("bare fuser", "native", "np.load(npz)")),
            ]
    out += [
        Row("idle.memory", server, "resident memory, idle after a pass", "MiB", idle("memory"),
            NO_INDEX),
        Row("idle.cpu", server, "processor time, idle", "ms/s", idle("cpu"), NO_INDEX),
    ]
    return out


def summary(samples):
    """The median of a run, and its 99th percentile where there are enough samples."""
    p99 = float(np.percentile(samples, 99)) if len(samples) >= 200 else None
    return float(np.median(samples)), p99
