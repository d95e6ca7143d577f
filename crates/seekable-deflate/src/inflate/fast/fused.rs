//! Blocks with matches: one look-up finds one or two literals, or a length and its distance.
//!
//! A processor predicts badly whether the next symbol is a literal or a match, so no branch
//! depends on that: a literal is copied like a match, with the table entry itself as the source.
//!
//! The next 11 bits index the table. An entry is a `u32`, so the table takes 8 KiB: it shares
//! the 32 KiB of a first-level cache with the window.
//!
//! | bits  | meaning                                                                     |
//! |-------|-----------------------------------------------------------------------------|
//! | 0-5   | bits to consume: both codes and their extra bits                            |
//! | 6-7   | `LITERAL`; `RARE`: a match that one copy cannot write; both: `ELSEWHERE`    |
//! | 8-15  | length; in a rare match, length minus `SHORTEST`                            |
//! | 16-23 | first literal; in a match, first buffer bit of the distance's extra bits    |
//! | 24-31 | second literal; in a match, symbol of the distance (bits 27-31)             |

use super::{
    Unit, copy,
    cursor::{Cursor, REFILLED, SPENT, Symbol, UNCOUNTED},
    processor::Processor,
};
use std::mem::offset_of;

use crate::inflate::{
    HISTORY, MAX_MATCH,
    block::Tables,
    huffman::{
        self, DISTANCE_BITS, DISTANCE_SYMBOLS, DistanceTable, LITLEN_BITS, LitlenTable,
        code_length, consumed, value,
    },
};

/// Index bits. With 12, more symbols fit into an entry, but the table needs twice the cache: 10 %
/// slower.
pub(super) const BITS: u32 = 11;
/// An index of this table is also one of the literal and length table.
const _: () = assert!(BITS == LITLEN_BITS);

/// The entries, or their pairs, and room after them: the copy of a literal reads `WIDEST` units of
/// up to two bytes, from its entry or pair on.
pub(super) type Entries = [u32; (1 << BITS) + 2 * WIDEST / size_of::<u32>()];

/// The table of a block, and the data that its loop needs with it. All are in one struct, so that
/// one register addresses them.
#[repr(C)]
pub(super) struct Table {
    pub(super) entries: Entries,
    /// For each distance symbol: the mask of its extra bits, and its base plus `FIRST_LITERAL`.
    /// The loop reads this for a literal, too, and ignores the values.
    distances: [[u32; 2]; 32],
    /// The two literals of each entry as units of two bytes.
    pairs: Entries,
    /// Whether `pairs` has been filled for this block.
    has_pairs: bool,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { entries: [0; _], distances: DISTANCES, pairs: [0; _], has_pairs: false }
    }

    /// Fills the table for another block.
    ///
    /// # Safety
    /// The processor must have all features that `P` uses.
    pub(super) unsafe fn fill<P: Processor>(&mut self, parts: &Parts) {
        // SAFETY: the caller's promise.
        unsafe { P::fill(&mut self.entries, parts) };
        self.has_pairs = false;
    }

    /// Fills `pairs`, if output in units of `T` needs them and they are not filled yet.
    pub(super) fn prepare<T: Unit>(&mut self) {
        if size_of::<T>() == 1 || self.has_pairs {
            return;
        }
        for (pair, entry) in self.pairs.iter_mut().zip(self.entries) {
            *pair = entry >> 16 & 0xff | entry >> 8 & 0xff_0000;
        }
        self.has_pairs = true;
    }
}

/// Offset in bytes from an entry to its literals as units of `T`.
const fn literals<T>() -> usize {
    if size_of::<T>() == 1 { 2 } else { offset_of!(Table, pairs) - offset_of!(Table, entries) }
}

const DISTANCES: [[u32; 2]; 32] = {
    let mut distances = [[0, 1 + FIRST_LITERAL as u32]; 32];
    let mut symbol = 0;
    while symbol < 30 {
        let entry = DISTANCE_SYMBOLS[symbol];
        distances[symbol] = [(1 << consumed(entry)) - 1, (entry >> 16) + FIRST_LITERAL as u32];
        symbol += 1;
    }
    distances
};

/// The most units that one copy writes.
pub(super) const WIDEST: usize = 32;

pub(super) const LITERAL: u32 = 1 << 6;
pub(super) const RARE: u32 = 1 << 7;
/// The symbol is not in this table. The entry consumes no bits.
pub(super) const ELSEWHERE: u32 = LITERAL | RARE;
/// Length of the shortest match, rare or not.
const SHORTEST: u32 = 3;
/// Adding this number to the entry of a match makes the match rare.
pub(super) const MAKE_RARE: u32 = RARE.wrapping_sub(SHORTEST << 8);
const _: () = assert!(MAX_MATCH as u32 - SHORTEST <= 0xff);

