//! Finds the names that the mount shows in a source directory.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
};

use super::{
    FsError, Kind, Layout, Tree, beside,
    containers::Weight,
    flat,
    listing::{Name, OPENED_TOGETHER},
    source::{NAMES_AT_ONCE, SourceDir, SourceName},
};
use crate::{
    archive::{Device, Format, NPZ},
    serve::Reserved,
};

/// Bytes of memory for one name while a directory is read: 152 for a name of up to 24 bytes,
/// rounded up.
const NAME_MEMORY: u64 = 160;

impl Tree {
    /// The names that are shown in the directory `at`, without `.` and `..`.
    ///
    /// # Errors
    /// When there is not enough memory, or an error of the source. `Heavy`, with the weight of the
    /// heaviest archive, if the names depend on large archives and `at` does not wait.
    pub(super) fn list_source(
        &self,
        at: &SourceDir<'_>,
        device: Device,
    ) -> Result<Vec<Name>, FsError> {
        let mut reserved = Vec::new();
        let mut names = at.list(|| {
            reserved.push(self.server.reserve_memory(NAMES_AT_ONCE as u64 * NAME_MEMORY)?);
            Ok(())
        })?;
        // In byte order, for the binary search in `has`.
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let has = |name: &OsStr| names.binary_search_by(|entry| (*entry.0).cmp(name)).is_ok();
        let (mut shown, mut members) = (Vec::with_capacity(names.len()), BTreeSet::new());
        let mut heaviest = None;
        // In parts with a few archives each, which stay open until it is known which names they
        // show. Not all archives of a directory can be open at once.
        let mut archives = 0;
        let parts = names.chunk_by(|(name, ..), _| {
            archives += usize::from(Format::of(name).is_some());
            archives % OPENED_TOGETHER != 0 || Format::of(name).is_none()
        });
        for part in parts {
            heaviest = heaviest.max(self.open_what_decides(at, device, part));
            if heaviest.is_some() && !at.waits {
                continue;
            }
            if self.settings.layout == Layout::Flat {
                self.add_flat_names(at, part, has, &mut members, &mut reserved)?;
            }
            for name in part {
                self.add_shown(at, name, has, &mut shown)?;
            }
        }
        if let Some(weight) = heaviest.filter(|_| !at.waits) {
            return Err(FsError::Heavy(weight));
        }
        // A name that a `.npy.gz` has is not that of a member of an archive.
        for name in &shown {
            members.remove(&name.name);
        }
        shown.extend(members.into_iter().map(|name| Name::new(name, Kind::RegularFile)));
        Ok(shown)
    }

    /// Adds the names that are shown for one name of the source, which `has` others, to `shown`. The
    /// members that stand beside an archive are left out.
    fn add_shown(
        &self,
        at: &SourceDir<'_>,
        (name, ino, kind): &SourceName,
        has: impl Fn(&OsStr) -> bool,
        shown: &mut Vec<Name>,
    ) -> Result<(), FsError> {
        let is_beside = self.settings.layout.is_beside();
        let keeps_files = self.settings.layout.keeps_files();
        let kind = match kind {
            Some(kind) => *kind,
            None => match at.stat(name) {
                Ok(stat) => stat.kind(),
                // The file was removed since the directory was read.
                Err(_) => return Ok(()),
            },
        };
        let mut archive = None;
        if kind == Kind::RegularFile
            && let Some(format) = Format::of(name)
        {
            let directory = beside::directory_of(name);
            match format.shown_name(name) {
                None if !keeps_files => archive = Some(format),
                // If there is not enough memory to open the file, it is taken for an archive with
                // many members.
                None if is_beside
                    && !has(&directory)
                    && unless_heavy(self.is_container(at, name, format))?.unwrap_or(true) =>
                {
                    shown.push(Name::new(directory, Kind::Directory));
                }
                Some(member)
                    if !has(member)
                        && unless_heavy(self.is_container(at, name, format))?.unwrap_or(false) =>
                {
                    shown.push(Name::new(member.to_owned(), Kind::RegularFile));
                    if !keeps_files {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        shown.push(Name { archive, ino: *ino, ..Name::new(name.clone(), kind) });
        Ok(())
    }

    /// Adds the names of members that stand beside the archives among `names`, without those that
    /// the source `has`, to `members`, and their memory to `reserved`.
    fn add_flat_names(
        &self,
        at: &SourceDir<'_>,
        names: &[SourceName],
        has: impl Fn(&OsStr) -> bool,
        members: &mut BTreeSet<OsString>,
        reserved: &mut Vec<Reserved>,
    ) -> Result<(), FsError> {
        let archives = names.iter().filter(|name| may_be_file(name));
        for (name, ..) in archives.filter(|(name, ..)| flat::stem_of(name).is_some()) {
            let open = match unless_heavy(self.container_named(at, name, &NPZ))? {
                Ok(Some(open)) => open,
                Ok(None) => continue,
                // If memory is short for one archive, the members of the others are still listed.
                Err(error) => {
                    if let Some(repeats) = self.repeats("listing", &error) {
                        log::warn!("{error}: its members are not listed{repeats}");
                    }
                    continue;
                }
            };
            for name in self.settings.flat_names.of_archive(name, open.container()) {
                if !has(&name)
                    && members.insert(name)
                    && members.len().is_multiple_of(NAMES_AT_ONCE)
                {
                    reserved.push(self.server.reserve_memory(NAMES_AT_ONCE as u64 * NAME_MEMORY)?);
                }
            }
        }
        Ok(())
    }

    /// Opens the files whose content decides which names are shown, unless that content is known
    /// already. `containers` remembers the results. Large archives are not opened. Returns the
    /// weight of the heaviest of them.
    fn open_what_decides(
        &self,
        at: &SourceDir<'_>,
        device: Device,
        names: &[SourceName],
    ) -> Option<Weight> {
        let decides = |name: &OsStr, format: &Format| match self.settings.layout {
            _ if !format.is_directory() => true,
            Layout::Replace => false,
            Layout::Beside | Layout::Stored => true,
            Layout::Flat => flat::stem_of(name).is_some(),
        };
        let unknown = |(row, (name, ino, _)): (usize, &SourceName)| {
            let format = Format::of(name).filter(|format| decides(name, format))?;
            let is_known = self.containers.remembers(device, *ino, format);
            (!is_known).then(|| (row, name.clone(), format))
        };
        let rows = names.iter().enumerate().filter(|(_, name)| may_be_file(name));
        let found = self.open_rows(at, rows.filter_map(unknown).collect());
        found.filter_map(|(_, found, _)| found.err()).max()
    }
}

/// Whether a name of the source may be that of a regular file.
fn may_be_file((.., kind): &SourceName) -> bool {
    kind.is_none_or(|kind| kind == Kind::RegularFile)
}

/// `result`, or the error `Heavy` in place of it.
fn unless_heavy<T>(result: Result<T, FsError>) -> Result<Result<T, FsError>, FsError> {
    match result {
        Err(FsError::Heavy(weight)) => Err(FsError::Heavy(weight)),
        result => Ok(result),
    }
}
