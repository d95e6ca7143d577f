"""The data of the comparison: deterministic, kept between runs, with a checksum for every row.

A data directory holds the same arrays in every form that a system reads:

    native/KIND.npy      deflated/KIND.npz     stored/KIND.npz     one array of --scale GiB each
    native-many/N.npy    many/many.npz                             10,000 small members
    native-tree/D/A.npz/KEY.npy     tree/D/A.npz                   2,000 archives in directories
    native-flat/N.npy    flat/N.npz                                100,000 archives in one directory
    native-epoch-SIZE/N.npz    epoch-SIZE/N.npz                    archives of one array each
    epoch-SIZE.crc.npy   CRC-32 of each of these arrays, of SIZE bytes
    KIND.rows.npy        CRC-32 of each row of KIND
    manifest.json        written last: what is here
"""

import json
import os
import shutil
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np

# Counts up whenever the bytes that are generated change.
VERSION = 2

ROW = 4096  # bytes
HEADER = 128  # bytes of .npy header before the first row
PART = 4096  # rows generated at a time
KINDS = ("sensor", "labels", "noise")
KEYS = ("x", "y")  # the members of each archive of the tree
ARCHIVES_IN_DIRECTORY = 50
# Archives that are read whole, one after the other: bytes of the array, and how many.
EPOCHS = {
    "8K": (8 << 10, 500),
    "300K": (300 << 10, 100),
    "1300K": (1300 << 10, 40),
    "16M": (16 << 20, 3),
}


def sensor(rng, start, rows):
    """float32 readings that drift, with two decimals: about 3:1."""
    columns = ROW // 4
    drift = np.sin(np.arange(start, start + rows) / 977)[:, None]
    wave = np.sin(np.arange(columns) / 40)[None, :]
    noise = rng.integers(-20, 21, (rows, columns)) / 100
    return np.round(20 + drift + wave + noise, 2).astype("<f4")


