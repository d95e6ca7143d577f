//! Where a fast loop stands: a bit buffer and two raw pointers, with no check on each access.

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

/// Spent bits that stay below the next one in the buffer. With two of them, the buffer masked
/// is the byte offset of a 4-byte entry: an address without a scaled index, which is a cycle
/// less on the path from symbol to symbol.
pub(super) const SPENT: u32 = 2;

/// Bits in the buffer after a refill, at least.
pub(super) const REFILLED: u32 = 56 - SPENT;

/// Bits in the buffer after a refill, if those that are not counted are: they are right, too.
pub(super) const UNCOUNTED: u32 = 64 - SPENT;

/// The longest length: 15 bits of code and 5 extra bits. The longest distance: 15 and 13.
const LONGEST_SYMBOL: u32 = 20 + 28;
const _: () = assert!(LONGEST_SYMBOL <= REFILLED);

/// Refills between two looks at the edge of the input: one in a loop, one in `plain_symbol`.
const REFILLS: usize = 2;
/// A refill goes 7 bytes on at most, and reads 8.
const INPUT_MARGIN: usize = REFILLS * 7 + 8;

/// Bytes put out between two looks at the edge of the output, before a symbol that must start
/// before the limit: a match. One more, since that symbol may be a pair of literals, of which the
/// first must not reach the limit either.
pub(in crate::inflate) const OUTPUT_MARGIN: usize = MAX_MATCH + 1;
const _: () = assert!(MAX_MATCH + OVERRUN <= MARGIN && WIDEST <= MARGIN && LONG <= MARGIN);

/// The place in input and output.
///
/// From `new` on, `next` and the 8 bytes after it lie in the chunk, and `out` and the `MARGIN`
/// units after it in the output buffer, as long as a loop looks at `is_inside` after no more
/// refills and output than the margins are for.
#[derive(Clone)]
pub(super) struct Cursor<T> {
    /// The first byte that is not counted in the buffer.
    next: *const u8,
    /// `SPENT` spent bits, then the bits that come next, the first lowest. Above `count` are
    /// bits of the byte at `next`, or zeros.
    pub(super) buffer: u64,
    /// How many bits of the buffer are spent or counted, modulo 64.
    pub(super) count: u32,
    /// Where the next unit goes.
    pub(super) out: *mut T,
    /// The start of what matches may refer to.
    pub(super) floor: *const T,
    input_edge: *const u8,
    output_edge: *const T,
    /// All of the input and of the output; looked at by assertions alone.
    chunk: Range<*const u8>,
    room: Range<*const T>,
}

/// What `plain_symbol` found.
pub(super) enum Symbol {
    /// It is in the output, like a match.
    Literal,
    Match {
        distance: usize,
        len: usize,
    },
    EndOfBlock,
    /// Something malformed; it is still there.
    Malformed,
}

impl<T: Unit> Cursor<T> {
    /// At the place of `bits` and `out`; `None` if that is too near to the end of either, or
    /// to `limit`.
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

    /// Makes this the place of `input` and `out`, which must be those that it was made with.
    pub(super) fn finish(self, input: &mut Input, out: &mut Output<T>) {
        debug_assert!(
            self.chunk.contains(&self.next) && self.room.contains(&self.out.cast_const())
        );
        input.next = self.next.addr() - self.chunk.start.addr();
        // Every loop leaves some of the bits of a refill.
        input.count = (self.count & 63) - SPENT;
        input.buffer = (self.buffer >> SPENT) & ((1 << input.count) - 1);
        out.filled = self.filled();
    }

    /// Calls `decode` with a copy, which can stay in registers: what is put out may lie anywhere
    /// but there.
    #[inline(always)]
    pub(super) fn copied<R>(&mut self, decode: impl FnOnce(&mut Self) -> R) -> R {
        let mut copy = self.clone();
        let result = decode(&mut copy);
        *self = copy;
        result
    }

    /// Where the next unit goes, in units from the start of the buffer.
    pub(super) fn filled(&self) -> usize {
        (self.out.addr() - self.room.start.addr()) / size_of::<T>()
    }

    /// Whether input and output are still before their edges.
    #[inline(always)]
    pub(super) fn is_inside(&self) -> bool {
        self.next < self.input_edge && self.out.cast_const() < self.output_edge
    }

    /// Tops the buffer up to `REFILLED` bits.
    ///
    /// # Safety
    /// Not more than `REFILLS` times after `is_inside`.
    #[inline(always)]
    pub(super) unsafe fn refill(&mut self) {
        debug_assert!(self.chunk.start <= self.next);
        debug_assert!(self.next.wrapping_add(8) <= self.chunk.end);
        // SAFETY: `next` was `INPUT_MARGIN` bytes or more before the end of the chunk when
        // `is_inside` looked, as the caller promises, and has gone 7 bytes on for each refill
        // since, except for this one.
        let word = unsafe { self.next.cast::<u64>().read_unaligned() };
        self.buffer |= u64::from_le(word) << (self.count & 63);
        self.next = self.next.wrapping_add(7 - (self.count >> 3 & 7) as usize);
        self.count |= 56;
    }

    /// Takes the bits of an entry out of the buffer. What an entry holds above its lowest six
    /// bits is nothing modulo 64.
    #[inline(always)]
    pub(super) fn consume(&mut self, entry: u32) {
        self.buffer >>= consumed(entry);
        self.count = self.count.wrapping_sub(entry);
    }

