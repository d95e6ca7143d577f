//! The place of a fast loop in its input and output: a bit buffer and two raw pointers, with no
//! check on each access.

use std::ops::Range;

use super::{
    Unit,
    copy::{self, LONG, OVERRUN},
    fused::WIDEST,
    processor::Processor,
};
use crate::inflate::{
    Bits, Input, MAX_MATCH, Output,
    block::Tables,
    huffman::{
        self, DISTANCE_BITS, END_OF_BLOCK, EXCEPTIONAL, LITERAL, LITLEN_BITS, POINTER, consumed,
        value,
    },
    output::MARGIN,
};

/// Number of spent bits (bits already consumed) that stay in the buffer below the unread ones.
/// With two, the masked buffer is the byte offset of a 4-byte entry. So the address needs no
/// scaled index, which saves a cycle on the path from symbol to symbol.
pub(super) const SPENT: u32 = 2;

/// The least number of counted unread bits in the buffer after a refill.
pub(super) const REFILLED: u32 = 56 - SPENT;

/// Number of unread bits in the buffer after a refill, counted or not. Bits that `count` does not
/// include are valid bits of the input, too.
pub(super) const UNCOUNTED: u32 = 64 - SPENT;

/// The most bits of a symbol: a length has up to 15 bits of code and 5 extra bits, a distance up
/// to 15 and 13.
const LONGEST_SYMBOL: u32 = 20 + 28;
const _: () = assert!(LONGEST_SYMBOL <= REFILLED);

/// Refills between two checks of the input edge: one in a loop, one in `plain_symbol`.
const REFILLS: usize = 2;
/// A refill reads 8 bytes and advances by at most 7.
const INPUT_MARGIN: usize = REFILLS * 7 + 8;

/// The most units that a loop may write between a check of the output edge and the start of its
/// last symbol, which must be before the limit: one match. Plus one unit: the last symbol may be a
/// pair of literals, and the first of the two must not reach the limit either.
pub(in crate::inflate) const OUTPUT_MARGIN: usize = MAX_MATCH + 1;
const _: () = assert!(MAX_MATCH + OVERRUN <= MARGIN && WIDEST <= MARGIN && LONG <= MARGIN);

/// The place of a loop in its input and output.
///
/// Invariant: `next` and the 8 bytes after it lie in the chunk, and `out` and the `MARGIN` units
/// after it lie in the output buffer. For this, a loop must check `is_inside` again before it
/// refills or writes more than `INPUT_MARGIN` and `OUTPUT_MARGIN` allow.
#[derive(Clone)]
pub(super) struct Cursor<T> {
    /// The first input byte whose bits `count` does not include.
    next: *const u8,
    /// From the lowest bit up: `SPENT` spent bits, then the unread bits in stream order. Bits at
    /// `count` and above repeat bits of the byte at `next`, or are zero.
    pub(super) buffer: u64,
    /// Number of spent bits plus unread bits in `buffer`. Only its value modulo 64 is valid.
    pub(super) count: u32,
    /// The address where the next unit is written.
    pub(super) out: *mut T,
    /// The oldest unit that matches may refer to.
    pub(super) floor: *const T,
    input_edge: *const u8,
    output_edge: *const T,
    /// The bounds of the input chunk and of the output buffer.
    chunk: Range<*const u8>,
    room: Range<*const T>,
}

/// The symbol that `plain_symbol` found.
pub(super) enum Symbol {
    /// A literal, which has been written.
    Literal,
    /// A match, which has been written.
    Match {
        distance: usize,
        len: usize,
    },
    EndOfBlock,
    /// A malformed symbol. Its bits have not been consumed.
    Malformed,
}

