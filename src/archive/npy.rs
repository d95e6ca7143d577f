//! The header of a `.npy` file (NEP 1, format versions 1.0, 2.0, 3.0).
//!
//! Reads what numpy.lib.format reads, a Python dict literal with three keys, and works out the
//! size of the file from it. Evaluates nothing.

mod dtype;
mod literal;

use std::fmt;

use literal::Value;

/// Bytes of a header that are enough to tell how long it is.
pub const MIN_HEADER_LEN: usize = 12;

/// The longest header that is read. Format 2.0 allows 4 GiB, for dtypes with very many fields;
/// this is enough for tens of thousands of them, and NumPy itself refuses more than 10,000 bytes
/// unless told otherwise. Without a bound, a file of 12 bytes decides how much memory we take.
pub const MAX_HEADER_LEN: usize = 1 << 20;

/// The most axes that an array has (NPY_MAXDIMS of NumPy 2).
const MAX_AXES: usize = 64;

/// What a `.npy` header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Where the array's bytes start, in bytes from the start of the file.
    pub data_offset: u64,
    /// The dtype, as the Python literal in the header ("'<f4'", "[('a', '<i2')]").
    pub descr: String,
    /// Whether the first index varies fastest.
    pub fortran_order: bool,
    /// Lengths of the axes.
    pub shape: Vec<u64>,
    /// Bytes of one element; `None` for Python objects, whose data is a pickle.
    pub itemsize: Option<u64>,
}

impl Header {
    /// Reads the header at the start of a file. `start` may end before the header does, or go on
    /// after it.
    ///
    /// # Errors
    /// `Truncated` says how many bytes to come back with; any other is final.
    pub fn parse(start: &[u8]) -> Result<Self, NpyError> {
        let magic = b"\x93NUMPY";
        let seen = start.len().min(magic.len());
        if start[..seen] != magic[..seen] {
            return Err(NpyError::NoMagic);
        }
        let &[_, _, _, _, _, _, major, minor, len_low, len_high, ..] = start else {
            return Err(NpyError::Truncated { needed: MIN_HEADER_LEN });
        };
        let (text_start, text_len) = match (major, minor) {
            (1, 0) => (10, usize::from(u16::from_le_bytes([len_low, len_high]))),
            (2 | 3, 0) => {
                let &[a, b, c, d] = start
                    .get(8..12)
                    .and_then(|bytes| bytes.first_chunk())
                    .ok_or(NpyError::Truncated { needed: MIN_HEADER_LEN })?;
                (12, u32::from_le_bytes([a, b, c, d]) as usize)
            }
            _ => return Err(NpyError::Version { major, minor }),
        };
        if text_len > MAX_HEADER_LEN {
            return Err(NpyError::TooLong { len: text_len });
        }
        let needed = text_start + text_len;
        let text = start.get(text_start..needed).ok_or(NpyError::Truncated { needed })?;
        let text = match major {
            3 => std::str::from_utf8(text).map_err(|_| malformed("it is not UTF-8"))?.to_owned(),
            // Latin-1: every byte is the character of its number.
            _ => text.iter().copied().map(char::from).collect(),
        };
        Self::from_dict(needed as u64, &text)
    }

    fn from_dict(data_offset: u64, text: &str) -> Result<Self, NpyError> {
        let Value::Dict(items) = literal::parse(text).map_err(malformed)? else {
            return Err(malformed("it is not a dict"));
        };
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        for item in items {
            // As in Python, the last of a repeated key counts.
            match item.key {
                Value::Str("descr") => descr = Some((item.value, item.text)),
                Value::Str("fortran_order") => fortran_order = Some(item.value),
                Value::Str("shape") => shape = Some(item.value),
                _ => return Err(malformed("it has a key that is not known")),
            }
        }
        let (Some((descr, descr_text)), Some(fortran_order), Some(shape)) =
            (descr, fortran_order, shape)
        else {
            return Err(malformed("one of descr, fortran_order and shape is missing"));
        };
        let Value::Bool(fortran_order) = fortran_order else {
            return Err(malformed("fortran_order is not a bool"));
        };
        let Value::Tuple(axes) = shape else {
            return Err(malformed("shape is not a tuple"));
        };
        if axes.len() > MAX_AXES {
            return Err(malformed(format!("an array of {} axes", axes.len())));
        }
        let shape = axes
            .iter()
            .map(|axis| match axis {
                Value::Int(len) => Ok(*len),
                _ => Err(malformed("shape holds something that is not a length")),
            })
            .collect::<Result<Vec<u64>, _>>()?;
        let itemsize = dtype::itemsize(&descr)?;
        let header =
            Self { data_offset, descr: descr_text.to_owned(), fortran_order, shape, itemsize };
        if header.itemsize.is_some() && header.file_size().is_none() {
            return Err(NpyError::TooLarge);
        }
        Ok(header)
    }

    /// Size of the whole file in bytes, `None` for Python objects.
    ///
    /// Also `None` if it would not fit 64 bits; `parse` returns no such header.
    #[must_use]
    pub fn file_size(&self) -> Option<u64> {
        let elements = product(&self.shape)?;
        let size = elements.checked_mul(self.itemsize?)?.checked_add(self.data_offset)?;
        (size <= i64::MAX as u64).then_some(size)
    }
}

/// The product of some lengths: 0 if any is, even if the others overflow.
fn product(lengths: &[u64]) -> Option<u64> {
    if lengths.contains(&0) {
        return Some(0);
    }
    lengths.iter().try_fold(1_u64, |product, &len| product.checked_mul(len))
}

fn malformed(what: impl Into<String>) -> NpyError {
    NpyError::Malformed(what.into())
}

/// Why there is no `.npy` header, or none that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NpyError {
    /// The file does not start as a `.npy` does.
    NoMagic,
    /// The header goes on for so many bytes from the start of the file, or more.
    Truncated {
        /// Bytes from the start of the file.
        needed: usize,
    },
    /// A format version that is not known.
    Version {
        /// Its first byte.
        major: u8,
        /// Its second byte.
        minor: u8,
    },
    /// The header is longer than `MAX_HEADER_LEN`.
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The header is not the dict that it should be.
    Malformed(String),
    /// A dtype whose size is not known.
    Dtype(String),
    /// The size of the array does not fit 63 bits.
    TooLarge,
}

impl fmt::Display for NpyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMagic => f.write_str("it does not start with \\x93NUMPY"),
            Self::Truncated { needed } => write!(f, "it ends within a header of {needed} bytes"),
            Self::Version { major, minor } => {
                write!(f, "format version {major}.{minor} is not known")
            }
            Self::TooLong { len } => {
                write!(f, "a header of {len} bytes is longer than {MAX_HEADER_LEN}")
            }
            Self::Malformed(what) => write!(f, "malformed header: {what}"),
            Self::Dtype(descr) => write!(f, "dtype {descr} is not known"),
            Self::TooLarge => f.write_str("the array has more than 2^63 bytes"),
        }
    }
}

impl std::error::Error for NpyError {}

#[cfg(test)]
mod tests;
