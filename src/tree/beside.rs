//! The names of directories beside archives (`--layout beside` and `stored`).

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use crate::archive::Format;

/// The name of the directory beside an archive of this name.
pub(super) fn directory_of(archive: &OsStr) -> OsString {
    OsString::from_vec([archive.as_bytes(), b".d"].concat())
}

/// The name and the format of the archive beside which a directory of this name is shown.
pub(super) fn archive_of(name: &OsStr) -> Option<(&OsStr, &'static Format)> {
    let archive = OsStr::from_bytes(name.as_bytes().strip_suffix(b".d")?);
    let format = Format::of(archive).filter(|format| format.is_directory())?;
    Some((archive, format))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_archives_have_a_directory_beside_them() {
        for (name, is_archive) in [("a.npz", true), (".npz", false), ("a.npy.gz", false)] {
            let directory = directory_of(OsStr::new(name));
            let archive = archive_of(&directory).map(|(archive, _)| archive);
            assert_eq!(archive, is_archive.then_some(OsStr::new(name)));
        }
        assert_eq!(archive_of(OsStr::new("a.npz")), None);
    }
}
