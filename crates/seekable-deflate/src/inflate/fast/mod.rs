//! The fast loops. They decode symbols without a check on each access.
//!
//! They stop near the end of the input, shortly before the limit, and at malformed codes. From
//! there on, the careful loop in `decoder.rs` decodes.
//!
//! On sensor data they decode at 1.67 times the rate of libdeflate (Zen 4, one thread, without
//! checkpoints). docs/engine-notes.md lists the other designs that were tried, with figures.

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

/// The choice of the loop that decodes the current block, and the data of the fast loops.
pub(super) struct Fast {
    /// The loop of the current block. `None` until a fast loop first runs in the block.
    chosen: Option<Loop>,
    /// Expected share of the symbols that are lengths, in units of 2^-15: the sum of 2^-(bits of
    /// the code) over their codes. Then the same for symbols 269 to 285 (lengths of 19 and more),
    /// and for symbols 273 to 285 (35 and more).
    lengths: u32,
    above_16: u32,
    above_34: u32,
    /// `None` until a block needs it. Boxed, so that a look-up starts from its address.
    table: Option<Box<fused::Table>>,
    /// Use only instructions that every processor has.
    #[cfg(test)]
    pub(super) portable: bool,
}

#[derive(Clone, Copy)]
enum Loop {
    Literals,
    Long,
    /// Copies a match 16 units at once; `Fused32`, 32 units.
    Fused16,
    Fused32,
}

impl Fast {
    /// The most bytes of memory that a `Fast` holds outside the struct.
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

    /// Whether the processor has all features that `Avx2` uses.
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

    /// Whether almost every symbol of the block is a literal: by the code lengths, fewer than one
    /// symbol in `FEW` is a length.
    pub(super) fn is_of_literals(&self) -> bool {
        self.lengths < (1 << 15) / FEW
    }

    /// Starts another block. `litlens` are its code lengths for literals and lengths.
    pub(super) fn start_block(&mut self, litlens: &[u8]) {
        let share = |litlens: &[u8]| {
            litlens.iter().filter(|length| **length > 0).map(|length| 1 << (15 - length)).sum()
        };
        self.chosen = None;
        self.lengths = share(litlens.get(257..).unwrap_or_default());
        // Symbol 269 is the first whose lengths all exceed 18, and 273 the first whose lengths all
        // exceed 34 (RFC 1951, section 3.2.5).
        self.above_16 = share(litlens.get(269..).unwrap_or_default());
        self.above_34 = share(litlens.get(273..).unwrap_or_default());
    }
}

/// Decodes symbols while input and output are far from their ends. Returns `true` at the end of
/// the block. Never goes beyond the first boundary of symbols at or after `limit`.
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

/// The arguments of `decode_symbols` for one of two streams.
pub(super) struct Side<'a, 'source> {
    pub(super) bits: &'a mut Bits<'source>,
    pub(super) tables: &'a Tables,
    pub(super) out: &'a mut Output,
    pub(super) limit: usize,
}

/// Decodes the blocks of two streams in turns; both must be almost only literals. Stops when
/// `decode_symbols` would stop in either. Returns for each stream whether its block has ended.
pub(super) fn decode_pair([first, second]: [Side; 2]) -> [bool; 2] {
    // Pairs are decoded only before the frontier. There it is known which bytes of the windows are
    // needed, so no list of matches is wanted.
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
        // SAFETY: `may_use_avx2` has checked that the processor has all features.
        return unsafe { decode::<avx2::Avx2, T>(cursor, tables, matches) };
    }
    // SAFETY: `Any` is for every processor.
    unsafe { decode::<Any, T>(cursor, tables, matches) }
}

fn dispatch_pair(cursors: [&mut Cursor<u8>; 2], tables: [&Tables; 2]) -> [bool; 2] {
    #[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
    if tables.iter().all(|tables| tables.fast.may_use_avx2()) {
        // SAFETY: `may_use_avx2` has checked that the processor has all features.
        return unsafe { decode_both::<avx2::Avx2>(cursors, tables) };
    }
    // SAFETY: `Any` is for every processor.
    unsafe { decode_both::<Any>(cursors, tables) }
}

/// # Safety
/// The processor must have all features that `P` uses.
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

/// If fewer than one symbol in 16 is a length, a fused table costs more time than it saves.
const FEW: u32 = 16;

/// If one symbol in 4 or more is a length above 34, the loop for long matches is faster.
const MANY: u32 = 4;

/// # Safety
/// The processor must have all features that `P` uses.
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

/// Chooses the loop for a block, and fills the fused table if that loop uses it.
///
/// # Safety
/// The processor must have all features that `P` uses.
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
