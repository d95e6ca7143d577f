//! Turns the names in an archive into names that a filesystem can show.
//!
//! Each name becomes a path of plain components, or is left out. This module does not know which
//! directories exist: `dir.rs` decides what happens if two names have the same path.

/// The longest name of a file on Linux (NAME_MAX), in bytes.
const NAME_MAX: usize = 255;

/// The change made to a name, or the reason why it is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Left out: a component is `..`.
    Parent,
    /// Left out: the name holds a zero byte.
    Nul,
    /// Left out: no component is left.
    Empty,
    /// A leading `/`, an empty component or a component `.` was dropped.
    Dropped,
    /// A component was longer than 255 bytes and was shortened.
    Shortened,
    /// A file and a directory have this name; the file was renamed.
    Renamed,
    /// Left out: a different name, later in the archive, has the same path.
    Covered,
    /// Left out: the archive has too many directories.
    TooMany,
}

impl Change {
    /// A phrase for the change and its cause. In a message it follows the name and "is".
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Parent => "left out: it has a component \"..\"",
            Self::Nul => "left out: it holds a zero byte",
            Self::Empty => "left out: it names nothing",
            Self::Dropped => "shown without its empty and \".\" components",
            Self::Shortened => "shortened: a component has more than 255 bytes",
            Self::Renamed => "shown with \".member\" after it: a directory has this name",
            Self::Covered => "left out: a later name is shown as this one",
            Self::TooMany => "left out: there are too many directories",
        }
    }
}

/// The result of [`show`] for a name that can be shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// Whether the name is a directory's: it ends in `/`.
    pub is_dir: bool,
    /// How the name was changed, if it was.
    pub change: Option<Change>,
}

/// Appends the components of `name` to `path`, with `/` between them.
///
/// # Errors
/// The reason why the name cannot be shown. `path` is then unchanged.
pub(super) fn show(name: &[u8], path: &mut Vec<u8>) -> Result<Shown, Change> {
    if name.contains(&0) {
        return Err(Change::Nul);
    }
    let before = path.len();
    let mut shown = Shown { is_dir: name.ends_with(b"/"), change: None };
    let components = name.strip_suffix(b"/").unwrap_or(name);
    for component in components.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => shown.change = shown.change.or(Some(Change::Dropped)),
            b".." => {
                path.truncate(before);
                return Err(Change::Parent);
            }
            component => {
                if path.len() > before {
                    path.push(b'/');
                }
                if append_component(component, path) {
                    shown.change = Some(Change::Shortened);
                }
            }
        }
    }
    if path.len() == before { Err(Change::Empty) } else { Ok(shown) }
}

/// Appends `component`, shortened if it has more than 255 bytes. Returns whether it was shortened.
///
/// A shortened name has 255 bytes, or up to 3 less so that no UTF-8 character is cut. It consists
/// of the start of the name, `~`, the CRC-32 of the whole name in 8 hex digits, and the last
/// extension.
pub(super) fn append_component(component: &[u8], path: &mut Vec<u8>) -> bool {
    if component.len() <= NAME_MAX {
        path.extend_from_slice(component);
        return false;
    }
    let hash = format!("~{:08x}", crc32fast::hash(component));
    let dot = component.iter().rposition(|&byte| byte == b'.').unwrap_or(0);
    let extension = &component[dot..];
    let has_room = dot > 0 && hash.len() + extension.len() < NAME_MAX;
    let extension = if has_room { extension } else { b"" };
    let mut stem_len = NAME_MAX - hash.len() - extension.len();
    for _ in 0..3 {
        if component[stem_len] & 0xC0 == 0x80 && stem_len > 0 {
            stem_len -= 1;
        }
    }
    path.extend_from_slice(&component[..stem_len]);
    path.extend_from_slice(hash.as_bytes());
    path.extend_from_slice(extension);
    true
}

