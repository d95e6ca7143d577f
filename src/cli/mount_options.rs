//! Converts the options of mount(8), fstab(5) and mount.fuse3, `-o a,b=c`, into `--a` and `--b=c`.
//!
//! This module has no list of the options of npzfs: it asks the parser of the command line.

use std::{
    error::Error,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use clap::Command;

use super::advice;

/// Options that are meant for mount(8) and systemd, or that have no meaning for a read-only mount.
/// mount.fuse3 adds `suid` and `dev` by itself, but the mount is nosuid and nodev anyway.
const WITHOUT_EFFECT: &str = "\
    ro rw defaults auto noauto user nouser users owner noowner group nogroup nofail _netdev \
    suid nosuid dev nodev sync async dirsync atime noatime diratime nodiratime relatime \
    norelatime strictatime nostrictatime lazytime nolazytime iversion noiversion mand nomand \
    silent loud symfollow";

/// Converts the text of one `-o` into arguments. `parser` has the options that `-o` may contain.
///
/// # Errors
/// One line with the name of the option and the reason why it is refused.
pub(super) fn arguments(text: &OsStr, parser: &Command) -> Result<Vec<OsString>, String> {
    let mut arguments = Vec::new();
    for option in split(text) {
        arguments.extend(argument(&option, parser)?);
    }
    Ok(arguments)
}

/// Converts one option into an argument; `None` if the option has no effect.
fn argument(option: &OsStr, parser: &Command) -> Result<Option<OsString>, String> {
    let bytes = option.as_bytes();
    let (name, value) = match bytes.iter().position(|&byte| byte == b'=') {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    };
    let name = String::from_utf8_lossy(name);
    let unknown = || {
        let option = option.to_string_lossy();
        if option.contains(' ') {
            return format!("unknown mount option {option:?}: there is a blank in it");
        }
        let longs = parser.get_arguments().filter_map(|known| known.get_long());
        let names: Vec<_> = longs.map(|long| long.replace('-', "_")).collect();
        match advice::nearest(&name.replace('-', "_"), names.iter().map(String::as_str)) {
            Some(near) => format!("unknown mount option {option:?}; did you mean {near}"),
            None => format!("unknown mount option {option:?}; npzfs --help lists its own"),
        }
    };
    match (name.as_ref(), value) {
        ("remount", _) => {
            return Err(
                "the mount option remount: unmount it, and mount it again with the new options"
                    .into(),
            );
        }
        ("subtype", Some(b"npzfs")) | ("comment", _) => return Ok(None),
        ("subtype", _) => {
            return Err("the mount option subtype: it must be npzfs, the type of the mount".into());
        }
        (other, _) if other.starts_with("x-") || other.starts_with("X-") => return Ok(None),
        (known, None) if WITHOUT_EFFECT.split(' ').any(|name| name == known) => return Ok(None),
        _ => {}
    }
    let long = name.replace('_', "-");
    let known = parser.get_arguments().find(|known| known.get_long() == Some(&long));
    let mut argument = OsString::from(format!("--{long}"));
    match (known.map(|known| known.get_action().takes_values()), value) {
        (Some(true), None | Some(b"")) => {
            return Err(format!("the mount option {name} needs a value: {name}=..."));
        }
        (Some(true), Some(value)) => {
            argument.push("=");
            argument.push(OsStr::from_bytes(value));
        }
        (Some(false), None) => {}
        (Some(false), Some(_)) | (None, _) => return Err(unknown()),
    }
    // Parses the argument alone, so that an error about `-o ttl=soon` names ttl, not --ttl.
    match parser.clone().try_get_matches_from(["npzfs".as_ref(), argument.as_os_str()]) {
        Ok(_) => Ok(Some(argument)),
        Err(error) => {
            let why = error.source().map_or("the value is not UTF-8".into(), ToString::to_string);
            Err(format!("the mount option {name}: {why}"))
        }
    }
}

/// Splits `text` at commas. `\,` is a comma and `\\` is a backslash, as in libfuse.
fn split(text: &OsStr) -> Vec<OsString> {
    let mut options = vec![Vec::new()];
    let mut bytes = text.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b',' => options.push(Vec::new()),
            _ => {
                let byte = match (byte, bytes.peek()) {
                    (b'\\', Some(&escaped @ (b',' | b'\\'))) => {
                        bytes.next();
                        escaped
                    }
                    _ => byte,
                };
                if let Some(option) = options.last_mut() {
                    option.push(byte);
                }
            }
        }
    }
    options.into_iter().filter(|option| !option.is_empty()).map(OsString::from_vec).collect()
}
