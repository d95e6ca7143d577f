//! `npzfs SOURCE MOUNTPOINT`: mounts and serves.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, ValueHint};
use log::LevelFilter;

use super::{complain, end, memory, mount_options::MountOptions, size};
use crate::{
    daemon::{self, Ground, Launch, Log, Options},
    serve::Verify,
    tree::{Layout, Settings},
};

/// The hidden flag that tells the program that it is the server in the background.
const SERVER: &str = "--server-in-background";

/// The longest time that names and attributes may be kept: a year.
const LONGEST_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

/// An index takes a percent of what it is of at most, as a rule: enough for a terabyte.
const DEFAULT_INDEX_DIR_SIZE: u64 = 10 << 30;

/// Decoded copies that `--disk-cache` may keep, if that is not said.
const DEFAULT_DISK_CACHE_SIZE: u64 = 10 << 30;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Directory to show, or a single .npz
    #[arg(required = true, value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    source: Option<PathBuf>,
    /// Empty directory to show it in, or SOURCE itself
    #[arg(required = true, value_hint = ValueHint::DirPath)]
    mountpoint: Option<PathBuf>,
    /// Stay in the foreground, and log to standard error
    #[arg(short, long)]
    foreground: bool,
    /// Mount options, separated by commas (see below)
    #[arg(short = 'o', value_name = "OPTIONS")]
    mount_options: Vec<OsString>,
    /// Show foo.npz as a directory in its place, or beside it as foo.npz.d
    #[arg(long, value_name = "replace|beside", value_parser = parse_layout)]
    layout: Option<Layout>,
    /// How long the kernel may keep names and attributes [default: 1]
    #[arg(long, value_name = "SECONDS", value_parser = parse_ttl)]
    ttl: Option<Duration>,
    /// Memory for everything [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory_limit: Option<u64>,
    /// What decoded data may take of it [default: a quarter, 64M at most]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    cache_size: Option<u64>,
    /// Where indexes are kept for the next mount [default: ~/.cache/npzfs]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    index_dir: Option<PathBuf>,
    /// What they may take there; 0 keeps none [default: 10G]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    index_dir_size: Option<u64>,
    /// Keep members that are read a lot decoded in this directory, to be read as plain files are
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    disk_cache: Option<PathBuf>,
    /// What they may take there [default: 10G]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    disk_cache_size: Option<u64>,
    /// What bzip2, xz ... may take in $TMPDIR [default: a tenth]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    scratch_size: Option<u64>,
    /// Check CRC-32s: small, background, always, never [default: small]
    #[arg(long, value_name = "WHEN", value_parser = parse_verify)]
    verify: Option<Verify>,
    /// Log to this file; else to the system log, or standard error with -f
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    log_file: Option<PathBuf>,
    /// Log more: -v what happens, -vv and -vvv for debugging
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    #[arg(long = "server-in-background", hide = true)]
    server: bool,
}

pub fn run(arguments: Arguments) -> ExitCode {
    let level = match arguments.verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let (foreground, server) = (arguments.foreground, arguments.server);
    let (options, log_file) = match options(arguments) {
        Ok(both) => both,
        Err(error) => {
            complain(error);
            return ExitCode::from(2);
        }
    };
    if !foreground && !server {
        return launch();
    }
    let log = match log_file {
        Some(path) => Log::File(path),
        None if foreground => Log::Stderr,
        None => Log::System,
    };
    let ground = if server { Ground::Back } else { Ground::Fore };
    end(daemon::start_log(&log, level).and_then(|()| daemon::serve(&options, ground)))
}

/// Starts the server in the background, and ends as it says.
fn launch() -> ExitCode {
    let mut arguments = vec![OsString::from(SERVER)];
    arguments.extend(std::env::args_os().skip(1));
    match daemon::launch(arguments) {
        Ok(Launch::Ready) => ExitCode::SUCCESS,
        Ok(Launch::Failed(code)) => ExitCode::from(code),
        Ok(Launch::Died(status)) => {
            complain(daemon::obituary(status));
            ExitCode::FAILURE
        }
        Err(error) => end(Err(error)),
    }
}

/// What goes without `-o` goes before it.
fn options(arguments: Arguments) -> Result<(Options, Option<PathBuf>), String> {
    let mut given = MountOptions::default();
    for text in &arguments.mount_options {
        given.add(text)?;
    }
    let mut settings = Settings::default();
    if let Some(layout) = arguments.layout.or(given.layout) {
        settings.layout = layout;
    }
    if let Some(ttl) = arguments.ttl.or(given.ttl) {
        settings.ttl = ttl;
    }
    (settings.serve.memory_limit, settings.serve.cache_size) = memory::divide(
        arguments.memory_limit.or(given.memory_limit),
        arguments.cache_size.or(given.cache_size),
    )?;
    settings.serve.scratch_size = arguments.scratch_size.or(given.scratch_size);
    if let Some(verify) = arguments.verify.or(given.verify) {
        settings.serve.verify = verify;
    }
    let options = Options {
        source: arguments.source.unwrap_or_default(),
        mountpoint: arguments.mountpoint.unwrap_or_default(),
        settings,
        index_dir: arguments.index_dir.or(given.index_dir).or_else(default_index_dir),
        index_dir_size: arguments
            .index_dir_size
            .or(given.index_dir_size)
            .unwrap_or(DEFAULT_INDEX_DIR_SIZE),
        disk_cache: arguments.disk_cache.or(given.disk_cache),
        disk_cache_size: arguments
            .disk_cache_size
            .or(given.disk_cache_size)
            .unwrap_or(DEFAULT_DISK_CACHE_SIZE),
        access: given.access,
        default_permissions: given.default_permissions,
        noexec: given.noexec,
        fs_name: given.fs_name,
    };
    Ok((options, arguments.log_file.or(given.log_file)))
}

