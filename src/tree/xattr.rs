//! The extended attributes. Their names start with `user.npzfs.`.

use std::{ffi::OsStr, sync::Arc};

use super::{
    FsError, Ino, Kind, Tree,
    node::{Node, SourceNode},
    resolve::split,
};
use crate::{
    archive::{Format, npy},
    serve::{self, Content},
};

/// An extended attribute that npzfs offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Xattr {
    /// How the member is encoded.
    Method,
    /// CRC-32 of the decoded bytes, eight hex digits.
    Crc32,
    /// Size of the encoded member in the archive, in bytes.
    EncodedSize,
    /// The dtype in the `.npy` header.
    Dtype,
    /// The shape in the `.npy` header.
    Shape,
    /// Whether the first index varies fastest, from the `.npy` header.
    FortranOrder,
    /// Whether the file can be read, and if not, why (docs/semantics.md, rule 4.5).
    State,
}

impl Xattr {
    /// All attributes with their full names, in the order of a listing.
    const ALL: [(Self, &'static str); 7] = [
        (Self::Method, "user.npzfs.method"),
        (Self::Crc32, "user.npzfs.crc32"),
        (Self::EncodedSize, "user.npzfs.encoded_size"),
        (Self::Dtype, "user.npzfs.dtype"),
        (Self::Shape, "user.npzfs.shape"),
        (Self::FortranOrder, "user.npzfs.fortran_order"),
        (Self::State, "user.npzfs.state"),
    ];

    /// The attribute with this full name.
    pub(crate) fn named(name: &OsStr) -> Option<Self> {
        Self::ALL.into_iter().find_map(|(xattr, full)| (name == full).then_some(xattr))
    }

    /// Whether the value comes from the `.npy` header, which may have to be decoded first.
    pub(crate) fn needs_header(self) -> bool {
        matches!(self, Self::Dtype | Self::Shape | Self::FortranOrder)
    }
}

impl Tree {
    /// The names of the extended attributes that are listed for an inode, each with a zero byte
    /// after it: those whose values are short and known without decoding. Tools that copy
    /// attributes fail if a listed attribute cannot be read, or if its value is too long for their
    /// filesystem.
    ///
    /// # Errors
    /// `NoInode`, or `Stale`.
    pub(crate) fn list_xattrs(&self, ino: Ino) -> Result<String, FsError> {
        let listed: &[Xattr] = match &*self.node(ino)? {
            Node::Source(node) if format_of(node).is_some() => &[Xattr::State],
            Node::Source(_) => &[],
            Node::ArchiveRoot | Node::ArchiveDir(..) | Node::DecodedArchive(_) => &[Xattr::State],
            Node::Member(version, id) => {
                match self.open_container(version)?.container().member(*id).crc32 {
                    Some(_) => &[Xattr::Method, Xattr::Crc32, Xattr::EncodedSize, Xattr::State],
                    None => &[Xattr::Method, Xattr::EncodedSize, Xattr::State],
                }
            }
        };
        let names = Xattr::ALL.into_iter().filter(|(xattr, _)| listed.contains(xattr));
        Ok(names.flat_map(|(_, name)| [name, "\0"]).collect())
    }

    /// The value of an extended attribute. May wait for decoding if the attribute
    /// [`needs_header`](Xattr::needs_header). Opens a large archive only if the caller `waits`;
    /// else the error is `Heavy`.
    ///
    /// # Errors
    /// `NoAttribute`, `NoInode`, `Stale`, `Heavy`, or an error of the source.
    pub(crate) fn xattr(&self, ino: Ino, xattr: Xattr, waits: bool) -> Result<String, FsError> {
        match &*self.node(ino)? {
            Node::Source(node) => self.source_state(node, xattr, waits),
            Node::ArchiveRoot if xattr == Xattr::State => Ok(match self.root_archive(true) {
                Ok(_) => "ready".to_owned(),
                Err(error) => error.to_string(),
            }),
            Node::ArchiveDir(..) | Node::DecodedArchive(_) if xattr == Xattr::State => {
                Ok("ready".to_owned())
            }
            Node::ArchiveRoot | Node::ArchiveDir(..) | Node::DecodedArchive(_) => {
                Err(FsError::NoAttribute)
            }
            Node::Member(version, id) => {
                let archive = self.open_container(version)?;
                let member = archive.container().member(*id);
                match xattr {
                    Xattr::Method => Ok(member.method.to_string()),
                    Xattr::Crc32 => {
                        let crc32 = member.crc32.ok_or(FsError::NoAttribute)?;
                        Ok(format!("{crc32:08x}"))
                    }
                    Xattr::EncodedSize => Ok(member.encoded_size.to_string()),
                    Xattr::State => Ok(match archive.content(*id) {
                        Ok(content) => content.readiness().to_string(),
                        Err(error) => state_of(&error),
                    }),
                    _ => {
                        let content = archive.content(*id).map_err(|_| FsError::NoAttribute)?;
                        let header = header_of(&content).ok_or(FsError::NoAttribute)?;
                        of_header(xattr, &header)
                    }
                }
            }
        }
    }

