"""Rules 3 of docs/python.md: arrays that travel as a path."""

import copy
import os
import pickle

import npzfs
import numpy as np
import pytest
from arrays import every_dtype, same
from conftest import rows, start_python

# More bytes than this are those of an array.
SMALL = 1000

VIEWS = {
    "all": lambda x: x,
    "a row": lambda x: x[7],
    "rows backwards": lambda x: x[::-2],
    "columns": lambda x: x[:, 5:9],
    "transposed": lambda x: x.T,
    "backwards in both": lambda x: x[::-1, ::-3],
    "a new axis": lambda x: x[None, 3:4],
    "other items": lambda x: x.view("<i8")[2:],
    "bytes": lambda x: x.view("u1")[:, 1::8],
    "reshaped": lambda x: x.reshape(-1)[17:40_000],
    "broadcast": lambda x: np.broadcast_to(x[3], (500, 200), subok=True),
    "0-d": lambda x: x[3:4, 5:6].reshape(()),
}
COPIES = {
    "a copy": lambda x: x.copy(),
    "another type": lambda x: x.astype("f4"),
    "a result": lambda x: x + 1,
    "by an index array": lambda x: x[[1, 2, 3]],
    "by a mask": lambda x: x[x[:, 0] > 5],
    "a deep copy": lambda x: copy.deepcopy(x),
    "nothing": lambda x: x[:0],
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", VIEWS)
def test_3_1_a_view_is_pickled_as_a_path_and_maps_again(archive, name, protocol):
    view = VIEWS[name](npzfs.load(archive)["x"])
    pickled = pickle.dumps(view, protocol)
    assert len(pickled) < SMALL
    again = pickle.loads(pickled)
    assert isinstance(again, npzfs.Array)
    assert again.strides == view.strides
    same(again, view)
    assert not again.flags.writeable
    assert pickle.dumps(again, protocol) == pickled


def test_3_1_so_is_every_kind_of_array(source):
    arrays = {f"k{n}": array for n, array in enumerate(every_dtype().values())}
    np.savez_compressed(source / "a.npz", **arrays)
    with npzfs.load(source / "a.npz") as z:
        for key in arrays:
            same(pickle.loads(pickle.dumps(z[key])), z[key])


def test_3_1_so_are_a_plain_npy_and_the_member_of_a_directory_in_a_mount(archive, source):
    np.save(source / "b.npy", rows())
    with npzfs.mount(source) as root:
        for x in (npzfs.load(source / "b.npy"), npzfs.load(root / "a.npz")["x"]):
            pickled = pickle.dumps(x[5:])
            assert len(pickled) < SMALL
            same(pickle.loads(pickled), rows()[5:])


def test_3_1_so_is_one_with_a_header_that_np_load_refuses(source):
    fields = [(f"{'field' * 20}{n}", "f4") for n in range(200)]
    np.savez(source / "h.npz", x=np.ones(3, fields))
    x = npzfs.load(source / "h.npz", allow_pickle=True)["x"]
    assert isinstance(x, npzfs.Array)
    same(pickle.loads(pickle.dumps(x[1:])), x[1:])


@pytest.mark.parametrize("name", COPIES)
def test_3_2_what_has_memory_of_its_own_is_pickled_by_value(archive, name):
    copied = COPIES[name](npzfs.load(archive)["x"])
    pickled = pickle.dumps(copied)
    os.remove(archive)
    again = pickle.loads(pickled)
    assert type(again) is np.ndarray
    same(again, copied)


def test_3_2_a_map_that_was_written_to_is_pickled_by_value(archive):
    x = npzfs.load(archive, mmap_mode="c")["x"]
    x[3, 4] = -1
    assert pickle.loads(pickle.dumps(x))[3, 4] == -1
    assert pickle.loads(pickle.dumps(x[3]))[4] == -1


def test_3_4_an_open_archive_is_pickled_as_its_path(archive):
    z = pickle.loads(pickle.dumps(npzfs.load(archive, "c")))
    assert z.mmap_mode == "c"
    same(z["x"], rows())


def test_3_5_a_pickle_is_opened_by_a_process_that_has_loaded_nothing(archive, tmp_path):
    (tmp_path / "pickled").write_bytes(pickle.dumps(npzfs.load(archive)["x"][3:9, ::2]))
    text = "import pickle, sys; x = pickle.load(open(sys.argv[1], 'rb')); print(type(x), x.sum())"
    out, _ = start_python(text, tmp_path / "pickled").communicate()
    assert out.split() == ["<class", "'npzfs._array.Array'>", str(rows()[3:9, ::2].sum())]
