//! The names of members that stand as files beside their archive (`--layout flat`).
//!
//! A template makes such a name from the archive's name without `.npz` (the stem) and the member's
//! name without `.npy` (the key). A lookup goes the other way: it takes a name apart into all stems
//! and keys that may have made it. So a lookup asks for a few names and lists no directory.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use crate::archive::{Container, DirId, Entry, Format, MemberId};

/// Other cases of this suffix are left out: each would cost every lookup another stat, for each
/// place where the name can be taken apart.
const ARCHIVE: &[u8] = b".npz";
const MEMBER: &[u8] = b".npy";

const STEM: &str = "{stem}";
const KEY: &str = "{key}";

/// The longest name that a file can have, in bytes (NAME_MAX).
const LONGEST: usize = 255;

/// How the members of all archives are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlatNames {
    of_all: Template,
    /// Keys that have a template of their own, with `{key}` replaced by the key.
    of_keys: Vec<(String, Template)>,
}

/// One `--flat-name`: a template for all keys, or for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlatName {
    key: Option<String>,
    template: Template,
}

/// A name with places for the stem and, unless it is the template of one key, for the key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Template {
    /// The texts before and after the stem.
    Stem(String, String),
    /// The texts before, between and after the stem and the key.
    StemKey([String; 3]),
    /// The texts before, between and after the key and the stem.
    KeyStem([String; 3]),
}

/// An archive and a member that may be shown under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub archive: OsString,
    /// The member's name in the root directory of the archive.
    member: Vec<u8>,
}

impl Default for FlatNames {
    fn default() -> Self {
        let texts = ["", "_", ".npy"].map(str::to_owned);
        Self { of_all: Template::StemKey(texts), of_keys: Vec::new() }
    }
}

impl FromIterator<FlatName> for FlatNames {
    /// Of several templates for all keys, or for the same key, the last counts.
    fn from_iter<I: IntoIterator<Item = FlatName>>(names: I) -> Self {
        let mut all = Self::default();
        for FlatName { key, template } in names {
            match key {
                None => all.of_all = template,
                Some(key) => {
                    all.of_keys.retain(|(other, _)| *other != key);
                    all.of_keys.push((key, template));
                }
            }
        }
        all
    }
}

impl FlatName {
    /// Parses `{stem}_{key}.npy` or, for one key, `data={stem}.npy`.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        // In a template for all keys a brace comes before any `=`.
        let (key, template) = match text.split_once('=') {
            Some((key, template)) if !key.contains('{') => (Some(key.to_owned()), template),
            _ => (None, text),
        };
        let whole = match &key {
            Some(key) => template.replace(KEY, key),
            None => template.to_owned(),
        };
        let without = template.replace(STEM, "").replace(KEY, "");
        let in_directory = key.as_ref().is_some_and(|key| key.contains('/'));
        let template = match (split(&whole, STEM), split(&whole, KEY)) {
            _ if without.contains(['{', '}']) => {
                return Err(format!("{text:?}: only {STEM} and {KEY} may be in braces"));
            }
            _ if whole.contains(['/', '\0']) || in_directory => {
                return Err(format!("{text:?} would not be a name: it has a / or a zero byte"));
            }
            (Ok(stem), _) if key.is_some() => Template::Stem(stem.0, stem.1),
            (Ok(stem), Ok(key)) => match split(&key.0, STEM) {
                Ok((before, between)) => Template::StemKey([before, between, key.1]),
                Err(()) => {
                    let between = split(&key.1, STEM).map_or(String::new(), |both| both.0);
                    Template::KeyStem([key.0, between, stem.1])
                }
            },
            _ => {
                let both = if key.is_some() { STEM } else { "{stem} and {key}" };
                return Err(format!("{text:?} must have {both}, once"));
            }
        };
        Ok(Self { key, template })
    }
}

/// The texts before and after `placeholder`, which must be in `text` once.
fn split(text: &str, placeholder: &str) -> Result<(String, String), ()> {
    let (before, after) = text.split_once(placeholder).ok_or(())?;
    if after.contains(placeholder) {
        return Err(());
    }
    Ok((before.to_owned(), after.to_owned()))
}

