//! A simple decoder that goes bit by bit. The tests compare the fast decoder with it.

use crate::inflate::{HISTORY, huffman};

/// The decoded bytes of a stream, and how the stream ends: `Ok` with its length in bits, or `Err`
/// with zlib's message or `"truncated"`.
pub(crate) struct Plain {
    pub(crate) bytes: Vec<u8>,
    pub(crate) end: Result<u64, &'static str>,
}

/// Decodes a whole stream.
pub(crate) fn decode(encoded: &[u8]) -> Plain {
    let mut slow = Slow { encoded, at: 0, bytes: Vec::new(), origins: Vec::new() };
    let end = slow.stream().map(|()| slow.at);
    Plain { bytes: slow.bytes, end }
}

/// For each decoded byte of a valid stream: the index of the byte from which it was copied, or its
/// own index if it was not copied.
pub(crate) fn origins(encoded: &[u8]) -> Vec<usize> {
    let mut slow = Slow { encoded, at: 0, bytes: Vec::new(), origins: Vec::new() };
    slow.stream().expect("a good stream");
    slow.origins
}

const TRUNCATED: &str = "truncated";

struct Slow<'a> {
    encoded: &'a [u8],
    /// Offset of the next bit.
    at: u64,
    bytes: Vec<u8>,
    origins: Vec<usize>,
}

/// A canonical code: for each length in bits, the symbols of that length in order.
struct Code {
    symbols: [Vec<usize>; 16],
    /// Length in bits of the codes without a symbol, if zlib allows such codes.
    unused: Option<u32>,
}

impl Code {
    fn new(lengths: &[u8]) -> Self {
        let mut symbols: [Vec<usize>; 16] = Default::default();
        for (symbol, &length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
            symbols[length as usize].push(symbol);
        }
        Self { symbols, unused: None }
    }

    /// Number of 15-bit words that start with no code. Negative if over-subscribed.
    fn free(&self) -> i32 {
        (1..16).fold(1 << 15, |free, length| {
            free - ((self.symbols[length].len() as i32) << (15 - length))
        })
    }

    /// Checks a code for literals and lengths, or for distances, as zlib does. `what` is the error.
    fn judge(&mut self, what: &'static str) -> Result<(), &'static str> {
        let longest = (1..16).rev().find(|&length| !self.symbols[length].is_empty());
        match (self.free(), longest) {
            (0, _) => Ok(()),
            (1.., None | Some(1)) => {
                self.unused = Some(1);
                Ok(())
            }
            _ => Err(what),
        }
    }
}

impl Slow<'_> {
    fn bit(&mut self) -> Result<usize, &'static str> {
        let byte = self.encoded.get((self.at / 8) as usize).ok_or(TRUNCATED)?;
        let bit = byte >> (self.at % 8) & 1;
        self.at += 1;
        Ok(bit.into())
    }

    fn bits(&mut self, count: u32) -> Result<usize, &'static str> {
        (0..count).try_fold(0, |bits, at| Ok(bits | self.bit()? << at))
    }

    /// Reads a symbol. `None` for a code without a symbol.
    fn symbol(&mut self, code: &Code) -> Result<Option<usize>, &'static str> {
        let (mut word, mut first) = (0, 0);
        for length in 1..16 {
            word = word << 1 | self.bit()?;
            let symbols = &code.symbols[length];
            first <<= 1;
            if word - first < symbols.len() {
                return Ok(Some(symbols[word - first]));
            }
            first += symbols.len();
            if code.unused == Some(length as u32) {
                return Ok(None);
            }
        }
        unreachable!("an incomplete code that was not judged")
    }

    fn stream(&mut self) -> Result<(), &'static str> {
        loop {
            let last = self.bit()? == 1;
            match self.bits(2)? {
                0 => self.stored()?,
                1 => {
                    let mut lengths = [8; 288];
                    lengths[144..256].fill(9);
                    lengths[256..280].fill(7);
                    self.symbols(&Code::new(&lengths), &Code::new(&[5; 32]))?;
                }
                2 => {
                    let (litlen, distance) = self.codes()?;
                    self.symbols(&litlen, &distance)?;
                }
                _ => return Err("invalid block type"),
            }
            if last {
                return Ok(());
            }
        }
    }

    fn literal(&mut self, byte: u8) {
        self.origins.push(self.bytes.len());
        self.bytes.push(byte);
    }

    fn stored(&mut self) -> Result<(), &'static str> {
        self.at = self.at.next_multiple_of(8);
        let len = self.bits(16)?;
        if self.bits(16)? != len ^ 0xffff {
            return Err("invalid stored block lengths");
        }
        for _ in 0..len {
            let byte = self.bits(8)?;
            self.literal(byte as u8);
        }
        Ok(())
    }

    fn codes(&mut self) -> Result<(Code, Code), &'static str> {
        const ORDER: [usize; 19] =
            [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
        let (litlens, distances) = (self.bits(5)? + 257, self.bits(5)? + 1);
        let count = self.bits(4)? + 4;
        if litlens > 286 || distances > 30 {
            return Err("too many length or distance symbols");
        }
        let mut lengths = [0; 19];
        for &symbol in &ORDER[..count] {
            lengths[symbol] = self.bits(3)? as u8;
        }
        let code = Code::new(&lengths);
        let all_zero = lengths == [0; 19];
        if code.free() != 0 && !all_zero {
            return Err("invalid code lengths set");
        }
        let mut lengths = Vec::new();
        while lengths.len() < litlens + distances {
            let symbol =
                if all_zero { self.bit().map(|_| 0)? } else { self.symbol(&code)?.unwrap() };
            let (length, count) = match symbol {
                16 => {
                    let count = 3 + self.bits(2)?;
                    (*lengths.last().ok_or("invalid bit length repeat")?, count)
                }
                17 => (0, 3 + self.bits(3)?),
                18 => (0, 11 + self.bits(7)?),
                length => (length as u8, 1),
            };
            lengths.extend(std::iter::repeat_n(length, count));
            if lengths.len() > litlens + distances {
                return Err("invalid bit length repeat");
            }
        }
        if lengths[256] == 0 {
            return Err("invalid code -- missing end-of-block");
        }
        let mut litlen = Code::new(&lengths[..litlens]);
        litlen.judge("invalid literal/lengths set")?;
        let mut distance = Code::new(&lengths[litlens..]);
        distance.judge("invalid distances set")?;
        Ok((litlen, distance))
    }

    fn symbols(&mut self, litlen: &Code, distance: &Code) -> Result<(), &'static str> {
        loop {
            match self.symbol(litlen)? {
                Some(literal @ 0..256) => self.literal(literal as u8),
                Some(256) => return Ok(()),
                Some(length @ 257..286) => {
                    let len = self.with_extra(huffman::LITLEN_SYMBOLS[length])?;
                    let distance = match self.symbol(distance)? {
                        Some(symbol @ 0..30) => {
                            self.with_extra(huffman::DISTANCE_SYMBOLS[symbol])?
                        }
                        _ => return Err("invalid distance code"),
                    };
                    if distance > self.bytes.len() {
                        return Err("invalid distance too far back");
                    }
                    assert!(distance <= HISTORY);
                    for _ in 0..len {
                        self.origins.push(self.bytes.len() - distance);
                        self.bytes.push(self.bytes[self.bytes.len() - distance]);
                    }
                }
                _ => return Err("invalid literal/length code"),
            }
        }
    }

    fn with_extra(&mut self, symbol: u32) -> Result<usize, &'static str> {
        Ok(huffman::value(symbol) + self.bits(huffman::consumed(symbol))?)
    }
}
