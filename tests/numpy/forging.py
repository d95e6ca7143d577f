"""Data with a chosen CRC-32, as an attacker would make them."""

import zlib

TABLE = [0] * 256
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = _value >> 1 ^ (0xEDB88320 if _value & 1 else 0)
    TABLE[_byte] = _value
# The entry of the table with these highest 8 bits.
HIGHEST = {value >> 24: index for index, value in enumerate(TABLE)}


def with_crc32(data, wanted):
    """`data` with its last 4 bytes changed so that its CRC-32 is `wanted`."""
    register = wanted ^ 0xFFFFFFFF
    for _ in range(4):
        index = HIGHEST[register >> 24]
        register = (register ^ TABLE[index]) << 8 & 0xFFFFFFFF | index
    register ^= zlib.crc32(data[:-4]) ^ 0xFFFFFFFF
    forged = data[:-4] + register.to_bytes(4, "little")
    assert zlib.crc32(forged) == wanted
    return forged
