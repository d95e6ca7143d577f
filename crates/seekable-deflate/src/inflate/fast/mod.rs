//! The fast loops: symbols far from the ends of input and output, without a check on each access.
//!
//! They decode whatever is valid and leave everything else, untouched, to the careful loop in
//! `decoder.rs`: the last bytes of the input, the last symbols before the limit, and malformed
//! codes.
//!
//! On sensor data they decode at 1.67 times the rate of libdeflate (Zen 4, one thread, without
//! checkpoints). docs/engine-notes.md has what else was tried, with its figures.

#[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
mod avx2;
mod copy;
mod cursor;
mod fused;
mod literals;
mod long;
mod pair;
mod processor;
mod unit;

use super::{Bits, Matches, Output, block::Tables};
use cursor::Cursor;
pub(super) use cursor::OUTPUT_MARGIN;
use processor::{Any, Processor};
pub(crate) use unit::Unit;

/// The loop that decodes the symbols of the present block, and its tables.
pub(super) struct Fast {
    /// `None` until the first symbol of a block is decoded.
    chosen: Option<Loop>,
    /// Shares of all the bits to come that begin with the code of a length, and of one above 16
    /// and 34; in 2^-15.
    lengths: u32,
    above_16: u32,
    above_34: u32,
    /// Made when it is needed. In a place of its own, its address is what look-ups start from.
    table: Option<Box<fused::Table>>,
    /// Uses nothing that not every processor has.
    #[cfg(test)]
    pub(super) portable: bool,
}

#[derive(Clone, Copy)]
enum Loop {
    Literals,
    Long,
    /// Matches are copied in 16 bytes, or in 32.
    Fused16,
    Fused32,
}

impl Fast {
    /// Bytes of memory that it may come to hold beside itself.
    pub(super) const MEMORY: usize = size_of::<fused::Table>();

    pub(super) fn new() -> Self {
        Self {
            chosen: None,
            lengths: 0,
            above_16: 0,
            above_34: 0,
            table: None,
            #[cfg(test)]
            portable: false,
        }
    }

    /// Whether the processor has all that `Avx2` is for.
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    fn may_use_avx2(&self) -> bool {
        #[cfg(test)]
        if self.portable {
            return false;
        }
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
    }

    /// Whether a block is of literals, almost.
    pub(super) fn is_of_literals(&self) -> bool {
        self.lengths < (1 << 15) / FEW
    }

    /// Another block begins, with these code lengths for literals and lengths.
    pub(super) fn start_block(&mut self, litlens: &[u8]) {
        let share = |litlens: &[u8]| {
            litlens.iter().filter(|length| **length > 0).map(|length| 1 << (15 - length)).sum()
        };
        self.chosen = None;
        self.lengths = share(litlens.get(257..).unwrap_or_default());
        // Symbols 269 and 273 are the first that are longer (RFC 1951, section 3.2.5).
        self.above_16 = share(litlens.get(269..).unwrap_or_default());
        self.above_34 = share(litlens.get(273..).unwrap_or_default());
    }
}

/// Decodes symbols while input and output are far from their ends; `true` at the end of the
/// block. Never goes beyond the first boundary of symbols at or after `limit`.
pub(super) fn decode_symbols<T: Unit>(
    bits: &mut Bits,
    tables: &mut Tables,
    out: &mut Output<T>,
    limit: usize,
) -> bool {
    let Some(mut cursor) = Cursor::new(bits, out, limit) else { return false };
    let end_of_block = dispatch(&mut cursor, tables, &mut out.matches);
    cursor.finish(bits.input, out);
    end_of_block
}

/// What `decode_symbols` takes.
pub(super) struct Side<'a, 'source> {
    pub(super) bits: &'a mut Bits<'source>,
    pub(super) tables: &'a Tables,
    pub(super) out: &'a mut Output,
    pub(super) limit: usize,
}

/// Decodes symbols of two blocks of literals at once, as long as `decode_symbols` would of each;
/// says of which the block ended, if one did.
pub(super) fn decode_pair([first, second]: [Side; 2]) -> [bool; 2] {
    // Behind the frontier: what windows are needed for is known.
    debug_assert!(first.out.matches.is_none() && second.out.matches.is_none());
    let cursors = Cursor::new(first.bits, first.out, first.limit).zip(Cursor::new(
        second.bits,
        second.out,
        second.limit,
    ));
    let Some((mut one, mut other)) = cursors else { return [false; 2] };
    let ended = dispatch_pair([&mut one, &mut other], [first.tables, second.tables]);
    one.finish(first.bits.input, first.out);
    other.finish(second.bits.input, second.out);
    ended
}

