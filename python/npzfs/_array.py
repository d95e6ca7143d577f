"""Arrays that know which member they are a part of."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._errors import Generation

if TYPE_CHECKING:
    _Base = np.memmap[Any, Any]
else:
    _Base = np.memmap


class Origin(NamedTuple):
    """Where an array came from."""

    archive: str
    """Absolute path of the archive, of the `.npy.gz` or of the file itself."""
    key: str | None
    """Which member; None for a file that is one array."""
    generation: Generation
    """The version of the archive."""
    memory: np.memmap[Any, Any]
    """The map of all of the member. It stays mapped as long as its addresses may be compared."""


class Array(_Base):
    """An array that is mapped from a member, or a view of one.

    It is pickled as path, key, offset, shape and strides, and unpickling maps the member again.
    What has memory of its own (copies, results), and maps of mode 'c', which may have been written
    to, are pickled by value, as ordinary arrays.
    """

    _origin: Origin | None
    _mmap: Any

    def __array_finalize__(self, obj: Any) -> None:
        super().__array_finalize__(obj)
        # np.memmap has found out whether the memory is the same.
        self._origin = getattr(obj, "_origin", None) if self._mmap is not None else None

    def __getitem__(self, index: Any) -> Any:
        result = super().__getitem__(index)
        # What was copied from the map, as by an index array, is no map.
        if type(result) is Array and result._mmap is None:
            return result.view(np.ndarray)
        return result

    def __array_wrap__(
        self, array: Any, context: Any = None, return_scalar: bool | None = None
    ) -> Any:
        if array is self:
            return array
        array = np.asarray(array)
        # NumPy 1 does not say whether a scalar is wanted; np.memmap of NumPy 1 returned one.
        if array.shape == () and return_scalar in (None, True):
            return array[()]
        return array

    def __reduce_ex__(self, protocol: Any) -> Any:
        place = self._place()
        if place is None:
            return np.asarray(self).__reduce_ex__(protocol)
        origin, offset = place
        return _reopened, (
            origin.archive,
            origin.key,
            origin.generation,
            offset,
            self.shape,
            self.strides,
            self.dtype,
        )

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)

    def _place(self) -> tuple[Origin, int] | None:
        """The member and the offset in its array, in bytes, if all of this array lies in it."""
        origin = self._origin
        if origin is None or origin.memory.mode != "r" or self.size == 0:
            return None
        start, end = _bounds(origin.memory)
        low, high = _bounds(self)
        if low < start or high > end:
            return None
        return origin, _address(self) - start


def mapped(
    memory: np.memmap[Any, Any], archive: str, key: str | None, generation: Generation
) -> Array:
    """`memory`, the map of a member, as an array that knows its origin."""
    array = memory.view(Array)
    array._origin = Origin(os.path.abspath(archive), key, generation, memory)
    return array


def _reopened(
    archive: str,
    key: str | None,
    generation: Generation,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype[Any],
) -> Array:
    """What unpickling calls: maps the member and takes the same part of it."""
    from ._archive import reopen

    whole = reopen(archive, key, generation)
    origin = whole._origin
    assert origin is not None, "reopen maps a member"
    memory: Any = origin.memory
    # Any buffer of the member's own type may be refused, by type or order: so the file's bytes.
    start = _address(memory) - _address(np.frombuffer(memory._mmap, np.uint8))
    array = np.ndarray.__new__(Array, shape, dtype, memory._mmap, start + offset, strides)
    array._mmap = memory._mmap
    array.filename, array.offset, array.mode = memory.filename, memory.offset, memory.mode
    array._origin = origin
    return array


def _address(array: np.ndarray[Any, Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _bounds(array: np.ndarray[Any, Any]) -> tuple[int, int]:
    """The addresses of the first byte, and of the byte after the last one."""
    low = high = _address(array)
    for count, stride in zip(array.shape, array.strides):
        if stride < 0:
            low += (count - 1) * stride
        else:
            high += (count - 1) * stride
    return low, high + array.itemsize
