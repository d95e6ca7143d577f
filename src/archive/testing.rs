//! Helpers for tests: unnamed files that disappear when they are closed, and zips built byte by
//! byte.

use std::{
    fs::File,
    io::{self, Write},
    sync::Arc,
};

use seekable_deflate::ReadAt;

use super::{
    Container, Dir, DirId, Entry, Error, Format, Generation, MAX_DICTIONARY, NPZ, SourceFile,
    source::TAIL_READ,
};

impl SourceFile {
    /// The current generation of an open file.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let generation = Generation::of(&file)?;
        Ok(Self::with_tail(file, generation)?.0)
    }
}

impl Format {
    /// Parses a file without a limit of memory.
    pub(crate) fn open(&self, source: Arc<SourceFile>) -> Result<Container, Error> {
        let size = source.generation().size;
        let mut tail = vec![0; size.min(TAIL_READ) as usize];
        source.read_exact_at(&mut tail, size - size.min(TAIL_READ))?;
        self.parse(source, tail, &mut |_| Ok(()))
    }
}

/// An unnamed file that holds `bytes`.
pub(crate) fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

pub(crate) fn source_of(bytes: &[u8]) -> Arc<SourceFile> {
    Arc::new(SourceFile::new(file_of(bytes)).unwrap())
}

pub(crate) fn open(bytes: &[u8]) -> Result<Container, Error> {
    NPZ.open(source_of(bytes))
}

/// All paths in an archive with their entries, in byte order.
pub(crate) fn paths(archive: &Container) -> Vec<(Vec<u8>, Entry)> {
    let mut paths = Vec::new();
    let mut open = vec![(DirId::ROOT, Vec::new())];
    while let Some((id, prefix)) = open.pop() {
        let dir: &Dir = archive.dir(id);
        for (name, entry) in dir.entries() {
            assert_eq!(dir.get(name), Some(entry));
            let path = [&prefix[..], name].concat();
            if let Entry::Dir(child) = entry {
                assert_eq!(archive.dir(child).parent(), id);
                open.push((child, [&path[..], b"/"].concat()));
            }
            paths.push((path, entry));
        }
    }
    paths.sort_by(|a, b| a.0.cmp(&b.0));
    paths
}

/// The bytes of the member at `path`.
pub(crate) fn read(archive: &Container, path: &str) -> Result<Vec<u8>, Error> {
    let mut dir = DirId::ROOT;
    for component in path.split('/') {
        match archive.dir(dir).get(component.as_bytes()) {
            Some(Entry::Dir(child)) => dir = child,
            Some(Entry::Member(id)) => {
                let mut out = Vec::new();
                return archive.decode(id, MAX_DICTIONARY, &mut out).map(|()| out);
            }
            None => panic!("there is no {component:?} of {path:?}"),
        }
    }
    panic!("{path:?} is a directory");
}

/// A zip of these members: name, bytes, and whether to deflate them.
pub(crate) fn zip(members: &[(&str, &[u8], bool)]) -> Vec<u8> {
    let members = members.iter().map(|&(name, data, is_deflated)| {
        if is_deflated { RawMember::deflated(name, data) } else { RawMember::stored(name, data) }
    });
    RawZip::of(members).bytes()
}

/// A member of a zip that is built byte by byte. Every field can have a wrong value.
#[derive(Debug, Clone)]
pub(crate) struct RawMember {
    pub name: Vec<u8>,
    pub local_name: Option<Vec<u8>>,
    pub data: Vec<u8>,
    pub flags: u16,
    pub local_flags: Option<u16>,
    pub method: u16,
    pub local_method: Option<u16>,
    pub crc32: u32,
    pub size: u64,
    pub encoded_size: u64,
    pub offset: Option<u64>,
    pub local_extra: Vec<u8>,
    pub extra: Vec<u8>,
    pub comment: Vec<u8>,
    /// DOS time and date.
    pub modified: u32,
    /// Bytes between the data and the next member.
    pub after: Vec<u8>,
    /// Whether the central directory holds sizes and offset in a zip64 field.
    pub zip64: bool,
}

impl RawMember {
    pub(crate) fn stored(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        let data = data.as_ref();
        Self::encoded(name, 0, data, data)
    }

    pub(crate) fn deflated(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        Self::encoded(name, 8, &deflate(data.as_ref()), data.as_ref())
    }

