"""What the server knows of a member, from extended attributes: nothing is decoded for it."""

from __future__ import annotations

import ast
import errno
import os
from typing import Any

import numpy as np
from numpy.lib import format as npy

from . import _archive, _places
from ._errors import Error
from ._places import File


@_archive.begun_again
def state(file: File, key: str | None = None) -> str:
    """`user.npzfs.state` of a member, an archive or a `.npy.gz`: 'ready', 'corrupt: ...'."""
    name = os.path.realpath(os.fsdecode(file))
    shown = _places.shown(name, os.stat(name)) if key is None else _archive.path(file, key)
    return os.getxattr(shown, "user.npzfs.state").decode()


def shape(file: File, key: str | None = None) -> tuple[int, ...]:
    """The shape of the array."""
    text = _header_field("shape", file, key)
    if text is None:
        return tuple(_array(file, key).shape)
    axes: tuple[int, ...] = ast.literal_eval(text)
    return axes


def dtype(file: File, key: str | None = None) -> np.dtype[Any]:
    """The dtype of the array."""
    text = _header_field("dtype", file, key)
    if text is None:
        found: np.dtype[Any] = _array(file, key).dtype
        return found
    descr: Any = ast.literal_eval(text) if text.startswith(("[", "(")) else text
    return np.dtype(npy.descr_to_dtype(descr))


def _header_field(name: str, file: File, key: str | None) -> str | None:
    """The extended attribute. None if there is none: of other files, and of damaged members."""
    if key is None and not _places.is_gzipped_npy(os.path.realpath(os.fsdecode(file))):
        return None
    try:
        return os.getxattr(_archive.path(file, key), f"user.npzfs.{name}").decode()
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise


def _array(file: File, key: str | None) -> np.ndarray[Any, Any]:
    """The array itself, or the reason why it cannot be read."""
    found = _archive.load(file)
    if key is not None:
        with found as archive:
            found = archive[key]
    if not isinstance(found, np.ndarray):
        raise Error(errno.EINVAL, "not an array", os.fsdecode(file))
    return found