/// Where a service manager gives us a cache, else where caches of the user are.
fn default_index_dir() -> Option<PathBuf> {
    // systemd.exec(5): with several directories they are separated by colons.
    let directories = std::env::var_os("CACHE_DIRECTORY").filter(|text| !text.is_empty());
    if let Some(directories) = directories {
        return std::env::split_paths(&directories).next();
    }
    // As the XDG base directory specification has it, a path that is not absolute is ignored.
    let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let caches = caches.filter(|path| path.is_absolute());
    let caches = caches.or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
    Some(caches.join("npzfs"))
}

pub fn parse_layout(text: &str) -> Result<Layout, String> {
    match text {
        "replace" => Ok(Layout::Replace),
        "beside" => Ok(Layout::Beside),
        _ => Err(format!("{text:?} is no layout: give replace or beside")),
    }
}

pub fn parse_verify(text: &str) -> Result<Verify, String> {
    match text {
        "small" => Ok(Verify::Small),
        "background" => Ok(Verify::Background),
        "always" => Ok(Verify::Always),
        "never" => Ok(Verify::Never),
        _ => Err(format!("{text:?} is none of small, background, always and never")),
    }
}

pub fn parse_ttl(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time: give seconds, as in 0.5");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    let ttl = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    Ok(ttl.min(LONGEST_TTL))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::daemon::Access;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(line: &[&str]) -> (Options, Option<PathBuf>) {
        let line = ["npzfs"].iter().chain(line).chain(&["source", "mountpoint"]);
        options(Line::parse_from(line).arguments).expect("the line is valid")
    }

    const ALL: &str = "layout=beside,ttl=7,cache_size=1M,scratch_size=2M,verify=never,index_dir=/i,\
                       index_dir_size=3M,disk_cache=/d,disk_cache_size=4M,log_file=/l,fsname=f,\
                       allow_other,default_permissions,noexec";

    #[test]
    fn what_o_says_reaches_the_mount() {
        let (options, log_file) = parsed(&["-o", ALL]);
        let Settings { layout, ttl, serve, .. } = options.settings;
        let crate::serve::Settings { cache_size, scratch_size, verify, .. } = serve;
        assert_eq!((layout, ttl), (Layout::Beside, Duration::from_secs(7)));
        assert_eq!((cache_size, scratch_size), (1 << 20, Some(2 << 20)));
        assert_eq!(verify, Verify::Never);
        assert_eq!((options.index_dir, options.index_dir_size), (Some("/i".into()), 3 << 20));
        assert_eq!((options.disk_cache, options.disk_cache_size), (Some("/d".into()), 4 << 20));
        assert_eq!((log_file, options.fs_name), (Some("/l".into()), Some("f".into())));
        assert_eq!(options.access, Access::Everybody);
        assert!(options.default_permissions && options.noexec);
    }

    #[test]
    fn what_is_said_without_o_goes_before_it() {
        let line = "--layout replace --ttl 8 --cache-size 5M --scratch-size 6M --verify background \
                    --index-dir /j --index-dir-size 7M --disk-cache /e --disk-cache-size 8M \
                    --log-file /m -o";
        let line: Vec<_> = line.split_whitespace().chain([ALL]).collect();
        let (options, log_file) = parsed(&line);
        let Settings { layout, ttl, serve, .. } = options.settings;
        let crate::serve::Settings { cache_size, scratch_size, verify, .. } = serve;
        assert_eq!((layout, ttl), (Layout::Replace, Duration::from_secs(8)));
        assert_eq!((cache_size, scratch_size), (5 << 20, Some(6 << 20)));
        assert_eq!(verify, Verify::Background);
        assert_eq!((options.index_dir, options.index_dir_size), (Some("/j".into()), 7 << 20));
        assert_eq!((options.disk_cache, options.disk_cache_size), (Some("/e".into()), 8 << 20));
        assert_eq!(log_file, Some("/m".into()));
    }

    #[test]
    fn a_time_is_in_seconds_and_a_year_at_most() {
        assert_eq!(parse_ttl("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_ttl("1e12"), Ok(LONGEST_TTL));
        for wrong in ["", "-1", "nan", "inf", "1e300", "1s"] {
            assert!(parse_ttl(wrong).is_err(), "{wrong}");
        }
    }
}
