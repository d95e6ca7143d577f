"""What the server knows of a member, from extended attributes: nothing is decoded for it."""

from __future__ import annotations

import ast
import errno
import os
from typing import Any

import numpy as np
from numpy.lib import format as npy

from . import _archive, _places

File = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def state(file: File, key: str | None = None) -> str:
    """`user.npzfs.state` of a member, an archive or a `.npy.gz`: 'ready', 'corrupt: ...'."""
    return os.getxattr(_shown(file, key), "user.npzfs.state").decode()


def shape(file: File, key: str | None = None) -> tuple[int, ...]:
    """The shape of the array."""
    path = _shown(file, key)
    text = _header_field(path, "shape")
    if text is None:
        return tuple(_mapped(path).shape)
    axes: tuple[int, ...] = ast.literal_eval(text)
    return axes


def dtype(file: File, key: str | None = None) -> np.dtype[Any]:
    """The dtype of the array."""
    path = _shown(file, key)
    text = _header_field(path, "dtype")
    if text is None:
        return _mapped(path).dtype
    descr: Any = ast.literal_eval(text) if text.startswith(("[", "(")) else text
    return np.dtype(npy.descr_to_dtype(descr))


def _shown(file: File, key: str | None) -> str:
    name = os.fsdecode(file)
    if key is not None:
        return os.fspath(_archive.path(name, key))
    return _places.shown(os.path.realpath(name), os.stat(name))


def _header_field(path: str, name: str) -> str | None:
    try:
        return os.getxattr(path, f"user.npzfs.{name}").decode()
    except OSError as error:
        # A plain .npy has none, nor has a dtype that is too long for an attribute.
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise


def _mapped(path: str) -> np.memmap[tuple[int, ...], np.dtype[Any]]:
    """The map of a `.npy`: its header is read, and no more."""
    return npy.open_memmap(path, mode="r")
