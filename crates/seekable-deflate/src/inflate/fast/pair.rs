//! Two blocks of almost only literals in turns: a few symbols of one, then a few of the other.
//!
//! The next symbol of a block depends on the look-up of the symbol before it. While the processor
//! waits for that look-up, it decodes symbols of the other block, which do not depend on it.

use super::{
    cursor::{Cursor, Symbol},
    literals,
    processor::Processor,
};
use crate::inflate::{block::Tables, huffman::LITLEN_BITS};

/// A cursor in a block of literals. `entry` is the next symbol, already looked up.
struct Side<'a> {
    cursor: &'a mut Cursor<u8>,
    tables: &'a Tables,
    entry: u32,
}

/// Decodes symbols of both blocks. Stops at the end of either block, near the end of either input
/// or output, or at a malformed symbol. Returns for each cursor whether its block has ended.
#[inline(always)]
pub(super) fn decode<P: Processor>(
    [first, second]: [&mut Cursor<u8>; 2],
    tables: [&Tables; 2],
) -> [bool; 2] {
    if !(first.is_inside() && second.is_inside()) {
        return [false; 2];
    }
    // SAFETY: `is_inside` has just returned `true`.
    let [mut first, mut second] =
        unsafe { [Side::new(first, tables[0]), Side::new(second, tables[1])] };
    while first.cursor.is_inside() && second.cursor.is_inside() {
        // SAFETY: `is_inside` has just returned `true`.
        match unsafe { first.turn::<P>() } {
            Symbol::Literal | Symbol::Match { .. } => {}
            Symbol::EndOfBlock => return [true, false],
            Symbol::Malformed => return [false; 2],
        }
        // SAFETY: `is_inside` has just returned `true` for this cursor, too.
        match unsafe { second.turn::<P>() } {
            Symbol::Literal | Symbol::Match { .. } => {}
            Symbol::EndOfBlock => return [false, true],
            Symbol::Malformed => return [false; 2],
        }
    }
    [false; 2]
}

impl<'a> Side<'a> {
    /// # Safety
    /// `cursor.is_inside()` must just have returned `true`.
    #[inline(always)]
    unsafe fn new(cursor: &'a mut Cursor<u8>, tables: &'a Tables) -> Self {
        let mut side = Self { cursor, tables, entry: 0 };
        // SAFETY: the first refill since `is_inside` returned `true`, as the caller promises.
        unsafe { side.refill() };
        side
    }

    /// # Safety
    /// As for `Cursor::refill`.
    #[inline(always)]
    unsafe fn refill(&mut self) {
        // SAFETY: the caller promises that the refill is allowed. The table has
        // `1 << LITLEN_BITS` entries and more.
        unsafe {
            self.cursor.refill();
            (self.entry, _) = self.cursor.look_up::<LITLEN_BITS>(self.tables.litlen.as_ptr());
        }
    }

    /// Decodes a group of literals, and returns `Symbol::Literal`. Or decodes fewer literals and
    /// the symbol after them, and returns that symbol.
    ///
    /// # Safety
    /// `is_inside` must have returned `true` since the last turn. That turn, if any, must have
    /// returned a literal or a match.
    #[inline(always)]
    unsafe fn turn<P: Processor>(&mut self) -> Symbol {
        let table = self.tables.litlen.as_ptr();
        // SAFETY: `new` and each turn end with a refill and a look-up. A refill here is the first
        // in this turn.
        if unsafe { literals::put_group(self.cursor, table, &mut self.entry) } {
            return Symbol::Literal;
        }
        // SAFETY: the first refill in this turn, after fewer literals than a group.
        let symbol = unsafe { self.cursor.plain_symbol::<P>(self.tables) };
        if let Symbol::Literal | Symbol::Match { .. } = symbol {
            // SAFETY: the second refill in this turn.
            unsafe { self.refill() };
        }
        symbol
    }
}
