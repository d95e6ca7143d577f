"""Has np.load honour its mmap_mode for archives, too."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np

from . import _places
from ._archive import load

# np.load before, and the function that replaces it.
_installed: tuple[Any, Any] | None = None


def install() -> None:
    """From here on, `np.load(npz, mmap_mode="r")` gives maps, and so it does for a `.npy.gz`.

    All other calls do what they did: of other files, of file objects, without a mode, and with the
    modes that write. Code that has imported `load` from numpy before keeps the old function.
    """
    global _installed
    if _installed is not None:
        return
    original = np.load

    @functools.wraps(original)
    def replacement(file: Any, mmap_mode: Any = None, *rest: Any, **keywords: Any) -> Any:
        # An open file that has a path is a file for np.load.
        is_path = isinstance(file, (str, bytes, os.PathLike)) and not hasattr(file, "read")
        # Other code that has wrapped this function may call it after `uninstall`.
        if _installed is not None and is_path and mmap_mode in ("r", "c"):
            name = os.path.realpath(os.fsdecode(file))
            if _places.is_archive(name) or _places.is_gzipped_npy(name):
                return load(file, mmap_mode, *rest, **keywords)
        return original(file, mmap_mode, *rest, **keywords)

    np.load = replacement
    _installed = original, replacement


def uninstall() -> None:
    """Undoes `install`."""
    global _installed
    if _installed is not None:
        original, replacement = _installed
        if np.load is replacement:
            np.load = original
        _installed = None
