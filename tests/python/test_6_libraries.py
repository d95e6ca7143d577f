"""Rules 6 of docs/python.md: recipes, each run with the real library."""

import contextlib
import multiprocessing
import os
import pickle
import re

import cloudpickle
import dask
import dask.array
import distributed
import joblib
import npzfs
import numpy as np
import pytest
import scipy.sparse
import sklearn.linear_model
import xarray
from arrays import same
from conftest import mounts_in
from joblib.externals.loky import get_reusable_executor

ARCHIVES, ROWS = 40, 25


@pytest.fixture
def folder(source):
    """Archives with the members x (float32 rows) and y (their sums)."""
    draw = np.random.default_rng(1)
    for number in range(ARCHIVES):
        x = draw.normal(size=(ROWS, 8)).astype("f4")
        np.savez_compressed(source / f"{number:04}.npz", x=x, y=x.sum(axis=1))
    return source


class Rows:
    """A data set as torch.utils.data.Dataset wants one: a row for each index, from any process."""

    def __init__(self, folder):
        self.archives = [npzfs.load(path) for path in sorted(folder.glob("*.npz"))]

    def __len__(self):
        return ARCHIVES * ROWS

    def __getitem__(self, index):
        archive = self.archives[index // ROWS]
        return archive["x"][index % ROWS], archive["y"][index % ROWS]


def set_up(data_set):
    """What a worker of a DataLoader keeps."""
    global worker_data
    worker_data = data_set


def batch(indices):
    return os.getpid(), np.stack([worker_data[index][0] for index in indices])


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_6_1_workers_of_a_loader_read_rows(folder, start, runtime):
    data = Rows(folder)
    assert len(pickle.dumps(data)) < 500 * ARCHIVES
    order = np.random.default_rng(2).permutation(len(data)).reshape(-1, 50)
    wanted = np.concatenate([np.load(path)["x"] for path in sorted(folder.glob("*.npz"))])
    context = multiprocessing.get_context(start)
    with context.Pool(3, set_up, [data]) as pool:
        for indices, (pid, got) in zip(order, pool.imap(batch, order)):
            assert pid != os.getpid()
            same(got, wanted[indices])
    assert len(mounts_in(runtime)) == 1


@pytest.fixture
def loky():
    """Ends the workers of loky after the test. They live on else, and keep their mounts."""
    yield
    get_reusable_executor().shutdown(wait=True)


def place_and_sum(x):
    return type(x).__name__, str(x.filename), float(x.sum())


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_6_2_joblib_gives_its_workers_the_path(folder, backend, loky):
    x = npzfs.load(folder / "0003.npz")["x"]
    calls = [joblib.delayed(place_and_sum)(x[start:]) for start in range(4)]
    got = joblib.Parallel(n_jobs=2, backend=backend, max_nbytes=0)(calls)
    assert got == [("Array", x.filename, float(x[start:].sum())) for start in range(4)]


def test_6_2_joblib_maps_ordinary_views_by_the_path_too(folder, loky):
    x = npzfs.load(folder / "0003.npz")["x"]
    plain = np.asarray(x)[2:]
    ((kind, name, total),) = joblib.Parallel(n_jobs=2, backend="loky")(
        [joblib.delayed(place_and_sum)(plain)]
    )
    assert (kind, name, total) == ("memmap", x.filename, float(plain.sum()))


def x_of(path):
    return npzfs.load(path)["x"]


@pytest.mark.parametrize("scheduler", ["threads", "processes", "distributed"])
def test_6_3_dask_computes_on_a_thousand_archives(source, scheduler):
    wanted = np.random.default_rng(1).normal(size=(1000, 30, 4)).astype("f4")
    for number, x in enumerate(wanted):
        np.savez_compressed(source / f"{number:04}.npz", x=x)
    load = dask.delayed(x_of)
    parts = [
        dask.array.from_delayed(load(path), npzfs.shape(path, "x"), npzfs.dtype(path, "x"))
        for path in sorted(source.glob("*.npz"))
    ]
    whole = dask.array.concatenate(parts)
    # Paths, and no arrays.
    assert len(cloudpickle.dumps(whole)) < 500 * len(parts)
    with contextlib.ExitStack() as stack:
        if scheduler == "distributed":
            cluster = distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=None
            )
            stack.enter_context(distributed.Client(stack.enter_context(cluster)))
        else:
            stack.enter_context(dask.config.set(scheduler=scheduler, num_workers=2))
        total, row = dask.compute(whole.sum(axis=0, dtype="f8"), whole[777 * 30 + 5])
    np.testing.assert_allclose(total, wanted.sum(axis=(0, 1), dtype="f8"))
    same(row, wanted[777, 5])


def test_6_4_scikit_learn_fits_archive_by_archive(folder):
    on_maps, on_arrays = (sklearn.linear_model.SGDRegressor(random_state=0) for _ in range(2))
    for path in sorted(folder.glob("*.npz")):
        with npzfs.load(path) as maps, np.load(path) as arrays:
            on_maps.partial_fit(maps["x"], maps["y"])
            on_arrays.partial_fit(arrays["x"], arrays["y"])
    same(on_maps.coef_, on_arrays.coef_)


def test_6_5_xarray_opens_rows_of_an_archive(folder):
    with npzfs.load(folder / "0005.npz") as z:
        data = xarray.Dataset({"x": (("time", "place"), z["x"]), "y": ("time", z["y"])})
    wanted = np.load(folder / "0005.npz")
    part = data.isel(time=slice(3, 9)).x
    same(part.values, wanted["x"][3:9])
    np.testing.assert_array_equal(data.mean("time").x, wanted["x"].mean(axis=0))


def test_6_5_rows_are_read_when_they_are_used(source):
    # Large enough not to be compared as a whole when it is opened.
    np.savez_compressed(source / "a.npz", x=np.zeros((24, 125_000)))
    with npzfs.load(source / "a.npz") as z:
        data = xarray.Dataset({"x": (("time", "place"), z["x"])})
    assert data.isel(time=0).x.values.sum() == 0
    state = npzfs.state(source / "a.npz", "x")
    assert int(re.fullmatch(r"unverified: (\d+) of 24000128 bytes", state)[1]) < 12_000_000


def test_6_6_scipy_loads_sparse_matrices(source, tmp_path):
    matrix = scipy.sparse.random(500, 400, density=0.05, format="csr", random_state=1)
    scipy.sparse.save_npz(source / "m.npz", matrix)
    with npzfs.mount(source, layout="stored") as root:
        assert (scipy.sparse.load_npz(root / "m.npz") != matrix).nnz == 0
    with npzfs.load(source / "m.npz") as z:
        parts = (z["data"], z["indices"], z["indptr"])
        mapped = scipy.sparse.csr_matrix(parts, tuple(z["shape"]))
    assert (mapped != matrix).nnz == 0
    assert isinstance(parts[0], npzfs.Array)


def test_6_7_cloudpickle_sends_the_path(folder):
    x = npzfs.load(folder / "0001.npz")["x"][3:]
    sent = cloudpickle.dumps(lambda: x.sum())
    assert len(sent) < 2000
    assert cloudpickle.loads(sent)() == x.sum()
