//! The header of a `.npy` file (NEP 1, format versions 1.0, 2.0, 3.0).

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
    /// Size of the whole file in bytes, `None` for Python objects.
    pub fn file_size(&self) -> Option<u64> {
        todo!()
    }
}
