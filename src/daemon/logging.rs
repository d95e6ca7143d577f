//! The log: its destinations, and the format of its lines.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

use env_logger::{Builder, Target};
use log::{Level, LevelFilter, Metadata, Record};

use super::Error;
use crate::fuse::is_late_reply;

/// The socket of the system log, which journald, rsyslog and similar daemons read.
const SYSLOG: &str = "/dev/log";

/// The facility code of daemons, shifted as RFC 3164 requires.
const DAEMON: u8 = 3 << 3;

/// Destination of log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Log {
    /// Standard error.
    Stderr,
    /// The system log.
    System,
    /// This file.
    File(PathBuf),
}

/// Sets up logging for the whole process. The environment variable `NPZFS_LOG` overrides `level`.
///
/// # Errors
/// When the log file cannot be opened.
pub(crate) fn start_log(log: &Log, level: LevelFilter) -> Result<(), Error> {
    let mut builder = Builder::new();
    builder.filter_level(level);
    if let Ok(filters) = std::env::var("NPZFS_LOG") {
        builder.parse_filters(&filters);
    }
    match log {
        Log::Stderr if stderr_is_the_journal() => {
            builder.format(|out, record| {
                writeln!(out, "<{}>{}", severity(record.level()), one_line(record))
            });
        }
        Log::Stderr => {
            builder.format(|out, record| {
                let level = record.level().as_str().to_ascii_lowercase();
                writeln!(out, "npzfs: {level}: {}", one_line(record))
            });
        }
        Log::System => {
            let socket = UnixDatagram::unbound().and_then(|socket| {
                // If the log daemon stops reading, log lines are lost, but the server continues.
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            let socket = socket.map_err(|cause| Error::Setup("the system log", cause))?;
            builder.format(|out, record| {
                let priority = DAEMON | severity(record.level());
                write!(out, "<{priority}>npzfs[{}]: {}", std::process::id(), one_line(record))
            });
            builder.target(Target::Pipe(Box::new(Syslog(socket))));
        }
        Log::File(path) => {
            let file = append(path).map_err(|cause| Error::LogFile(path.clone(), cause))?;
            builder.format(|out, record| {
                let time = out.timestamp_seconds();
                let level = record.level().as_str().to_ascii_lowercase();
                writeln!(out, "{time} npzfs[{}]: {level}: {}", std::process::id(), one_line(record))
            });
            builder.target(Target::Pipe(Box::new(file)));
        }
    }
    let logger = Logger(builder.build());
    log::set_max_level(logger.0.filter());
    log::set_boxed_logger(Box::new(logger))
        .map_err(|cause| Error::Setup("logging", io::Error::other(cause)))?;
    let to_stderr = *log == Log::Stderr;
    std::panic::set_hook(Box::new(move |panic| {
        log::error!("bug: {panic}");
        // Until a server in the background is ready, the user still sees its standard error.
        if !to_stderr {
            eprintln!("npzfs: bug: {panic}");
        }
    }));
    Ok(())
}

/// Logs late replies of fuser at trace level, and all other records unchanged.
struct Logger(env_logger::Logger);

impl log::Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record) {
        if record.level() == Level::Error && is_late_reply(record) {
            let (args, target) = (*record.args(), record.target());
            self.0.log(&Record::builder().args(args).level(Level::Trace).target(target).build());
        } else {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Sends each write, which is one log line, as one message. Looks up the path of the socket for
/// each message, since the log daemon may have been restarted.
#[derive(Debug)]
struct Syslog(UnixDatagram);

impl Write for Syslog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Without a log daemon the line is lost: there is no other place to report that.
        let _ = self.0.send_to(line, SYSLOG);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether standard error goes to the journal. systemd passes the device and inode of the journal's
/// socket in `JOURNAL_STREAM` (systemd.exec(5)).
pub(crate) fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(rustix::stdio::stderr()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// The severity for a log level. RFC 3164 and sd-daemon(3) use the same numbers.
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// The message on one line. Control characters, for example line breaks in file names, are escaped.
fn one_line(record: &Record) -> String {
    let text = record.args().to_string();
    if !text.chars().any(char::is_control) {
        return text;
    }
    text.chars().fold(String::with_capacity(text.len() + 8), |mut line, character| {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
        line
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use log::Log as _;
    use rustix::io::Errno;

    use super::*;

    /// The text that is written for an error of `target` if `filter` is the highest level to log.
    fn written(filter: LevelFilter, target: &str, text: &str) -> String {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);

        impl Write for Lines {
            fn write(&mut self, line: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(line)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let lines = Lines::default();
        let mut builder = Builder::new();
        builder.filter_level(filter).target(Target::Pipe(Box::new(lines.clone())));
        builder.format(|out, record| write!(out, "{}: {}", record.level(), record.args()));
        let mut record = Record::builder();
        record.level(Level::Error).target(target);
        Logger(builder.build()).log(&record.args(format_args!("{text}")).build());
        let lines = lines.0.lock().unwrap();
        String::from_utf8(lines.clone()).unwrap()
    }

    #[test]
    fn that_nobody_waits_for_a_reply_any_more_is_no_error() {
        let failed =
            |errno: Errno| format!("Failed to send FUSE reply: {}", io::Error::from(errno));
        let late = failed(Errno::NOENT);
        assert_eq!(written(LevelFilter::Debug, "fuser::reply", &late), "");
        let trace = written(LevelFilter::Trace, "fuser::reply", &late);
        assert_eq!(trace, format!("TRACE: {late}"));
        for (target, text) in [
            ("fuser::reply", failed(Errno::INVAL)),
            ("fuser::session", io::Error::from(Errno::NOENT).to_string()),
            ("npzfs::daemon", late),
        ] {
            assert_eq!(written(LevelFilter::Error, target, &text), format!("ERROR: {text}"));
        }
    }

    #[test]
    fn a_message_stays_on_one_line() {
        let record = |text| one_line(&Record::builder().args(format_args!("{}", text)).build());
        assert_eq!(record("plain \u{e9}"), "plain \u{e9}");
        assert_eq!(record("a\nb\t\x1b[0m"), "a\\nb\\t\\u{1b}[0m");
    }
}
