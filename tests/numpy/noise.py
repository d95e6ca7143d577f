"""A member that hardly deflates, for tests that need many spans."""

import numpy as np

# float32 noise: 1.08:1, so that a member of 8 MB has 7 MB encoded and dozens of checkpoints.
ROWS, COLUMNS = 2000, 1000


def noise(seed=1):
    return np.random.default_rng(seed).normal(size=(ROWS, COLUMNS)).astype("<f4")


def write_archive(directory):
    np.savez_compressed(directory / "a.npz", x=noise())
    return directory / "a.npz"
