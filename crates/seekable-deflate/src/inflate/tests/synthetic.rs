//! Makes valid streams that no real encoder would write: random codes, symbols and blocks.

use crate::inflate::{
    HISTORY,
    huffman::{self, DISTANCE_SYMBOLS, LITLEN_SYMBOLS},
};

/// Pseudo-random numbers (xorshift64*).
pub(in crate::inflate) struct Random(u64);

impl Random {
    pub(in crate::inflate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub(in crate::inflate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize % bound
    }

    pub(in crate::inflate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A valid stream of about `len` decoded bytes.
pub(in crate::inflate) fn stream(random: &mut Random, len: usize) -> Vec<u8> {
    let mut writer = Writer { bytes: Vec::new(), count: 0 };
    let mut decoded = 0;
    loop {
        let last = decoded >= len;
        writer.put(last.into(), 1);
        match random.below(12) {
            0 => decoded += stored(&mut writer, random),
            1 => {
                writer.put(1, 2);
                let mut lengths = [8; 288];
                lengths[144..256].fill(9);
                lengths[256..280].fill(7);
                decoded += symbols(&mut writer, random, &lengths, &[5; 32], decoded);
            }
            _ => {
                writer.put(2, 2);
                let litlens = litlen_lengths(random);
                let distances = distance_lengths(random);
                header(&mut writer, &litlens, &distances);
                decoded += symbols(&mut writer, random, &litlens, &distances, decoded);
            }
        }
        if last {
            return writer.bytes;
        }
    }
}

struct Writer {
    bytes: Vec<u8>,
    /// Number of bits written.
    count: usize,
}

impl Writer {
    fn put(&mut self, bits: usize, count: u32) {
        for at in 0..count {
            if self.count.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.len() - 1;
            self.bytes[last] |= ((bits >> at & 1) as u8) << (self.count % 8);
            self.count += 1;
        }
    }

    fn put_code(&mut self, (code, length): (usize, u32)) {
        for at in (0..length).rev() {
            self.put(code >> at & 1, 1);
        }
    }
}

fn stored(writer: &mut Writer, random: &mut Random) -> usize {
    let longest = random.pick(&[1, 300, 5000]);
    let len = random.below(longest);
    writer.put(0, 2);
    writer.count = writer.bytes.len() * 8;
    writer.put(len | (len ^ 0xffff) << 16, 32);
    for _ in 0..len {
        writer.put(random.below(256), 8);
    }
    len
}

/// The code lengths of a random complete code for `symbols`. The alphabet has `alphabet` symbols;
/// those not in `symbols` get length 0.
fn lengths_of(random: &mut Random, symbols: &[usize], alphabet: usize) -> Vec<u8> {
    let mut leaves = vec![0u8];
    // Splitting the newest leaf again and again gives long codes: done in `depth` percent of cases.
    let depth = random.below(100);
    while leaves.len() < symbols.len() {
        let at =
            if random.below(100) < depth { leaves.len() - 1 } else { random.below(leaves.len()) };
        if leaves[at] < 15 {
            let length = leaves.swap_remove(at) + 1;
            leaves.extend([length, length]);
        } else if leaves.iter().all(|length| *length == 15) {
            unreachable!("2^15 symbols fit");
        } else {
            let shortest = (0..leaves.len()).min_by_key(|at| leaves[*at]).expect("there are some");
            let length = leaves.swap_remove(shortest) + 1;
            leaves.extend([length, length]);
        }
    }
    let mut lengths = vec![0; alphabet];
    for &symbol in symbols {
        let at = random.below(leaves.len());
        lengths[symbol] = leaves.swap_remove(at).max(1);
    }
    lengths
}

fn litlen_lengths(random: &mut Random) -> Vec<u8> {
    let literals = random.pick(&[0, 1, 3, 60, 256]);
    let codes = random.pick(&[0, 1, 4, 29]);
    let mut symbols = vec![256];
    for _ in 0..literals {
        symbols.push(if literals == 256 { symbols.len() - 1 } else { random.below(256) });
    }
    for code in 0..codes {
        symbols.push(257 + if codes == 29 { code } else { random.below(29) });
    }
    symbols.sort_unstable();
    symbols.dedup();
    lengths_of(random, &symbols, 286)
}

fn distance_lengths(random: &mut Random) -> Vec<u8> {
    let codes = random.pick(&[0, 1, 2, 5, 30]);
    let highest = random.pick(&[1, 4, 12, 30]);
    let mut symbols: Vec<_> = match codes {
        30 => (0..30).collect(),
        _ => (0..codes).map(|_| random.below(highest)).collect(),
    };
    symbols.sort_unstable();
    symbols.dedup();
    if symbols.is_empty() { vec![0; 30] } else { lengths_of(random, &symbols, 30) }
}

/// Writes the header of a dynamic block. Each of the lengths 0 to 15 has a code of four bits, and
/// no length is repeated by a run.
fn header(writer: &mut Writer, litlens: &[u8], distances: &[u8]) {
    writer.put(litlens.len() - 257, 5);
    writer.put(distances.len() - 1, 5);
    writer.put(19 - 4, 4);
    for symbol in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15] {
        writer.put(if symbol < 16 { 4 } else { 0 }, 3);
    }
    for &length in litlens.iter().chain(distances) {
        writer.put_code((length.into(), 4));
    }
}

/// The code of each symbol and its length in bits. Only symbols of a length above 0 have a code.
fn codes(lengths: &[u8]) -> Vec<(usize, u32)> {
    let mut codes = vec![(0, 0); lengths.len()];
    let mut next = 0;
    for length in 1..16 {
        for (code, _) in codes.iter_mut().zip(lengths).filter(|(_, of)| **of == length) {
            *code = (next, length.into());
            next += 1;
        }
        next <<= 1;
    }
    codes
}

/// Writes random symbols that have codes, then the end of the block. `before` is the number of
/// bytes that the earlier blocks decode to. Returns the number for this block.
fn symbols(
    writer: &mut Writer,
    random: &mut Random,
    litlens: &[u8],
    distances: &[u8],
    before: usize,
) -> usize {
    let used = |lengths: &[u8], range: std::ops::Range<usize>| -> Vec<usize> {
        range.filter(|symbol| lengths.get(*symbol).is_some_and(|length| *length > 0)).collect()
    };
    let literals = used(litlens, 0..256);
    let lengths = used(litlens, 257..286);
    let distance_symbols = used(distances, 0..30);
    let (litlens, distances) = (codes(litlens), codes(distances));
    let share = random.pick(&[0, 1, 50, 90, 99, 100]);
    let longest = random.pick(&[1, 100, 3000, 20_000]);
    let mut decoded = 0;
    for _ in 0..random.below(longest) {
        let reach = (before + decoded).min(HISTORY);
        let near: Vec<usize> = if random.below(100) < share && !lengths.is_empty() {
            let base = |symbol: usize| huffman::value(DISTANCE_SYMBOLS[symbol]);
            distance_symbols.iter().copied().filter(|symbol| base(*symbol) <= reach).collect()
        } else {
            Vec::new()
        };
        if near.is_empty() {
            if literals.is_empty() {
                break;
            }
            writer.put_code(litlens[random.pick(&literals)]);
            decoded += 1;
            continue;
        }
        let start = writer.count;
        let symbol = random.pick(&lengths);
        writer.put_code(litlens[symbol]);
        let len = extra(writer, random, LITLEN_SYMBOLS[symbol], usize::MAX);
        let symbol = random.pick(&near);
        writer.put_code(distances[symbol]);
        extra(writer, random, DISTANCE_SYMBOLS[symbol], reach);
        let repeats = if random.below(16) == 0 { random.below(60) } else { 0 };
        let end = writer.count;
        for bit in (start..end).cycle().take(repeats * (end - start)) {
            writer.put((writer.bytes[bit / 8] >> (bit % 8)).into(), 1);
        }
        decoded += len * (1 + repeats);
    }
    writer.put_code(litlens[256]);
    decoded
}

/// Writes random extra bits for a length or distance of at most `most`. Returns the length or
/// distance.
fn extra(writer: &mut Writer, random: &mut Random, symbol: u32, most: usize) -> usize {
    let bits = huffman::consumed(symbol);
    let values = (1 << bits).min(most - huffman::value(symbol) + 1);
    let extra = random.below(values);
    writer.put(extra, bits);
    huffman::value(symbol) + extra
}
