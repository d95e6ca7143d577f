//! Prints bytes from the middle of a compressed file.
//!
//!     seek FILE.gz OFFSET LEN
//!     seek FILE.zip MEMBER OFFSET LEN
//!     seek --raw START END FILE OFFSET LEN      a bare stream in bytes START..END of FILE

use std::{
    error::Error,
    fs::File,
    io::{self, Write},
    ops::Range,
};

use seekable_deflate::{
    DEFAULT_SPACING, DeflateReader, Format, Memory, Options, ReadAt, spacing_for,
};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let gzip = |file: &File| Ok(Stream::new(Format::Gzip, 0..file.metadata()?.len()));
    match args[..] {
        ["--raw", start, end, path, offset, len] => {
            let range = start.parse()?..end.parse()?;
            print(path, offset, len, |_| Ok(Stream::new(Format::Deflate, range)))
        }
        [path, offset, len] => print(path, offset, len, gzip),
        [path, member, offset, len] => print(path, offset, len, |file| find(file, member)),
        _ => Err("usage: seek FILE.gz OFFSET LEN | FILE.zip MEMBER OFFSET LEN \
                  | --raw START END FILE OFFSET LEN"
            .into()),
    }
}

/// The bytes that a stream takes in its file, and the options to read it.
struct Stream {
    encoded: Range<u64>,
    options: Options,
}

impl Stream {
    fn new(format: Format, encoded: Range<u64>) -> Self {
        let spacing = DEFAULT_SPACING;
        Self { encoded, options: Options { format, spacing, decoded_len: None, crc32: None } }
    }
}

/// Prints `len` decoded bytes from `offset`, a span at a time.
fn print(
    path: &str,
    offset: &str,
    len: &str,
    find: impl FnOnce(&File) -> Result<Stream, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let (mut offset, mut left): (u64, usize) = (offset.parse()?, len.parse()?);
    let file = File::open(path)?;
    let stream = find(&file)?;
    let reader = DeflateReader::new(file, stream.encoded, stream.options, Memory::new(64 << 20));
    let mut out = io::stdout().lock();
    while left > 0 {
        let Some(span) = reader.span_at(offset)? else { break };
        let bytes = &span.bytes()[(offset - span.start()) as usize..];
        let bytes = &bytes[..bytes.len().min(left)];
        out.write_all(bytes)?;
        offset += bytes.len() as u64;
        left -= bytes.len();
    }
    Ok(())
}

/// Finds a deflated member by the central directory (APPNOTE 4.3.12).
fn find(file: &File, member: &str) -> Result<Stream, Box<dyn Error>> {
    let directory = directory(file)?;
    let mut entries = &directory[..];
    while let Some(entry) = entries.get(..46).filter(|entry| entry.starts_with(b"PK\x01\x02")) {
        let name_end = 46 + u16_at(entry, 28) as usize;
        let extra_end = name_end + u16_at(entry, 30) as usize;
        let name = entries.get(46..name_end).ok_or("the directory is cut off")?;
        let extra = entries.get(name_end..extra_end).ok_or("the directory is cut off")?;
        if name == member.as_bytes() {
            return locate(file, entry, extra);
        }
        entries = entries.get(extra_end + u16_at(entry, 32) as usize..).unwrap_or_default();
    }
    Err("no such member".into())
}

/// The central directory. Found by the record at the end of the file (4.3.16), or by the zip64
/// record (4.3.14) if a locator (4.3.15) before the end record points to one.
fn directory(file: &File) -> Result<Vec<u8>, Box<dyn Error>> {
    let len = file.metadata()?.len();
    let tail_start = len.saturating_sub(20 + 22 + 65535);
    let tail = read(file, tail_start, len - tail_start)?;
    // A comment may follow the end record, up to the end of the file, and may look like a record.
    let is_end = |at: &usize| {
        tail[*at..].starts_with(b"PK\x05\x06")
            && u16_at(&tail, at + 20) as usize + at + 22 == tail.len()
    };
    let at = (0..=tail.len().saturating_sub(22)).rev().find(is_end).ok_or("not a zip")?;
    let locator = at.checked_sub(20).map(|start| &tail[start..at]);
    match locator.filter(|locator| locator.starts_with(b"PK\x06\x07")) {
        Some(locator) => {
            let end = read(file, u64_at(locator, 8), 56)?;
            read(file, u64_at(&end, 48), u64_at(&end, 40))
        }
        None => read(file, u32_at(&tail, at + 16), u32_at(&tail, at + 12)),
    }
}

/// The stream of the member that has this entry in the directory.
fn locate(file: &File, entry: &[u8], extra: &[u8]) -> Result<Stream, Box<dyn Error>> {
    if u16_at(entry, 10) != 8 || u16_at(entry, 8) & 1 != 0 {
        return Err("the member is not deflated, or encrypted".into());
    }
    // A number that does not fit is in the extra field instead. The extra field has only these
    // numbers, in this order (4.5.3).
    let mut large = zip64(extra).chunks_exact(8);
    let mut number = |at| match u32_at(entry, at) {
        0xffff_ffff => large.next().map(|bytes| u64_at(bytes, 0)).ok_or("a size is missing"),
        number => Ok(number),
    };
    let (decoded_len, encoded_len, header_offset) = (number(24)?, number(20)?, number(42)?);
    let header = read(file, header_offset, 30)?;
    let start = header_offset + 30 + u16_at(&header, 26) + u16_at(&header, 28);
    let end = start.checked_add(encoded_len).ok_or("a size is too large")?;
    let mut stream = Stream::new(Format::Deflate, start..end);
    stream.options.spacing = spacing_for(encoded_len, decoded_len);
    stream.options.decoded_len = Some(decoded_len);
    stream.options.crc32 = Some(u32_at(entry, 16) as u32);
    Ok(stream)
}

/// The content of the extra field of type 1 (zip64). Empty if there is none.
fn zip64(mut extra: &[u8]) -> &[u8] {
    while extra.len() >= 4 {
        let end = extra.len().min(4 + u16_at(extra, 2) as usize);
        if u16_at(extra, 0) == 1 {
            return &extra[4..end];
        }
        extra = &extra[end..];
    }
    &[]
}

fn read(file: &File, offset: u64, len: u64) -> Result<Vec<u8>, Box<dyn Error>> {
    if file.metadata()?.len().checked_sub(offset).is_none_or(|left| left < len) {
        return Err("it is cut off".into());
    }
    let mut bytes = vec![0; usize::try_from(len)?];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u64 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]]).into()
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    u16_at(bytes, at) | u16_at(bytes, at + 2) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at) | u32_at(bytes, at + 4) << 32
}
