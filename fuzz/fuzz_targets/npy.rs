//! Any bytes as the header of a `.npy`: refused, or one that NumPy would take as well.

#![no_main]

use libfuzzer_sys::fuzz_target;
use npzfs::archive::npy::{Header, MAX_HEADER_LEN, NpyError};

fuzz_target!(|input: &[u8]| {
    match Header::parse(input) {
        Ok(header) => {
            assert!(header.shape.len() <= 64);
            assert!(header.data_offset <= (input.len().min(MAX_HEADER_LEN + 12)) as u64);
            if let Some(size) = header.file_size() {
                assert!(size >= header.data_offset && size <= i64::MAX as u64);
            }
            // What follows the header does not matter.
            let more = [input, b"more"].concat();
            assert_eq!(Header::parse(&more), Ok(header));
        }
        Err(NpyError::Truncated { needed }) => {
            assert!(needed > input.len() && needed <= MAX_HEADER_LEN + 12);
        }
        Err(error) => assert!(error.to_string().len() < 1000),
    }
});
