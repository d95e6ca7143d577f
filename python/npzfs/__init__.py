"""Memory-maps the arrays of `.npz` and `.npy.gz` files, deflated ones too.

    z = npzfs.load("data/run7.npz")
    z["x"][1000]

The arrays come from an npzfs mount: one that shows the file already, else a private one, which all
processes of the user share and which ends with the last of them. docs/python.md of the project has
every promise.
"""

from ._archive import NpzFile, load, path
from ._array import Array
from ._errors import Damaged, Error, Stale
from ._info import dtype, shape, state
from ._install import install, uninstall
from ._servers import mount

__all__ = [
    "Array",
    "Damaged",
    "Error",
    "NpzFile",
    "Stale",
    "dtype",
    "install",
    "load",
    "mount",
    "path",
    "shape",
    "state",
    "uninstall",
]
