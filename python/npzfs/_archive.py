"""Opens files as np.load does, with arrays that are memory maps."""

from __future__ import annotations

import contextlib
import errno
import functools
import gzip
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, ParamSpec, TypeVar

import numpy as np
from numpy.lib import format as npy

from . import _places, _servers
from ._array import Source, mapped
from ._errors import Damaged, Error, Generation, Stale, absolute, offset_in, state_of

if TYPE_CHECKING:
    _Base = np.lib.npyio.NpzFile[Any]
else:
    _Base = np.lib.npyio.NpzFile

_P = ParamSpec("_P")
_T = TypeVar("_T")

# `install` replaces np.load.
_numpy_load = np.load

_GZIP = b"\x1f\x8b"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
# An archive without members.
_EMPTY_ZIP = b"PK\x05\x06" + bytes(18)
# The errors of opening a member whose name a directory cannot show.
_NOT_SHOWN = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
# Version 3.0, for names of fields that are not Latin-1, has no public function.
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# Exceptions that reading damaged bytes raises. NumPy has a ValueError for a file that is too short.
_FAILURES = (OSError, ValueError, EOFError)


class Reading(NamedTuple):
    """The arguments of np.load but the file."""

    mmap_mode: str | None
    allow_pickle: bool
    pickling: dict[str, Any]
    """`fix_imports` and `encoding`."""
    header: dict[str, Any]
    """`max_header_size`, if it was given. NumPy 1.23 does not have it."""

    def by_numpy(self, file: Any, mmap_mode: Any = None) -> Any:
        return _numpy_load(file, mmap_mode, self.allow_pickle, **self.pickling, **self.header)


_MAPPING = Reading("r", False, {}, {})


class NpzFile(_Base):
    """An open archive: all of `numpy.lib.npyio.NpzFile`, with members that are mapped.

    Only `load` makes one. Object arrays, and members whose names a directory cannot show, are read
    as by np.load. `zip` and `fid` are None if the archive was opened by its directory in a mount.
    """

    def __init__(self, path: str, reading: Reading) -> None:
        self.path = path
        self.mmap_mode = reading.mmap_mode
        self._header = reading.header
        self._is_open = True
        is_directory = os.path.isdir(path)
        file: Any = io.BytesIO(_EMPTY_ZIP) if is_directory else open(path, "rb")
        try:
            found = os.stat(path if is_directory else file.fileno())
            self.generation = Generation.of(found)
            self._root = self._find(found)
            super().__init__(file, True, reading.allow_pickle, reading.pickling, **reading.header)
        except BaseException:
            file.close()
            raise
        if is_directory:
            self.zip = self.fid = None
            entries = sorted(_files_below(self._root))
        else:
            assert self.zip is not None, "NumPy has just opened it"
            entries = self.zip.namelist()
        self.files = [entry.removesuffix(".npy") for entry in entries]
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
        try:
            file = self.open_in_mount(entry)
            if file is not None:
                source = Source(self.path, entry, self.generation)
                with _checked(file, source):
                    return _read(file, self.reading, source)
        except (Stale, FileNotFoundError):
            # Without a map, members are read from the file that was opened, as np.load does.
            if self.mmap_mode is not None or self.zip is None:
                raise
        return super().__getitem__(entry)

    def __repr__(self) -> str:
        names = ", ".join(self.files[:5]) + ("..." if len(self.files) > 5 else "")
        return f"NpzFile {self.path!r} with keys: {names}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (self.path, self.reading)

    @property
    def reading(self) -> Reading:
        """How members are read."""
        pickling = dict(self.pickle_kwargs or {})
        return Reading(self.mmap_mode, self.allow_pickle, pickling, self._header)

    def path_of(self, key: str) -> str:
        """The path of a member in the mount."""
        entry = self._entry(key)
        self.generation.require(self.path)
        self._renew_root()
        path = self._path(entry)
        # The member is not opened: opening compares it with its checksum.
        if path is None or not os.path.isfile(path) or not self._is_member(path, entry):
            raise Error(errno.ENOENT, f"the mount does not show the member {entry}", self.path)
        return path

    def open_in_mount(self, entry: str) -> BinaryIO | None:
        """A member in the mount. None if it is shown under another name, or not at all."""
        self.generation.require(self.path)
        path = self._path(entry)
        if path is None:
            return None
        try:
            file = open(path, "rb")
        except OSError as error:
            if self._renew_root():
                return self.open_in_mount(entry)
            if self.zip is not None and error.errno in _NOT_SHOWN:
                return None
            with _explained(path, self.path, entry, self.generation):
                raise
        if self._is_member(file.fileno(), entry):
            return file
        file.close()
        return None

    def _entry(self, key: str) -> str:
        if not self._is_open:
            raise ValueError("the archive is closed")
        try:
            return self._files[key]
        except KeyError:
            raise KeyError(f"{key} is not a file in the archive") from None

    def _find(self, found: os.stat_result) -> str:
        """The directory of the members in a mount."""
        return _places.members(_places.shown(os.path.realpath(self.path), found), self.path)

    def _renew_root(self) -> bool:
        """Finds another mount if that of the archive has ended, or its server was killed."""
        # A mountpoint may still be a directory.
        if self.fid is None or state_of(self._root) is not None:
            return False
        self._root = self._find(os.fstat(self.fid.fileno()))
        return True

    def _path(self, entry: str) -> str | None:
        """Where a member is in the mount, unless its name had to be changed."""
        parts = [part for part in entry.split("/") if part not in ("", ".")]
        return None if ".." in parts else os.path.join(self._root, *parts)

    def _is_member(self, shown: int | str, entry: str) -> bool:
        """Whether a file of the mount is this member, and not another of a similar name."""
        if self.zip is None:
            return True
        info = self.zip.getinfo(entry)
        crc32 = int(os.getxattr(shown, "user.npzfs.crc32"), 16)
        return (os.stat(shown).st_size, crc32) == (info.file_size, info.CRC)