/// Offset in an entry of the byte that holds the first literal. `put_symbol` chooses between the
/// address of the entry and the source of the match minus this offset, and then adds the offset to
/// either.
const FIRST_LITERAL: usize = 2;
const _: () = assert!(cfg!(target_endian = "little"), "entries are read as bytes");

/// The most bits that an entry consumes: those of the index, and the extra bits of a distance.
const SYMBOL: u32 = BITS + 13;
/// After a refill, the counted bits must be enough for two entries, and all bits for the index of a
/// third as well.
const _: () = assert!(2 * SYMBOL <= REFILLED && 2 * SYMBOL + BITS <= UNCOUNTED);

/// Flag in `Parts::distances`: the distance is not in the main table.
pub(super) const ABSENT: u32 = 1 << 15;

/// The data from which a table is filled.
pub(super) struct Parts<'a> {
    pub(super) litlen: &'a LitlenTable,
    /// Indexed by the next bits. Bits 0-5: bits to consume; 8-14: the shortest distance of the
    /// symbol, but at most 127; 16-19: code length; 27-31: the symbol. For a distance that is not
    /// in the main table: bit 15, and a code length of 15.
    pub(super) distances: [u32; 1 << DISTANCE_BITS],
    /// Length of the longest match that is not rare: the number of units that one copy writes.
    pub(super) longest: u32,
}

impl<'a> Parts<'a> {
    /// The parts for `decode` with a `WIDTH` of `width`.
    pub(super) fn new(litlen: &'a LitlenTable, distance: &DistanceTable, width: usize) -> Self {
        let mut distances = [0; 1 << DISTANCE_BITS];
        for (part, &entry) in distances.iter_mut().zip(distance) {
            *part = if entry & huffman::EXCEPTIONAL == 0 {
                let base = (value(entry) as u32).min(0x7f);
                let symbol = distance_symbol(entry);
                consumed(entry) | base << 8 | code_length(entry) << 16 | symbol << 27
            } else {
                ABSENT | 15 << 16
            };
        }
        Self { litlen, distances, longest: width as u32 }
    }
}

/// The distance symbol, 0 to 29, of an entry of the distance table (RFC 1951, section 3.2.5).
fn distance_symbol(entry: u32) -> u32 {
    let extra = consumed(entry) - code_length(entry);
    let before = value(entry) as u32 - 1;
    if extra == 0 { before } else { 2 * extra + 2 + (before >> extra & 1) }
}

/// Fills a table with instructions that every processor has.
pub(super) fn fill(entries: &mut Entries, parts: &Parts) {
    for (index, entry) in (0..1 << BITS).zip(entries) {
        let litlen = parts.litlen[index as usize];
        let bits = consumed(litlen);
        *entry = if litlen & huffman::LITERAL != 0 {
            let first = bits | LITERAL | 1 << 8 | (value(litlen) as u32) << 16;
            let second = parts.litlen[(index >> bits) as usize];
            let both = bits + consumed(second);
            if second & huffman::LITERAL != 0 && both <= BITS {
                first + consumed(second) + (1 << 8) + ((value(second) as u32) << 24)
            } else {
                first
            }
        } else if litlen & huffman::EXCEPTIONAL != 0 {
            ELSEWHERE
        } else {
            // If the extra bits of the length do not fit into the index, `len` is wrong. But then
            // the distance does not fit either, and the entry becomes `ELSEWHERE`.
            let len = huffman::with_extra(litlen, index) as u32;
            let distance = parts.distances[(index >> bits) as usize & ((1 << DISTANCE_BITS) - 1)];
            let codes = bits + (distance >> 16 & 15);
            if codes > BITS || distance & ABSENT != 0 {
                ELSEWHERE
            } else {
                let rare = len > parts.longest.min(distance >> 8 & 0x7f);
                let entry =
                    (distance & (0xf8 << 24 | 0x3f)) + bits + ((codes + SPENT) << 16) + (len << 8);
                entry.wrapping_add(if rare { MAKE_RARE } else { 0 })
            }
        };
    }
}

/// Decodes symbols. Returns `true` at the end of the block; `false` near the end of the input or
/// output, or at a malformed symbol. `WIDTH` must be the width of the table's parts.
#[inline(always)]
pub(super) fn decode<P: Processor, T: Unit, const WIDTH: usize>(
    cursor: &mut Cursor<T>,
    table: &Table,
    tables: &Tables,
) -> bool {
    while cursor.is_inside() {
        // Near the start of a stream a match may reach too far back. `plain_symbol` checks that.
        if cursor.has_match(HISTORY) {
            // SAFETY: `is_inside` has just returned `true`. This is the first refill since then,
            // and the next one is the second. No distance is above `HISTORY`.
            unsafe {
                cursor.refill();
                if decode_run::<P, T, WIDTH>(cursor, table) {
                    continue;
                }
            }
        }
        // SAFETY: `plain_symbol` refills once. That is at most the second refill since `is_inside`
        // returned `true`, or it comes directly after the second and does not count (see
        // `Cursor::refill`). At most one match has been written since then.
        match unsafe { cursor.plain_symbol::<P>(tables) } {
            Symbol::Literal | Symbol::Match { .. } => {}
            Symbol::EndOfBlock => return true,
            Symbol::Malformed => return false,
        }
    }
    false
}

