//! Writes the small zip archives of the sample (APPNOTE 4.3): without zip64, only ASCII names.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

use flate2::{Compression, CrcWriter, write::DeflateEncoder};

/// Length of a local file header without the name, in bytes.
pub(super) const LOCAL_HEADER: usize = 30;

/// An archive that is being written.
pub(super) struct ZipFile {
    file: File,
    /// Offset of the next member, in bytes.
    at: u32,
    central_directory: Vec<u8>,
    members: u16,
}

impl ZipFile {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, at: 0, central_directory: Vec::new(), members: 0 })
    }

    /// Adds a deflated member, whose decoded content is what `write` writes.
    pub(super) fn add(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut plain = CrcWriter::new(DeflateEncoder::new(Vec::new(), Compression::new(3)));
        write(&mut plain)?;
        let (crc32, size) = (plain.crc().sum(), plain.crc().amount());
        let encoded = plain.into_inner().finish()?;
        let mut header = Vec::new();
        // Version 2.0, no flags, deflated, 0:00 on 1980-01-01.
        for number in [20_u16, 0, 8, 0, 1 << 5 | 1] {
            header.extend(number.to_le_bytes());
        }
        for number in [crc32, encoded.len() as u32, size] {
            header.extend(number.to_le_bytes());
        }
        for number in [name.len() as u16, 0] {
            header.extend(number.to_le_bytes());
        }
        let local = [b"PK\x03\x04", &header[..], name.as_bytes()].concat();
        self.file.write_all(&local)?;
        self.file.write_all(&encoded)?;
        // Made by version 2.0; no comment, disk 0, no attributes.
        self.central_directory.extend([b"PK\x01\x02\x14\x00", &header[..], &[0; 10]].concat());
        self.central_directory.extend(self.at.to_le_bytes());
        self.central_directory.extend(name.bytes());
        self.at += (local.len() + encoded.len()) as u32;
        self.members += 1;
        Ok(())
    }

    /// Completes the archive with the central directory and its end record.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let length = self.central_directory.len() as u32;
        let mut end = [b"PK\x05\x06", &[0; 4][..]].concat();
        end.extend([self.members.to_le_bytes(); 2].concat());
        end.extend([length.to_le_bytes(), self.at.to_le_bytes()].concat());
        end.extend([0; 2]);
        self.file.write_all(&self.central_directory)?;
        self.file.write_all(&end)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_zip_crate_reads_what_is_written() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.npz");
        let members = [("first.npy", vec![7; 1000]), ("second.npy", vec![8; 100_000])];
        let mut archive = ZipFile::create(&path).expect("create");
        for (name, content) in &members {
            archive.add(name, |out| out.write_all(content)).expect("add");
        }
        archive.finish().expect("finish");

        let mut archive = zip::ZipArchive::new(File::open(&path).expect("open")).expect("a zip");
        assert_eq!(archive.len(), 2);
        for (name, content) in members {
            let mut member = archive.by_name(name).expect("it is there");
            let mut bytes = Vec::new();
            member.read_to_end(&mut bytes).expect("its CRC-32 is right");
            assert_eq!(bytes, content, "{name}");
        }
        let start = archive.by_name("first.npy").expect("it is there").data_start();
        assert_eq!(start, Some((LOCAL_HEADER + "first.npy".len()) as u64));
    }
}
