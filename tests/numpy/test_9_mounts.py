"""Rules 9.1 and 9.5, with several mounts, or at the end of a mount."""

import gzip
import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from mounting import poll, state
from noise import noise


@pytest.fixture
def indexes(tmp_path):
    return tmp_path / "indexes"


def test_9_1_what_two_mounts_find_out_is_saved_together(source, mount, indexes):
    arrays = {name: noise(seed) for seed, name in enumerate("ab")}
    np.savez_compressed(source / "a.npz", **arrays)
    both = [mount(source, "--index-dir", indexes) for _ in range(2)]
    for one, name in zip(both, "ab", strict=True):
        # Both have looked for saved indexes before either saves.
        assert state(one / f"a.npz/{name}.npy").startswith("unverified: 0 of ")
    for one, name in zip(both, "ab", strict=True):
        assert (np.load(one / f"a.npz/{name}.npy") == arrays[name]).all()
    for one in both:
        one.stop()
    third = mount(source, "--index-dir", indexes)
    assert {state(third / f"a.npz/{name}.npy") for name in "ab"} == {"ready"}


def test_9_1_a_mount_that_is_taken_away_in_use_saves_what_it_knows(source, mount, indexes):
    np.savez_compressed(source / "a.npz", x=noise())
    options = ("--index-dir", indexes, "--verify", "never")
    one = mount(source, *options)
    with open(one / "a.npz/x.npy", "rb", buffering=0) as file:
        os.pread(file.fileno(), 4096, 2_000_000)
        os.kill(one.pid, signal.SIGTERM)
        poll(lambda: one.process.poll() is not None, 60, "the server ends after its grace")
    one.stop()
    one = mount(source, *options)
    assert int(state(one / "a.npz/x.npy").split()[1]) > 2_000_000


def test_9_1_a_gzipped_npy_that_was_half_read_goes_on_from_there(source, mount, indexes):
    plain = io.BytesIO()
    np.save(plain, noise())
    (source / "b.npy.gz").write_bytes(gzip.compress(plain.getvalue()))
    options = ("--index-dir", indexes, "--verify", "never")
    one = mount(source, *options)
    with open(one / "b.npy", "rb", buffering=0) as file:
        os.pread(file.fileno(), 4096, 2_000_000)
    one.stop()
    one = mount(source, *options)
    assert int(state(one / "b.npy").split()[1]) > 2_000_000


def test_9_1_members_of_less_than_a_mebibyte_leave_nothing(source, mount, indexes):
    np.savez_compressed(source / "a.npz", x=noise()[:100])
    one = mount(source, "--index-dir", indexes)
    assert (np.load(one / "a.npz/x.npy") == noise()[:100]).all()
    one.stop()
    assert list(indexes.iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        (["CACHE_DIRECTORY={}/service:{}/other"], "service"),
        (["CACHE_DIRECTORY="], "cache/npzfs"),
        (["XDG_CACHE_HOME={}/xdg"], "xdg/npzfs"),
        (["XDG_CACHE_HOME=relative", "HOME={}/home"], "home/.cache/npzfs"),
    ],
)
def test_9_1_where_indexes_are_saved_if_that_is_not_said(
    source, mount, tmp_path, environment, place
):
    np.savez_compressed(source / "a.npz", x=noise())
    environment = [each.replace("{}", str(tmp_path)) for each in environment]
    one = mount(source, under=["env", "-C", tmp_path, *environment])
    assert (np.load(one / "a.npz/x.npy") == noise()).all()
    one.stop()
    saved = list(tmp_path.rglob("*.index"))
    assert [path.parent.relative_to(tmp_path) for path in saved] == [Path(place)]


def test_9_5_an_index_that_is_too_large_is_told_once(source, mount, indexes):
    arrays = {name: noise(seed) for seed, name in enumerate("ab")}
    np.savez_compressed(source / "a.npz", **arrays)
    one = mount(source, "--index-dir", indexes, "--index-dir-size", "4K", "--verify", "never")
    assert (np.load(one / "a.npz/a.npy") == arrays["a"]).all()
    poll(lambda: one.log_lines("no index saved"), 20, "it says so")
    one.stop()
    assert len(one.log_lines("no index saved")) == 1, one.log()
