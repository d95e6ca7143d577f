//! The fast loop: symbols far from the ends of input and output, a word at a time.
//!
//! It decodes whatever is valid and leaves everything else, untouched, to the careful loop in
//! `decoder.rs`: the last bytes of the input, the last symbols before the limit, and malformed
//! codes. Three symbols are decoded for each refill of the bit buffer.

use super::{
    Input, MAX_MATCH, Output,
    block::Tables,
    huffman::{
        self, DISTANCE_BITS, END_OF_BLOCK, EXCEPTIONAL, LITERAL, LITLEN_BITS, POINTER, consumed,
        value,
    },
    output::MARGIN,
};

/// Bits in the buffer after a refill, at least.
const REFILLED: u32 = 56;
/// The longest length: 15 bits of code and 5 extra bits. The longest distance: 15 and 13.
const LONGEST_LENGTH: u32 = 20;
const LONGEST_DISTANCE: u32 = 28;
/// An iteration: two literals from the main table and a length; a distance after a second refill.
const _: () = assert!(2 * LITLEN_BITS + LONGEST_LENGTH <= REFILLED && LONGEST_DISTANCE <= REFILLED);
/// Two refills read no further than this behind the next byte.
const INPUT_MARGIN: usize = 7 + 8;
/// What one iteration may put out before the symbol that must start before the limit.
const LITERALS: usize = 2;
/// Bytes that a short match is copied with, and so may write behind its end.
const WORDS: usize = 40;
const _: () = assert!(MAX_MATCH + WORDS <= MARGIN);

/// Decodes symbols while input and output are far from their ends; `true` at the end of the
/// block. Never goes beyond the first boundary of symbols at or behind `limit`.
pub(super) fn decode_symbols(
    input: &mut Input,
    tables: &Tables,
    out: &mut Output,
    limit: usize,
) -> bool {
    let chunk = &input.chunk[..];
    let bytes = &mut out.bytes[..];
    let floor = out.floor;
    let (mut next, mut buffer, mut count) = (input.next, input.buffer, input.count);
    let mut filled = out.filled;
    let mut end_of_block = false;

    let input_edge = chunk.len().saturating_sub(INPUT_MARGIN);
    let output_edge = limit.saturating_sub(LITERALS);
    assert!(limit + MARGIN <= bytes.len());

    macro_rules! refill {
        () => {
            let word: [u8; 8] = chunk[next..next + 8].try_into().expect("8 bytes");
            buffer |= u64::from_le_bytes(word) << (count & 63);
            next += 7 - (count as usize >> 3 & 7);
            count |= REFILLED;
        };
    }
    macro_rules! consume {
        ($entry:expr) => {
            buffer >>= consumed($entry);
            count -= consumed($entry);
        };
    }

    while next < input_edge && filled < output_edge {
        refill!();
        let mut entry = tables.litlen[low(buffer, LITLEN_BITS)];
        if entry & LITERAL != 0 {
            consume!(entry);
            bytes[filled] = value(entry) as u8;
            filled += 1;
            entry = tables.litlen[low(buffer, LITLEN_BITS)];
            if entry & LITERAL != 0 {
                consume!(entry);
                bytes[filled] = value(entry) as u8;
                filled += 1;
                entry = tables.litlen[low(buffer, LITLEN_BITS)];
                if entry & LITERAL != 0 {
                    consume!(entry);
                    bytes[filled] = value(entry) as u8;
                    filled += 1;
                    continue;
                }
            }
        }
        // From here on nothing counts before the whole symbol is known to be good.
        let (symbol_buffer, symbol_count) = (buffer, count);
        if entry & EXCEPTIONAL != 0 {
            if entry & POINTER != 0 {
                consume!(entry);
                entry = tables.litlen[value(entry) + low(buffer, huffman::code_length(entry))];
                if entry & LITERAL != 0 {
                    consume!(entry);
                    bytes[filled] = value(entry) as u8;
                    filled += 1;
                    continue;
                }
            }
            if entry & END_OF_BLOCK != 0 {
                consume!(entry);
                end_of_block = true;
                break;
            }
            if entry & EXCEPTIONAL != 0 {
                (buffer, count) = (symbol_buffer, symbol_count);
                break;
            }
        }
        let len = huffman::with_extra(entry, buffer);
        consume!(entry);

        let symbol_next = next;
        if count < LONGEST_DISTANCE {
            refill!();
        }
        let mut entry = tables.distance[low(buffer, DISTANCE_BITS)];
        if entry & EXCEPTIONAL != 0 {
            if entry & POINTER != 0 {
                consume!(entry);
                entry = tables.distance[value(entry) + low(buffer, huffman::code_length(entry))];
            }
            if entry & EXCEPTIONAL != 0 {
                (next, buffer, count) = (symbol_next, symbol_buffer, symbol_count);
                break;
            }
        }
        let distance = huffman::with_extra(entry, buffer);
        consume!(entry);
        if distance > filled - floor {
            (next, buffer, count) = (symbol_next, symbol_buffer, symbol_count);
            break;
        }
        copy_match(bytes, filled, distance, len);
        filled += len;
    }

    // Bits above `count` are those of the next byte, which has not been counted.
    input.buffer = buffer & ((1 << count) - 1);
    input.count = count;
    input.next = next;
    out.filled = filled;
    end_of_block
}

/// The lowest `bits` bits, as an index.
#[inline(always)]
fn low(buffer: u64, bits: u32) -> usize {
    (buffer & ((1 << bits) - 1)) as usize
}

/// Copies a match in words; may write up to `WORDS` bytes from its start, or 8 behind its end.
#[inline(always)]
fn copy_match(bytes: &mut [u8], to: usize, distance: usize, len: usize) {
    let from = to - distance;
    if distance >= WORDS {
        let words: [u8; WORDS] = bytes[from..from + WORDS].try_into().expect("as many");
        bytes[to..to + WORDS].copy_from_slice(&words);
        if len > WORDS {
            copy_long_match(bytes, to, distance, len);
        }
    } else {
        copy_long_match(bytes, to, distance, len);
    }
}

/// Copies a match that is long, or overlaps itself closely.
fn copy_long_match(bytes: &mut [u8], to: usize, distance: usize, len: usize) {
    let from = to - distance;
    if distance == 1 {
        let byte = bytes[from];
        bytes[to..to + len].fill(byte);
        return;
    }
    if distance >= 8 {
        for at in (0..len).step_by(8) {
            let word: [u8; 8] = bytes[from + at..from + at + 8].try_into().expect("8 bytes");
            bytes[to + at..to + at + 8].copy_from_slice(&word);
        }
        return;
    }
    for at in 0..len {
        bytes[to + at] = bytes[from + at];
    }
}
