"""Opens files as np.load does, with arrays that are memory maps."""

from __future__ import annotations

import errno
import gzip
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from . import _places
from ._array import Array, mapped
from ._errors import Damaged, Error, Generation, Stale, offset_in, state_of

if TYPE_CHECKING:
    _Base = np.lib.npyio.NpzFile[Any]
else:
    _Base = np.lib.npyio.NpzFile

# `install` replaces np.load.
_numpy_load = np.load

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_GZIP = b"\x1f\x8b"
# An archive without members.
_EMPTY_ZIP = b"PK\x05\x06" + bytes(18)
# A name that a directory cannot have, or that is another's there.
_NOT_SHOWN = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
# Version 3.0, for names of fields that are not Latin-1, has no public function.
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# What reading damaged bytes raises. NumPy has a ValueError for a file that is too short.
_FAILURES = (OSError, ValueError, EOFError)


class NpzFile(_Base):
    """An open archive: all of `numpy.lib.npyio.NpzFile`, with members that are mapped.

    Object arrays, and members whose names a directory cannot show, are read as by np.load. `zip`
    and `fid` are None if the archive was opened by its directory in a mount.
    """

    def __init__(
        self, path: str, mmap_mode: str | None, allow_pickle: bool, keywords: dict[str, Any]
    ) -> None:
        self.path = os.path.abspath(path)
        self.mmap_mode = mmap_mode
        self._keywords = keywords
        self._is_open = True
        if os.path.isdir(path):
            found, shown = os.stat(path), self.path
            file: Any = io.BytesIO(_EMPTY_ZIP)
        else:
            file = open(path, "rb")
            found, shown = os.fstat(file.fileno()), ""
        self.generation = Generation.of(found)
        header = {k: v for k, v in keywords.items() if k == "max_header_size"}
        pickling = {k: v for k, v in keywords.items() if k != "max_header_size"}
        try:
            shown = shown or _places.shown(os.path.realpath(path), found)
            self._root = _places.members(shown)
            super().__init__(file, True, allow_pickle, pickling, **header)
        except BaseException:
            file.close()
            raise
        if isinstance(file, io.BytesIO):
            self.zip = self.fid = None
            entries = sorted(_files_below(self._root))
        else:
            assert self.zip is not None, "NumPy has just opened it"
            entries = self.zip.namelist()
        self.files = [_key_of(entry) for entry in entries]
        # The whole name of an entry comes before a key that reads the same.
        self._files = dict(zip(self.files, entries))
        self._files.update(zip(entries, entries))

    def close(self) -> None:
        """Closes the archive. Arrays that came from it stay mapped."""
        self._is_open = False
        super().close()

    def __contains__(self, key: object) -> bool:
        return key in self._files

    def __getitem__(self, key: str) -> Any:
        entry = self._entry(key)
        # Without a map, the file that was opened counts, as for np.load.
        if self.mmap_mode is None and self.zip is not None and self._is_stale():
            return super().__getitem__(entry)
        self._check()
        file = self._open(entry)
        if file is None:
            return super().__getitem__(entry)
        with file:
            origin = self.path, entry, self.generation
            return _read(file, self.mmap_mode, self.allow_pickle, self._keywords, origin)

    def __repr__(self) -> str:
        names = ", ".join(self.files[:5]) + ("..." if len(self.files) > 5 else "")
        return f"NpzFile {self.path!r} with keys: {names}"

    def __reduce__(self) -> tuple[Any, ...]:
        return NpzFile, (self.path, self.mmap_mode, self.allow_pickle, self._keywords)

    def path_of(self, key: str) -> str:
        """The path of a member in the mount."""
        entry = self._entry(key)
        self._check()
        path = self._path(entry)
        # It is not opened: that compares it with its checksum.
        if path is None or not os.path.isfile(path) or not self._is_member(path, entry):
            raise Error(errno.ENOENT, f"the mount does not show the member {entry}", self.path)
        return path

    def _entry(self, key: str) -> str:
        if not self._is_open:
            raise ValueError("the archive is closed")
        try:
            return self._files[key]
        except KeyError:
            raise KeyError(f"{key} is not a file in the archive") from None

    def _is_stale(self) -> bool:
        try:
            self._check()
        except (Stale, FileNotFoundError):
            return True
        return False

    def _check(self) -> None:
        found = Generation.of(os.stat(self.path))
        if found != self.generation:
            raise Stale(self.path, self.generation, found)

    def _path(self, entry: str) -> str | None:
        """Where a member is in the mount, unless its name had to be changed."""
        parts = [part for part in entry.split("/") if part not in ("", ".")]
        return None if ".." in parts or "\0" in entry else os.path.join(self._root, *parts)

    def _open(self, entry: str) -> BinaryIO | None:
        """A member in the mount. None if it is shown under another name, or not at all."""
        path = self._path(entry)
        if path is None:
            return None
        try:
            file = open(path, "rb")
        except OSError as error:
            if self.zip is not None and error.errno in _NOT_SHOWN:
                return None
            _explain(error, path, self.path, entry)
            raise
        if self._is_member(file.fileno(), entry):
            return file
        file.close()
        return None

    def _is_member(self, shown: int | str, entry: str) -> bool:
        """Whether a file of the mount is this member, and not another of a similar name."""
        if self.zip is None:
            return True
        info = self.zip.getinfo(entry)
        try:
            crc32 = int(os.getxattr(shown, "user.npzfs.crc32"), 16)
        except OSError:
            return False
        return (os.stat(shown).st_size, crc32) == (info.file_size, info.CRC)


