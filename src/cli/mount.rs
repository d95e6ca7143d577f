//! `npzfs SOURCE MOUNTPOINT`: mounts and serves.

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, ValueHint};
use log::LevelFilter;

use super::{exit_code, memory, print_error, size};
use crate::{
    daemon::{self, Access, Log, MadeMountpoint, Options, ServerKind},
    serve::{self, Verify},
    tree::{FlatName, Layout, Settings},
};

/// The hidden flag that makes this process the server in the background.
const SERVER: &str = "--server-in-background";

/// The longest time for which the kernel may keep names and attributes: one year.
const LONGEST_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Directory to show, or a single .npz
    #[arg(required = true, value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    source: Option<PathBuf>,
    /// Empty or new directory to show it in, or SOURCE itself
    #[arg(required = true, value_hint = ValueHint::DirPath)]
    mountpoint: Option<PathBuf>,
    /// Stay in the foreground, and log to standard error
    #[arg(short, long)]
    foreground: bool,
    /// Mount options, separated by commas (see below)
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub mount_options: Vec<OsString>,
    #[command(flatten)]
    options: MountOptions,
    /// Log more: -v what happens, -vv and -vvv for debugging
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    #[arg(long = "server-in-background", hide = true)]
    server: bool,
}

/// Options that `-o` accepts, too: `-o disk_cache=DIR,noexec` is `--disk-cache=DIR --noexec`.
#[derive(Debug, Args)]
pub(super) struct MountOptions {
    /// foo.npz is a directory (replace) or a file (beside, stored, flat)
    #[arg(long, value_name = "LAYOUT", value_parser = parse_layout)]
    layout: Option<Layout>,
    /// flat names [default: {stem}_{key}.npy]; for one key: KEY={stem}.npy
    #[arg(long, value_name = "NAME", value_parser = FlatName::parse)]
    flat_name: Vec<FlatName>,
    /// How long the kernel may keep names and attributes
    #[arg(long, value_name = "SECONDS", value_parser = parse_ttl, default_value = "1")]
    ttl: Duration,
    /// Memory that npzfs may take in all [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory_limit: Option<u64>,
    /// Part of it for decoded data [default: a quarter, 64M at most]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    cache_size: Option<u64>,
    /// Where indexes are saved between mounts [default: ~/.cache/npzfs]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    index_dir: Option<PathBuf>,
    // Indexes usually take at most 1 % of the size of their archives: 10G suffices for a terabyte.
    /// Space for them; 0 saves none
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "10G")]
    index_dir_size: u64,
    /// Keep frequently read members in this directory, decoded
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    disk_cache: Option<PathBuf>,
    /// Space for them
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "10G")]
    disk_cache_size: u64,
    /// Space for bzip2, xz ... in $TMPDIR [default: 10 % of what is free]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    scratch_size: Option<u64>,
    /// Check CRC-32s: small, background, always, never
    #[arg(long, value_name = "WHEN", value_parser = parse_verify, default_value = "small")]
    verify: Verify,
    /// End when no process has a lock (flock) on FILE any more
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    while_locked: Option<PathBuf>,
    /// Log to this file; else to the system log, or standard error with -f
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    log_file: Option<PathBuf>,
    // The options of mount.fuse3(8).
    #[arg(long, hide = true)]
    allow_other: bool,
    #[arg(long, hide = true)]
    allow_root: bool,
    #[arg(long, hide = true)]
    default_permissions: bool,
    #[arg(long, hide = true, overrides_with = "exec")]
    noexec: bool,
    #[arg(long, hide = true, overrides_with = "noexec")]
    exec: bool,
    #[arg(long, hide = true)]
    fsname: Option<OsString>,
}

/// Mounts. `line` is the command line from which `arguments` was parsed, without the program.
pub(super) fn run(arguments: Arguments, line: &[OsString]) -> ExitCode {
    let level = level(arguments.verbose);
    let (foreground, server) = (arguments.foreground, arguments.server);
    let (options, log_file) = match options(arguments) {
        Ok(both) => both,
        Err(error) => {
            print_error(error);
            return ExitCode::from(2);
        }
    };
    if !server {
        options_to_doubt(&options).for_each(|doubt| print_error(format_args!("warning: {doubt}")));
    }
    if !foreground && !server {
        return launch(&options, line);
    }
    let log = match log_file {
        Some(path) => Log::File(path),
        None if foreground => Log::Stderr,
        None => Log::System,
    };
    let kind = if server { ServerKind::Background } else { ServerKind::Foreground };
    daemon::close_inherited_locks(&options, kind);
    exit_code(daemon::start_log(&log, level).and_then(|()| serve(&options, kind)))
}

/// Serves a mount. Makes its mountpoint before if it is missing, and removes it after.
fn serve(options: &Options, kind: ServerKind) -> Result<(), daemon::Error> {
    let made = MadeMountpoint::make(options)?;
    if let Some(made) = &made
        && io::stderr().is_terminal()
    {
        eprintln!("npzfs: made {}, and removes it when it is unmounted", made.path.display());
    }
    daemon::serve(options, kind)
}

/// The level of the log for that many `-v`.
pub(super) fn level(verbose: u8) -> LevelFilter {
    match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    }
}