impl FlatNames {
    /// The names under which the members of the archive called `archive` stand beside it, in any
    /// order. A name may occur twice.
    pub(super) fn of_archive<'a>(
        &'a self,
        archive: &'a OsStr,
        container: &'a Container,
    ) -> impl Iterator<Item = OsString> + 'a {
        container.dir(DirId::ROOT).entries().filter_map(move |(member, entry)| match entry {
            Entry::Member(_) => self.of_member(archive, member),
            Entry::Dir(_) => None,
        })
    }

    /// The name of one member of the archive called `archive`, which is `member` in its root
    /// directory; `None` if the member does not stand beside the archive.
    pub(super) fn of_member(&self, archive: &OsStr, member: &[u8]) -> Option<OsString> {
        let stem = stem_of(archive)?;
        let key = member.strip_suffix(MEMBER).filter(|key| !key.contains(&b'/'))?;
        let name = self.template_of(key).name(stem, key);
        let is_name = name.len() <= LONGEST && !matches!(&name[..], b"" | b"." | b"..");
        is_name.then(|| OsString::from_vec(name))
    }

    /// The archives and members that may be shown as `name`. The first of them that exists is.
    pub(super) fn candidates(&self, name: &OsStr) -> Vec<Candidate> {
        let name = name.as_bytes();
        let of_keys = self.of_keys.iter().flat_map(|(key, template)| {
            template.stems_and_keys(name).into_iter().map(|(stem, _)| (stem, key.as_bytes()))
        });
        let of_all = self.of_all.stems_and_keys(name).into_iter();
        let mut found: Vec<_> =
            of_keys.chain(of_all.filter(|(_, key)| !self.has_own(key))).collect();
        // Stable: of two members of one archive, the one with a template of its own comes first.
        found.sort_by_key(|(stem, _)| std::cmp::Reverse(stem.len()));
        let candidate = |(stem, key): (&[u8], &[u8])| Candidate {
            archive: OsString::from_vec([stem, ARCHIVE].concat()),
            member: [key, MEMBER].concat(),
        };
        found.into_iter().map(candidate).collect()
    }

    fn has_own(&self, key: &[u8]) -> bool {
        self.of_keys.iter().any(|(own, _)| own.as_bytes() == key)
    }

    fn template_of(&self, key: &[u8]) -> &Template {
        let own = self.of_keys.iter().find(|(own, _)| own.as_bytes() == key);
        own.map_or(&self.of_all, |(_, template)| template)
    }
}

impl Candidate {
    /// The member, if the archive has it.
    pub(super) fn member_of(&self, archive: &Container) -> Option<MemberId> {
        match archive.dir(DirId::ROOT).get(&self.member)? {
            Entry::Member(id) => Some(id),
            Entry::Dir(_) => None,
        }
    }
}

/// The name of an archive without its suffix; `None` if its members do not stand beside it.
pub(super) fn stem_of(archive: &OsStr) -> Option<&[u8]> {
    Format::of(archive).filter(|format| format.is_directory())?;
    archive.as_bytes().strip_suffix(ARCHIVE)
}

impl Template {
    fn name(&self, stem: &[u8], key: &[u8]) -> Vec<u8> {
        match self {
            Self::Stem(before, after) => [before.as_bytes(), stem, after.as_bytes()].concat(),
            Self::StemKey([before, between, after]) => {
                let (before, after) = (before.as_bytes(), after.as_bytes());
                [before, stem, between.as_bytes(), key, after].concat()
            }
            Self::KeyStem([before, between, after]) => {
                let (before, after) = (before.as_bytes(), after.as_bytes());
                [before, key, between.as_bytes(), stem, after].concat()
            }
        }
    }

