//! Two blocks of literals, almost, at once: a few symbols of one, then as many of the other.
//!
//! From a literal to the next is a look-up to wait for. What a processor does meanwhile is the
//! other block, of which it knows nothing but that it comes next.

use super::{
    cursor::{Cursor, Symbol},
    literals,
    processor::Processor,
};
use crate::inflate::{block::Tables, huffman::LITLEN_BITS};

/// A cursor in a block of literals, the next of which has been looked up.
struct Side<'a> {
    cursor: &'a mut Cursor<u8>,
    tables: &'a Tables,
    entry: u32,
}

/// Decodes symbols of both to the end of either block: then it says of which. Otherwise stops
/// where either comes near the ends of its input and output, or to something malformed.
#[inline(always)]
pub(super) fn decode<P: Processor>(
    [first, second]: [&mut Cursor<u8>; 2],
    tables: [&Tables; 2],
) -> [bool; 2] {
    if !(first.is_inside() && second.is_inside()) {
        return [false; 2];
    }
    // SAFETY: `is_inside` has just been looked at.
    let [mut first, mut second] =
        unsafe { [Side::new(first, tables[0]), Side::new(second, tables[1])] };
    while first.cursor.is_inside() && second.cursor.is_inside() {
        // SAFETY: `is_inside` has just been looked at.
        match unsafe { first.turn::<P>() } {
            Symbol::Literal | Symbol::Match { .. } => {}
            Symbol::EndOfBlock => return [true, false],
            Symbol::Malformed => return [false; 2],
        }
        // SAFETY: the same, for a cursor of its own.
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
    /// After `is_inside`.
    #[inline(always)]
    unsafe fn new(cursor: &'a mut Cursor<u8>, tables: &'a Tables) -> Self {
        let mut side = Self { cursor, tables, entry: 0 };
        // SAFETY: the first refill since `is_inside`, as the caller promises.
        unsafe { side.refill() };
        side
    }

    /// # Safety
    /// As for `Cursor::refill`.
    #[inline(always)]
    unsafe fn refill(&mut self) {
        // SAFETY: the refill is the caller's promise; the table has `1 << LITLEN_BITS` entries and
        // more.
        unsafe {
            self.cursor.refill();
            (self.entry, _) = self.cursor.look_up::<LITLEN_BITS>(self.tables.litlen.as_ptr());
        }
    }

    /// Decodes some literals; or fewer and one symbol of another kind, which it tells.
    ///
    /// # Safety
    /// After `is_inside`. What came before was `new`, or a turn that decoded all it came to.
    #[inline(always)]
    unsafe fn turn<P: Processor>(&mut self) -> Symbol {
        let table = self.tables.litlen.as_ptr();
        // SAFETY: `new` and each turn end with a refill and a look-up. The first refill since
        // `is_inside`, if it comes to that.
        if unsafe { literals::put_group(self.cursor, table, &mut self.entry) } {
            return Symbol::Literal;
        }
        // SAFETY: the first refill, after fewer literals than a group and before a match.
        let symbol = unsafe { self.cursor.plain_symbol::<P>(self.tables) };
        if let Symbol::Literal | Symbol::Match { .. } = symbol {
            // SAFETY: the second refill.
            unsafe { self.refill() };
        }
        symbol
    }
}
