//! The header of a `.npy` file (NEP 1, format versions 1.0, 2.0, 3.0).
//!
//! Reads the same headers as numpy.lib.format: a Python dict literal with three keys. Computes the
//! size of the file from them. Does not evaluate Python code.

mod dtype;
mod literal;

use std::fmt;

use literal::Value;

/// The length of a header is known from this many bytes at its start.
pub const MIN_HEADER_LEN: usize = 12;

/// The longest header that is read, in bytes. Format 2.0 allows 4 GiB, for dtypes with very many
/// fields. 1 MiB is enough for tens of thousands of fields, and NumPy itself by default refuses
/// more than 10,000 bytes. Without a bound, a file of 12 bytes decides how much memory we take.
pub const MAX_HEADER_LEN: usize = 1 << 20;

/// The most axes that an array has (NPY_MAXDIMS of NumPy 2).
const MAX_AXES: usize = 64;

/// The fields of a `.npy` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Where the array's bytes start, in bytes from the start of the file.
    pub data_offset: u64,
    /// The dtype, as the Python literal in the header ("'<f4'", "[('a', '<i2')]").
    pub descr: String,
    /// Whether the first index varies fastest.
    pub fortran_order: bool,
    /// Number of elements along each axis.
    pub shape: Vec<u64>,
    /// Size of one element in bytes; `None` for Python objects, whose data is a pickle.
    pub itemsize: Option<u64>,
}

impl Header {
    /// Parses the header at the start of a file. `start` may end before the header ends, or contain
    /// bytes after it.
    ///
    /// # Errors
    /// `Truncated` if `start` is too short: call again with `needed` bytes. Any other error is
    /// final.
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
            // Latin-1: each byte is the character with that code point.
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
            // As in Python, if a key is repeated, its last value counts.
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
    /// Also `None` if the size does not fit in 63 bits; `parse` returns no such header.
    pub fn file_size(&self) -> Option<u64> {
        let elements = product(&self.shape)?;
        let size = elements.checked_mul(self.itemsize?)?.checked_add(self.data_offset)?;
        (size <= i64::MAX as u64).then_some(size)
    }
}

/// The product of `lengths`; `None` if it overflows. It is 0 if any length is 0.
fn product(lengths: &[u64]) -> Option<u64> {
    if lengths.contains(&0) {
        return Some(0);
    }
    lengths.iter().try_fold(1_u64, |product, &len| product.checked_mul(len))
}

fn malformed(what: impl Into<String>) -> NpyError {
    NpyError::Malformed(what.into())
}

/// Why the `.npy` header is missing or cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NpyError {
    /// The file does not start with the magic bytes of a `.npy` file.
    NoMagic,
    /// The given bytes end before the header does.
    Truncated {
        /// The least number of bytes from the start of the file that are needed.
        needed: usize,
    },
    /// A format version that is not known.
    Version {
        /// First byte of the version.
        major: u8,
        /// Second byte of the version.
        minor: u8,
    },
    /// The header is longer than `MAX_HEADER_LEN`.
    TooLong {
        /// Length of the header in bytes, without magic bytes, version and length field.
        len: usize,
    },
    /// The header is not a dict with the three keys and values of the right types.
    Malformed(String),
    /// The dtype is not known, so neither is its size.
    Dtype(String),
    /// The file size that follows from the header does not fit in 63 bits.
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
