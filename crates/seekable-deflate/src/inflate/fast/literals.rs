//! Blocks of literals, almost: one look-up for each, as short a way as there is to the next.

use super::{
    Unit,
    cursor::{Cursor, REFILLED, Symbol, UNCOUNTED},
    processor::Processor,
};
use crate::inflate::{
    MAX_MATCH, Matches,
    block::Tables,
    huffman::{LITERAL, LITLEN_BITS, value},
};

/// Literals for each refill.
const LITERALS: usize = 4;
/// They are counted, and the index of the next must be there.
const _: () = assert!(LITERALS as u32 * LITLEN_BITS <= REFILLED);
const _: () = assert!((LITERALS as u32 + 1) * LITLEN_BITS <= UNCOUNTED);
/// They may be put out between two looks at the edge.
const _: () = assert!(LITERALS <= MAX_MATCH);

/// Decodes symbols to the end of the block: then it says so, and otherwise stops near the ends
/// of input and output, or at something malformed.
#[inline(always)]
pub(super) fn decode<P: Processor, T: Unit>(
    cursor: &mut Cursor<T>,
    tables: &Tables,
    matches: &mut Option<Matches>,
) -> bool {
    while cursor.is_inside() {
        // SAFETY: `is_inside` has just been looked at: this is the first refill since, the one
        // in `decode_run` or in `plain_symbol` the second.
        unsafe {
            cursor.refill();
            if decode_run(cursor, tables) {
                continue;
            }
        }
        // SAFETY: what `decode_run` promises.
        match unsafe { cursor.plain_symbol::<P>(tables) } {
            Symbol::Literal => {}
            Symbol::Match { distance, len } => {
                if let Some(matches) = matches {
                    matches.add(cursor.filled() - len, distance, len);
                }
            }
            Symbol::EndOfBlock => return true,
            Symbol::Malformed => return false,
        }
    }
    false
}

/// Decodes literals until an edge is reached: then it is `true`; or until there is something
/// else: then one more refill is allowed, and a match to put out.
///
/// # Safety
/// After `is_inside`, and one refill.
#[inline(always)]
unsafe fn decode_run<T: Unit>(cursor: &mut Cursor<T>, tables: &Tables) -> bool {
    let table = tables.litlen.as_ptr();
    // SAFETY: the table has `1 << LITLEN_BITS` entries and more.
    let (mut entry, _) = unsafe { cursor.look_up::<LITLEN_BITS>(table) };
    // SAFETY: the first refill since `is_inside`, or the second, as the caller promises; after the
    // refill before, as many literals as a group.
    while unsafe { put_group(cursor, table, &mut entry) } {
        if !cursor.is_inside() {
            return true;
        }
    }
    false
}

/// Puts out a group of literals, of which `entry` is the first, and refills; then it is `true`, and
/// `entry` what comes next. Or fewer, up to something else.
///
/// # Safety
/// After `is_inside`, and one refill at most. `table` must be the one for literals and lengths,
/// and `entry` what was looked up there after the last refill.
#[inline(always)]
pub(super) unsafe fn put_group<T: Unit>(
    cursor: &mut Cursor<T>,
    table: *const u32,
    entry: &mut u32,
) -> bool {
    for _ in 0..LITERALS {
        if *entry & LITERAL == 0 {
            return false;
        }
        let literal = value(*entry) as u8;
        cursor.consume(*entry);
        // SAFETY: the table has `1 << LITLEN_BITS` entries and more. What is looked up are bits of
        // the input: see `UNCOUNTED`.
        (*entry, _) = unsafe { cursor.look_up::<LITLEN_BITS>(table) };
        // SAFETY: one of `LITERALS` since `is_inside`.
        unsafe { cursor.put_literal(literal) };
    }
    // SAFETY: the first refill since `is_inside`, or the second, as the caller promises.
    unsafe { cursor.refill() };
    true
}