fn dispatch<T: Unit>(
    cursor: &mut Cursor<T>,
    tables: &mut Tables,
    matches: &mut Option<Matches>,
) -> bool {
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    if tables.fast.may_use_avx2() {
        // SAFETY: all features are there.
        return unsafe { decode::<avx2::Avx2, T>(cursor, tables, matches) };
    }
    // SAFETY: it is for any processor.
    unsafe { decode::<Any, T>(cursor, tables, matches) }
}

fn dispatch_pair(cursors: [&mut Cursor<u8>; 2], tables: [&Tables; 2]) -> [bool; 2] {
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    if tables.iter().all(|tables| tables.fast.may_use_avx2()) {
        // SAFETY: all features are there.
        return unsafe { decode_both::<avx2::Avx2>(cursors, tables) };
    }
    // SAFETY: it is for any processor.
    unsafe { decode_both::<Any>(cursors, tables) }
}

/// # Safety
/// The processor must be one that `P` is for.
unsafe fn decode_both<P: Processor>(
    [one, other]: [&mut Cursor<u8>; 2],
    tables: [&Tables; 2],
) -> [bool; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        P::apart(move || {
            one.copied(|one| other.copied(|other| pair::decode::<P>([one, other], tables)))
        })
    }
}

/// If fewer than one in this number of bits begins the code of a length, a fused table does not
/// pay.
const FEW: u32 = 16;

/// If one in this number begins the code of a length above 34, the loop of long matches pays.
const MANY: u32 = 4;

/// # Safety
/// The processor must be one that `P` is for.
unsafe fn decode<P: Processor, T: Unit>(
    cursor: &mut Cursor<T>,
    tables: &mut Tables,
    matches: &mut Option<Matches>,
) -> bool {
    let chosen = match tables.fast.chosen {
        Some(chosen) => chosen,
        // SAFETY: the caller's promise.
        None => unsafe { choose::<P>(tables) },
    };
    if let (Loop::Fused16 | Loop::Fused32, Some(table)) = (chosen, &mut tables.fast.table) {
        table.prepare::<T>();
    }
    if let (Some(matches), Loop::Fused16 | Loop::Fused32 | Loop::Long) = (&mut *matches, chosen) {
        matches.end_at(cursor.filled());
    }
    let tables = &*tables;
    // SAFETY: the caller's promise.
    unsafe {
        match (chosen, tables.fast.table.as_deref()) {
            (Loop::Fused16, Some(table)) => P::apart(move || {
                cursor.copied(|cursor| fused::decode::<P, T, 16>(cursor, table, tables))
            }),
            (Loop::Fused32, Some(table)) => P::apart(move || {
                cursor.copied(|cursor| fused::decode::<P, T, 32>(cursor, table, tables))
            }),
            (Loop::Long, _) => {
                P::apart(move || cursor.copied(|cursor| long::decode::<P, T>(cursor, tables)))
            }
            _ => P::apart(move || {
                cursor.copied(|cursor| literals::decode::<P, T>(cursor, tables, matches))
            }),
        }
    }
}

/// Chooses the loop of a block, and fills its table.
///
/// # Safety
/// The processor must be one that `P` is for.
unsafe fn choose<P: Processor>(tables: &mut Tables) -> Loop {
    let Tables { litlen, distance, fast } = tables;
    let chosen = if fast.is_of_literals() {
        Loop::Literals
    } else if fast.above_34 >= (1 << 15) / MANY {
        Loop::Long
    } else if fast.above_16 < fast.lengths / 16 {
        Loop::Fused16
    } else {
        Loop::Fused32
    };
    let longest = match chosen {
        Loop::Literals | Loop::Long => None,
        Loop::Fused16 => Some(16),
        Loop::Fused32 => Some(32),
    };
    if let Some(longest) = longest {
        let table = fast.table.get_or_insert_with(|| Box::new(fused::Table::new()));
        let parts = fused::Parts::new(litlen, distance, longest);
        // SAFETY: the caller's promise.
        unsafe { table.fill::<P>(&parts) };
    }
    fast.chosen = Some(chosen);
    chosen
}
