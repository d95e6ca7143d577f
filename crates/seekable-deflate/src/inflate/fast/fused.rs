//! Blocks with matches: one look-up for a literal, or for a length together with its distance.
//!
//! Whether the next symbol is a literal or a match is what a processor guesses worst, so nothing
//! branches on it: a literal is a match of one byte whose source is the table entry itself.
//!
//! An entry is indexed by the next 11 bits. It is a `u32`, so that the table takes 8 KiB: it
//! shares the 32 KiB of a first-level cache with the window.
//!
//! | bits  | meaning                                                                     |
//! |-------|-----------------------------------------------------------------------------|
//! | 0-5   | bits to consume: both codes and their extra bits                            |
//! | 6-7   | `LITERAL`; `RARE`: not copied at once; both: `ELSEWHERE`                    |
//! | 8-15  | length; less `SHORTEST` if rare                                             |
//! | 16-23 | first literal; in a match, where the extra bits of the distance start       |
//! | 24-31 | second literal; in a match, the distance's symbol in 27-31                  |

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

/// Index bits. With 12, more symbols fit, and more of the table does not: 10 % slower.
pub(super) const BITS: u32 = 11;
/// An index is one of the literal and length table, too.
const _: () = assert!(BITS == LITLEN_BITS);

/// Copies of literals read up to `WIDEST` units of up to two bytes from an entry, or a pair, on.
pub(super) type Entries = [u32; (1 << BITS) + 2 * WIDEST / size_of::<u32>()];

/// The table, and beside it, to be addressed from the same register, what is not of one block.
#[repr(C)]
pub(super) struct Table {
    pub(super) entries: Entries,
    /// Extra bits, as a mask, and base of the distance symbols, with `FIRST_LITERAL` added to
    /// that; for a literal, anything.
    distances: [[u32; 2]; 32],
    /// The two literals of each entry as units of two bytes.
    pairs: Entries,
    /// Whether the pairs are of this block.
    has_pairs: bool,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { entries: [0; _], distances: DISTANCES, pairs: [0; _], has_pairs: false }
    }

    /// For another block.
    ///
    /// # Safety
    /// The processor must be one that `P` is for.
    pub(super) unsafe fn fill<P: Processor>(&mut self, parts: &Parts) {
        // SAFETY: the caller's promise.
        unsafe { P::fill(&mut self.entries, parts) };
        self.has_pairs = false;
    }

    /// For output in units of `T`.
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

/// Where the literals of an entry are, in bytes from it.
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

/// Units that are copied at once, at most.
pub(super) const WIDEST: usize = 32;

pub(super) const LITERAL: u32 = 1 << 6;
pub(super) const RARE: u32 = 1 << 7;
/// Anything that is not in this table; consumes nothing.
pub(super) const ELSEWHERE: u32 = LITERAL | RARE;
/// Length of the shortest match, and so of the shortest rare one.
const SHORTEST: u32 = 3;
/// Added to the entry of a match, makes it a rare one.
pub(super) const MAKE_RARE: u32 = RARE.wrapping_sub(SHORTEST << 8);
const _: () = assert!(MAX_MATCH as u32 - SHORTEST <= 0xff);

/// The byte of an entry that holds its first literal; added to every distance, so that where
/// a literal and where a match is differ by nothing else.
const FIRST_LITERAL: usize = 2;
const _: () = assert!(cfg!(target_endian = "little"), "entries are read as bytes");

/// The most bits of a symbol: two codes that fit into the index, and a distance's extra bits.
const SYMBOL: u32 = BITS + 13;
/// Two symbols for a refill, both counted, and the index of the next.
const _: () = assert!(2 * SYMBOL <= REFILLED && 2 * SYMBOL + BITS <= UNCOUNTED);

/// In `Parts::distances`: not in the main table.
pub(super) const ABSENT: u32 = 1 << 15;

