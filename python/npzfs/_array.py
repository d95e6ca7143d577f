"""Arrays that know which member they are a part of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._errors import Generation

if TYPE_CHECKING:
    _Base = np.memmap[Any, Any]
else:
    _Base = np.memmap


class Source(NamedTuple):
    """Where an array came from, as it is pickled."""

    archive: str
    """Absolute path of the archive, of the `.npy.gz` or of the file itself."""
    key: str | None
    """Which member; None for a file that is one array."""
    generation: Generation
    """The version of the archive."""


class Origin(NamedTuple):
    """Where an array came from in this process."""

    source: Source
    memory: np.memmap[Any, Any]
    """The map of the member. It stays mapped as long as its addresses may be compared."""


class Array(_Base):
    """An array that is mapped from a member, or a view of one.

    It is pickled as path, key, offset, shape and strides, and unpickling maps the member again.
    Arrays with memory of their own (copies, results), and maps of mode 'c', which may have been
    written to, are pickled by value, as ordinary arrays.
    """

    _origin: Origin | None
    _mmap: Any

    def __array_finalize__(self, obj: Any) -> None:
        super().__array_finalize__(obj)
        # np.memmap has set `_mmap` if this array shares the memory of `obj`.
        self._origin = getattr(obj, "_origin", None) if self._mmap is not None else None

    def __getitem__(self, index: Any) -> Any:
        result = super().__getitem__(index)
        # An index array copies from the map.
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
        return _reopened, (*place, self.shape, self.strides, self.dtype)

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)

    def _place(self) -> tuple[Source, int] | None:
        """The member and the offset in its file, in bytes, if all of this array lies in it."""
        origin = self._origin
        if origin is None or origin.memory.mode != "r" or self.size == 0:
            return None
        start, end = _bounds(origin.memory)
        low, high = _bounds(self)
        if low < start or high > end:
            return None
        return origin.source, int(origin.memory.offset) + _address(self) - start


def mapped(memory: np.memmap[Any, Any], source: Source) -> Array:
    """`memory`, the map of a member, as an array that knows its origin."""
    array = memory.view(Array)
    array._origin = Origin(source, memory)
    return array


def _reopened(
    source: Source,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype[Any],
) -> Array:
    """What unpickling calls: maps the member and takes the same part of it."""
    from ._archive import reopen

    memory: Any = reopen(source)
    array = np.ndarray.__new__(Array, shape, dtype, memory._mmap, offset, strides)
    array.__array_finalize__(memory)
    array._origin = Origin(source, memory)
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
