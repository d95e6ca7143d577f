//! What is mounted where: `/proc/self/mountinfo`, parsed.
//!
//! Reading it asks no filesystem anything, so it cannot hang on a dead or stuck mount.

use std::{ffi::OsString, io, os::unix::ffi::OsStringExt, path::PathBuf};

/// The filesystem type that the kernel shows for our mounts.
pub const FS_TYPE: &str = "fuse.npzfs";

/// Device number of a mounted filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// Major number; 0 for filesystems without a block device.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Number of the mount, as in `/proc/self/fdinfo`.
    pub id: u64,
    /// Which filesystem.
    pub device: Device,
    /// The directory of the filesystem that is the root of this mount.
    pub root: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The group of mounts that share what is mounted below them, if any.
    pub peer_group: Option<u64>,
    /// Filesystem type with its subtype: `ext4`, `fuse.npzfs`.
    pub fs_type: OsString,
    /// What was mounted, in words of the filesystem.
    pub source: OsString,
}

impl Entry {
    /// Whether this is a mount of ours, by its type.
    #[must_use]
    pub fn is_npzfs(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// Whether a userspace process serves it.
    #[must_use]
    pub fn is_fuse(&self) -> bool {
        let fs_type = self.fs_type.as_encoded_bytes();
        fs_type == b"fuse" || fs_type == b"fuseblk" || fs_type.starts_with(b"fuse.")
    }
}

/// All mounts of this process's namespace, oldest first.
///
/// # Errors
/// When `/proc` is not mounted, or a line cannot be understood.
pub fn read() -> io::Result<Vec<Entry>> {
    parse(&std::fs::read("/proc/self/mountinfo")?)
}

/// The mount with number `id`.
///
/// # Errors
/// As [`read`], and `NotFound` if there is none.
pub fn by_id(id: u64) -> io::Result<Entry> {
    read()?.into_iter().find(|entry| entry.id == id).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("mount {id} is not in this mount namespace"),
        )
    })
}

fn parse(text: &[u8]) -> io::Result<Vec<Entry>> {
    text.split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line).ok_or_else(|| {
                let line = String::from_utf8_lossy(line);
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("strange mountinfo line: {line}"),
                )
            })
        })
        .collect()
}

/// Fields as in proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, options,
/// optional fields up to "-", type, source, superblock options.
fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let _parent = fields.next()?;
    let device = fields.next()?;
    let colon = device.iter().position(|&byte| byte == b':')?;
    let device = Device { major: number(&device[..colon])?, minor: number(&device[colon + 1..])? };
    let root = PathBuf::from(unescape(fields.next()?));
    let mount_point = PathBuf::from(unescape(fields.next()?));
    let _options = fields.next()?;
    let mut peer_group = None;
    loop {
        match fields.next()? {
            b"-" => break,
            field => {
                if let Some(group) = field.strip_prefix(b"shared:") {
                    peer_group = Some(number(group)?);
                }
            }
        }
    }
    let fs_type = unescape(fields.next()?);
    // A source may be empty: the field is then there, with nothing in it.
    let source = unescape(fields.next()?);
    Some(Entry { id, device, root, mount_point, peer_group, fs_type, source })
}

fn number<N: std::str::FromStr>(digits: &[u8]) -> Option<N> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Undoes the kernel's `\ooo` for space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                after
            }
            _ => {
                bytes.push(*first);
                tail
            }
        };
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn one(line: &str) -> Entry {
        let mut entries = parse(line.as_bytes()).expect("the line is valid");
        assert_eq!(entries.len(), 1);
        entries.remove(0)
    }

    #[test]
    fn every_field_of_a_line_is_read() {
        let entry =
            one("36 35 98:7 /mnt1 /mnt2 rw,noatime shared:5 master:1 - ext3 /dev/root rw\n");
        assert_eq!(
            entry,
            Entry {
                id: 36,
                device: Device { major: 98, minor: 7 },
                root: "/mnt1".into(),
                mount_point: "/mnt2".into(),
                peer_group: Some(5),
                fs_type: "ext3".into(),
                source: "/dev/root".into(),
            }
        );
        assert!(!entry.is_fuse() && !entry.is_npzfs());
    }

    #[test]
    fn octal_escapes_are_undone() {
        let line = r"9 1 0:50 / /a\040b\011c\012d\134e - fuse.npzfs /x\043y ro";
        let line = line.replacen(" - ", " ro - ", 1);
        let entry = one(&line);
        assert_eq!(entry.mount_point, Path::new("/a b\tc\nd\\e"));
        assert_eq!(entry.source, "/x#y");
        assert_eq!(entry.peer_group, None);
        assert!(entry.is_npzfs() && entry.is_fuse());
    }

    #[test]
    fn names_that_are_not_utf8_and_backslashes_that_escape_nothing_stay() {
        let mut line = br"9 1 0:50 / /\9\1\400".to_vec();
        line.extend(b"\xff ro - tmpfs tmpfs rw");
        let entry = parse(&line).expect("the line is valid").remove(0);
        assert_eq!(entry.mount_point.as_os_str().as_encoded_bytes(), b"/\\9\\1\\400\xff");
    }

    #[test]
    fn an_empty_source_is_a_field() {
        assert_eq!(one("9 1 0:50 / /a ro - tmpfs  rw").source, "");
    }

    #[test]
    fn a_line_cut_short_is_an_error() {
        let line = "36 35 98:7 /mnt1 /mnt2 rw shared:5 - ext3 /dev/root rw";
        for end in 1..line.find(" /dev/root").expect("it is there") {
            assert!(parse(&line.as_bytes()[..end]).is_err(), "{}", &line[..end]);
        }
    }

    #[test]
    fn the_root_of_this_machine_is_found() {
        let mounts = read().expect("/proc is mounted");
        let root = mounts.into_iter().find(|entry| entry.mount_point == Path::new("/"));
        let root = root.expect("/ is mounted");
        assert_eq!(by_id(root.id).expect("it was there just now"), root);
    }
}
