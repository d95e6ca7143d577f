//! The fast loops: symbols far from the ends of input and output, without a check on each access.
//!
//! They decode whatever is valid and leave everything else, untouched, to the careful loop in
//! `decoder.rs`: the last bytes of the input, the last symbols before the limit, and malformed
//! codes.
//!
//! What was tried, as a factor of libdeflate on sensor data / labels / noise (Zen 4, one thread,
//! without checkpoints):
//!
//! - The safe loop that this replaces: 0.56 / 0.59 / 0.78.
//! - Length and distance in one entry of 8 bytes, literals as matches from the table: 1.50 /
//!   1.37 / -. In 4 bytes, which leaves more of the first-level cache to the window, and filled
//!   eight entries at a time: 1.67 / 1.46 / -. Copies of 16 bytes instead of 32 are worth 6 % on
//!   text and cost a quarter on labels, so it depends on the block.
//! - 10 or 12 index bits instead of 11: 0 to 6 % and 5 to 12 % slower.
//! - Two literals in an entry: CSV 1.93 to 2.08, nothing lost elsewhere.
//! - Overlapping matches by a permutation (AVX-512 VBMI) instead of a branch: labels + 3 %,
//!   text - 6 %. Telling them apart when the table is filled: free.
//! - Blocks of literals: pairs from a table of 12 bits - / - / 1.12, single ones 1.10 without
//!   its 16 KiB and its filling.
//! - Blocks of long matches, first pass with CRC-32 (zeros / one-hot / masks): as rare entries of
//!   the fused loop 0.72 / 0.68 / 0.65. In a loop that finishes a symbol before it looks up the
//!   next 0.9 / 0.63 / 0.70, looked up before the copy 0.80 / 0.72 / 0.76, with the step between
//!   blocks loaded, not computed 0.81 / 0.76 / 0.78, CRC-32 every 64 KiB instead of 32 0.88 /
//!   0.82 / 0.84. In blocks of 64 bytes (AVX-512) the copy alone takes 17 % more; stores
//!   that are aligned gain nothing. It is 5 of the 9 ns that a symbol of one-hot data takes;
//!   CRC-32 adds as much.
//! - Overlapping matches of up to 16 bytes (6 % of sensor data, period 4 mostly) by a byte
//!   permutation of 16: sensor data 1.6 to 1.5. So they stay rare entries.
//! - CRC-32 every 256 KiB of output: 0.9 / 0.84 / 0.87; behind each MiB labels lose 2 %.
//! - A table's address in r13 or rbp, or with a displacement: noise - 10 %, others - 4 %.
//! - The refill after a symbol is put out instead of before: - 5 %. All loops in one function,
//!   so that the buffer lives on the stack: - 12 %.
//! - Two places at once (`pair`), of spans one after the other in one thread, each with its CRC-32:
//!   noise 1.6, four symbols of one and then of the other; a symbol of each in turn 1.46. Fused
//!   loops the same way: sensor data 0.92, text 0.94, for they wait for little and need all the
//!   registers.
//! - CRC-32 inside the loops (VPCLMULQDQ, four registers of 64 bytes): behind them it is 3 % of
//!   sensor data, 9 % of labels and half of zeros. Long matches, 256 bytes as soon as they are there:
//!   one-hot data 14.2 to 15.2 GB/s as zlib-rs deflates it, 13.3 to 13.2 as zlib does, masks 12.1
//!   and 12.1, zeros 19.6 to 20.0; whether there are 256 bytes after a symbol is hard to guess, and
//!   1, 2 and 4 KiB at a time give 14.4, 12.8 and 12.9. The fused loop, left each 0.5, 1 and 2 KiB:
//!   labels 5.35 to 4.97, 5.09 and 5.17, sensor data 2.41 to 2.26, 2.32 and 2.34, text 1.70 to 1.61,
//!   1.64 and 1.65: to leave it and come back costs more than the units that were idle.
//!
//! What is left to try: two places at once in a first pass. From a bit anywhere in noise a decoder
//! is in step with the true one after 9 symbols (99 % after 44), and a look-up is 6 cycles of waiting
//! and 2 of work.

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

/// How the symbols of a block are decoded, and with what.
pub(super) struct Fast {
    /// `None` in a block whose symbols nobody has asked for yet.
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
/// block. Never goes beyond the first boundary of symbols at or behind `limit`.
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

/// One in so many bits that begin with the code of a length is too few for a fused table.
const FEW: u32 = 16;

/// One in so many that begin with the code of a length above 34 is enough for their own loop.
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