/// What a table is made of.
pub(super) struct Parts<'a> {
    pub(super) litlen: &'a LitlenTable,
    /// By the next bits: bits consumed; code length in bits 16-19; the shortest distance, up to
    /// 127, in bits 8-14; the symbol in bits 27-31. Or bit 15 and a code length of 15, if it is
    /// not in the main table.
    pub(super) distances: [u32; 1 << DISTANCE_BITS],
    /// The longest match that is not rare.
    pub(super) longest: u32,
}

impl<'a> Parts<'a> {
    /// The parts for `decode` with this `WIDTH`.
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

/// The symbol of a distance entry (RFC 1951, section 3.2.5).
fn distance_symbol(entry: u32) -> u32 {
    let extra = consumed(entry) - code_length(entry);
    let before = value(entry) as u32 - 1;
    if extra == 0 { before } else { 2 * extra + 2 + (before >> extra & 1) }
}

/// Fills a table, on any processor.
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
            // If the extra bits of the length go beyond the index, the distance does, too.
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

/// Decodes symbols to the end of the block: then it says so, and otherwise stops near the ends
/// of input and output, or at something malformed. `WIDTH` is that of the table's parts.
#[inline(always)]
pub(super) fn decode<P: Processor, T: Unit, const WIDTH: usize>(
    cursor: &mut Cursor<T>,
    table: &Table,
    tables: &Tables,
) -> bool {
    while cursor.is_inside() {
        // Near the start of a stream a match may reach too far back; `plain_symbol` looks.
        if cursor.has_match(HISTORY) {
            // SAFETY: `is_inside` has just been looked at: this is the first refill since, the
            // one in `decode_run` or in `plain_symbol` the second. All distances are good.
            unsafe {
                cursor.refill();
                if decode_run::<P, T, WIDTH>(cursor, table) {
                    continue;
                }
            }
        }
        // SAFETY: the second refill, and the first or second match that is put out.
        match unsafe { cursor.plain_symbol::<P>(tables) } {
            Symbol::Literal | Symbol::Match { .. } => {}
            Symbol::EndOfBlock => return true,
            Symbol::Malformed => return false,
        }
    }
    false
}

/// Decodes symbols until an edge is reached: then it is `true`; or until there is one that it
/// does not know: then one more refill is allowed, and a match to put out.
///
/// # Safety
/// After `is_inside`, and one refill; there must be all of the history that a match may refer to.
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
            // SAFETY: as above. What is looked up are bits of the input: see `UNCOUNTED`.
            next = unsafe { cursor.look_up::<BITS>(entries) };
            if second {
                // SAFETY: the first refill since `is_inside`, or the second, as the caller
                // promises.
                unsafe { cursor.refill() };
            }
            // SAFETY: a match at most since `is_inside`, so this symbol starts before the limit.
            if !unsafe { put_symbol::<P, T, WIDTH>(cursor, table, entry, address, buffer) } {
                return false;
            }
        }
        if !cursor.is_inside() {
            return true;
        }
    }
}

/// Puts out the symbol of `entry`, if it is one and valid. `buffer` is what it was found with.
///
/// # Safety
/// It must start before the limit, after all of the history that a match may refer to;
/// `address` must be that of the entry in `table`.
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
    // More than the distance by `FIRST_LITERAL`.
    let back = (base + extra) as usize;
    let len = (entry >> 8 & 0xff) as usize;

    if entry & RARE != 0 {
        cold();
        if entry & LITERAL != 0 {
            return false;
        }
        // SAFETY: the distance is 32 KiB at most and 1 or more as all are, the length is 258 at
        // most as all are; the room is the caller's promise.
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
    // SAFETY: `WIDTH` units from the first literal on are in the table, whose entries and pairs
    // have as much after them. A distance is 1 to 32768, so `matched` is not before `floor`;
    // `WIDTH` units from there on and from `out` on, which lies before the limit, are in the
    // output and its `MARGIN`. What the first of two copies puts out is no part of the match,
    // which would be rare if it reached there.
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

/// Tells the compiler to put what follows out of the way.
#[cold]
#[inline]
fn cold() {}
