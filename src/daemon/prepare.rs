//! Opens all that a server needs, before there is a mount.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Error, Options, limits, source::Source};
use crate::{
    saved::{Copies, Indexes},
    serve,
    tree::Tree,
};

/// The tree that a mount will show, with the directories of saved files open.
pub(super) struct Prepared {
    /// The tree.
    pub tree: Arc<Tree>,
    /// The canonical path of the source.
    pub source: PathBuf,
    warnings: Vec<String>,
}

impl Prepared {
    /// Opens the source and the directories of saved files. The mount may cover any of them later.
    /// `check` may refuse the source.
    ///
    /// # Errors
    /// When the source cannot be used, or too few threads can be started.
    pub(super) fn open(
        options: &Options,
        check: impl FnOnce(&Source) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let few_threads = limits::few_threads(
            options.settings.serve.threads,
            usize::from(options.while_locked.is_some()),
        )?;
        limits::raise_file_limit();
        let mut warnings = Vec::new();
        let mut warn = |warning| warnings.push(warning);
        let indexes =
            open_kept(&options.index_dir, Indexes::open, "no indexes are saved", &mut warn);
        let copies =
            open_kept(&options.disk_cache, Copies::open, "no decoded copies are kept", &mut warn);
        let source = Source::open(&options.source)?;
        check(&source)?;
        let path = source.path.clone();
        let mut settings = options.settings.clone();
        settings.serve = serve::Settings { indexes, copies, few_threads, ..settings.serve };
        if few_threads {
            settings.serve.threads = 1;
        }
        let tree = source
            .into_tree()
            .and_then(|source| Tree::new(source, settings))
            .map(Arc::new)
            .map_err(|cause| Error::Tree(options.source.clone(), cause))?;
        Ok(Self { tree, source: path, warnings })
    }

    /// Logs what could not be opened. Without these directories the mount works, but later mounts
    /// are slower. To be called last: if mounting fails, its error is the only line.
    pub(super) fn log_warnings(self) {
        for warning in self.warnings {
            log::warn!("{warning}");
        }
    }
}

/// Opens a directory whose files are kept from one mount to the next, if the options name one. If
/// the directory cannot be used, calls `warn` with `failure` followed by the reason.
fn open_kept<T, E: fmt::Display>(
    directory: &Option<(PathBuf, u64)>,
    open: impl FnOnce(&Path, u64) -> Result<T, E>,
    failure: &str,
    warn: &mut impl FnMut(String),
) -> Option<Arc<T>> {
    let (path, size) = directory.as_ref().filter(|(_, size)| *size > 0)?;
    open(path, *size)
        .map_err(|error| warn(format!("{failure} in {}: {error}", path.display())))
        .ok()
        .map(Arc::new)
}
