"""Fixtures: a source directory, and mounts of it that are ended and checked after the test."""

import fcntl
import itertools
import os
import signal

import pytest
from mounting import Mount

# A shell without a terminal starts its background processes with these ignored, and commands of
# `npzfs run` would have them ignored, too (rule 14.2).
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_configure(config):
    """Lets ordinary users mount, as on any workstation, until the tests of all processes end."""
    is_first = not hasattr(config, "workerinput")
    if is_first and os.geteuid() == 0 and os.path.exists("/dev/fuse"):
        mode = os.stat("/dev/fuse").st_mode
        os.chmod("/dev/fuse", 0o666)
        config.add_cleanup(lambda: os.chmod("/dev/fuse", mode))


@pytest.fixture(autouse=True)
def _alone(request, tmp_path_factory):
    """Runs no other test beside one marked `alone`, where several processes run tests."""
    # The directory that all these processes have their own in.
    directory = tmp_path_factory.getbasetemp().parent
    with open(directory / "alone", "w") as lock:
        is_alone = request.node.get_closest_marker("alone") is not None
        fcntl.flock(lock, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        yield


@pytest.fixture
def source(tmp_path):
    """An empty directory to be mounted."""
    path = tmp_path / "source"
    path.mkdir()
    return path


def _mounts(directory):
    running, numbers = [], itertools.count(1)

    def mount(source, *options, at=None, under=()):
        """Mounts `source`; `options` as on the command line."""
        number = next(numbers)
        mountpoint = directory / f"mnt{number}" if at is None else at
        one = Mount(source, mountpoint, directory / f"log{number}", *options, under=under)
        running.append(one)
        return one

    def stop():
        errors = []
        for one in running:
            try:
                one.stop()
            except AssertionError as error:
                errors.append(str(error))
        assert not errors, "\n".join(errors)

    return mount, stop


@pytest.fixture
def mount(tmp_path):
    """Mounts a source with the real program. Afterwards it must end well: see `Mount.stop`."""
    start, stop = _mounts(tmp_path)
    yield start
    stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """`(directory, mount)`: as `source` and `mount`, for all tests of one file."""
    directory = tmp_path_factory.mktemp("shared")
    (directory / "source").mkdir()
    start, stop = _mounts(directory)
    yield directory / "source", start
    stop()
