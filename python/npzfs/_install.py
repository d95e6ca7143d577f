"""Has np.load honour its mmap_mode for archives, too."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np

from ._archive import load

_original: Any = None


def install() -> None:
    """From here on, `np.load(npz, mmap_mode="r")` gives maps, and so it does for a `.npy.gz`.

    All other calls do what they did: of other files, of file objects, without a mode, and with the
    modes that write. Code that has imported `load` from numpy before keeps the old function.
    """
    global _original
    if _original is not None:
        return
    original = _original = np.load

    @functools.wraps(original)
    def replacement(file: Any, mmap_mode: Any = None, *rest: Any, **keywords: Any) -> Any:
        if mmap_mode in ("r", "c") and isinstance(file, (str, bytes, os.PathLike)):
            name = os.path.realpath(os.fsdecode(file)).lower()
            if name.endswith((".npz", ".npy.gz")):
                return load(file, mmap_mode, *rest, **keywords)
        return original(file, mmap_mode, *rest, **keywords)

    np.load = replacement


def uninstall() -> None:
    """Undoes `install`."""
    global _original
    if _original is not None:
        np.load, _original = _original, None