    pub(crate) fn encoded(
        name: impl AsRef<[u8]>,
        method: u16,
        encoded: &[u8],
        data: &[u8],
    ) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            local_name: None,
            data: encoded.to_vec(),
            flags: 0,
            local_flags: None,
            method,
            local_method: None,
            crc32: crc32fast::hash(data),
            size: data.len() as u64,
            encoded_size: encoded.len() as u64,
            offset: None,
            local_extra: Vec::new(),
            extra: Vec::new(),
            comment: Vec::new(),
            modified: 0x0021_0000,
            after: Vec::new(),
            zip64: false,
        }
    }

    fn write_local(&self, out: &mut Vec<u8>) {
        let name = self.local_name.as_ref().unwrap_or(&self.name);
        let (size, encoded_size) = (capped(self.size), capped(self.encoded_size));
        out.extend_from_slice(b"PK\x03\x04");
        put16(out, &[45, self.local_flags.unwrap_or(self.flags)]);
        put16(out, &[self.local_method.unwrap_or(self.method)]);
        put32(out, &[self.modified, self.crc32, encoded_size, size]);
        put16(out, &[name.len() as u16, self.local_extra.len() as u16]);
        for part in [name, &self.local_extra, &self.data, &self.after] {
            out.extend_from_slice(part);
        }
    }

    fn write_central(&self, offset: u64, out: &mut Vec<u8>) {
        let offset = self.offset.unwrap_or(offset);
        let mut extra = self.extra.clone();
        let mut fields = [self.size, self.encoded_size, offset];
        if self.zip64 {
            put16(&mut extra, &[1, 24]);
            fields.iter().for_each(|field| extra.extend_from_slice(&field.to_le_bytes()));
            fields = [u64::MAX; 3];
        }
        let [size, encoded_size, offset] = fields.map(capped);
        out.extend_from_slice(b"PK\x01\x02");
        put16(out, &[45, 45, self.flags, self.method]);
        put32(out, &[self.modified, self.crc32, encoded_size, size]);
        let lens = [self.name.len(), extra.len(), self.comment.len()].map(|len| len as u16);
        put16(out, &lens);
        put16(out, &[0, 0]);
        put32(out, &[0, offset]);
        for part in [&self.name, &extra, &self.comment] {
            out.extend_from_slice(part);
        }
    }
}

/// A zip that is built byte by byte.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawZip {
    pub members: Vec<RawMember>,
    pub comment: Vec<u8>,
    /// The entry count in the end record; `None` for the true count.
    pub count: Option<u16>,
    /// Whether to write a zip64 end record and its locator. The end record then holds all ones.
    pub zip64: bool,
    /// Extensible data in the zip64 end record.
    pub zip64_data: Vec<u8>,
    /// The error to add to the central directory's offset in the end record.
    pub directory_offset: i64,
    /// The error to add to the central directory's size in the end record.
    pub directory_len: i64,
}

impl RawZip {
    pub(crate) fn of(members: impl IntoIterator<Item = RawMember>) -> Self {
        Self { members: members.into_iter().collect(), ..Self::default() }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut directory = Vec::new();
        for member in &self.members {
            member.write_central(out.len() as u64, &mut directory);
            member.write_local(&mut out);
        }
        let offset = (out.len() as u64).wrapping_add_signed(self.directory_offset);
        let len = (directory.len() as u64).wrapping_add_signed(self.directory_len);
        let count = self.count.unwrap_or(self.members.len() as u16);
        out.extend_from_slice(&directory);
        let ones = if self.zip64 { u32::MAX } else { 0 };
        if self.zip64 {
            let record = out.len() as u64;
            out.extend_from_slice(b"PK\x06\x06");
            out.extend_from_slice(&(44 + self.zip64_data.len() as u64).to_le_bytes());
            put16(&mut out, &[45, 45]);
            put32(&mut out, &[0, 0]);
            for value in [self.members.len() as u64, self.members.len() as u64, len, offset] {
                out.extend_from_slice(&value.to_le_bytes());
            }
            out.extend_from_slice(&self.zip64_data);
            out.extend_from_slice(b"PK\x06\x07\0\0\0\0");
            out.extend_from_slice(&record.to_le_bytes());
            put32(&mut out, &[1]);
        }
        out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
        put16(&mut out, &[count | ones as u16, count | ones as u16]);
        put32(&mut out, &[capped(len) | ones, capped(offset) | ones]);
        put16(&mut out, &[self.comment.len() as u16]);
        out.extend_from_slice(&self.comment);
        out
    }

    pub(crate) fn open(&self) -> Result<Container, Error> {
        open(&self.bytes())
    }
}

pub(crate) fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder =
        flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn capped(value: u64) -> u32 {
    value.min(u64::from(u32::MAX)) as u32
}

pub(crate) fn put16(out: &mut Vec<u8>, values: &[u16]) {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

pub(crate) fn put32(out: &mut Vec<u8>, values: &[u32]) {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}
