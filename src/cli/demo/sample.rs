//! Computes the sample data of the demo, which are the same every time.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use flate2::{Compression, write::GzEncoder};

use super::zip::ZipFile;

/// Rows of the deflated array. Each has [`COLUMNS`] float32 values; the array has 96 MiB.
pub(super) const ROWS: usize = 24 << 10;
/// Values in a row. The row takes one page.
pub(super) const COLUMNS: usize = 1024;
/// Bytes in a row.
pub(super) const ROW_BYTES: usize = COLUMNS * 4;

/// The archive that contains the deflated array, and the name of the array in the archive.
pub(super) const DEFLATED: (&str, &str) = ("run2.npz", "sensor.npy");

/// Rows that are written between two calls of `go_on`.
const BATCH: usize = 256;

/// Writes the sample into `directory`. Calls `go_on` now and then, and stops if `go_on` fails.
///
/// # Errors
/// When a file cannot be written, or `go_on` fails.
pub(super) fn write(directory: &Path, mut go_on: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    std::fs::write(directory.join("notes.txt"), "Any other file is shown as it is.\n")?;

    let mut archive = ZipFile::create(&directory.join("run1.npz"))?;
    archive.add("positions.npy", |out| {
        out.write_all(&header("<f8", "(4096, 32)"))?;
        (0..4096 * 32_u32).try_for_each(|at| out.write_all(&(f64::from(at) / 32.0).to_le_bytes()))
    })?;
    archive.add("labels.npy", |out| {
        out.write_all(&header("<i8", "(4096,)"))?;
        (0..4096_i64).try_for_each(|at| out.write_all(&(at % 10).to_le_bytes()))
    })?;
    archive.finish()?;

    let (name, member) = DEFLATED;
    let mut archive = ZipFile::create(&directory.join(name))?;
    archive.add(member, |out| {
        out.write_all(&header("<f4", &format!("({ROWS}, {COLUMNS})")))?;
        for index in 0..ROWS {
            if index % BATCH == 0 {
                go_on()?;
            }
            out.write_all(&row(index))?;
        }
        Ok(())
    })?;
    archive.add("seconds.npy", |out| {
        out.write_all(&header("<f8", &format!("({ROWS},)")))?;
        (0..ROWS as u32).try_for_each(|at| out.write_all(&(f64::from(at) * 0.01).to_le_bytes()))
    })?;
    archive.finish()?;

    let scan = BufWriter::with_capacity(1 << 18, File::create(directory.join("scan.npy.gz"))?);
    let mut scan = GzEncoder::new(scan, Compression::default());
    scan.write_all(&header("<u2", "(512, 512)"))?;
    for y in 0..512_u16 {
        for x in 0..512_u16 {
            scan.write_all(&(x ^ y).to_le_bytes())?;
        }
    }
    scan.finish()?.flush()
}

/// The bytes of one row: a slow wave and two bits of noise, like the values of a sensor with a
/// coarse analog-to-digital converter.
pub(super) fn row(index: usize) -> [u8; ROW_BYTES] {
    let mut bytes = [0; ROW_BYTES];
    let mut noise = (index as u32).wrapping_mul(0x9e37_79b9) | 1;
    for (column, value) in bytes.chunks_exact_mut(4).enumerate() {
        noise ^= noise << 13;
        noise ^= noise >> 17;
        noise ^= noise << 5;
        let phase = (column / 4 + index / 8) % 256;
        let wave = phase.min(256 - phase) as u32;
        let level = wave + noise % 4;
        value.copy_from_slice(&(level as f32 * 0.125).to_le_bytes());
    }
    bytes
}

/// The header of a .npy file, version 1.0.
fn header(descr: &str, shape: &str) -> Vec<u8> {
    let mut dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    // Magic, version and length take 10 bytes, and the newline takes one: the data start at 128.
    dict.extend(std::iter::repeat_n(' ', 117 - dict.len()));
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(dict.bytes());
    bytes.push(b'\n');
    bytes
}

/// Offset of the data in every .npy file of the sample, in bytes.
pub(super) const DATA_OFFSET: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_the_length_it_says() {
        for shape in ["(24576, 1024)", "(1,)", "()"] {
            let header = header("<f4", shape);
            assert_eq!(header.len(), DATA_OFFSET);
            assert_eq!(usize::from(u16::from_le_bytes([header[8], header[9]])) + 10, DATA_OFFSET);
            assert_eq!(header.last(), Some(&b'\n'));
        }
    }

    #[test]
    fn the_sample_stops_when_it_is_told_to() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let error = write(dir.path(), || Err(io::Error::other("enough"))).expect_err("stopped");
        assert_eq!(error.to_string(), "enough");
    }
}