    fn source_state(
        &self,
        node: &SourceNode,
        xattr: Xattr,
        waits: bool,
    ) -> Result<String, FsError> {
        let path = node.path();
        let (Xattr::State, Some(format)) = (xattr, format_of(node)) else {
            return Err(FsError::NoAttribute);
        };
        let (directory, name) = split(&path);
        let mut at = self.source.at(directory);
        at.waits = waits;
        Ok(match self.container_at(&at, name, format, at.stat(name)?)? {
            (Ok(_), _) => "ready".to_owned(),
            (Err(why), _) => why.to_string(),
        })
    }
}

/// The format that the name of a file suggests, if the file has a state.
fn format_of(node: &SourceNode) -> Option<&'static Format> {
    let format = node.path().file_name().and_then(Format::of)?;
    (node.kind == Kind::RegularFile && format.is_directory()).then_some(format)
}

/// The state of a member that cannot be read at all.
fn state_of(error: &serve::Error) -> String {
    match error {
        serve::Error::Encrypted => "refused: encrypted".to_owned(),
        serve::Error::UnsupportedMethod(number) => {
            format!("refused: method {number} is not supported")
        }
        error => format!("corrupt: {error}"),
    }
}

/// The longest value that an attribute may have (XATTR_SIZE_MAX, xattr(7)), in bytes.
const LONGEST: usize = 64 << 10;

/// The value of `xattr` from the `.npy` header.
fn of_header(xattr: Xattr, header: &npy::Header) -> Result<String, FsError> {
    let value = match xattr {
        Xattr::Shape => match &header.shape[..] {
            [one] => format!("({one},)"),
            axes => {
                let axes: Vec<_> = axes.iter().map(u64::to_string).collect();
                format!("({})", axes.join(", "))
            }
        },
        Xattr::FortranOrder => if header.fortran_order { "True" } else { "False" }.into(),
        _ => {
            // In the header a simple dtype is a string, and a structured dtype is a list.
            let descr = header.descr.trim();
            let unquoted = ['\'', '"']
                .into_iter()
                .find_map(|quote| descr.strip_prefix(quote)?.strip_suffix(quote));
            unquoted.unwrap_or(descr).to_owned()
        }
    };
    if value.len() <= LONGEST { Ok(value) } else { Err(FsError::NoAttribute) }
}

/// How many bytes are read first to find the header: more than any header without a list of fields
/// has.
const HEAD: u64 = 4 << 10;

/// The `.npy` header at the start of `content`.
fn header_of(content: &Arc<Content>) -> Option<npy::Header> {
    let mut len = HEAD;
    loop {
        match npy::Header::parse(&content.head(len).ok()?) {
            Ok(header) => return Some(header),
            Err(npy::NpyError::Truncated { needed }) if len < content.size() => {
                // The loop ends, because `needed` is bounded and `len` grows each time.
                len = (needed as u64).max(len + HEAD);
            }
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_an_attribute_may_be_is_none() {
        let dtype = |len| {
            let descr = "x".repeat(len);
            let (shape, fortran_order) = (Vec::new(), false);
            let header =
                npy::Header { data_offset: 0, descr, fortran_order, shape, itemsize: None };
            of_header(Xattr::Dtype, &header)
        };
        assert!(dtype(LONGEST).is_ok());
        assert!(matches!(dtype(LONGEST + 1), Err(FsError::NoAttribute)));
    }
}