    /// The entry of `table` for the next bits, and its address.
    ///
    /// # Safety
    /// `table` must point to `1 << BITS` entries.
    #[inline(always)]
    pub(super) unsafe fn look_up<const BITS: u32>(&self, table: *const u32) -> (u32, *const u32) {
        const { assert!(1 << SPENT == size_of::<u32>()) };
        let offset = self.buffer as usize & (((1 << BITS) - 1) << SPENT);
        let address = table.wrapping_byte_add(offset);
        // SAFETY: the offset is a multiple of 4 up to that of the last entry; the table is the
        // caller's promise.
        (unsafe { load(table, offset) }, address)
    }

    /// Puts out a literal.
    ///
    /// # Safety
    /// Not after more output since `is_inside` than the output margin is for.
    #[inline(always)]
    pub(super) unsafe fn put_literal(&mut self, literal: u8) {
        self.assert_room(1);
        // SAFETY: within the room after the limit, as the caller promises.
        unsafe { *self.out = T::from(literal) };
        self.out = self.out.wrapping_add(1);
    }

    /// Puts out a match.
    ///
    /// # Safety
    /// As for `put_literal`; `distance` must be 1 or more and not reach before `floor`, `len`
    /// must be `MAX_MATCH` at most.
    #[inline(always)]
    pub(super) unsafe fn put_match<P: Processor>(&mut self, distance: usize, len: usize) {
        debug_assert!(self.has_match(distance) && distance > 0 && len <= MAX_MATCH);
        self.assert_room(len + OVERRUN);
        // SAFETY: the source lies between `floor` and `out`, both in the buffer, and the units
        // from `out` on with `OVERRUN` more in the room after the limit: the caller's promises.
        // In bytes, too, it is a match.
        unsafe {
            P::copy_match(self.out.cast(), distance * size_of::<T>(), len * size_of::<T>());
        }
        self.out = self.out.wrapping_add(len);
    }

    /// Puts out a match that is likely to be a long one.
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
        // SAFETY: the source lies between `floor` and `out`, both in the buffer, and the `LONG`
        // bytes from `out` on in the room after the limit: the caller's promises.
        unsafe { copy::copy_long::<P>(self.out.cast(), distance, len) };
        self.out = self.out.wrapping_add(len);
    }

    /// How often a match of `len` whose `symbol` bits come next in `buffer` follows on itself, if
    /// that is worth looking at; so that the last of them starts before the edge.
    #[inline(always)]
    pub(super) fn repeats(&self, buffer: u64, symbol: u32, len: usize) -> Option<u32> {
        let bits = buffer >> SPENT;
        // Bits that are as they were `symbol` before, of those that are counted.
        let same = (bits ^ bits >> symbol).trailing_zeros().min(REFILLED - symbol);
        if same < 3 * symbol {
            return None;
        }
        let times = 1 + same / symbol;
        let room = (self.output_edge.addr() - self.out.addr()) / size_of::<T>();
        ((times as usize - 1) * len < room).then_some(times)
    }

    /// Puts out the same match `times` times.
    ///
    /// # Safety
    /// As for `put_match`, for the last of them.
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
        // SAFETY: as in `put_match`. Together they are one long match.
        unsafe {
            P::copy_match(self.out.cast(), distance * size_of::<T>(), len * size_of::<T>());
        }
        self.out = self.out.wrapping_add(len);
    }

    /// Whether a match may reach `distance` units back.
    #[inline(always)]
    pub(super) fn has_match(&self, distance: usize) -> bool {
        distance <= (self.out.addr() - self.floor.addr()) / size_of::<T>()
    }

    #[inline(always)]
    pub(super) fn assert_room(&self, len: usize) {
        debug_assert!(self.room.start <= self.out.cast_const());
        debug_assert!(self.out.cast_const().wrapping_add(len) <= self.room.end);
    }

    /// Decodes one symbol, of any kind, with the tables that have all of them.
    ///
    /// # Safety
    /// After `is_inside`, one refill and one match at most.
    #[inline(always)]
    pub(super) unsafe fn plain_symbol<P: Processor>(&mut self, tables: &Tables) -> Symbol {
        // SAFETY: the first or second refill, as the caller promises.
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
        // SAFETY: the distance was looked at, and no distance code means 0; no length code means
        // more than `MAX_MATCH`; the room is the caller's promise.
        unsafe { self.put_match::<P>(distance, len) };
        Symbol::Match { distance, len }
    }

    /// The next `bits` bits.
    #[inline(always)]
    fn index(&self, bits: u32) -> usize {
        (self.buffer >> SPENT) as usize & ((1 << bits) - 1)
    }
}

/// The entry `offset` bytes after `table`.
///
/// # Safety
/// It must be there, and aligned.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
unsafe fn load(table: *const u32, offset: usize) -> u32 {
    let entry;
    // A sum of two registers is the address that is there a cycle before any other, but with r13
    // or rbp for the first of them it cannot be had; the table is in one of those too often.
    // SAFETY: it reads what `*table.byte_add(offset)` would.
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

/// The entry `offset` bytes after `table`.
///
/// # Safety
/// It must be there, and aligned.
#[cfg(any(not(target_arch = "x86_64"), miri))]
#[inline(always)]
unsafe fn load(table: *const u32, offset: usize) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { *table.wrapping_byte_add(offset) }
}