def load(
    file: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    mmap_mode: str | None = "r",
    allow_pickle: bool = False,
    fix_imports: bool = True,
    encoding: str = "ASCII",
    *,
    max_header_size: int | None = None,
) -> Any:
    """As np.load, but for archives too the arrays are memory maps; and a `.npy.gz` gives its array.

    `file` is a path: of a file, or of an archive's directory in an npzfs mount. `mmap_mode` is 'r',
    'c' or None.
    """
    if mmap_mode not in ("r", "c", None):
        raise ValueError(f"npzfs only reads: mmap_mode must be 'r', 'c' or None, not {mmap_mode!r}")
    path = os.fsdecode(file)
    keywords: dict[str, Any] = {"fix_imports": fix_imports, "encoding": encoding}
    # NumPy 1.23 does not have it.
    if max_header_size is not None:
        keywords["max_header_size"] = max_header_size
    if os.path.isdir(path) and state_of(path) is not None:
        return NpzFile(path, mmap_mode, allow_pickle, keywords)
    with open(path, "rb") as opened:
        start = opened.read(len(npy.MAGIC_PREFIX))
        found = os.fstat(opened.fileno())
    real = os.path.realpath(path)
    if start[:4] in _ZIP and (mmap_mode is not None or real.lower().endswith(".npz")):
        return NpzFile(path, mmap_mode, allow_pickle, keywords)
    origin = os.path.abspath(path), None, Generation.of(found)
    if start[:2] == _GZIP and real.lower().endswith(".npy.gz"):
        shown = _places.shown(real, found)
        if state_of(shown) is not None:
            return _read_path(shown, mmap_mode, allow_pickle, keywords, origin)
        # It has no size in its header, or there is a .npy beside it.
        with gzip.open(path) as decoded:
            return _numpy_load(io.BytesIO(decoded.read()), None, allow_pickle, **keywords)
    if start == npy.MAGIC_PREFIX:
        return _read_path(path, mmap_mode, allow_pickle, keywords, origin)
    return _numpy_load(path, mmap_mode, allow_pickle, **keywords)  # type: ignore[arg-type]


