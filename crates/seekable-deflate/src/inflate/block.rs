//! Block headers (RFC 1951, section 3.2.3).

use super::{
    Bits, Fault,
    fast::Fast,
    huffman::{self, CodeLengthTable, DistanceTable, LitlenTable},
};

/// The tables of a block. The literal and length table comes first: look-ups from the start of
/// a structure are a cycle faster on some processors.
#[repr(C)]
pub(super) struct Tables {
    pub(super) litlen: LitlenTable,
    pub(super) distance: DistanceTable,
    pub(super) fast: Fast,
}

impl Tables {
    /// The most bytes of memory that `Tables` holds outside the struct.
    pub(super) const FAST_MEMORY: usize = Fast::MEMORY;

    pub(super) fn new() -> Box<Self> {
        Box::new(Self { litlen: [0; _], distance: [0; _], fast: Fast::new() })
    }
}

/// The kind of contents that follows the header of a block.
pub(super) enum Body {
    /// Stored bytes, from the next byte boundary on. The value is their number.
    Stored(u16),
    /// Symbols. The decoding tables have been built from their codes.
    Coded,
}

/// Reads a block header. Returns whether the block is the last one, and which contents follow.
pub(super) fn read_header(bits: &mut Bits, tables: &mut Tables) -> Result<(bool, Body), Fault> {
    let at = bits.position();
    let last = bits.take(1)? == 1;
    let body = match bits.take(2)? {
        0 => Body::Stored(read_stored(bits)?),
        1 => {
            use_fixed_codes(tables);
            Body::Coded
        }
        2 => {
            read_codes(bits, tables)?;
            Body::Coded
        }
        _ => return Err(Fault::Corrupt { at, what: "invalid block type" }),
    };
    Ok((last, body))
}

/// Checks that the next bits are a valid block header.
pub(crate) fn check_header(bits: &mut Bits) -> Result<(), Fault> {
    read_header(bits, &mut Tables::new()).map(|_| ())
}

fn read_stored(bits: &mut Bits) -> Result<u16, Fault> {
    bits.align();
    let at = bits.position();
    let len = bits.take(16)?;
    let complement = bits.take(16)?;
    if len != complement ^ 0xffff {
        return Err(Fault::Corrupt { at, what: "invalid stored block lengths" });
    }
    Ok(len as u16)
}

fn use_fixed_codes(tables: &mut Tables) {
    let mut lengths = [8; 288];
    lengths[144..256].fill(9);
    lengths[256..280].fill(7);
    tables.fast.start_block(&lengths);
    huffman::build_litlen(&mut tables.litlen, &lengths).expect("the fixed code is complete");
    huffman::build_distance(&mut tables.distance, &[5; 32]).expect("32 codes of 5 bits fill it");
}

/// The order in which the header has the lengths of the code length code (RFC 1951, section 3.2.7).
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// The most symbols that zlib accepts. The header could encode up to 288 and 32.
const MAX_LITLEN: usize = 286;
const MAX_DISTANCE: usize = 30;

/// Reads the codes of a dynamic block, and builds the tables. Checks in the same order as zlib, so
/// that a stream with several errors gets the same message.
fn read_codes(bits: &mut Bits, tables: &mut Tables) -> Result<(), Fault> {
    let at = bits.position();
    let corrupt = |what| Fault::Corrupt { at, what };

    let litlens = bits.take(5)? as usize + 257;
    let distances = bits.take(5)? as usize + 1;
    let code_lengths = bits.take(4)? as usize + 4;
    if litlens > MAX_LITLEN || distances > MAX_DISTANCE {
        return Err(corrupt("too many length or distance symbols"));
    }

    let mut lengths = [0; 19];
    for &symbol in &ORDER[..code_lengths] {
        lengths[symbol] = bits.take(3)? as u8;
    }
    let mut table: CodeLengthTable = [0; _];
    huffman::build_code_length(&mut table, &lengths)
        .map_err(|_| corrupt("invalid code lengths set"))?;

    let mut lengths = [0; MAX_LITLEN + MAX_DISTANCE];
    let lengths = &mut lengths[..litlens + distances];
    read_lengths(bits, &table, lengths)?;
    if lengths[256] == 0 {
        return Err(corrupt("invalid code -- missing end-of-block"));
    }
    let (litlen, distance) = lengths.split_at(litlens);
    tables.fast.start_block(litlen);
    huffman::build_litlen(&mut tables.litlen, litlen)
        .map_err(|_| corrupt("invalid literal/lengths set"))?;
    huffman::build_distance(&mut tables.distance, distance)
        .map_err(|_| corrupt("invalid distances set"))
}

/// Reads the code lengths of both codes, which are run-length coded.
fn read_lengths(bits: &mut Bits, table: &CodeLengthTable, lengths: &mut [u8]) -> Result<(), Fault> {
    let mut have = 0;
    while have < lengths.len() {
        // The longest symbol: 7 bits of code and 7 of count.
        if bits.input.count < 14 {
            bits.refill()?;
        }
        let at = bits.position();
        let entry = table[bits.input.buffer as usize & (table.len() - 1)];
        if huffman::consumed(entry) > bits.input.count {
            return Err(Fault::Truncated);
        }
        bits.skip(huffman::consumed(entry));
        let (length, count) = match huffman::value(entry) {
            16 => {
                // The count is read before the check for a last length, as in zlib: a stream that
                // is cut off within the count is truncated, not corrupt.
                let count = 3 + bits.take(2)?;
                (have.checked_sub(1).map(|last| lengths[last]), count)
            }
            17 => (Some(0), 3 + bits.take(3)?),
            18 => (Some(0), 11 + bits.take(7)?),
            length => (Some(length as u8), 1),
        };
        let run = lengths.get_mut(have..have + count as usize);
        let (Some(length), Some(run)) = (length, run) else {
            return Err(Fault::Corrupt { at, what: "invalid bit length repeat" });
        };
        run.fill(length);
        have += count as usize;
    }
    Ok(())
}