def begun_again(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """`function`, repeated if a file was replaced after it had been opened."""

    @functools.wraps(function)
    def repeated(*arguments: _P.args, **keywords: _P.kwargs) -> _T:
        for _ in range(9):
            with contextlib.suppress(Stale):
                return function(*arguments, **keywords)
        return function(*arguments, **keywords)

    return repeated


@begun_again
def load(
    file: _places.File,
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
    if encoding not in ("ASCII", "latin1", "bytes"):
        raise ValueError("encoding must be 'ASCII', 'latin1', or 'bytes'")
    path = absolute(os.fsdecode(file))
    pickling = {"fix_imports": fix_imports, "encoding": encoding}
    header = {} if max_header_size is None else {"max_header_size": max_header_size}
    reading = Reading(mmap_mode, allow_pickle, pickling, header)
    if os.path.isdir(path) and state_of(path) is not None:
        return NpzFile(path, reading)
    real = os.path.realpath(path)
    with _explained(path, path), open(path, "rb") as opened:
        start = opened.read(len(npy.MAGIC_PREFIX))
        found = os.fstat(opened.fileno())
        if start == npy.MAGIC_PREFIX:
            _servers.keep(real)
            return _read(opened, reading, Source(path, None, Generation.of(found)))
    is_zip, is_called_so = start[:4] in _ZIP, _places.is_archive(real)
    if (is_zip and is_called_so) or (mmap_mode is not None and (is_zip or is_called_so)):
        return NpzFile(path, reading)
    if start[:2] == _GZIP and _places.is_gzipped_npy(real):
        source = Source(path, None, Generation.of(found))
        file_in_mount = _open_decoded(real, found, source)
        if file_in_mount is not None:
            with _checked(file_in_mount, source):
                return _read(file_in_mount, reading, source)
        with gzip.open(path) as decoded:
            return reading.by_numpy(io.BytesIO(decoded.read()))
    return reading.by_numpy(path, mmap_mode)


@begun_again
def path(archive: _places.File, key: str | None = None) -> Path:
    """The path of a member in a mount; without a key, of an archive's directory or a `.npy.gz`.

    It is there as long as this process runs, at least, if the mount is a private one.
    """
    name = absolute(os.fsdecode(archive))
    if key is not None:
        with NpzFile(name, _MAPPING) as opened:
            return Path(opened.path_of(key))
    real = os.path.realpath(name)
    shown = _places.shown(real, os.stat(real))
    if not _places.is_gzipped_npy(real):
        return Path(_places.members(shown, name))
    if state_of(shown) is None:
        raise Error(errno.EINVAL, "a mount does not show it decoded", name)
    return Path(shown)


@begun_again
def _opened_again(path: str, reading: Reading) -> NpzFile:
    return NpzFile(path, reading)


def reopen(source: Source) -> np.memmap[Any, Any]:
    """Maps all bytes of a member, or of a file that is one array, if its generation is the same."""
    archive, key, generation = source
    generation.require(archive)
    real = os.path.realpath(archive)
    if key is not None:
        with NpzFile(archive, _MAPPING) as opened:
            file = opened.open_in_mount(key)
    elif _places.is_gzipped_npy(real):
        file = _open_decoded(real, os.stat(real), source)
    else:
        _servers.keep(real)
        with _explained(archive, archive):
            file = open(archive, "rb")
    if file is None:
        raise Error(errno.ENOTSUP, f"{key or 'the array'} can no longer be mapped", archive)
    with _checked(file, source):
        return np.memmap(file, np.uint8, "r")


def _open_decoded(real: str, found: os.stat_result, source: Source) -> BinaryIO | None:
    """A `.npy.gz` in a mount. None if the array has objects, or there is a .npy of that name."""
    shown = _places.shown(real, found)
    if state_of(shown) is None:
        return None
    with _explained(shown, *source):
        return open(shown, "rb")


@contextlib.contextmanager
def _checked(file: BinaryIO, source: Source) -> Iterator[None]:
    """For reading a file of a mount: raises `Stale` unless it is the generation of the source."""
    with file:
        with _explained(file.name, *source):
            yield
        source.generation.require(source.archive)
        # The mount may show a new version a moment late.
        shown = source.generation._replace(mtime_ns=os.fstat(file.fileno()).st_mtime_ns)
        if shown != source.generation:
            raise Stale(source.archive, source.generation, shown)


@contextlib.contextmanager
def _explained(
    path: str, archive: str, key: str | None = None, generation: Generation | None = None
) -> Iterator[None]:
    """Raises what the server says about a file of a mount that cannot be read."""
    try:
        yield
    except Error:
        raise
    except _FAILURES as error:
        if generation is not None:
            generation.require(archive)
        state = state_of(path) or ""
        if state.startswith("corrupt"):
            raise Damaged(archive, key, offset_in(state), state) from error
        if state.startswith("refused") and isinstance(error, OSError):
            raise Error(error.errno, f"{key or archive}: {state}", archive) from error
        raise


def _read(file: BinaryIO, reading: Reading, source: Source) -> Any:
    """The array in an open file, or the bytes of a file that is no `.npy`."""
    file.seek(0)
    start = file.read(len(npy.MAGIC_PREFIX))
    file.seek(0)
    if start != npy.MAGIC_PREFIX:
        return file.read()
    if reading.mmap_mode is None:
        return reading.by_numpy(file)
    mode: Any = reading.mmap_mode
    # One open file for header and data, where np.load opens it three times.
    try:
        reader: Any = _HEADERS[npy.read_magic(file)]
        shape, is_fortran, dtype = reader(file)
    except (KeyError, ValueError):
        # np.load maps files of other versions and with long headers.
        with contextlib.suppress(ValueError):
            return mapped(reading.by_numpy(file.name, mode), source)
    else:
        if not dtype.hasobject:
            order: Any = "F" if is_fortran else "C"
            return mapped(np.memmap(file, dtype, mode, file.tell(), shape, order), source)
    # Objects cannot be mapped. np.load reads them, or reports what is wrong.
    file.seek(0)
    return reading.by_numpy(file)


def _files_below(directory: str) -> Iterator[str]:
    """The files of a directory and of all below it, relative to it."""
    for above, _, names in os.walk(directory, onerror=_fail):
        for name in names:
            yield os.path.relpath(os.path.join(above, name), directory)


def _fail(error: OSError) -> None:
    raise error
