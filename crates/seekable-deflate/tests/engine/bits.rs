//! Writes DEFLATE streams bit by bit.

/// Bits in the order of a DEFLATE stream.
#[derive(Default, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
    /// Number of bits written.
    len: usize,
}

impl Writer {
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes the lowest `count` bits of `value`, the lowest first.
    pub fn bits(&mut self, value: usize, count: u32) -> &mut Self {
        for at in 0..count {
            if self.len.is_multiple_of(8) {
                self.bytes.push(0);
            }
            self.bytes[self.len / 8] |= ((value >> at & 1) as u8) << (self.len % 8);
            self.len += 1;
        }
        self
    }

    pub fn zeros(&mut self, count: usize) -> &mut Self {
        for _ in 0..count {
            self.bits(0, 1);
        }
        self
    }

    /// Writes a Huffman code of `length` bits, its highest bit first.
    pub fn code(&mut self, (code, length): (usize, u32)) -> &mut Self {
        for at in (0..length).rev() {
            self.bits(code >> at & 1, 1);
        }
        self
    }

    pub fn stored(&mut self, last: bool, plain: &[u8]) -> &mut Self {
        self.bits(last.into(), 1).bits(0, 2);
        self.len = self.bytes.len() * 8;
        self.bits(plain.len(), 16).bits(plain.len() ^ 0xffff, 16);
        self.bytes.extend(plain);
        self.len = self.bytes.len() * 8;
        self
    }

    /// Writes the header of a dynamic block, with each code length by itself, not in runs.
    pub fn dynamic(&mut self, last: bool, litlen: &[u8], distance: &[u8]) -> &mut Self {
        self.bits(last.into(), 1).bits(2, 2);
        self.bits(litlen.len() - 257, 5).bits(distance.len() - 1, 5).bits(15, 4);
        // Lengths 0 to 15 have codes of four bits, which fills the code length code.
        for symbol in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15] {
            self.bits(if symbol < 16 { 4 } else { 0 }, 3);
        }
        for &length in litlen.iter().chain(distance) {
            self.code((length.into(), 4));
        }
        self
    }

    pub fn done(&self) -> Vec<u8> {
        self.bytes.clone()
    }
}

/// The codes of canonical lengths (RFC 1951, section 3.2.2).
pub fn codes(lengths: &[u8]) -> Vec<(usize, u32)> {
    let mut next = 0;
    let mut codes = vec![(0, 0); lengths.len()];
    for length in 1..16 {
        next <<= 1;
        for (symbol, _) in lengths.iter().enumerate().filter(|(_, own)| **own == length) {
            codes[symbol] = (next, u32::from(length));
            next += 1;
        }
    }
    codes
}

/// The fixed codes (RFC 1951, section 3.2.6).
pub fn fixed() -> (Vec<u8>, Vec<u8>) {
    let mut litlen = vec![8; 288];
    litlen[144..256].fill(9);
    litlen[256..280].fill(7);
    (litlen, vec![5; 32])
}

/// Base and extra bits of length codes from 257 and of distance codes (section 3.2.5).
pub const LENGTHS: [(usize, u32); 29] = table(3, 8, 4);
pub const DISTANCES: [(usize, u32); 30] = table(1, 4, 2);

const fn table<const N: usize>(first: usize, plain: usize, each: usize) -> [(usize, u32); N] {
    let mut codes = [(0, 0); N];
    let mut base = first;
    let mut at = 0;
    while at < N {
        let extra = if at < plain { 0 } else { (at - plain) / each + 1 };
        codes[at] = (base, extra as u32);
        base += 1 << extra;
        at += 1;
    }
    if N == 29 {
        codes[28] = (258, 0);
    }
    codes
}

/// The code for a length or distance: its index in `codes`, its extra bits, and their count.
pub fn find(codes: &[(usize, u32)], value: usize) -> (usize, usize, u32) {
    let number = codes.iter().rposition(|(base, _)| *base <= value).expect("at least the first");
    (number, value - codes[number].0, codes[number].1)
}

/// Writes symbols of a block, and appends the bytes that they stand for to `plain`.
pub struct Symbols<'a> {
    pub writer: &'a mut Writer,
    pub litlen: Vec<(usize, u32)>,
    pub distance: Vec<(usize, u32)>,
    pub plain: Vec<u8>,
}

impl<'a> Symbols<'a> {
    pub fn new(writer: &'a mut Writer, litlen: &[u8], distance: &[u8]) -> Self {
        Self { writer, litlen: codes(litlen), distance: codes(distance), plain: Vec::new() }
    }

    pub fn literal(&mut self, byte: u8) -> &mut Self {
        self.writer.code(self.litlen[usize::from(byte)]);
        self.plain.push(byte);
        self
    }

    pub fn repeat(&mut self, len: usize, distance: usize) -> &mut Self {
        let (number, extra, count) = find(&LENGTHS, len);
        self.writer.code(self.litlen[257 + number]).bits(extra, count);
        let (number, extra, count) = find(&DISTANCES, distance);
        self.writer.code(self.distance[number]).bits(extra, count);
        for _ in 0..len {
            self.plain.push(self.plain[self.plain.len() - distance]);
        }
        self
    }

    pub fn end(&mut self) -> &mut Self {
        self.writer.code(self.litlen[256]);
        self
    }
}

/// A single block of at least `len` decoded bytes with all kinds of symbols, and the decoded bytes.
pub fn giant_block(dynamic: bool, len: usize) -> (Vec<u8>, Vec<u8>) {
    let mut random = crate::support::Random::new(len as u64);
    let mut writer = Writer::new();
    let (litlen, distance) = if dynamic {
        // Lengths from 7 to 15 bits: some codes lie in subtables.
        let mut litlen = vec![8; 286];
        litlen[0..32].fill(7);
        litlen[132] = 9;
        for (at, length) in (133..).zip([10, 11, 12, 13, 14, 15, 15]) {
            litlen[at] = length;
        }
        // 32 / 128 + 100 / 256 + 1 / 256 of the code space is taken so far; 91 codes of 8 bits
        // fill the rest.
        litlen[140..195].fill(0);
        let mut distance = vec![5; 30];
        distance[0..2].fill(4);
        (litlen, distance)
    } else {
        fixed()
    };
    if dynamic {
        writer.dynamic(true, &litlen, &distance);
    } else {
        writer.bits(1, 1).bits(1, 2);
    }
    let mut symbols = Symbols::new(&mut writer, &litlen, &distance);
    while symbols.plain.len() < len {
        let known = symbols.plain.len() as u64;
        let distance = match random.below(4) {
            _ if known == 0 => 0,
            0 => 0,
            1 => 1 + random.below(known.min(40)),
            2 if known >= 32768 => 32768 - random.below(3),
            _ => 1 + random.below(known.min(32768)),
        };
        if distance == 0 {
            let byte = random.below(140) as u8;
            symbols.literal(byte);
        } else {
            let len = if random.below(8) == 0 { 258 } else { 3 + random.below(30) as usize };
            symbols.repeat(len, distance as usize);
        }
    }
    symbols.end();
    let plain = symbols.plain;
    (writer.done(), plain)
}
