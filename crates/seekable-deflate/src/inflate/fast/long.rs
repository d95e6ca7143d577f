//! Blocks of long matches, as runs and repeated rows make them: the time goes into copying, and
//! into guessing wrongly how much and how.

use super::{
    Unit,
    cursor::{Cursor, Symbol},
    processor::Processor,
};
use crate::inflate::block::Tables;

/// Decodes symbols to the end of the block: then it says so, and otherwise stops near the ends
/// of input and output, or at something malformed.
#[inline(always)]
pub(super) fn decode<P: Processor, T: Unit>(cursor: &mut Cursor<T>, tables: &Tables) -> bool {
    while cursor.is_inside() {
        // SAFETY: `is_inside` has just been looked at.
        match unsafe { cursor.plain_symbol::<P, true>(tables) } {
            Symbol::Decoded => {}
            Symbol::EndOfBlock => return true,
            Symbol::Malformed => return false,
        }
    }
    false
}
