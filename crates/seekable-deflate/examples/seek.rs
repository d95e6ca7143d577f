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

use seekable_deflate::{DEFAULT_SPACING, DeflateReader, Format, Memory, Options, ReadAt};

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

/// Where a stream is in its file, and how to read it.
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

/// Finds a deflated member by the central directory (APPNOTE 4.3.12); without zip64.
fn find(file: &File, member: &str) -> Result<Stream, Box<dyn Error>> {
    let len = file.metadata()?.len();
    let tail_start = len.saturating_sub(22 + 65535);
    let tail = read(file, tail_start, len - tail_start)?;
    let end = tail.windows(4).rposition(|bytes| bytes == b"PK\x05\x06").ok_or("not a zip")?;
    let end = tail.get(end..end + 22).ok_or("the end record is cut off")?;
    let directory = read(file, u32_at(end, 16), u32_at(end, 12))?;
    let mut entries = &directory[..];
    while let Some(entry) = entries.get(..46).filter(|entry| entry.starts_with(b"PK\x01\x02")) {
        let name_len = u16_at(entry, 28) as usize;
        let entry_len = 46 + name_len + (u16_at(entry, 30) + u16_at(entry, 32)) as usize;
        let name = entries.get(46..46 + name_len).ok_or("the directory is cut off")?;
        if name == member.as_bytes() {
            if u16_at(entry, 10) != 8 {
                return Err("the member is not deflated".into());
            }
            let header_offset = u32_at(entry, 42);
            let header = read(file, header_offset, 30)?;
            let start = header_offset + 30 + u16_at(&header, 26) + u16_at(&header, 28);
            let mut stream = Stream::new(Format::Deflate, start..start + u32_at(entry, 20));
            stream.options.decoded_len = Some(u32_at(entry, 24));
            stream.options.crc32 = Some(u32_at(entry, 16) as u32);
            return Ok(stream);
        }
        entries = entries.get(entry_len..).unwrap_or_default();
    }
    Err("no such member".into())
}

fn read(file: &File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u64 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]]).into()
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    u16_at(bytes, at) | u16_at(bytes, at + 2) << 16
}
