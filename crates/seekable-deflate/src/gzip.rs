//! Reads the gzip framing around a DEFLATE stream (RFC 1952).

use crate::inflate::{Bits, Fault};

/// The trailer of a member: checksum and length of its decoded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) crc32: u32,
    /// Number of decoded bytes, modulo 2^32.
    pub(crate) isize: u32,
}

const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;

/// Reads past the header of a member. Accepts the same headers as zlib.
pub(crate) fn read_header(bits: &mut Bits) -> Result<(), Fault> {
    let at = bits.position();
    let corrupt = |what| Err(Fault::Corrupt { at, what });
    let mut header = Header { bits, crc: crc32fast::Hasher::new() };
    if [header.byte()?, header.byte()?] != [0x1f, 0x8b] {
        return corrupt("not a gzip member");
    }
    if header.byte()? != 8 {
        return corrupt("unknown compression method");
    }
    let flags = header.byte()?;
    if flags & RESERVED != 0 {
        return corrupt("unknown header flags set");
    }
    // The fields MTIME, XFL and OS.
    header.skip(6)?;
    if flags & FEXTRA != 0 {
        let len = u16::from_le_bytes([header.byte()?, header.byte()?]);
        header.skip(len)?;
    }
    for flag in [FNAME, FCOMMENT] {
        if flags & flag != 0 {
            while header.byte()? != 0 {}
        }
    }
    if flags & FHCRC != 0 {
        let found = header.crc.finalize() & 0xffff;
        if bits.take(16)? != found {
            return corrupt("header crc mismatch");
        }
    }
    Ok(())
}

/// The header of a member, with the CRC-32 of the bytes read so far.
struct Header<'a, 'b> {
    bits: &'a mut Bits<'b>,
    crc: crc32fast::Hasher,
}

impl Header<'_, '_> {
    fn byte(&mut self) -> Result<u8, Fault> {
        let byte = self.bits.take(8)? as u8;
        self.crc.update(&[byte]);
        Ok(byte)
    }

    fn skip(&mut self, count: u16) -> Result<(), Fault> {
        (0..count).try_for_each(|_| self.byte().map(|_| ()))
    }
}

pub(crate) fn read_trailer(bits: &mut Bits) -> Result<Trailer, Fault> {
    bits.align();
    Ok(Trailer { crc32: bits.take(32)?, isize: bits.take(32)? })
}

/// Reads past the zero bytes that may follow a member. Returns `true` if nothing else follows.
pub(crate) fn skip_padding(bits: &mut Bits) -> Result<bool, Fault> {
    while !bits.at_end()? {
        if !bits.next_is_zero_byte() {
            return Ok(false);
        }
        bits.take(8)?;
    }
    Ok(true)
}
