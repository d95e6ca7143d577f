//! How far apart checkpoints are best.

use crate::DEFAULT_SPACING;

/// What [`spacing_for`] says of streams that hardly deflate.
const LEAST: u64 = 128 << 10;

/// Decoded bytes for each 4 encoded ones, below which a stream hardly deflates. It has few matches:
/// so there is next to nothing in its windows, and as many as there may be take no room.
const LEAST_IN_4: u64 = 5;

/// Encoded bytes that a span may take. They decode at 2 to 3 ns each whatever the data, so a span
/// takes about half a millisecond. Random reads of 4 KiB, and the saved index beside the decoded
/// bytes (the benchmark's data, 16 MiB):
///
/// | data, ratio | spacing | median | index |
/// |---|---|---|---|
/// | sensor, 3.2 | 256 / **512** / 1024 KiB | 199 / **350** / 656 us | 1.84 / **0.91** / 0.44 % |
/// | labels, 9.3 | 256 / 512 / **1024** KiB | 62 / 107 / **198** us | 0.36 / 0.18 / **0.09** % |
/// | noise, 1.08 | **128** / 256 / 512 KiB | **258** / 528 / 1014 us | **0.09** / 0.05 / 0.02 % |
/// | text, 2.5 | 256 / **512** / 1024 KiB | 194 / **348** / 647 us | 2.33 / **1.15** / 0.56 % |
const ENCODED: u64 = 256 << 10;

/// The distance between checkpoints that suits a stream, by what is known of its lengths in bytes:
/// a power of two from 128 KiB to [`DEFAULT_SPACING`].
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
