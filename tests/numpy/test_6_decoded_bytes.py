"""Rule 6.7 where the server need not read the archive: it has the decoded bytes in memory."""

import errno
import os

import numpy as np
from mounting import errno_of

NEAR = 5_000_000


def test_6_7_decoded_bytes_are_not_given_after_an_overwrite(source, mount):
    data = np.random.default_rng(67).integers(0, 64, 5_500_000, np.uint8)
    np.savez_compressed(source / "a.npz", x=data)
    mnt = mount(source)
    with open(mnt / "a.npz/x.npy", "rb", buffering=0) as file:
        descriptor = file.fileno()
        assert os.pread(descriptor, 4096, NEAR) == data[NEAR - 128 :][:4096].tobytes()
        # What the kernel has may be read on, so that the server must be asked again.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        with open(source / "a.npz", "r+b") as archive:
            archive.seek(1000)
            byte = archive.read(1)[0]
            archive.seek(1000)
            archive.write(bytes([byte ^ 1]))
        assert errno_of(os.pread, descriptor, 4096, NEAR) == errno.EIO
