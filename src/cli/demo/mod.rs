//! `npzfs demo`: writes a sample, mounts it, and shows what a mount is useful for.

mod sample;
mod zip;

use std::{
    fmt,
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc::{self, Receiver, TryRecvError},
    time::{Duration, Instant},
};

use clap::Args;
use log::LevelFilter;

use crate::daemon::{self, Event, Log, Mount, Options, ServerKind};

/// Number of rows that the demo reads after the first row.
const OTHER_ROWS: usize = 500;

/// Make a small data directory, mount it and show it
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Do not wait for Ctrl-C at the end
    #[arg(long)]
    once: bool,
}

/// Why the demo ended early.
enum Stop {
    /// A signal came.
    Interrupted,
    /// The mount failed.
    Mount(daemon::Error),
    /// Making or reading the sample failed.
    Io(&'static str, io::Error),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Interrupted => f.write_str("interrupted"),
            Stop::Mount(error) => error.fmt(f),
            Stop::Io(what, cause) => write!(f, "the demo cannot {what}: {cause}"),
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match daemon::start_log(&Log::Stderr, LevelFilter::Warn).map_err(Stop::Mount).and_then(|()| {
        let directory = tempfile::Builder::new()
            .prefix("npzfs-demo-")
            .tempdir()
            .map_err(|cause| Stop::Io("make a temporary directory", cause))?;
        let result = show(directory.path(), arguments.once);
        let removed = directory.close();
        result?;
        removed.map_err(|cause| Stop::Io("remove its temporary directory", cause))
    }) {
        Ok(()) | Err(Stop::Interrupted) => ExitCode::SUCCESS,
        Err(stop) => super::exit_code(Err(stop)),
    }
}

/// Runs the demo with all its files in `directory`. Nothing is mounted when it returns.
fn show(directory: &Path, once: bool) -> Result<(), Stop> {
    let (sender, events) = mpsc::channel();
    daemon::forward_signals(sender.clone(), ServerKind::Foreground).map_err(Stop::Mount)?;
    let (source, mountpoint) = (directory.join("data"), directory.join("mnt"));
    for path in [&source, &mountpoint] {
        fs::create_dir(path).map_err(|cause| Stop::Io("make a directory", cause))?;
    }

    say(format_args!("Making a sample in {} ... ", source.display()));
    let begin = Instant::now();
    match sample::write(&source, || go_on(&events)) {
        Err(cause) if cause.kind() == io::ErrorKind::Interrupted => return Err(Stop::Interrupted),
        other => other.map_err(|cause| Stop::Io("write the sample", cause))?,
    }
    say(format_args!("{}\n", time(begin.elapsed())));

    let options = Options { source, mountpoint, ..Options::default() };
    let mount = Mount::start(&options, sender).map_err(Stop::Mount)?;
    let shown = tour(&options, &events).and_then(|path| {
        if once {
            return Ok(());
        }
        say(format_args!(
            "\nTry it:\n\n  python3 -c \"import numpy as np; \
             print(np.load('{}', mmap_mode='r')[12345])\"\n\n\
             The mount stays until you press Ctrl-C.\n",
            path.display()
        ));
        match events.recv() {
            Ok(Event::Ended(Err(cause))) => Err(Stop::Io("go on", cause)),
            _ => Ok(()),
        }
    });
    mount.unmount().map_err(Stop::Mount)?;
    shown
}

/// Lists the mount and reads rows of a member. Returns the path of that member.
fn tour(options: &Options, events: &Receiver<Event>) -> Result<PathBuf, Stop> {
    let reading = |cause| Stop::Io("read the mount", cause);
    say(format_args!("Mounted on {}:\n\n", options.mountpoint.display()));
    list(&options.mountpoint, 1).map_err(reading)?;

    let (archive, member) = sample::DEFLATED;
    let path: PathBuf = options.mountpoint.join(archive).join(member);
    say(format_args!("\nReading rows of {archive}/{member} (deflated):\n\n"));
    let begin = Instant::now();
    let file = File::open(&path).map_err(reading)?;
    check(&file, sample::ROWS / 2).map_err(reading)?;
    let line = |what: &str, took| say(format_args!("  {what:<48} {:>9}\n", time(took)));
    line("a row in the middle, for the first time", begin.elapsed());
    go_on(events).map_err(|_| Stop::Interrupted)?;

    let begin = Instant::now();
    let mut index = 0;
    for _ in 0..OTHER_ROWS {
        // This step and the number of rows have no common divisor, so all these rows differ, and
        // they lie all over the first half.
        index = (index + 5_003) % (sample::ROWS / 2);
        check(&file, index).map_err(reading)?;
    }
    line("any row before it from then on, on average", begin.elapsed() / OTHER_ROWS as u32);
    go_on(events).map_err(|_| Stop::Interrupted)?;

    let begin = Instant::now();
    let decoded = decode(&options.source.join(archive), member).map_err(reading)?;
    let what = format!("decoding all {} instead, as np.load does", size(decoded));
    line(&what, begin.elapsed());
    Ok(path)
}

/// Reads one row and compares it with the row that was written.
fn check(file: &File, index: usize) -> io::Result<()> {
    let mut row = [0; sample::ROW_BYTES];
    file.read_exact_at(&mut row, (sample::DATA_OFFSET + index * sample::ROW_BYTES) as u64)?;
    if row == sample::row(index) {
        Ok(())
    } else {
        Err(io::Error::other(format!("row {index} is not what was written")))
    }
}

/// Decodes the first member of an archive from start to end. Returns its decoded size in bytes.
fn decode(archive: &Path, member: &str) -> io::Result<u64> {
    let mut archive = File::open(archive)?;
    archive.seek(SeekFrom::Start((zip::LOCAL_HEADER + member.len()) as u64))?;
    let mut bytes = Vec::with_capacity(sample::DATA_OFFSET + sample::ROWS * sample::ROW_BYTES);
    let archive = io::BufReader::with_capacity(1 << 18, archive);
    io::copy(&mut flate2::bufread::DeflateDecoder::new(archive), &mut bytes)
}

/// Prints the tree under `directory`, with sizes.
fn list(directory: &Path, depth: usize) -> io::Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let name = format!("{:indent$}{}", "", name.to_string_lossy(), indent = 2 * depth);
        if entry.file_type()?.is_dir() {
            say(format_args!("{name}/\n"));
            list(&entry.path(), depth + 1)?;
        } else {
            say(format_args!("{name:<30} {:>10}\n", size(entry.metadata()?.len())));
        }
    }
    Ok(())
}

/// Fails if a signal has come, or if the mount has ended.
fn go_on(events: &Receiver<Event>) -> io::Result<()> {
    match events.try_recv() {
        Err(TryRecvError::Empty | TryRecvError::Disconnected) => Ok(()),
        Ok(_) => Err(io::ErrorKind::Interrupted.into()),
    }
}

/// Prints `text` at once, even a part of a line. The demo continues if its output is closed.
fn say(text: fmt::Arguments<'_>) {
    let mut out = io::stdout();
    let _ = out.write_fmt(text).and_then(|()| out.flush());
}

fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.1} s"),
        seconds if seconds >= 1e-3 => format!("{:.1} ms", seconds * 1e3),
        seconds => format!("{:.0} us", seconds * 1e6),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