impl<T: Unit> Cursor<T> {
    /// A cursor at the position of `bits` and `out`. `None` if that position is too near to the end
    /// of the input chunk or to `limit`, or if the bit buffer is too full.
    pub(super) fn new(bits: &Bits, out: &mut Output<T>, limit: usize) -> Option<Self> {
        let (input, chunk) = (&*bits.input, bits.chunk());
        let input_edge = chunk.len().checked_sub(INPUT_MARGIN)?;
        let chunk = chunk.as_ptr_range();
        let output_edge = limit.checked_sub(OUTPUT_MARGIN)?;
        let inside = input.next < input_edge && out.filled < output_edge;
        if !inside || input.count + SPENT > 63 {
            return None;
        }
        assert!(limit + MARGIN <= out.bytes.len() && out.floor <= out.filled);
        let room = out.bytes.as_mut_ptr_range();
        Some(Self {
            next: chunk.start.wrapping_add(input.next),
            buffer: input.buffer << SPENT,
            count: input.count + SPENT,
            out: room.start.wrapping_add(out.filled),
            floor: room.start.wrapping_add(out.floor),
            input_edge: chunk.start.wrapping_add(input_edge),
            output_edge: room.start.wrapping_add(output_edge),
            chunk,
            room: room.start.cast_const()..room.end.cast_const(),
        })
    }

    /// Moves `input` and `out` to the place of the cursor, which must have been made from them.
    pub(super) fn finish(self, input: &mut Input, out: &mut Output<T>) {
        debug_assert!(
            self.chunk.contains(&self.next) && self.room.contains(&self.out.cast_const())
        );
        input.next = self.next.addr() - self.chunk.start.addr();
        // No loop consumes all counted bits of a refill, so this does not underflow.
        input.count = (self.count & 63) - SPENT;
        input.buffer = (self.buffer >> SPENT) & ((1 << input.count) - 1);
        out.filled = self.filled();
    }

    /// Calls `decode` with a copy of the cursor. The compiler can keep the copy in registers,
    /// because a write through `out` cannot change it.
    #[inline(always)]
    pub(super) fn copied<R>(&mut self, decode: impl FnOnce(&mut Self) -> R) -> R {
        let mut copy = self.clone();
        let result = decode(&mut copy);
        *self = copy;
        result
    }

    /// Index of the next unit in the output buffer.
    pub(super) fn filled(&self) -> usize {
        (self.out.addr() - self.room.start.addr()) / size_of::<T>()
    }

    /// Whether both `next` and `out` are before their edges. Then a loop may refill and write as
    /// much as the margins allow.
    #[inline(always)]
    pub(super) fn is_inside(&self) -> bool {
        self.next < self.input_edge && self.out.cast_const() < self.output_edge
    }

    /// Fills the buffer up to `REFILLED` counted unread bits or more.
    ///
    /// # Safety
    /// `is_inside` must have returned `true`, with `REFILLS` refills at most since then, this one
    /// included. A refill directly after another does not count: it advances by no byte.
    #[inline(always)]
    pub(super) unsafe fn refill(&mut self) {
        debug_assert!(self.chunk.start <= self.next);
        debug_assert!(self.next.wrapping_add(8) <= self.chunk.end);
        // SAFETY: when `is_inside` returned `true`, `next` was more than `INPUT_MARGIN` bytes
        // before the end of the chunk. Since then, it has advanced by at most 7 bytes for each
        // earlier refill; the caller promises their number.
        let word = unsafe { self.next.cast::<u64>().read_unaligned() };
        self.buffer |= u64::from_le(word) << (self.count & 63);
        self.next = self.next.wrapping_add(7 - (self.count >> 3 & 7) as usize);
        self.count |= 56;
    }

    /// Removes the bits of an entry from the buffer. The whole entry is subtracted from `count`:
    /// its fields above the lowest six bits change `count` only by multiples of 64.
    #[inline(always)]
    pub(super) fn consume(&mut self, entry: u32) {
        self.buffer >>= consumed(entry);
        self.count = self.count.wrapping_sub(entry);
    }

    /// Looks up the next `BITS` bits in `table`. Returns the entry and its address.
    ///
    /// # Safety
    /// `table` must point to `1 << BITS` entries.
    #[inline(always)]
    pub(super) unsafe fn look_up<const BITS: u32>(&self, table: *const u32) -> (u32, *const u32) {
        const { assert!(1 << SPENT == size_of::<u32>()) };
        let offset = self.buffer as usize & (((1 << BITS) - 1) << SPENT);
        let address = table.wrapping_byte_add(offset);
        // SAFETY: the offset is a multiple of 4, at most that of the last entry. The caller
        // promises that the table has all entries.
        (unsafe { load(table, offset) }, address)
    }

