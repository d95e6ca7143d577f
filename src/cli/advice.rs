//! Answers to command lines that are wrong in a way that people type: what to write instead.

use std::{ffi::OsString, path::Path};

use clap::{
    Error,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::size;

/// The answer to a first word that is neither a command nor a file, if it looks like a command.
pub(super) fn on_first_word<'a>(
    line: &[OsString],
    commands: impl Iterator<Item = &'a str>,
) -> Option<String> {
    let word = line.get(1)?.to_str()?;
    if word.starts_with('-') || word.contains('/') || Path::new(word).symlink_metadata().is_ok() {
        return None;
    }
    let near = nearest(word, commands).filter(|near| *near != word)?;
    Some(format!("there is no command and no directory {word:?}; did you mean: npzfs {near}"))
}

/// The answer to a command line that clap has refused. `None` if clap's own words will do.
pub(super) fn on(line: &[OsString], error: &Error) -> Option<String> {
    let words: Vec<_> = line.iter().map(|word| word.to_string_lossy()).collect();
    for pair in words.windows(2) {
        let [option, value] = [&*pair[0], &*pair[1]];
        let is_number = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
        if option.starts_with("--") && value.strip_prefix('-').is_some_and(is_number) {
            return Some(format!("{option} takes no negative number, and {value} is one"));
        }
        if option == "-o" && value.ends_with(',') {
            return Some(format!("write the options after -o without blanks: -o {value}..."));
        }
    }
    for three in words.windows(3) {
        let [option, number, unit] = [&*three[0], &*three[1], &*three[2]];
        let is_unit = unit.starts_with(|first: char| first.is_ascii_alphabetic())
            && size::parse(&format!("1{unit}")).is_ok();
        if option.starts_with("--") && size::parse(number).is_ok() && is_unit {
            return Some(format!("write a size without a blank: {option} {number}{unit}"));
        }
    }
    // A third path is a subcommand to clap, which cannot be used with two paths.
    let refused = [ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
    let refused = refused.into_iter().find_map(|kind| error.get(kind))?;
    match (refused, error.kind()) {
        (ContextValue::String(option), _) if option == "-d" => {
            Some("-d of other FUSE filesystems is -f -vv here".to_owned())
        }
        (ContextValue::String(name), ErrorKind::InvalidValue) if name == "<SOURCE>" => {
            Some(empty("SOURCE"))
        }
        (ContextValue::String(name), ErrorKind::InvalidValue) if name == "<MOUNTPOINT>" => {
            Some(empty("MOUNTPOINT"))
        }
        (ContextValue::String(path), ErrorKind::ArgumentConflict | ErrorKind::UnknownArgument)
            if !path.starts_with('-') =>
        {
            Some(format!(
                "{path:?} is one path too many: give one SOURCE and one MOUNTPOINT; for several \
                 directories, mount each of them, or the one in which they lie"
            ))
        }
        _ => None,
    }
}

/// The answer to an empty path. The variable is set by the units of systemd, whose file of settings
/// may be missing.
fn empty(name: &str) -> String {
    match std::env::var("NPZFS_SETTINGS") {
        Ok(file) => format!("no {name} is given: write it into {file}, as {name}=/..."),
        Err(_) => format!("{name} is empty"),
    }
}

/// The name that was probably meant: the nearest one, if few letters differ.
pub(super) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = if word.chars().count() <= 4 { 1 } else { 2 };
    let differing = names.map(|name| (strsim::damerau_levenshtein(word, name), name));
    differing.filter(|(letters, _)| *letters <= most).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_others_are_not() {
        let names = || ["run", "unmount", "umount", "demo", "ls"].into_iter();
        for (word, meant) in [
            ("unmont", Some("unmount")),
            ("umnount", Some("umount")),
            ("rnu", Some("run")),
            ("deom", Some("demo")),
            ("l", Some("ls")),
            ("data", None),
            ("list", None),
            ("mnt", None),
        ] {
            assert_eq!(nearest(word, names()), meant, "{word}");
        }
    }
}
