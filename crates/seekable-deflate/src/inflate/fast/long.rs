//! Blocks of long matches, which encoders make of runs and repeated rows. Most of the time goes
//! into copying, if the processor mispredicts no branch and finds the next symbol meanwhile.

use super::{
    Unit,
    cursor::{Cursor, REFILLED, SPENT, Symbol},
    processor::Processor,
};
use crate::inflate::{
    HISTORY,
    block::Tables,
    huffman::{
        self, DISTANCE_BITS, EXCEPTIONAL, LITERAL, LITLEN_BITS, POINTER, code_length, value,
    },
};

/// The most bits of a symbol here: any length, and a distance of the main table. A refill counts
/// enough bits for one symbol and the index of the next.
const SYMBOL: u32 = 15 + 5 + DISTANCE_BITS + 13;
const _: () = assert!(SYMBOL + LITLEN_BITS <= REFILLED);

/// Decodes symbols. Returns `true` at the end of the block; `false` near the end of the input or
/// output, or at a malformed symbol.
#[inline(always)]
pub(super) fn decode<P: Processor, T: Unit>(cursor: &mut Cursor<T>, tables: &Tables) -> bool {
    while cursor.is_inside() {
        // Near the start of a stream a match may reach too far back. `plain_symbol` checks that.
        if cursor.has_match(HISTORY) {
            // SAFETY: `is_inside` has just returned `true`. This is the first refill since then,
            // and the next one is the second. No distance is above `HISTORY`.
            unsafe {
                cursor.refill();
                if decode_run::<P, T>(cursor, tables) {
                    continue;
                }
            }
        }
        // SAFETY: the first or second refill and the first match since `is_inside` returned `true`.
        match unsafe { cursor.plain_symbol::<P>(tables) } {
            Symbol::Literal | Symbol::Match { .. } => {}
            Symbol::EndOfBlock => return true,
            Symbol::Malformed => return false,
        }
    }
    false
}

/// Decodes symbols. Returns `true` when an edge is reached. Returns `false` before a symbol that
/// this loop does not decode; then one more refill is allowed, and one match.
///
/// # Safety
/// `is_inside` must have returned `true`, with one refill since then. `HISTORY` units must lie
/// between `floor` and `out`.
#[inline(always)]
unsafe fn decode_run<P: Processor, T: Unit>(cursor: &mut Cursor<T>, tables: &Tables) -> bool {
    let (litlens, distances) = (tables.litlen.as_ptr(), tables.distance.as_ptr());
    // SAFETY: the table has `1 << LITLEN_BITS` entries and more.
    let (mut next, _) = unsafe { cursor.look_up::<LITLEN_BITS>(litlens) };
    loop {
        let (before, count) = (cursor.buffer, cursor.count);
        let mut litlen = next;
        if litlen & (LITERAL | POINTER) == POINTER {
            cursor.consume(litlen);
            let offset = (cursor.buffer >> SPENT) as usize & ((1 << code_length(litlen)) - 1);
            litlen = tables.litlen[value(litlen) + offset];
        }
        let at_length = cursor.buffer;
        cursor.consume(litlen);
        if litlen & LITERAL != 0 {
            // SAFETY: the table as above. The first or second refill and the first literal since
            // `is_inside` returned `true`.
            unsafe {
                next = cursor.look_up::<LITLEN_BITS>(litlens).0;
                cursor.refill();
                cursor.put_literal(value(litlen) as u8);
            }
        } else {
            // SAFETY: the table has `1 << DISTANCE_BITS` entries and more.
            let (entry, _) = unsafe { cursor.look_up::<DISTANCE_BITS>(distances) };
            if (litlen | entry) & EXCEPTIONAL != 0 {
                (cursor.buffer, cursor.count) = (before, count);
                return false;
            }
            let at_distance = cursor.buffer;
            cursor.consume(entry);
            let len = huffman::with_extra(litlen, at_length >> SPENT);
            let distance = huffman::with_extra(entry, at_distance >> SPENT);
            let symbol = count.wrapping_sub(cursor.count) & 63;
            if let Some(times) = cursor.repeats(before, symbol, len) {
                (cursor.buffer, cursor.count) = (before, count);
                cursor.consume(symbol * times);
                // SAFETY: the caller promises the history. `repeats` has checked that all of the
                // matches start before the edge.
                unsafe { cursor.put_repeats::<P>(distance, len, times) };
                // SAFETY: as above. The repeats may leave too few counted bits for the index, so
                // the refill comes first.
                unsafe {
                    cursor.refill();
                    next = cursor.look_up::<LITLEN_BITS>(litlens).0;
                }
            } else {
                // SAFETY: as above. The first match since `is_inside` returned `true`; the caller
                // promises its history.
                unsafe {
                    next = cursor.look_up::<LITLEN_BITS>(litlens).0;
                    cursor.refill();
                    cursor.put_long::<P>(distance, len);
                }
            }
        }
        if !cursor.is_inside() {
            return true;
        }
    }
}
