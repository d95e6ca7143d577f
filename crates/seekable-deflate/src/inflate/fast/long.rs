//! Blocks of long matches, as runs and repeated rows make them: most of their time is copying, if
//! nothing has to be guessed and the next symbol is found meanwhile.

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

/// The most bits of a symbol here: any length, and a distance of the main table. They are
/// counted, and so is the index of the next.
const SYMBOL: u32 = 15 + 5 + DISTANCE_BITS + 13;
const _: () = assert!(SYMBOL + LITLEN_BITS <= REFILLED);

/// Decodes symbols to the end of the block: then it says so, and otherwise stops near the ends
/// of input and output, or at something malformed.
#[inline(always)]
pub(super) fn decode<P: Processor, T: Unit>(cursor: &mut Cursor<T>, tables: &Tables) -> bool {
    while cursor.is_inside() {
        // Near the start of a stream a match may reach too far back; `plain_symbol` looks.
        if cursor.has_match(HISTORY) {
            // SAFETY: `is_inside` has just been looked at: this is the first refill since, the
            // one in `decode_run` or in `plain_symbol` the second. All distances are good.
            unsafe {
                cursor.refill();
                if decode_run::<P, T>(cursor, tables) {
                    continue;
                }
            }
        }
        // SAFETY: the second refill, and the first match that is put out.
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
            // SAFETY: as above, for the table. The first refill since `is_inside`, or the second,
            // and one literal.
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
                // SAFETY: there is all of the history; all of the matches start before the edge.
                unsafe { cursor.put_repeats::<P>(distance, len, times) };
                // SAFETY: as above. Not all that are counted have been consumed, but the index
                // may go beyond them.
                unsafe {
                    cursor.refill();
                    next = cursor.look_up::<LITLEN_BITS>(litlens).0;
                }
            } else {
                // SAFETY: as above; a match at most since `is_inside`, of the history.
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
