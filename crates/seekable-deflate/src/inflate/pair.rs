//! Decodes two streams alternately in one thread, if that is faster than one after the other.

use super::{Bits, Decoder, Fault, Output, fast};

/// A decoder with the arguments of `Decoder::decode`.
pub(crate) struct Side<'a, 'source> {
    pub(crate) decoder: &'a mut Decoder,
    pub(crate) bits: Bits<'source>,
    pub(crate) out: &'a mut Output,
    /// The number of decoded bytes at which to stop.
    pub(crate) limit: usize,
}

/// Decodes both streams until one of them is at its end, close to its limit, or at a fault. While
/// both are in blocks of almost only literals, decodes them alternately. Unless there was a fault,
/// the caller goes on with `Decoder::decode`.
pub(crate) fn decode_pair(sides: &mut [Side; 2]) -> [Result<(), Fault>; 2] {
    let mut results = [Ok(()), Ok(())];
    loop {
        for (side, result) in sides.iter_mut().zip(&mut results) {
            match side.go_to_literals() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(fault) => *result = Err(fault),
            }
            return results;
        }
        let ended = fast::decode_pair(sides.each_mut().map(Side::at_literals));
        for ((side, result), ended) in sides.iter_mut().zip(&mut results).zip(ended) {
            *result = side.pass(ended);
        }
        if results.iter().any(Result::is_err) {
            return results;
        }
    }
}

impl<'source> Side<'_, 'source> {
    /// The limit as an index in the buffer of `out`.
    fn end(&self) -> usize {
        self.out.filled - self.out.len() + self.limit
    }

    fn go_to_literals(&mut self) -> Result<bool, Fault> {
        let end = self.end();
        self.decoder.go_to_literals(&mut self.bits, self.out, end)
    }

    fn pass(&mut self, ended: bool) -> Result<(), Fault> {
        let end = self.end();
        self.decoder.pass(&mut self.bits, self.out, end, ended)
    }

    /// The arguments of the fast loops. Their limit is the limit of this side, or less if the
    /// CRC-32 must be updated earlier.
    fn at_literals(&mut self) -> fast::Side<'_, 'source> {
        let limit = self.out.pace(self.end(), fast::OUTPUT_MARGIN);
        let tables = self.decoder.tables();
        fast::Side { bits: &mut self.bits, tables, out: self.out, limit }
    }
}

#[cfg(test)]
mod tests;
