//! Says which setting of the system forbids a private namespace, and what to do about it.

use rustix::io::Errno;

/// The number of user namespaces that may exist, in each user namespace.
const MOST: &str = "/proc/sys/user/max_user_namespaces";
/// The number of mount namespaces that may exist, likewise.
const MOST_MOUNT: &str = "/proc/sys/user/max_mnt_namespaces";
/// Of Debian's and Arch's kernels: whether ordinary users may have user namespaces.
const CLONE: &str = "/proc/sys/kernel/unprivileged_userns_clone";
/// Of Ubuntu's: whether AppArmor takes the rights in a user namespace from programs that have no
/// profile that allows them.
const APPARMOR: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";

/// One line for the user about the `step` that failed with `errno`. `setting` reads a file of
/// /proc/sys, if it is there.
pub(super) fn explain(
    step: &str,
    errno: Errno,
    setting: impl Fn(&str) -> Option<String>,
) -> String {
    let is = |path: &str, value: &str| setting(path).is_some_and(|text| text.trim() == value);
    let denied = matches!(errno, Errno::PERM | Errno::ACCESS);
    let full = matches!(errno, Errno::NOSPC | Errno::USERS);
    let why = if full && is(MOST, "0") {
        "they are switched off (user.max_user_namespaces is 0); as root: sysctl -w \
         user.max_user_namespaces=15000"
            .into()
    } else if full {
        let value = |path| setting(path).map_or("unknown".into(), |text| text.trim().to_string());
        format!(
            "as many as are allowed are in use (user.max_user_namespaces is {}, \
             user.max_mnt_namespaces {}); as root: raise these with sysctl -w",
            value(MOST),
            value(MOST_MOUNT)
        )
    } else if denied && is(CLONE, "0") {
        "they are switched off (kernel.unprivileged_userns_clone is 0); as root: sysctl -w \
         kernel.unprivileged_userns_clone=1"
            .into()
    } else if denied && is(APPARMOR, "1") {
        "AppArmor denies them (kernel.apparmor_restrict_unprivileged_userns is 1); as root: install \
         the profile in docs/operations.md, or sysctl -w \
         kernel.apparmor_restrict_unprivileged_userns=0"
            .into()
    } else if denied {
        format!(
            "{step}: Operation not permitted, as under seccomp in a container or in a chroot; run \
             the container with --cap-add SYS_ADMIN --device /dev/fuse"
        )
    } else {
        format!("{step}: {}", crate::daemon::error::plain(&errno.into()))
    };
    format!(
        "npzfs run needs namespaces of its own, and {why}; or mount with npzfs SOURCE MOUNTPOINT"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_that_forbids_namespaces_is_named_with_its_remedy() {
        /// An errno, settings with their values, and a part of the line.
        type Case = (Errno, &'static [(&'static str, &'static str)], &'static str);
        let cases: [Case; 7] = [
            (Errno::NOSPC, &[(MOST, "0\n")], "sysctl -w user.max_user_namespaces=15000"),
            (Errno::USERS, &[(MOST, "7\n"), (MOST_MOUNT, "9\n")], "max_mnt_namespaces 9"),
            (Errno::PERM, &[(CLONE, "0\n")], "sysctl -w kernel.unprivileged_userns_clone=1"),
            (Errno::ACCESS, &[(APPARMOR, "1\n")], "the profile in docs/operations.md"),
            (Errno::PERM, &[(CLONE, "1\n"), (APPARMOR, "0\n")], "--cap-add SYS_ADMIN"),
            (Errno::PERM, &[], "uid_map: Operation not permitted"),
            (Errno::INVAL, &[(APPARMOR, "1\n")], "uid_map: Invalid argument"),
        ];
        for (errno, settings, named) in cases {
            let setting = |path: &str| {
                let found = settings.iter().find(|(name, _)| *name == path);
                found.map(|(_, value)| value.to_string())
            };
            let line = explain("uid_map", errno, setting);
            assert!(line.contains(named), "{errno:?}: {line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }
}