    /// Writes a literal.
    ///
    /// # Safety
    /// `is_inside` must have returned `true`, with at most `OUTPUT_MARGIN` units written since.
    #[inline(always)]
    pub(super) unsafe fn put_literal(&mut self, literal: u8) {
        self.assert_room(1);
        // SAFETY: the caller promises that `out` is in the buffer, before the limit.
        unsafe { *self.out = T::from(literal) };
        self.out = self.out.wrapping_add(1);
    }

    /// Writes a match.
    ///
    /// # Safety
    /// As for `put_literal`. `distance` must be 1 or more and not reach before `floor`; `len` must
    /// be at most `MAX_MATCH`.
    #[inline(always)]
    pub(super) unsafe fn put_match<P: Processor>(&mut self, distance: usize, len: usize) {
        debug_assert!(self.has_match(distance) && distance > 0 && len <= MAX_MATCH);
        self.assert_room(len + OVERRUN);
        // SAFETY: by the caller's promises, the source starts between `floor` and `out`, which are
        // in the buffer, and `out` is before the limit. After the limit there is room for the match
        // and for `OVERRUN`. Distance and length in bytes describe the same copy as in units.
        unsafe {
            P::copy_match(self.out.cast(), distance * size_of::<T>(), len * size_of::<T>());
        }
        self.out = self.out.wrapping_add(len);
    }

    /// Writes a match that is probably long.
    ///
    /// # Safety
    /// As for `put_match`.
    #[inline(always)]
    pub(super) unsafe fn put_long<P: Processor>(&mut self, distance: usize, len: usize) {
        debug_assert!(self.has_match(distance) && distance > 0 && len <= MAX_MATCH);
        self.assert_room(LONG);
        if size_of::<T>() > 1 {
            // SAFETY: the caller's promises.
            return unsafe { self.put_match::<P>(distance, len) };
        }
        // SAFETY: by the caller's promises, the source starts between `floor` and `out`, which are
        // in the buffer, and `out` is before the limit. After the limit there is room for `LONG`.
        unsafe { copy::copy_long::<P>(self.out.cast(), distance, len) };
        self.out = self.out.wrapping_add(len);
    }

    /// How many times in a row `buffer` has its next match, which has `symbol` bits and decodes to
    /// `len` units. `None` if fewer than 4 times, or if the last of these matches would not start
    /// before the output edge.
    #[inline(always)]
    pub(super) fn repeats(&self, buffer: u64, symbol: u32, len: usize) -> Option<u32> {
        let bits = buffer >> SPENT;
        // How many counted bits in a row equal the bit that is `symbol` places further on.
        let same = (bits ^ bits >> symbol).trailing_zeros().min(REFILLED - symbol);
        if same < 3 * symbol {
            return None;
        }
        let times = 1 + same / symbol;
        let room = (self.output_edge.addr() - self.out.addr()) / size_of::<T>();
        ((times as usize - 1) * len < room).then_some(times)
    }

    /// Writes the same match `times` times.
    ///
    /// # Safety
    /// As for `put_match`. The last match, too, must start before the limit.
    #[inline(always)]
    pub(super) unsafe fn put_repeats<P: Processor>(
        &mut self,
        distance: usize,
        len: usize,
        times: u32,
    ) {
        debug_assert!(self.has_match(distance) && distance > 0);
        let len = len * times as usize;
        self.assert_room(len + OVERRUN);
        // SAFETY: as in `put_match`. The matches together are one long match.
        unsafe {
            P::copy_match(self.out.cast(), distance * size_of::<T>(), len * size_of::<T>());
        }
        self.out = self.out.wrapping_add(len);
    }

