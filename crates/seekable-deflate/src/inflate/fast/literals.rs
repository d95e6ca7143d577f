//! Blocks of almost only literals: one look-up for each, and the fewest possible steps to the next.

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

/// Number of literals in a group. One refill is enough for a group.
const LITERALS: usize = 4;
/// A refill must be enough for a group, in counted bits, and for the index of the next symbol.
const _: () = assert!(LITERALS as u32 * LITLEN_BITS <= REFILLED);
const _: () = assert!((LITERALS as u32 + 1) * LITLEN_BITS <= UNCOUNTED);
/// A group may be written between two checks of the output edge.
const _: () = assert!(LITERALS <= MAX_MATCH);

/// Decodes symbols. Returns `true` at the end of the block; `false` near the end of the input or
/// output, or at a malformed symbol.
#[inline(always)]
pub(super) fn decode<P: Processor, T: Unit>(
    cursor: &mut Cursor<T>,
    tables: &Tables,
    matches: &mut Option<Matches>,
) -> bool {
    while cursor.is_inside() {
        // SAFETY: `is_inside` has just returned `true`. This is the first refill since then, and
        // the next one is the second.
        unsafe {
            cursor.refill();
            if decode_run(cursor, tables) {
                continue;
            }
        }
        // SAFETY: after `false`, `decode_run` allows one more refill and one match.
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

/// Decodes literals. Returns `true` when an edge is reached. Returns `false` before a symbol that
/// is not a literal; then one more refill is allowed, and one match.
///
/// # Safety
/// `is_inside` must have returned `true`, with one refill since then.
#[inline(always)]
unsafe fn decode_run<T: Unit>(cursor: &mut Cursor<T>, tables: &Tables) -> bool {
    let table = tables.litlen.as_ptr();
    // SAFETY: the table has `1 << LITLEN_BITS` entries and more.
    let (mut entry, _) = unsafe { cursor.look_up::<LITLEN_BITS>(table) };
    // SAFETY: at most one refill since `is_inside` returned `true`: before the first group that of
    // the caller, before each later group none. `entry` was looked up after the last refill.
    while unsafe { put_group(cursor, table, &mut entry) } {
        if !cursor.is_inside() {
            return true;
        }
    }
    false
}

/// Writes a group of literals, `entry` first, and refills. Returns `true`; `entry` is then the
/// next symbol. If a symbol of the group is not a literal, stops before it without a refill and
/// returns `false`; `entry` is then that symbol.
///
/// # Safety
/// `is_inside` must have returned `true`, with at most one refill since then. `table` must be the
/// one for literals and lengths, and `entry` the one looked up there after the last refill.
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
        // SAFETY: the table has `1 << LITLEN_BITS` entries and more. The index is made of bits of
        // the input: see `UNCOUNTED`.
        (*entry, _) = unsafe { cursor.look_up::<LITLEN_BITS>(table) };
        // SAFETY: at most `LITERALS` literals are written after `is_inside` returned `true`.
        unsafe { cursor.put_literal(literal) };
    }
    // SAFETY: the first or second refill since `is_inside` returned `true`: the caller's promise.
    unsafe { cursor.refill() };
    true
}
