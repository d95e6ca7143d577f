//! Lists the members of an archive, with what their headers and the saved indexes say of them.

use std::path::Path;

use serde::Serialize;

use super::{Found, parallel};
use crate::{
    archive::{self, Container, DirId, Entry, Member, MemberId, Method, npy},
    saved::{IndexFile, Indexes, StreamKey},
};

/// Bytes of a member that are decoded to find its `.npy` header. Longer headers are decoded again.
const START: u64 = 1 << 10;

/// The indexes that mounts have saved.
#[derive(Debug)]
pub(crate) struct Saved(Option<Indexes>);

impl Saved {
    /// The indexes in a directory. There are none if the directory cannot be read.
    pub(crate) fn in_directory(path: Option<&Path>) -> Self {
        Self(path.and_then(|path| Indexes::existing(path).ok()))
    }

    fn of(&self, archive: &Container) -> Option<IndexFile> {
        self.0.as_ref()?.peek(&archive.identity().ok()?).ok()?
    }
}

/// What is known of a member.
#[derive(Debug, Serialize)]
pub(crate) struct MemberRow {
    /// The name under which a mount shows it in the directory of its archive. `None` for an archive
    /// that is shown as one file.
    pub name: Option<String>,
    pub method: String,
    /// Decoded, in bytes.
    pub size: u64,
    /// In the archive, in bytes.
    pub encoded_size: u64,
    /// Eight hexadecimal digits.
    pub crc32: Option<String>,
    /// What the `.npy` header says; `None` if there is none that can be read.
    #[serde(flatten)]
    pub array: Option<Array>,
    /// `damaged: ...`, `encrypted`, `no decoder`, `verified`, `indexed`, `indexed N %` or empty.
    pub state: String,
}

/// The `.npy` header of a member.
#[derive(Debug, Serialize)]
pub(crate) struct Array {
    /// What `numpy.dtype` takes: `<f4`. A Python literal for a dtype of several fields.
    pub dtype: String,
    pub shape: Vec<u64>,
    pub fortran_order: bool,
}

/// The members of an archive that a mount shows, in the order in which the archive has them.
pub(crate) fn list(found: &Found, saved: &Saved) -> Vec<MemberRow> {
    let archive = &found.archive;
    let mut members = members(archive);
    members.sort_unstable_by_key(|(id, _)| *id);
    let index = saved.of(archive);
    parallel::map(members.len(), |number| {
        let (id, name) = &members[number];
        row(archive, index.as_ref(), *id, name.as_deref())
    })
}

/// The members that are shown, with their paths in the archive.
fn members(archive: &Container) -> Vec<(MemberId, Option<Vec<u8>>)> {
    let (dirs, _) = archive.counts();
    if dirs == 0 {
        return vec![(MemberId::ONLY, None)];
    }
    let mut members = Vec::new();
    let mut pending = vec![(DirId::ROOT, Vec::new())];
    while let Some((dir, prefix)) = pending.pop() {
        for (name, entry) in archive.dir(dir).entries() {
            let path = [&prefix, name].concat();
            match entry {
                Entry::Dir(below) => pending.push((below, [&path[..], b"/"].concat())),
                Entry::Member(id) => members.push((id, Some(path))),
            }
        }
    }
    members
}

fn row(
    archive: &Container,
    index: Option<&IndexFile>,
    id: MemberId,
    name: Option<&[u8]>,
) -> MemberRow {
    let member = archive.member(id);
    let header = match name.is_none_or(|name| name.ends_with(b".npy")) {
        true => header(archive, id),
        false => archive.data_offset(id).map(|_| None),
    };
    let (array, state) = match header {
        Ok(header) => (header, saved_state(archive, member, index)),
        Err(archive::Error::Encrypted) => (None, "encrypted".to_owned()),
        Err(archive::Error::UnsupportedMethod(_)) => (None, "no decoder".to_owned()),
        Err(error) => (None, format!("damaged: {}", error.reason())),
    };
    MemberRow {
        name: name.map(|name| String::from_utf8_lossy(name).into_owned()),
        method: member.method.to_string(),
        size: member.size,
        encoded_size: member.encoded_size,
        crc32: member.crc32.map(|crc| format!("{crc:08x}")),
        array,
        state,
    }
}

/// The `.npy` header. `None` if the member does not begin with one.
fn header(archive: &Container, id: MemberId) -> Result<Option<Array>, archive::Error> {
    let mut len = START;
    let parsed = loop {
        let start = archive.decode_start(id, len)?;
        match npy::Header::parse(&start) {
            Err(npy::NpyError::Truncated { needed }) if needed as u64 > len => len = needed as u64,
            parsed => break parsed,
        }
    };
    Ok(parsed.ok().map(|header| Array {
        // Of a simple dtype, without the quotes of the literal.
        dtype: header.descr.trim_matches(['\'', '"']).to_owned(),
        shape: header.shape,
        fortran_order: header.fortran_order,
    }))
}

/// What the saved indexes say of a member.
fn saved_state(archive: &Container, member: &Member, index: Option<&IndexFile>) -> String {
    let key = StreamKey { header_offset: member.header_offset, encoded_size: member.encoded_size };
    let Some((index, trust)) = index.and_then(|index| Some((index, index.trust(key)?))) else {
        return String::new();
    };
    let file = trust.file.and_then(|_| archive.source().same_file().ok());
    if !trust.holds_for(file) {
        return String::new();
    }
    let seekable = matches!(member.method, Method::Deflated | Method::Gzip);
    let frontier = match index.index(key) {
        Ok(Some(saved)) if seekable => saved.frontier(),
        _ => 0,
    };
    match (trust.confirmed, frontier) {
        (true, 0) => "verified".to_owned(),
        (true, _) => "verified, indexed".to_owned(),
        (false, 0) => String::new(),
        (false, frontier) if frontier >= member.size => "indexed".to_owned(),
        (false, frontier) => {
            format!("indexed {} %", u128::from(frontier) * 100 / u128::from(member.size))
        }
    }
}