/// Formats a name for a message: printable, in one line, at most its first 100 bytes.
pub(super) fn escaped(name: &[u8]) -> String {
    const LONGEST: usize = 100;
    let start = &name[..name.len().min(LONGEST)];
    let text = match std::str::from_utf8(name) {
        Ok(_) => {
            String::from_utf8_lossy(start).trim_end_matches('\u{FFFD}').escape_debug().to_string()
        }
        Err(_) => start.escape_ascii().to_string(),
    };
    if start.len() < name.len() { format!("{text}...") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_of(name: &[u8]) -> Result<(Vec<u8>, Shown), Change> {
        let mut path = b"before".to_vec();
        let shown = show(name, &mut path);
        assert!(path.starts_with(b"before"));
        shown.map(|shown| (path.split_off(6), shown)).inspect_err(|_| assert_eq!(path, b"before"))
    }

    #[test]
    fn names_become_paths_of_plain_components() {
        let dropped = Some(Change::Dropped);
        for (name, path, is_dir, change) in [
            (&b"x.npy"[..], &b"x.npy"[..], false, None),
            (b"a/b/x.npy", b"a/b/x.npy", false, None),
            (b"a/", b"a", true, None),
            (b"a/b/", b"a/b", true, None),
            (b"/x", b"x", false, dropped),
            (b"//x", b"x", false, dropped),
            (b"./x", b"x", false, dropped),
            (b"a//./x", b"a/x", false, dropped),
            (b"a//", b"a", true, dropped),
            (b"a\\b", b"a\\b", false, None),
            (b"...", b"...", false, None),
            (b".hidden", b".hidden", false, None),
            (b"\xff\x01 ", b"\xff\x01 ", false, None),
        ] {
            let expected = (path.to_vec(), Shown { is_dir, change });
            assert_eq!(path_of(name), Ok(expected), "{}", escaped(name));
        }
    }

    #[test]
    fn names_that_lead_out_or_nowhere_are_left_out() {
        for (name, change) in [
            (&b"../x"[..], Change::Parent),
            (b"a/../../x", Change::Parent),
            (b"a/..", Change::Parent),
            (b"..", Change::Parent),
            (b"x\0.npy", Change::Nul),
            (b"", Change::Empty),
            (b"/", Change::Empty),
            (b".", Change::Empty),
            (b"././/", Change::Empty),
        ] {
            assert_eq!(path_of(name), Err(change), "{}", escaped(name));
        }
    }

    #[test]
    fn a_component_over_255_bytes_keeps_its_start_and_extension_around_a_hash() {
        let name = [&[b'x'; 300][..], b".tar.npy"].concat();
        let (path, shown) = path_of(&name).unwrap();
        assert_eq!(shown.change, Some(Change::Shortened));
        assert_eq!(path.len(), 255);
        assert!(path.starts_with(&[b'x'; 242]));
        let hash = format!("~{:08x}.npy", crc32fast::hash(&name));
        assert!(path.ends_with(hash.as_bytes()));

        let other = [&[b'x'; 301][..], b".tar.npy"].concat();
        assert_ne!(path_of(&other).unwrap().0, path);
        assert_eq!(path_of(&[b'x'; 255]).unwrap().0, [b'x'; 255]);
    }

    #[test]
    fn an_extension_that_leaves_no_room_is_cut_like_the_rest() {
        for name in
            [[b".".as_slice(), &[b'y'; 400]].concat(), [b"x.".as_slice(), &[b'y'; 245]].concat()]
        {
            if name.len() > 255 {
                let (path, _) = path_of(&name).unwrap();
                assert_eq!(path.len(), 255);
                assert!(path.ends_with(format!("~{:08x}", crc32fast::hash(&name)).as_bytes()));
            } else {
                assert_eq!(path_of(&name).unwrap().0, name);
            }
        }
    }

    #[test]
    fn shortening_does_not_cut_a_utf8_character() {
        for shift in 0..4 {
            let name = ["a".repeat(shift), "\u{1F600}".repeat(100)].concat();
            let (path, _) = path_of(name.as_bytes()).unwrap();
            assert!((252..=255).contains(&path.len()), "{}", path.len());
            assert!(std::str::from_utf8(&path).is_ok());
        }
    }

    #[test]
    fn a_name_in_a_message_is_one_short_printable_line() {
        assert_eq!(escaped(b"a\nb\"\xff"), "a\\nb\\\"\\xff");
        assert_eq!(escaped("\u{e9}\n".as_bytes()), "\u{e9}\\n");
        assert_eq!(escaped(&[b'x'; 5000]), format!("{}...", "x".repeat(100)));
        assert_eq!(escaped("\u{e9}".repeat(5000).as_bytes()).chars().count(), 53);
    }
}