    /// Whether a match at `out` may reach `distance` units back: not before `floor`.
    #[inline(always)]
    pub(super) fn has_match(&self, distance: usize) -> bool {
        distance <= (self.out.addr() - self.floor.addr()) / size_of::<T>()
    }

    #[inline(always)]
    pub(super) fn assert_room(&self, len: usize) {
        debug_assert!(self.room.start <= self.out.cast_const());
        debug_assert!(self.out.cast_const().wrapping_add(len) <= self.room.end);
    }

    /// Decodes one symbol of any kind with the complete tables.
    ///
    /// # Safety
    /// `is_inside` must have returned `true`, with at most one match written since then. One more
    /// refill must be allowed.
    #[inline(always)]
    pub(super) unsafe fn plain_symbol<P: Processor>(&mut self, tables: &Tables) -> Symbol {
        // SAFETY: the caller promises that this refill is allowed.
        unsafe { self.refill() };
        let (before, mut spent) = (self.buffer, 0);
        let mut entry = tables.litlen[self.index(LITLEN_BITS)];
        if entry & (LITERAL | POINTER) == POINTER {
            (self.buffer, spent) = (self.buffer >> LITLEN_BITS, LITLEN_BITS);
            entry = tables.litlen[value(entry) + self.index(huffman::code_length(entry))];
        }
        if entry & LITERAL != 0 {
            self.buffer = before;
            self.consume(spent + consumed(entry));
            // SAFETY: the caller's promise.
            unsafe { self.put_literal(value(entry) as u8) };
            return Symbol::Literal;
        }
        if entry & EXCEPTIONAL != 0 {
            self.buffer = before;
            if entry & END_OF_BLOCK == 0 {
                return Symbol::Malformed;
            }
            self.consume(spent + consumed(entry));
            return Symbol::EndOfBlock;
        }
        let len = huffman::with_extra(entry, self.buffer >> SPENT);
        self.buffer >>= consumed(entry);
        spent += consumed(entry);

        let mut entry = tables.distance[self.index(DISTANCE_BITS)];
        if entry & POINTER != 0 {
            self.buffer >>= DISTANCE_BITS;
            spent += DISTANCE_BITS;
            entry = tables.distance[value(entry) + self.index(huffman::code_length(entry))];
        }
        let distance = huffman::with_extra(entry, self.buffer >> SPENT);
        self.buffer = before;
        if entry & EXCEPTIONAL != 0 || !self.has_match(distance) {
            return Symbol::Malformed;
        }
        self.consume(spent + consumed(entry));
        // SAFETY: `has_match` has checked the distance. No distance code stands for 0, no length
        // code for more than `MAX_MATCH`. The caller promises the room.
        unsafe { self.put_match::<P>(distance, len) };
        Symbol::Match { distance, len }
    }

    /// The next `bits` bits, as an index of a table.
    #[inline(always)]
    fn index(&self, bits: u32) -> usize {
        (self.buffer >> SPENT) as usize & ((1 << bits) - 1)
    }
}

/// Reads the entry that is `offset` bytes after the start of `table`.
///
/// # Safety
/// The entry must lie within the table and be aligned to 4 bytes.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
unsafe fn load(table: *const u32, offset: usize) -> u32 {
    let entry;
    // A plain sum of two registers is ready a cycle before any other form of address. It cannot be
    // encoded with rbp or r13 as the base, and the compiler too often puts `table` in one of
    // those. So `offset` is the base and `table` the index.
    // SAFETY: the instruction reads what `*table.byte_add(offset)` would read.
    unsafe {
        std::arch::asm!(
            "mov {entry:e}, dword ptr [{offset} + {table}]",
            entry = lateout(reg) entry,
            offset = in(reg) offset,
            table = in(reg) table,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    entry
}

/// Reads the entry that is `offset` bytes after the start of `table`.
///
/// # Safety
/// The entry must lie within the table and be aligned to 4 bytes.
#[cfg(any(not(target_arch = "x86_64"), miri))]
#[inline(always)]
unsafe fn load(table: *const u32, offset: usize) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { *table.wrapping_byte_add(offset) }
}
