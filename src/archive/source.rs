//! An open file of the source tree, one generation of it.

use std::{fs::File, io};

use super::Generation;

/// A file of the user's, read only as long as it is the generation that was opened.
#[derive(Debug)]
pub struct SourceFile {
    _file: File,
    generation: Generation,
}

impl SourceFile {
    /// Takes over an open file; its generation is the one it has now.
    ///
    /// # Errors
    /// When fstat(2) fails.
    pub fn new(file: File) -> io::Result<Self> {
        let _ = file;
        todo!()
    }

    /// The generation that was opened.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the file still holds the bytes of its generation; `Err` says why not
    /// (an `io::Error` that `is_stale` recognises, or what fstat said).
    ///
    /// # Errors
    /// As above.
    pub fn check(&self) -> io::Result<()> {
        todo!()
    }

    /// The file, for kernel passthrough and statfs.
    pub fn file(&self) -> &File {
        &self._file
    }

    /// Whether an error of a read means that the file was overwritten.
    pub fn is_stale(error: &io::Error) -> bool {
        let _ = error;
        todo!()
    }
}

impl seekable_deflate::ReadAt for SourceFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let _ = (buf, offset);
        todo!()
    }
}