def labels(rng, start, rows):
    """int64 class labels, 18 of them: about 9:1."""
    return rng.integers(0, 18, (rows, ROW // 8)).astype("<i8")


def noise(rng, start, rows):
    """float32 normal deviates: about 1.08:1."""
    return rng.standard_normal((rows, ROW // 4), dtype="f4").astype("<f4")


GENERATORS = {"sensor": sensor, "labels": labels, "noise": noise}


def small(number):
    """The array of a small member: 1 KiB that tells which one it is."""
    return np.arange(number * 1000, number * 1000 + 128, dtype="<i8")


def counts(rng, size):
    """`size` bytes of whole numbers as float32: about 3:1."""
    return (rng.normal(size=size // 4) * 100).astype("i2").astype("f4")


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    rows: int
    members: int
    archives: int
    flat: int
    # Of the archives of each size of EPOCHS.
    epoch: float

    @classmethod
    def at(cls, scale):
        return cls(
            rows=max(PART, int(scale * (1 << 30)) // ROW),
            members=max(100, int(10_000 * min(1, scale * 4))),
            archives=max(50, int(2_000 * min(1, scale * 4))),
            # A hundred thousand files take a while to make: at full scale only.
            flat=100_000 if scale >= 1 else 0,
            epoch=min(1, scale * 4),
        )


class Data:
    """A data directory."""

    def __init__(self, root, scale):
        self.root = os.path.abspath(root)
        self.sizes = Sizes.at(scale)
        self.manifest = {"version": VERSION, **vars(self.sizes)}
        if not self._is_made():
            self._make()
        with open(self.path("manifest.json")) as file:
            self.manifest = json.load(file)
        self._rows = {}

    def path(self, *names):
        return os.path.join(self.root, *names)

    def rows_crc(self, kind):
        """The CRC-32 of each row."""
        if kind not in self._rows:
            self._rows[kind] = np.load(self.path(f"{kind}.rows.npy"))
        return self._rows[kind]

    def file_crc(self, kind):
        """The CRC-32 of the whole .npy file, its header too."""
        return self.manifest["crc"][kind]

    def file_size(self, kind):
        return HEADER + self.sizes.rows * ROW

    def encoded_range(self, kind):
        """Where the DEFLATE stream of a member lies in its archive."""
        path = self.path("deflated", f"{kind}.npz")
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            info = archive.infolist()[0]
            file.seek(info.header_offset + 26)
            lengths = file.read(4)
            start = info.header_offset + 30 + int.from_bytes(lengths[:2], "little")
            start += int.from_bytes(lengths[2:], "little")
            return start, start + info.compress_size

    def _is_made(self):
        try:
            with open(self.path("manifest.json")) as file:
                made = json.load(file)
        except FileNotFoundError:
            return False
        return all(made.get(key) == value for key, value in self.manifest.items())

    def _make(self):
        for name in ("native", "deflated", "stored", "native-many", "many", "native-tree", "tree",
                     "native-flat", "flat", "squashfs",
                     *(before + name for name in EPOCHS for before in ("epoch-", "native-epoch-"))):
            shutil.rmtree(self.path(name), ignore_errors=True)
            os.makedirs(self.path(name))
        crcs = {kind: self._make_kind(kind) for kind in KINDS}
        self._make_many()
        self._make_tree()
        for name, (size, count) in EPOCHS.items():
            self._make_epoch(name, size, max(3, int(count * self.sizes.epoch)))
        for number in range(self.sizes.flat):
            np.savez(self.path("flat", f"{number:06}.npz"), x=small(number))
            np.save(self.path("native-flat", f"{number:06}.npy"), small(number))
        # What is dirty cannot be dropped from the page cache.
        os.sync()
        self.manifest["crc"] = crcs
        self.manifest["ratio"] = {kind: self._ratio(kind) for kind in KINDS}
        with open(self.path("manifest.json"), "w") as file:
            json.dump(self.manifest, file, indent=1)

    def _make_kind(self, kind):
        rng = np.random.Generator(np.random.PCG64(KINDS.index(kind)))
        generate = GENERATORS[kind]
        first = generate(np.random.default_rng(0), 0, 1)
        path = self.path("native", f"{kind}.npy")
        array = np.lib.format.open_memmap(
            path, "w+", first.dtype, (self.sizes.rows, first.shape[1]))
        assert array.offset == HEADER, array.offset
        crcs = np.empty(self.sizes.rows, "<u4")
        for start in range(0, self.sizes.rows, PART):
            part = generate(rng, start, min(PART, self.sizes.rows - start))
            array[start:start + len(part)] = part
            crcs[start:start + len(part)] = [zlib.crc32(row) for row in part]
        np.save(self.path(f"{kind}.rows.npy"), crcs)
        np.savez_compressed(self.path("deflated", f"{kind}.npz"), **{kind: array})
        np.savez(self.path("stored", f"{kind}.npz"), **{kind: array})
        array.flush()
        crc = 0
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                crc = zlib.crc32(block, crc)
        return crc

    def _make_many(self):
        arrays = {f"{number:05}": small(number) for number in range(self.sizes.members)}
        np.savez(self.path("many", "many.npz"), **arrays)
        for key, array in arrays.items():
            np.save(self.path("native-many", f"{key}.npy"), array)

    def _make_tree(self):
        for number in range(self.sizes.archives):
            names = (f"{number // ARCHIVES_IN_DIRECTORY:03}", f"{number:05}.npz")
            os.makedirs(self.path("tree", names[0]), exist_ok=True)
            os.makedirs(self.path("native-tree", *names))
            arrays = {key: small(number) for key in KEYS}
            np.savez_compressed(self.path("tree", *names), **arrays)
            for key, array in arrays.items():
                np.save(self.path("native-tree", *names, f"{key}.npy"), array)

    def _make_epoch(self, name, size, count):
        rng = np.random.default_rng(size)
        crcs = []
        for number in range(count):
            array = counts(rng, size)
            np.savez_compressed(self.path(f"epoch-{name}", f"{number:05}.npz"), x=array)
            np.savez(self.path(f"native-epoch-{name}", f"{number:05}.npz"), x=array)
            crcs.append(zlib.crc32(array))
        np.save(self.path(f"epoch-{name}.crc.npy"), np.array(crcs, "<u4"))

    def _ratio(self, kind):
        encoded = os.path.getsize(self.path("deflated", f"{kind}.npz"))
        return round(self.file_size(kind) / encoded, 2)
