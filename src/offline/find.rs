//! Finds archives: those that are named, and those in directories that are named.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::OFlags;

use crate::archive::{self, Container, Format, Generation, SourceFile};

/// The archives at some paths, and in the directories among these paths, at any depth. Those of one
/// directory come in the order of their names.
///
/// A symbolic link to a file is followed, and so is one to a directory if it was named. A link to a
/// directory that was found in another one is not followed: it may lead to a place above itself.
#[derive(Debug)]
pub(crate) struct Archives {
    /// Paths to visit, the next one last, and whether each was named.
    pending: Vec<(PathBuf, bool)>,
}

/// An archive that was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Begins with the path that was named.
    pub path: PathBuf,
    pub format: &'static Format,
    pub archive: Container,
}

/// A path at which there is no archive that can be read.
#[derive(Debug)]
pub(crate) struct Missing {
    pub path: PathBuf,
    pub why: Why,
}

/// Why there is no archive that can be read.
#[derive(Debug)]
pub(crate) enum Why {
    /// The file is damaged, or cannot be read.
    Archive(archive::Error),
    /// The path, or what is in the directory, cannot be looked at.
    Path(io::Error),
    /// The file was named, and has not the name of an archive.
    Name,
    /// It is a device, a pipe or a socket.
    Special,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.why)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive(error) => error.fmt(f),
            Self::Path(error) => f.write_str(&archive::plain(error)),
            Self::Name => f.write_str("its name ends neither in .npz nor in .npy.gz"),
            Self::Special => f.write_str("it is not a regular file"),
        }
    }
}

impl Archives {
    /// The archives at `paths`, in this order.
    pub(crate) fn at(paths: &[PathBuf]) -> Self {
        Self { pending: paths.iter().rev().map(|path| (path.clone(), true)).collect() }
    }

    /// Visits one path. `None` if there is nothing to say about it.
    fn visit(&mut self, path: PathBuf, was_named: bool) -> Option<Result<Found, Missing>> {
        let result = self.look(&path, was_named).transpose()?;
        Some(match result {
            Ok((format, archive)) => Ok(Found { path, format, archive }),
            Err(why) => Err(Missing { path, why }),
        })
    }

    fn look(
        &mut self,
        path: &Path,
        was_named: bool,
    ) -> Result<Option<(&'static Format, Container)>, Why> {
        let format = path.file_name().and_then(Format::of);
        let kind = match fs::symlink_metadata(path).map_err(Why::Path)?.file_type() {
            // Of others than archives it does not matter where a link leads.
            link if link.is_symlink() && !was_named && format.is_none() => return Ok(None),
            link if link.is_symlink() => {
                let target = fs::metadata(path).map_err(Why::Path)?.file_type();
                if target.is_dir() && !was_named {
                    return Ok(None);
                }
                target
            }
            other => other,
        };
        if kind.is_dir() {
            let names = fs::read_dir(path).and_then(|entries| {
                entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()
            });
            let mut names = names.map_err(Why::Path)?;
            names.sort_unstable();
            self.pending.extend(names.into_iter().rev().map(|name| (name, false)));
            return Ok(None);
        }
        match format {
            Some(format) if kind.is_file() => Ok(Some((format, open(path, format)?))),
            Some(_) => Err(Why::Special),
            None if was_named => Err(Why::Name),
            None => Ok(None),
        }
    }
}

impl Iterator for Archives {
    type Item = Result<Found, Missing>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (path, was_named) = self.pending.pop()?;
            if let Some(found) = self.visit(path, was_named) {
                return Some(found);
            }
        }
    }
}

fn open(path: &Path, format: &'static Format) -> Result<Container, Why> {
    // If a fifo has replaced the file, opening it must not wait.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(Why::Path)?;
    if !file.metadata().map_err(Why::Path)?.is_file() {
        return Err(Why::Special);
    }
    let opened = Generation::of(&file).and_then(|now| SourceFile::with_tail(file, now));
    let (source, tail) = opened.map_err(|cause| Why::Archive(archive::Error::Io(cause)))?;
    format.parse(Arc::new(source), tail, &mut |_| Ok(())).map_err(Why::Archive)
}
