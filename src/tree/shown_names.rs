//! Finds the names that the mount shows in a source directory.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
};

use super::{
    FsError, Kind, Layout, Tree, beside,
    containers::Weight,
    listing::{Name, OPENED_TOGETHER},
    source::{NAMES_AT_ONCE, SourceDir, SourceName},
};
use crate::{
    archive::{Device, Format},
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
        let heaviest = self.open_what_decides(at, device, &names);
        if let Some(weight) = heaviest.filter(|_| !at.waits) {
            return Err(FsError::Heavy(weight));
        }
        let mut flat = match self.settings.layout {
            Layout::Flat => self.flat_names(at, &names, has, &mut reserved)?,
            _ => BTreeSet::new(),
        };
        let is_beside = self.settings.layout.is_beside();
        let keeps_files = self.settings.layout.keeps_files();
        let mut shown = Vec::with_capacity(names.len() + flat.len());
        for (name, ino, kind) in &names {
            let kind = match kind {
                Some(kind) => *kind,
                None => match at.stat(name) {
                    Ok(stat) => stat.kind(),
                    // The file was removed since the directory was read.
                    Err(_) => continue,
                },
            };
            let mut archive = None;
            if kind == Kind::RegularFile
                && let Some(format) = Format::of(name)
            {
                let directory = beside::directory_of(name);
                match format.shown_name(name) {
                    None if !keeps_files => archive = Some(format),
                    // If there is not enough memory to open the file, it is taken for an archive
                    // with many members.
                    None if is_beside
                        && !has(&directory)
                        && unless_heavy(self.is_container(at, name, format))?.unwrap_or(true) =>
                    {
                        shown.push(Name::new(directory, Kind::Directory));
                    }
                    Some(member)
                        if !has(member)
                            && unless_heavy(self.is_container(at, name, format))?
                                .unwrap_or(false) =>
                    {
                        flat.remove(member);
                        shown.push(Name::new(member.to_owned(), Kind::RegularFile));
                        if !keeps_files {
                            continue;
                        }
                    }
                    _ => {}
                }
            }
            shown.push(Name { archive, ino: *ino, ..Name::new(name.clone(), kind) });
        }
        shown.extend(flat.into_iter().map(|name| Name::new(name, Kind::RegularFile)));
        Ok(shown)
    }

    /// The names of members that stand beside the archives among `names`, without those that the
    /// source `has`. Their memory is added to `reserved`.
    fn flat_names(
        &self,
        at: &SourceDir<'_>,
        names: &[SourceName],
        has: impl Fn(&OsStr) -> bool,
        reserved: &mut Vec<Reserved>,
    ) -> Result<BTreeSet<OsString>, FsError> {
        let mut flat = BTreeSet::new();
        for (name, _, kind) in names {
            let format = Format::of(name).filter(|format| format.is_directory());
            let Some(format) = format.filter(|_| kind.is_none_or(|kind| kind == Kind::RegularFile))
            else {
                continue;
            };
            let open = match unless_heavy(self.container_named(at, name, format))? {
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
                if !has(&name) && flat.insert(name) && flat.len() % NAMES_AT_ONCE == 0 {
                    reserved.push(self.server.reserve_memory(NAMES_AT_ONCE as u64 * NAME_MEMORY)?);
                }
            }
        }
        Ok(flat)
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
        let keeps_files = self.settings.layout.keeps_files();
        let unknown = |(name, ino, kind): &SourceName| {
            let format = Format::of(name).filter(|format| keeps_files || !format.is_directory())?;
            let may_be_file = kind.is_none_or(|kind| kind == Kind::RegularFile);
            let is_unknown = may_be_file && !self.containers.remembers(device, *ino, format);
            is_unknown.then(|| (name.clone(), format))
        };
        let unknown: Vec<_> = names.iter().filter_map(unknown).collect();
        let mut heaviest = None;
        // In parts, because the files of one part stay open until the last of them is opened.
        for part in unknown.chunks(OPENED_TOGETHER) {
            let rows = part.iter().enumerate();
            let rows = rows.map(|(row, (name, format))| (row, name.clone(), *format));
            let weights =
                self.open_rows(at, rows.collect()).filter_map(|(_, found, _)| found.err());
            heaviest = heaviest.max(weights.max());
        }
        heaviest
    }
}

/// `result`, or the error `Heavy` in place of it.
fn unless_heavy<T>(result: Result<T, FsError>) -> Result<Result<T, FsError>, FsError> {
    match result {
        Err(FsError::Heavy(weight)) => Err(FsError::Heavy(weight)),
        result => Ok(result),
    }
}