def path(
    archive: str | bytes | os.PathLike[str] | os.PathLike[bytes], key: str | None = None
) -> Path:
    """The path of a member in a mount; without a key, of an archive's directory or a `.npy.gz`.

    It is there as long as this process runs, at least.
    """
    name = os.fsdecode(archive)
    if key is not None:
        with NpzFile(name, "r", False, {}) as opened:
            return Path(opened.path_of(key))
    real = os.path.realpath(name)
    shown = _places.shown(real, os.stat(real))
    return Path(shown if real.lower().endswith(".npy.gz") else _places.members(shown))


def reopen(archive: str, key: str | None, generation: Generation) -> Array:
    """Maps a member, or a file that is one array, if it is still the same generation."""
    found = Generation.of(os.stat(archive))
    if found != generation:
        raise Stale(archive, generation, found)
    if key is None:
        array = load(archive)
    else:
        with NpzFile(archive, "r", False, {}) as opened:
            array = opened[key]
    if not isinstance(array, Array):
        raise Error(errno.ENOTSUP, f"{key or 'the array'} can no longer be mapped", archive)
    return array


def _read_path(
    path: str,
    mmap_mode: str | None,
    allow_pickle: bool,
    keywords: dict[str, Any],
    origin: tuple[str, str | None, Generation],
) -> Any:
    try:
        file = open(path, "rb")
    except OSError as error:
        _explain(error, path, origin[0], origin[1])
        raise
    with file:
        return _read(file, mmap_mode, allow_pickle, keywords, origin)


def _read(
    file: BinaryIO,
    mmap_mode: str | None,
    allow_pickle: bool,
    keywords: dict[str, Any],
    origin: tuple[str, str | None, Generation],
) -> Any:
    """The array in an open file, or the bytes of a file that is no `.npy`."""
    archive, entry, generation = origin
    try:
        array = _array_in(file, mmap_mode, allow_pickle, keywords)
    except _FAILURES as error:
        _explain(error, file.name, archive, entry)
        raise
    found = Generation.of(os.stat(archive))
    # A mount shows the times of the archive. It may be a moment late to show another one.
    if found != generation or os.fstat(file.fileno()).st_mtime_ns != generation.mtime_ns:
        raise Stale(archive, generation, found)
    if isinstance(array, np.memmap):
        return mapped(array, archive, entry, generation)
    return array


def _array_in(
    file: BinaryIO, mmap_mode: str | None, allow_pickle: bool, keywords: dict[str, Any]
) -> Any:
    start = file.read(len(npy.MAGIC_PREFIX))
    file.seek(0)
    if start != npy.MAGIC_PREFIX:
        return file.read()
    if mmap_mode is None:
        return _numpy_load(file, None, allow_pickle, **keywords)
    # One open file for header and data, where np.load opens it three times. What is not usual is
    # left to np.load: other versions, long headers, and its words for what is wrong.
    try:
        reader: Any = _HEADERS[npy.read_magic(file)]
        shape, is_fortran, dtype = reader(file)
    except (KeyError, ValueError):
        return _numpy_load(file.name, mmap_mode, allow_pickle, **keywords)  # type: ignore[arg-type]
    if dtype.hasobject:
        # They cannot be mapped. np.load of an archive gives them, or says what it needs.
        file.seek(0)
        return _numpy_load(file, None, allow_pickle, **keywords)
    order: Any = "F" if is_fortran else "C"
    mode: Any = mmap_mode
    return np.memmap(file, dtype, mode, file.tell(), shape, order)


def _explain(error: Exception, path: str, archive: str, entry: str | None) -> None:
    """Raises what the server says about a file of a mount that could not be read."""
    state = state_of(path) or ""
    if state.startswith("corrupt"):
        raise Damaged(archive, entry, offset_in(state), state) from error
    if state.startswith("refused"):
        raise Error(errno.EACCES, f"{entry}: {state}", archive) from error


def _key_of(entry: str) -> str:
    return entry[: -len(".npy")] if entry.endswith(".npy") else entry


def _files_below(directory: str) -> Iterator[str]:
    """The files of a directory and of all below it, relative to it."""
    for above, _, names in os.walk(directory):
        for name in names:
            yield os.path.relpath(os.path.join(above, name), directory)