    /// All pairs of a stem and a key that [`name`](Self::name) makes `name` of. The stem is not
    /// empty. The key is empty if the template has no place for it.
    fn stems_and_keys<'a>(&self, name: &'a [u8]) -> Vec<(&'a [u8], &'a [u8])> {
        let within = |before: &str, after: &str| {
            name.strip_prefix(before.as_bytes())?.strip_suffix(after.as_bytes())
        };
        let pairs = |[before, between, after]: &[String; 3]| -> Vec<(&'a [u8], &'a [u8])> {
            let Some(both) = within(before, after) else { return Vec::new() };
            let between = between.as_bytes();
            let is_split = |at: &usize| both[*at..].starts_with(between);
            let split = |at: usize| (&both[..at], &both[at + between.len()..]);
            (0..=both.len()).filter(is_split).map(split).collect()
        };
        let mut found = match self {
            Self::Stem(before, after) => {
                within(before, after).map(|stem| (stem, &b""[..])).into_iter().collect()
            }
            Self::StemKey(texts) => pairs(texts),
            Self::KeyStem(texts) => {
                pairs(texts).into_iter().map(|(key, stem)| (stem, key)).collect()
            }
        };
        found.retain(|(stem, _)| !stem.is_empty());
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(templates: &[&str]) -> FlatNames {
        templates.iter().map(|text| FlatName::parse(text).unwrap()).collect()
    }

    /// The archives and members of all candidates.
    fn candidates(names: &FlatNames, name: &str) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_owned()).unwrap();
        let candidates = names.candidates(OsStr::new(name)).into_iter();
        candidates.map(|one| (text(one.archive.as_bytes()), text(&one.member))).collect()
    }

    fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
        wanted.iter().map(|(archive, member)| (archive.to_string(), member.to_string())).collect()
    }

    #[test]
    fn a_name_is_taken_apart_with_the_longest_stem_first() {
        let plain = FlatNames::default();
        let wanted = [("a_b.npz", "c.npy"), ("a.npz", "b_c.npy")];
        assert_eq!(candidates(&plain, "a_b_c.npy"), pairs(&wanted));
        assert_eq!(candidates(&plain, "a_.npy"), pairs(&[("a.npz", ".npy")]));
        assert_eq!(candidates(&plain, "_a.npy"), []);
        assert_eq!(candidates(&plain, "a.npy"), []);
        assert_eq!(candidates(&plain, "a_b.txt"), []);

        let nnunet = names(&["data={stem}.npy"]);
        let wanted = [("c_1_seg.npz", "data.npy"), ("c_1.npz", "seg.npy"), ("c.npz", "1_seg.npy")];
        assert_eq!(candidates(&nnunet, "c_1_seg.npy"), pairs(&wanted));
        let wanted = pairs(&[("c_data.npz", "data.npy")]);
        assert_eq!(candidates(&nnunet, "c_data.npy"), wanted, "data is never c_data");
    }

    #[test]
    fn of_two_members_of_one_archive_the_one_with_its_own_template_comes_first() {
        let both = names(&["x={stem}_y.npy", "z={stem}_y.npy"]);
        let wanted = [("a.npz", "x.npy"), ("a.npz", "z.npy"), ("a.npz", "y.npy")];
        assert_eq!(candidates(&both, "a_y.npy"), pairs(&wanted));
    }

    #[test]
    fn the_last_of_two_templates_counts() {
        let twice = names(&["{key}{stem}", "d={stem}", "{key}-{stem}.npy", "d={stem}.{key}"]);
        assert_eq!(twice, names(&["{key}-{stem}.npy", "d={stem}.d"]));
    }

    #[test]
    fn each_name_is_found_again_with_every_template() {
        let templates = [
            "{stem}_{key}.npy",
            "{key}_{stem}",
            "{stem}{key}",
            "{key}{stem}.npy",
            "__{stem}__{key}__",
            "a={stem}.npy",
            "a=_{stem}",
            "_={stem}{key}_",
        ];
        let texts = ["a", "_", "__", "a_b", "_a_", ".", "..", "\u{e9}", "a.npz", "{key}"];
        for (one, other) in templates.iter().zip(templates.iter().cycle().skip(3)) {
            let names = names(&[one, other]);
            for (stem, key) in texts.iter().flat_map(|stem| texts.map(|key| (stem, key))) {
                let archive = OsString::from(format!("{stem}.npz"));
                let member = format!("{key}.npy").into_bytes();
                let Some(name) = names.of_member(&archive, &member) else { continue };
                let found = names.candidates(&name);
                let wanted = Candidate { archive, member };
                assert!(found.contains(&wanted), "{one} {other} {name:?}");
                for Candidate { archive, member } in found {
                    let again = names.of_member(&archive, &member);
                    assert_eq!(again.as_deref(), Some(&*name), "{one} {other}");
                }
            }
        }
    }

    #[test]
    fn what_would_not_be_a_name_is_left_out() {
        let names = names(&["d={stem}", "{stem}_{key}.npy"]);
        let long = "l".repeat(246);
        for (archive, member, is_shown) in [
            ("a.npz", "x.npy", true),
            ("a.npz", "d.npy", true),
            ("..npz", "d.npy", false),
            ("...npz", "d.npy", false),
            ("..npz", "x.npy", true),
            ("a.npz", "dir/x.npy", false),
            ("a.npz", "x.txt", false),
            ("a.NPZ", "x.npy", false),
            (".npz", "x.npy", false),
            (&format!("{long}.npz"), "xxxx.npy", true),
            (&format!("{long}.npz"), "xxxxx.npy", false),
        ] {
            let name = names.of_member(OsStr::new(archive), member.as_bytes());
            assert_eq!(name.is_some(), is_shown, "{archive} {member}");
        }
    }

    #[test]
    fn templates_that_cannot_be_taken_apart_are_refused() {
        for text in [
            "",
            "{stem}",
            "{key}.npy",
            "x={key}.npy",
            "{stem}{stem}{key}",
            "{stem}{key}{key}",
            "{stem}/{key}",
            "a/b={stem}_{key}",
            "a/b={stem}.npy",
            "{stem}_{name}",
            "{stem}_{key}}",
            "x={stem}{stem}",
        ] {
            assert!(FlatName::parse(text).is_err(), "{text}");
        }
        for text in ["{stem}{key}", "x={stem}", "{stem}=1{key}", "={stem}.npy"] {
            assert!(FlatName::parse(text).is_ok(), "{text}");
        }
    }
}
