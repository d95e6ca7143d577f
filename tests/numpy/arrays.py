"""Arrays of every kind, and a comparison of arrays that includes dtype, order and bytes."""

import io

import numpy as np


def npy(array, version=None):
    """The bytes of a .npy file."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asanyarray(array), version=version, allow_pickle=False)
    return out.getvalue()


def same(got, wanted):
    """Asserts the same dtype, shape, order and bytes (NaN equals NaN)."""
    assert got.dtype == wanted.dtype
    assert got.dtype.descr == wanted.dtype.descr if got.dtype.names else True
    assert got.shape == wanted.shape
    assert got.flags.f_contiguous == wanted.flags.f_contiguous
    assert got.flags.c_contiguous == wanted.flags.c_contiguous
    assert same_bytes(got, wanted)


def same_bytes(got, wanted):
    if got.dtype.names:
        # Field by field: NumPy does not copy the padding between them.
        return all(same_bytes(got[name], wanted[name]) for name in got.dtype.names)
    return got.tobytes("A") == wanted.tobytes("A")


def every_dtype():
    """Names and arrays: all that a .npy can hold without pickle."""
    draw = np.random.default_rng(42)
    found = {}
    for code in "?bBhHiIlLqQefdgFDG":
        for order in "<>":
            dtype = np.dtype(code)
            if dtype.itemsize > 1:
                dtype = dtype.newbyteorder(order)
            found[f"{code}{order}"] = draw.integers(0, 2, (7, 5)).astype(dtype) * 3
    for unit in ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"):
        found[f"M8[{unit}]"] = np.arange(5).astype(f"<M8[{unit}]")
        found[f"m8[{unit}]"] = np.arange(5).astype(f">m8[{unit}]")
    found["M8[25s]"] = np.arange(4).astype("M8[25s]")
    found["NaT"] = np.array(["NaT", "2026-01-01"], "M8[ns]")
    found["str"] = np.array(["", "\u00e9", "\U0001f600x"], "<U5")
    found["str>"] = np.array(["", "abc"], ">U3")
    found["bytes"] = np.array([b"", b"a\0b", b"xyz"], "S3")
    found["void"] = np.array([b"12345", b"\0\0\0\0\1"], "V5")
    found["nan"] = np.array([np.nan, -0.0, np.inf, 5e-324])
    found["structured"] = np.array([(1, 2.5, b"x")], [("a", "<i4"), ("b", ">f8"), ("c", "S3")])
    found["aligned"] = np.zeros(3, np.dtype([("a", "i1"), ("b", "f8"), ("c", "i2")], align=True))
    found["subarray"] = np.ones(3, [("m", "<f4", (2, 3)), ("n", "u1", 4)])
    found["nested"] = np.zeros(2, [("in", [("x", "i2"), ("y", [("z", "f2")])]), ("out", "?")])
    found["titles"] = np.zeros(2, [(("a title", "a"), "i4"), ("b", "f4")])
    offsets = {"names": ["a", "b"], "formats": ["i4", "f8"], "offsets": [4, 16], "itemsize": 40}
    found["offsets"] = np.ones(3, np.dtype(offsets))
    found["times in a structure"] = np.zeros(2, [("t", "M8[us]"), ("d", "m8[ms]")])
    found["unicode fields"] = np.ones(2, [("\u00e9", "i4")])
    found["fortran"] = np.asfortranarray(draw.normal(size=(13, 17)))
    found["fortran 3-d"] = np.asfortranarray(draw.normal(size=(3, 4, 5)).astype("f4"))
    found["0-d"] = np.array(3.5)
    found["0-d structured"] = np.array((1, 2), [("a", "i4"), ("b", "i4")])
    found["empty"] = np.zeros(0)
    found["empty 3-d"] = np.zeros((3, 0, 5), "i2")
    found["32 axes"] = np.arange(4).reshape((1,) * 30 + (2, 2))
    found["one axis of one"] = np.arange(3).reshape(3, 1)
    found["not contiguous"] = np.arange(100).reshape(10, 10)[::2, ::3]
    found["rows"] = draw.normal(size=(10_000, 33)).astype("f4")
    return found
