//! Tables that decode Huffman codes (RFC 1951, section 3.2.2).
//!
//! The next bits of the stream index a table. An entry is a `u32`:
//!
//! | bits  | meaning                                                                      |
//! |-------|------------------------------------------------------------------------------|
//! | 0-5   | bits to consume: those of the code, and the extra bits after it              |
//! | 8-11  | length of the code alone; in a pointer, index bits of the subtable           |
//! | 12-15 | `INVALID`, `END_OF_BLOCK`, `POINTER`; `EXCEPTIONAL` when one of them is set  |
//! | 16-30 | the symbol's value: literal, base length, base distance; start of a subtable |
//! | 31    | `LITERAL`                                                                    |
//!
//! If a code is longer than the index, the entry is a pointer to a subtable after the main table.
//! The entries of a subtable consume only the bits of the code after those of the main index.

/// The entry is a literal byte.
pub(super) const LITERAL: u32 = 1 << 31;
/// The entry is not a literal, length or distance.
pub(super) const EXCEPTIONAL: u32 = 1 << 15;
/// The entry points to a subtable.
pub(super) const POINTER: u32 = 1 << 14;
/// The entry is the end of the block.
pub(super) const END_OF_BLOCK: u32 = 1 << 13;
/// No symbol has this code.
pub(super) const INVALID: u32 = 1 << 12;

const NO_SYMBOL: u32 = EXCEPTIONAL | INVALID;

/// Number of bits that an entry consumes, extra bits included.
pub(super) const fn consumed(entry: u32) -> u32 {
    entry & 63
}

/// Length of an entry's code in bits. For a pointer: number of bits that index its subtable.
pub(super) fn code_length(entry: u32) -> u32 {
    (entry >> 8) & 15
}

/// The literal, the base length or distance, or the start of the subtable.
pub(super) fn value(entry: u32) -> usize {
    (entry >> 16 & 0x7fff) as usize
}

/// Length or distance of a symbol: the base of its entry plus the extra bits after its code in
/// `buffer`.
pub(super) fn with_extra(entry: u32, buffer: u64) -> usize {
    let bits = buffer & ((1 << consumed(entry)) - 1);
    value(entry) + (bits >> code_length(entry)) as usize
}

/// Literals, the end of the block, lengths from 257 on (RFC 1951, section 3.2.5). The last two have
/// codes only in a fixed block; zlib rejects them when they occur.
pub(super) const LITLEN_SYMBOLS: [u32; 288] = {
    const BASE: [u16; 29] = [
        3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115,
        131, 163, 195, 227, 258,
    ];
    const EXTRA: [u8; 29] =
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
    let mut symbols = [NO_SYMBOL; 288];
    let mut symbol = 0;
    while symbol < 256 {
        symbols[symbol] = LITERAL | (symbol as u32) << 16;
        symbol += 1;
    }
    symbols[256] = EXCEPTIONAL | END_OF_BLOCK;
    let mut code = 0;
    while code < 29 {
        symbols[257 + code] = (BASE[code] as u32) << 16 | EXTRA[code] as u32;
        code += 1;
    }
    symbols
};

/// Distances (RFC 1951, section 3.2.5). The last two have codes only in a fixed block; zlib rejects
/// them when they occur.
pub(super) const DISTANCE_SYMBOLS: [u32; 32] = {
    let mut symbols = [NO_SYMBOL; 32];
    let mut base = 1;
    let mut code = 0;
    while code < 30 {
        let extra = if code < 4 { 0 } else { code as u32 / 2 - 1 };
        symbols[code] = base << 16 | extra;
        base += 1 << extra;
        code += 1;
    }
    symbols
};

/// The symbols of the code length code (RFC 1951, section 3.2.7).
const CODE_LENGTH_SYMBOLS: [u32; 19] = {
    let mut symbols = [0; 19];
    let mut symbol = 0;
    while symbol < 19 {
        symbols[symbol] = (symbol as u32) << 16;
        symbol += 1;
    }
    symbols
};

