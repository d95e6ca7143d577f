//! Which names of the source are shown as something else.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

/// Whether a file of this name is taken for an archive.
pub(super) fn is_npz(name: &OsStr) -> bool {
    ends_with(name, b".npz")
}

/// The name under which a gzipped `.npy` is shown; `None` if this is not the name of one.
pub(super) fn npy_of_gz(name: &OsStr) -> Option<&OsStr> {
    let shown = name.as_bytes().strip_suffix(b".gz")?;
    (shown.len() > b".npy".len() && shown.ends_with(b".npy")).then(|| OsStr::from_bytes(shown))
}

/// The name of the gzipped file that would be shown as `name`.
pub(super) fn gz_of_npy(name: &OsStr) -> Option<OsString> {
    let gz = [name.as_bytes(), b".gz"].concat();
    let gz = OsString::from_vec(gz);
    npy_of_gz(&gz).is_some().then_some(gz)
}

/// The name of the directory beside an archive of this name.
pub(super) fn beside(archive: &OsStr) -> OsString {
    OsString::from_vec([archive.as_bytes(), b".d"].concat())
}

/// The name of the archive beside which a directory of this name is shown.
pub(super) fn archive_beside(name: &OsStr) -> Option<&OsStr> {
    let archive = OsStr::from_bytes(name.as_bytes().strip_suffix(b".d")?);
    is_npz(archive).then_some(archive)
}

fn ends_with(name: &OsStr, suffix: &[u8]) -> bool {
    let name = name.as_bytes();
    name.len() > suffix.len() && name[name.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_by_their_ends() {
        for (name, npz, npy) in [
            ("a.npz", true, None),
            ("a.NPZ", true, None),
            (".npz", false, None),
            ("npz", false, None),
            ("a.npz.d", false, None),
            ("a.npy.gz", false, Some("a.npy")),
            (".npy.gz", false, None),
            ("a.npy.GZ", false, None),
            ("a.gz", false, None),
        ] {
            let name = OsStr::new(name);
            assert_eq!(is_npz(name), npz, "{name:?}");
            assert_eq!(npy_of_gz(name), npy.map(OsStr::new), "{name:?}");
            assert_eq!(archive_beside(&beside(name)).is_some(), npz, "{name:?}");
            if let Some(npy) = npy {
                assert_eq!(gz_of_npy(OsStr::new(npy)).as_deref(), Some(name));
            }
        }
        assert_eq!(gz_of_npy(OsStr::new("a.txt")), None);
    }
}
