//! The distance between checkpoints that suits a stream.

use crate::DEFAULT_SPACING;

/// The spacing of streams that are hardly compressed, in bytes.
const LEAST: u64 = 128 << 10;

/// A stream is hardly compressed if it has fewer than this many decoded bytes for every 4 encoded
/// bytes. Such a stream has few matches, so its windows take little memory, and there may be many
/// of them.
const LEAST_IN_4: u64 = 5;

/// Encoded bytes aimed at for a span. A byte takes 2 to 3 ns to decode, whatever the data, so a
/// span that is not cached takes about half a millisecond. The index of sensor data then has 0.9 %
/// of the decoded length (docs/engine-notes.md, "Spacing").
const ENCODED: u64 = 256 << 10;

/// The distance between checkpoints that suits a stream of these lengths, which are in bytes: a
/// power of two from 128 KiB to [`DEFAULT_SPACING`].
#[must_use]
pub fn spacing_for(encoded_len: u64, decoded_len: u64) -> u64 {
    let decoded = u128::from(decoded_len) * u128::from(ENCODED) / u128::from(encoded_len.max(1));
    let decoded = u64::try_from(decoded).unwrap_or(u64::MAX);
    if decoded < ENCODED / 4 * LEAST_IN_4 {
        return LEAST;
    }
    1 << decoded.min(DEFAULT_SPACING).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spacing_follows_the_ratio_in_powers_of_two() {
        for (encoded, decoded, spacing) in [
            (0, 0, 128 << 10),
            (100, 108, 128 << 10),
            (100, 124, 128 << 10),
            (100, 125, 256 << 10),
            (100, 199, 256 << 10),
            (100, 320, 512 << 10),
            (100, 900, 1 << 20),
            (1, u64::MAX, 1 << 20),
            (u64::MAX, 1, 128 << 10),
        ] {
            assert_eq!(spacing_for(encoded, decoded), spacing, "{encoded} to {decoded}");
        }
    }
}