/// Index bits of the three tables. The arrays have room for the largest subtables that a complete
/// code can need (zlib's examples/enough.c: `enough 288 11 15`, `enough 32 8 15`).
pub(super) const LITLEN_BITS: u32 = 11;
pub(super) const DISTANCE_BITS: u32 = 8;
pub(super) const CODE_LENGTH_BITS: u32 = 7;
pub(super) type LitlenTable = [u32; 2342];
pub(super) type DistanceTable = [u32; 402];
pub(super) type CodeLengthTable = [u32; 1 << CODE_LENGTH_BITS];

/// The code is over-subscribed, or is incomplete although zlib does not allow that.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidSet;

/// Builds the table for the literals and lengths of a block.
pub(super) fn build_litlen(table: &mut LitlenTable, lengths: &[u8]) -> Result<(), InvalidSet> {
    let unused = NO_SYMBOL | 1 << 8 | 1;
    build(table, LITLEN_BITS, &LITLEN_SYMBOLS, lengths, Incomplete::OneBit(unused))
}

/// Builds the table for the distances of a block.
pub(super) fn build_distance(table: &mut DistanceTable, lengths: &[u8]) -> Result<(), InvalidSet> {
    let unused = NO_SYMBOL | 1 << 8 | 1;
    build(table, DISTANCE_BITS, &DISTANCE_SYMBOLS, lengths, Incomplete::OneBit(unused))
}

/// Builds the table for the code lengths of a block header.
pub(super) fn build_code_length(
    table: &mut CodeLengthTable,
    lengths: &[u8],
) -> Result<(), InvalidSet> {
    build(table, CODE_LENGTH_BITS, &CODE_LENGTH_SYMBOLS, lengths, Incomplete::Never)
}

/// The incomplete codes that are accepted. A code without any symbol always is.
#[derive(Clone, Copy)]
enum Incomplete {
    /// Also a code of a single symbol, which takes one bit. The other value of the bit has this
    /// entry. Without any symbol, both values have it.
    OneBit(u32),
    /// Only a code without any symbol: zlib then reads each bit as a code length of zero.
    Never,
}

/// Bits of the longest code that the format allows.
const MAX_LENGTH: usize = 15;

fn build(
    table: &mut [u32],
    index_bits: u32,
    symbols: &[u32],
    lengths: &[u8],
    incomplete: Incomplete,
) -> Result<(), InvalidSet> {
    let counts = Counts::of(lengths);
    let free = counts.free()?;
    let (sorted, count) = counts.sort(lengths);
    let mut sorted = sorted[..count].iter().map(|&symbol| symbols[symbol as usize]);
    if free > 0 {
        let pair = match (incomplete, counts.longest()) {
            (Incomplete::Never, 0) => [symbols[0] + entry_bits(1); 2],
            (Incomplete::OneBit(unused), 0) => [unused, unused],
            (Incomplete::OneBit(unused), 1) => {
                [sorted.next().map_or(unused, |symbol| symbol + entry_bits(1)), unused]
            }
            _ => return Err(InvalidSet),
        };
        table[..1 << index_bits].as_chunks_mut().0.fill(pair);
        return Ok(());
    }
    let code = fill_main(table, index_bits, &counts, &mut sorted);
    fill_subtables(table, index_bits, &counts, &mut sorted, code);
    Ok(())
}

/// The number of codes of each length in bits.
struct Counts([usize; MAX_LENGTH + 1]);

impl Counts {
    fn of(lengths: &[u8]) -> Self {
        let mut counts = [0; MAX_LENGTH + 1];
        for &length in lengths {
            counts[length as usize] += 1;
        }
        counts[0] = 0;
        Self(counts)
    }

    /// Number of codes of `MAX_LENGTH` bits that are not used. Zero if the code is complete.
    fn free(&self) -> Result<i32, InvalidSet> {
        let mut free = 1;
        for count in &self.0[1..] {
            free = (free << 1) - *count as i32;
            if free < 0 {
                return Err(InvalidSet);
            }
        }
        Ok(free)
    }

