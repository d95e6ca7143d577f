//! `-o a,b=c`, as mount(8), fstab(5) and mount.fuse3 hand it over.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    time::Duration,
};

use super::{mount, size};
use crate::{daemon::Access, serve::Verify, tree::Layout};

/// What `-o` said. `None` is what it did not speak of.
#[derive(Debug, Default, PartialEq)]
pub struct MountOptions {
    pub layout: Option<Layout>,
    pub ttl: Option<Duration>,
    pub memory_limit: Option<u64>,
    pub cache_size: Option<u64>,
    pub log_file: Option<PathBuf>,
    pub index_dir: Option<PathBuf>,
    pub index_dir_size: Option<u64>,
    pub disk_cache: Option<PathBuf>,
    pub disk_cache_size: Option<u64>,
    pub scratch_size: Option<u64>,
    pub verify: Option<Verify>,
    pub fs_name: Option<OsString>,
    pub access: Access,
    pub default_permissions: bool,
    pub noexec: bool,
}

/// Options that are for mount(8) and systemd, or that say nothing about a read-only mount. `suid`
/// and `dev` are added by mount.fuse3 unasked; the mount is nosuid and nodev all the same.
const WITHOUT_EFFECT: &[&str] = &[
    "ro",
    "rw",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "nofail",
    "_netdev",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "sync",
    "async",
    "dirsync",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "silent",
    "loud",
    "symfollow",
];

impl MountOptions {
    /// Takes in the text of one `-o`.
    ///
    /// # Errors
    /// A sentence that names the option.
    pub fn add(&mut self, text: &OsStr) -> Result<(), String> {
        for option in split(text) {
            self.add_one(&option)?;
        }
        Ok(())
    }

    fn add_one(&mut self, option: &OsStr) -> Result<(), String> {
        let bytes = option.as_bytes();
        let (name, value) = match bytes.iter().position(|&byte| byte == b'=') {
            Some(at) => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]))),
            None => (bytes, None),
        };
        let name = String::from_utf8_lossy(name);
        let given = || match value {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(format!("the mount option {name} needs a value: {name}=...")),
        };
        let text = || given().map(OsStr::to_string_lossy);
        let wrong = |why| format!("the mount option {name}: {why}");
        match name.as_ref() {
            "layout" => self.layout = Some(mount::parse_layout(&text()?).map_err(wrong)?),
            "ttl" => self.ttl = Some(mount::parse_ttl(&text()?).map_err(wrong)?),
            "memory_limit" => self.memory_limit = Some(size::parse(&text()?).map_err(wrong)?),
            "cache_size" => self.cache_size = Some(size::parse(&text()?).map_err(wrong)?),
            "log_file" => self.log_file = Some(given()?.into()),
            "index_dir" => self.index_dir = Some(given()?.into()),
            "index_dir_size" => {
                self.index_dir_size = Some(size::parse(&text()?).map_err(wrong)?);
            }
            "disk_cache" => self.disk_cache = Some(given()?.into()),
            "disk_cache_size" => {
                self.disk_cache_size = Some(size::parse(&text()?).map_err(wrong)?);
            }
            "scratch_size" => self.scratch_size = Some(size::parse(&text()?).map_err(wrong)?),
            "verify" => self.verify = Some(mount::parse_verify(&text()?).map_err(wrong)?),
            "fsname" => self.fs_name = Some(given()?.into()),
            "subtype" if given()? == "npzfs" => {}
            "subtype" => {
                return Err(wrong("it must be npzfs, by which mounts are recognised".into()));
            }
            "comment" => {}
            _ if name.starts_with("x-") || name.starts_with("X-") => {}
            _ if value.is_some() => return Err(unknown(option)),
            "allow_other" => self.access = Access::Everybody,
            "allow_root" if self.access == Access::Owner => self.access = Access::OwnerAndRoot,
            "allow_root" => {}
            "default_permissions" => self.default_permissions = true,
            "exec" => self.noexec = false,
            "noexec" => self.noexec = true,
            known if WITHOUT_EFFECT.contains(&known) => {}
            _ => return Err(unknown(option)),
        }
        Ok(())
    }
}

fn unknown(option: &OsStr) -> String {
    format!("unknown mount option {:?}; npzfs --help lists its own", option.to_string_lossy())
}

/// Splits at commas. `\,` and `\\` are a comma and a backslash, as libfuse has it.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountOptions, String> {
        let mut options = MountOptions::default();
        options.add(OsStr::new(text)).map(|()| options)
    }

    #[test]
    fn what_mount_and_fstab_add_is_taken_without_effect() {
        let text = "rw,ro,nosuid,nodev,suid,dev,user,users,nofail,_netdev,noauto,defaults,,\
                    relatime,\
                    x-systemd.automount,x-systemd.idle-timeout=60,X-mount.mkdir,comment=a b,\
                    subtype=npzfs,";
        assert_eq!(parse(text), Ok(MountOptions::default()));
        assert_eq!(parse(""), Ok(MountOptions::default()));
    }

    #[test]
    fn our_own_options_are_read() {
        let text = "layout=beside,ttl=2.5,memory_limit=5G,cache_size=1G,index_dir=/i,index_dir_size=2G,\
                    disk_cache=/d,disk_cache_size=3G,scratch_size=4G,verify=always,log_file=/a\\,b\\\\c\\d,fsname=x=y,\
                    noexec,allow_root,default_permissions";
        assert_eq!(
            parse(text),
            Ok(MountOptions {
                layout: Some(Layout::Beside),
                ttl: Some(Duration::from_millis(2500)),
                memory_limit: Some(5 << 30),
                cache_size: Some(1 << 30),
                log_file: Some(r"/a,b\c\d".into()),
                index_dir: Some("/i".into()),
                index_dir_size: Some(2 << 30),
                disk_cache: Some("/d".into()),
                disk_cache_size: Some(3 << 30),
                scratch_size: Some(4 << 30),
                verify: Some(Verify::Always),
                fs_name: Some("x=y".into()),
                access: Access::OwnerAndRoot,
                default_permissions: true,
                noexec: true,
            })
        );
    }

    #[test]
    fn the_last_of_two_that_contradict_wins_and_the_wider_access() {
        assert!(!parse("noexec,exec").expect("valid").noexec);
        assert!(parse("exec,noexec").expect("valid").noexec);
        assert_eq!(parse("allow_other,allow_root").expect("valid").access, Access::Everybody);
        assert_eq!(parse("allow_root,allow_other").expect("valid").access, Access::Everybody);
    }

    #[test]
    fn an_option_that_is_wrong_is_named() {
        for (text, named) in [
            ("ro,nonsense", "\"nonsense\""),
            ("uid=5", "\"uid=5\""),
            ("ro=1", "\"ro=1\""),
            ("noexec=1", "\"noexec=1\""),
            ("allow_other=1", "\"allow_other=1\""),
            ("layout=sideways", "layout"),
            ("layout", "layout"),
            ("ttl=-1", "ttl"),
            ("ttl=", "ttl"),
            ("cache_size=much", "cache_size"),
            ("memory_limit=1e9", "memory_limit"),
            ("verify=often", "verify"),
            ("log_file", "log_file"),
            ("subtype=sshfs", "subtype"),
            ("a\nb", "\"a\\nb\""),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(named) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
