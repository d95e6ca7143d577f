//! `mount.npzfs`: the helper that mount(8) calls for the type `npzfs`, also for fstab(5). It is this
//! program under another name.

use std::{ffi::OsString, path::Path};

/// The command line without what only mount(8) says. `None` if nothing is to be mounted: `mount
/// --fake`.
pub(super) fn plain(line: Vec<OsString>) -> Option<Vec<OsString>> {
    let name = line.first().and_then(|program| Path::new(program).file_name());
    if name.is_none_or(|name| name != "mount.npzfs") {
        return Some(line);
    }
    let mut plain = Vec::new();
    let mut words = line.into_iter();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-f") => return None,
            // Unknown options are tolerated; /etc/mtab is not written.
            Some("-s" | "-n") => {}
            // The type, and the mount namespace in which mount(8) has started this program already.
            Some("-t" | "-N") => _ = words.next(),
            _ => plain.push(word),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<String> {
        let words = text.split(' ').map(OsString::from).collect();
        Some(plain(words)?.join(" ".as_ref()).into_string().expect("it was text"))
    }

    #[test]
    fn what_only_mount_8_says_is_left_out() {
        for (line, left) in [
            ("mount.npzfs /a /b -o rw,ttl=3", Some("mount.npzfs /a /b -o rw,ttl=3")),
            ("/sbin/mount.npzfs /a /b -s -n -v -o ro", Some("/sbin/mount.npzfs /a /b -v -o ro")),
            ("mount.npzfs /a /b -t npzfs -N 3", Some("mount.npzfs /a /b")),
            ("mount.npzfs /a /b -f", None),
            ("npzfs /a /b -f -n", Some("npzfs /a /b -f -n")),
        ] {
            assert_eq!(of(line).as_deref(), left, "{line}");
        }
    }
}