    /// The length of the longest code. 0 if there is none.
    fn longest(&self) -> usize {
        self.0.iter().rposition(|count| *count > 0).unwrap_or(0)
    }

    /// The symbols that have a code, in the order of their codes, and their number.
    fn sort(&self, lengths: &[u8]) -> ([u16; 288], usize) {
        let mut next = [0; MAX_LENGTH + 2];
        for length in 1..=MAX_LENGTH {
            next[length + 1] = next[length] + self.0[length];
        }
        let mut sorted = [0; 288];
        for (symbol, &length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
            sorted[next[length as usize]] = symbol as u16;
            next[length as usize] += 1;
        }
        (sorted, next[MAX_LENGTH + 1])
    }
}

/// Fills the main table with the codes of up to `index_bits` bits, and takes their symbols from
/// `sorted`. Returns the first longer code.
///
/// Codes are stored with their bits reversed: the first bit of a code is the lowest one in the
/// bit buffer.
fn fill_main(
    table: &mut [u32],
    index_bits: u32,
    counts: &Counts,
    sorted: &mut impl Iterator<Item = u32>,
) -> usize {
    let mut code = 0;
    for length in 1..=index_bits {
        // For an index that is one bit longer, the entries of the shorter codes come twice.
        let half = 1 << (length - 1);
        table.copy_within(..half, half);
        for symbol in sorted.by_ref().take(counts.0[length as usize]) {
            table[code] = symbol + entry_bits(length);
            code = next_code(code, length);
        }
    }
    code
}

/// Fills a subtable for each prefix of `index_bits` bits that longer codes have. `code` is the
/// first of these codes.
fn fill_subtables(
    table: &mut [u32],
    index_bits: u32,
    counts: &Counts,
    sorted: &mut impl Iterator<Item = u32>,
    mut code: usize,
) {
    let mut prefix = usize::MAX;
    let mut subtable = 0..1 << index_bits;
    for length in index_bits + 1..=counts.longest() as u32 {
        let mut left = counts.0[length as usize];
        for symbol in sorted.by_ref().take(left) {
            if prefix != code & ((1 << index_bits) - 1) {
                prefix = code & ((1 << index_bits) - 1);
                let bits = subtable_bits(&counts.0, index_bits, length, left);
                subtable = subtable.end..subtable.end + (1 << bits);
                table[prefix] =
                    EXCEPTIONAL | POINTER | (subtable.start as u32) << 16 | bits << 8 | index_bits;
            }
            let entry = symbol + entry_bits(length - index_bits);
            let from = subtable.start + (code >> index_bits);
            for at in (from..subtable.end).step_by(1 << (length - index_bits)) {
                table[at] = entry;
            }
            code = next_code(code, length);
            left -= 1;
        }
    }
}

/// The fields of an entry for a code of `length` bits: length of the code, and bits to consume.
fn entry_bits(length: u32) -> u32 {
    length << 8 | length
}

/// Adds one to a reversed code of `length` bits. The result for the last code has no meaning.
fn next_code(code: usize, length: u32) -> usize {
    let zeros = code ^ ((1 << length) - 1);
    match zeros.checked_ilog2() {
        Some(highest) => (code & ((1 << highest) - 1)) | 1 << highest,
        None => code,
    }
}

/// Index bits of a subtable. Its first code has `length` bits, and `left` codes of that length
/// are not in a table yet. Returns the smallest number such that the next codes fill the subtable.
fn subtable_bits(
    counts: &[usize; MAX_LENGTH + 1],
    index_bits: u32,
    length: u32,
    left: usize,
) -> u32 {
    let mut bits = length - index_bits;
    let mut used = left;
    while used < 1 << bits {
        bits += 1;
        used = (used << 1) + counts[(index_bits + bits) as usize];
    }
    bits
}