/// Decodes symbols. Returns `true` when the cursor is near the end of the input or the output.
/// Returns `false` before a symbol that is not in the table; then the caller may refill once and
/// write one match before it calls `is_inside` again.
///
/// # Safety
/// `is_inside` must have returned `true`, with one refill since then. `HISTORY` units must lie
/// between `floor` and `out`.
#[inline(always)]
unsafe fn decode_run<P: Processor, T: Unit, const WIDTH: usize>(
    cursor: &mut Cursor<T>,
    table: &Table,
) -> bool {
    let entries = table.entries.as_ptr();
    // SAFETY: a table has `1 << BITS` entries and more.
    let mut next = unsafe { cursor.look_up::<BITS>(entries) };
    loop {
        for second in [false, true] {
            let ((entry, address), buffer) = (next, cursor.buffer);
            cursor.consume(entry);
            // SAFETY: as above. The index is made of bits of the input: see `UNCOUNTED`.
            next = unsafe { cursor.look_up::<BITS>(entries) };
            if second {
                // SAFETY: the first refill since `is_inside` returned `true`, or the second:
                // the caller promises that there was only one before.
                unsafe { cursor.refill() };
            }
            // SAFETY: at most one match has been written since `is_inside` returned `true`, so
            // this symbol starts before the limit.
            if !unsafe { put_symbol::<P, T, WIDTH>(cursor, table, entry, address, buffer) } {
                return false;
            }
        }
        if !cursor.is_inside() {
            return true;
        }
    }
}

/// Writes the literals or the match of `entry`. Returns `false` and writes nothing if `entry` is
/// `ELSEWHERE`. `buffer` is the bit buffer before `entry` was consumed.
///
/// # Safety
/// `out` must be before the limit, with `HISTORY` units or more between `floor` and `out`.
/// `address` must be the address of `entry` in `table`.
#[inline(always)]
unsafe fn put_symbol<P: Processor, T: Unit, const WIDTH: usize>(
    cursor: &mut Cursor<T>,
    table: &Table,
    entry: u32,
    address: *const u32,
    buffer: u64,
) -> bool {
    const { assert!(WIDTH == 16 || WIDTH == WIDEST) };
    let [mask, base] = table.distances[(entry >> 27) as usize];
    let extra = (buffer >> (entry >> 16 & 63)) as u32 & mask;
    // The distance plus `FIRST_LITERAL`.
    let back = (base + extra) as usize;
    let len = (entry >> 8 & 0xff) as usize;

    if entry & RARE != 0 {
        cold();
        if entry & LITERAL != 0 {
            return false;
        }
        // SAFETY: every distance is 1 to 32768, and every length at most 258. The caller promises
        // the history and the room.
        unsafe { cursor.put_match::<P>(back - FIRST_LITERAL, len + SHORTEST as usize) };
        return true;
    }
    let matched = cursor.out.cast_const().wrapping_sub(back);
    let literal = address.wrapping_byte_add(literals::<T>()).cast::<T>();
    let literal = literal.wrapping_sub(FIRST_LITERAL);
    let from = if entry & LITERAL != 0 { literal } else { matched };
    let from = from.wrapping_add(FIRST_LITERAL).cast::<u8>();
    cursor.assert_room(WIDTH);
    let out = cursor.out.cast::<u8>();
    // SAFETY: for a literal, `WIDTH` units from it on are in the table, which has that much room
    // after its entries and after its pairs. For a match, the distance is 1 to 32768, so the source
    // does not start before `floor`; it starts before `out`, and `out` is before the limit, so
    // `WIDTH` units from either are in the output and its `MARGIN`. If the second of two copies
    // reads what the first has written, these units are after the end of the match: a match that
    // is longer than its distance is rare.
    unsafe {
        match WIDTH * size_of::<T>() {
            16 => copy::copy_16(from, out),
            32 => P::copy_32(from, out),
            _ => {
                const { assert!(WIDTH * size_of::<T>() <= 64) };
                P::copy_32(from, out);
                P::copy_32(from.wrapping_add(32), out.wrapping_add(32));
            }
        }
    }
    cursor.out = cursor.out.wrapping_add(len);
    true
}

/// Marks the code that follows as unlikely, so that the compiler moves it out of the loop.
#[cold]
#[inline]
fn cold() {}
