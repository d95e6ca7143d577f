//! The formats of containers: which files may have the format, how they are parsed, and under which
//! names they are shown.
//!
//! A new format needs an entry in [`FORMATS`] and a file with its parser.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    sync::Arc,
};

use super::{Container, Error, Grow, SourceFile, container, gzip, zip};

/// All formats. If two files would be shown under the same name, the file whose format comes first
/// in this list is shown.
static FORMATS: [&Format; 2] = [&NPZ, &NPY_GZ];

/// A zip archive of arrays: `a.npz` is shown as a directory.
pub static NPZ: Format =
    Format { suffix: ".npz", any_case: true, hidden: None, parse: zip::parse, memory: zip::memory };

/// A gzipped array: `x.npy.gz` is shown as `x.npy`.
pub static NPY_GZ: Format = Format {
    suffix: ".npy.gz",
    any_case: false,
    hidden: Some(".gz"),
    parse: gzip::parse_npy,
    memory: |_, _| container::MEMORY_OF_ONE,
};

/// Parses a file. The second argument holds its last `TAIL_READ` bytes, which have been read
/// already. The last argument reserves memory: it is called before parsing allocates more than a
/// few MiB. About half of the memory reserved is freed when parsing ends.
type Parse = fn(Arc<SourceFile>, Vec<u8>, &mut Grow<'_>) -> Result<Container, Error>;

/// A format of containers: the names of its files, and how they are parsed and shown.
#[derive(Debug)]
pub struct Format {
    /// The suffix of the names of such files. A name must have at least one byte before it.
    suffix: &'static str,
    /// Whether upper and lower case are the same in the suffix.
    any_case: bool,
    /// The part of the suffix that is removed from the shown name; `None` for a container that is
    /// shown as a directory under its own name.
    hidden: Option<&'static str>,
    parse: Parse,
    /// Estimates how many bytes of memory a container takes, from its file and the last bytes of
    /// the file.
    memory: fn(&SourceFile, &[u8]) -> u64,
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.suffix == other.suffix
    }
}

impl Format {
    /// The format that a file of this name may have.
    pub fn of(name: &OsStr) -> Option<&'static Self> {
        let name = name.as_bytes();
        FORMATS.into_iter().find(|format| {
            let stem = name.len().saturating_sub(format.suffix.len());
            let (suffix, end) = (format.suffix.as_bytes(), &name[stem..]);
            stem > 0
                && if format.any_case { end.eq_ignore_ascii_case(suffix) } else { end == suffix }
        })
    }

    /// The suffix of the names of files of this format, such as `.npz`. No two formats have the
    /// same suffix.
    pub fn suffix(&self) -> &'static str {
        self.suffix
    }

    /// Whether a container is shown as a directory under its own name.
    pub fn is_directory(&self) -> bool {
        self.hidden.is_none()
    }

    /// The name under which the only member of the container called `name` is shown; `None` if the
    /// container is shown as a directory.
    pub fn shown_name<'a>(&self, name: &'a OsStr) -> Option<&'a OsStr> {
        name.as_bytes().strip_suffix(self.hidden?.as_bytes()).map(OsStr::from_bytes)
    }

    /// The names of files that may be shown as a file called `shown`, with their formats.
    pub fn sources_of(shown: &OsStr) -> impl Iterator<Item = (&'static Self, OsString)> {
        FORMATS.into_iter().filter_map(move |format| {
            let name = [shown.as_bytes(), format.hidden?.as_bytes()].concat();
            let name = OsString::from_vec(name);
            (Self::of(&name) == Some(format)).then_some((format, name))
        })
    }

    /// Parses a file. `tail` holds its last bytes, as [`SourceFile::with_tail`] returns them.
    /// `grow` is called before more than a few MiB of memory are allocated. About half of that
    /// memory is freed when parsing ends.
    ///
    /// # Errors
    /// `Pending` or `Corrupt` if the file is not a container of this format, `Io`, and errors of
    /// `grow`.
    pub fn parse(
        &self,
        source: Arc<SourceFile>,
        tail: Vec<u8>,
        grow: &mut Grow<'_>,
    ) -> Result<Container, Error> {
        (self.parse)(source, tail, grow)
    }

    /// About how many bytes of memory parsing takes, and the container after it.
    pub fn memory(&self, source: &SourceFile, tail: &[u8]) -> u64 {
        (self.memory)(source, tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_by_their_ends() {
        for (name, format, shown) in [
            ("a.npz", Some(&NPZ), None),
            ("a.NPZ", Some(&NPZ), None),
            (".npz", None, None),
            ("npz", None, None),
            ("a.npz.d", None, None),
            ("a.npy.gz", Some(&NPY_GZ), Some("a.npy")),
            (".npy.gz", None, None),
            ("a.npy.GZ", None, None),
            ("a.gz", None, None),
        ] {
            let name = OsStr::new(name);
            assert_eq!(Format::of(name), format, "{name:?}");
            let shown = shown.map(OsStr::new);
            assert_eq!(format.and_then(|format| format.shown_name(name)), shown, "{name:?}");
            if let Some(shown) = shown {
                let sources: Vec<_> = Format::sources_of(shown).collect();
                assert_eq!(sources, [(format.unwrap(), name.to_owned())]);
            }
        }
        assert_eq!(Format::sources_of(OsStr::new("a.txt")).count(), 0);
    }
}