/// Starts the server in the background, waits until it is ready or has ended, and returns the exit
/// code for this process.
fn launch(options: &Options, line: &[OsString]) -> ExitCode {
    let mut arguments = vec![OsString::from(SERVER)];
    arguments.extend_from_slice(line);
    match daemon::launch(arguments) {
        Ok(0) => {
            if io::stderr().is_terminal() {
                let (source, at) = (options.source.display(), options.mountpoint.display());
                eprintln!("npzfs: {source} is mounted on {at}; to end it: npzfs unmount {at}");
            }
            ExitCode::SUCCESS
        }
        Ok(code) => ExitCode::from(code),
        Err(error) => exit_code(Err(error)),
    }
}

/// Says of options that are allowed, but seldom meant, what they do.
fn options_to_doubt(options: &Options) -> impl Iterator<Item = String> {
    /// So few bytes were meant in MiB. A cache of no bytes is allowed.
    const LITTLE: std::ops::Range<u64> = 1..16 << 10;
    /// Later than this, a change of the data is hardly expected.
    const LONG_TTL: Duration = Duration::from_secs(24 * 3600);
    let index = options.index_dir.as_ref().map_or(0, |(_, size)| *size);
    let copies = options.disk_cache.as_ref().map_or(0, |(_, size)| *size);
    let sizes = [
        ("--cache-size", options.settings.serve.cache_size),
        ("--index-dir-size", index),
        ("--disk-cache-size", copies),
        ("--scratch-size", options.settings.serve.scratch_size.unwrap_or(0)),
    ];
    let small = sizes.into_iter().filter(|(_, size)| LITTLE.contains(size));
    let small = small.map(|(name, size)| {
        format!("{name} {size} is {size} bytes; write {size}M if you mean MiB")
    });
    let ttl = options.settings.ttl;
    let long = (ttl > LONG_TTL).then(|| {
        let hours = ttl.as_secs() / 3600;
        format!("--ttl: for {hours} hours, changes of the data may not be seen")
    });
    small.chain(long)
}

/// Converts the arguments into the options of the mount and the path of the log file.
fn options(arguments: Arguments) -> Result<(Options, Option<PathBuf>), String> {
    let source = arguments.source.unwrap_or_default();
    let mountpoint = arguments.mountpoint.unwrap_or_default();
    arguments.options.of_mount(source, mountpoint, Layout::Replace)
}

impl MountOptions {
    /// Converts them into the options of a mount of `source` and the path of the log file. `layout`
    /// is for arguments that name no layout.
    ///
    /// # Errors
    /// One line for the user, if they contradict each other.
    pub(super) fn of_mount(
        self,
        source: PathBuf,
        mountpoint: PathBuf,
        layout: Layout,
    ) -> Result<(Options, Option<PathBuf>), String> {
        let (memory_limit, cache_size) = memory::divide(self.memory_limit, self.cache_size)?;
        let serve = serve::Settings {
            memory_limit,
            cache_size,
            scratch_size: self.scratch_size,
            verify: self.verify,
            ..serve::Settings::default()
        };
        let layout = self.layout.unwrap_or(layout);
        if layout != Layout::Flat && !self.flat_name.is_empty() {
            return Err("--flat-name has a meaning with --layout flat only".to_owned());
        }
        let flat_names = self.flat_name.into_iter().collect();
        let index_dir = self.index_dir.or_else(default_index_dir);
        let options = Options {
            source,
            mountpoint,
            settings: Settings { layout, flat_names, ttl: self.ttl, serve, ..Settings::default() },
            index_dir: index_dir.map(|path| (path, self.index_dir_size)),
            disk_cache: self.disk_cache.map(|path| (path, self.disk_cache_size)),
            access: match (self.allow_other, self.allow_root) {
                (true, _) => Access::Everybody,
                (false, true) => Access::OwnerAndRoot,
                (false, false) => Access::Owner,
            },
            default_permissions: self.default_permissions,
            noexec: self.noexec && !self.exec,
            while_locked: self.while_locked,
            fs_name: self.fsname,
        };
        Ok((options, self.log_file))
    }
}

/// The directory that the service manager provides for caches, else `npzfs` in the user's cache
/// directory.
pub(super) fn default_index_dir() -> Option<PathBuf> {
    // The variable may name several directories, separated by colons (systemd.exec(5)).
    let directories = std::env::var_os("CACHE_DIRECTORY").filter(|text| !text.is_empty());
    if let Some(directories) = directories {
        return std::env::split_paths(&directories).next();
    }
    // By the XDG base directory specification, a path that is not absolute is ignored.
    let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let caches = caches.filter(|path| path.is_absolute());
    let caches = caches.or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
    Some(caches.join("npzfs"))
}

fn parse_layout(text: &str) -> Result<Layout, String> {
    match text {
        "replace" => Ok(Layout::Replace),
        "beside" => Ok(Layout::Beside),
        "stored" => Ok(Layout::Stored),
        "flat" => Ok(Layout::Flat),
        _ => Err(format!("{text:?} is no layout: give replace, beside, stored or flat")),
    }
}

fn parse_verify(text: &str) -> Result<Verify, String> {
    match text {
        "small" => Ok(Verify::Small),
        "background" => Ok(Verify::Background),
        "always" => Ok(Verify::Always),
        "never" => Ok(Verify::Never),
        _ => Err(format!("{text:?} is none of small, background, always and never")),
    }
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time: give seconds, as in 0.5");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    let ttl = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    Ok(ttl.min(LONGEST_TTL))
}

#[cfg(test)]
mod tests;
