//! What an ordinary user can and cannot do.

use std::{ffi::OsStr, fs, os::unix::fs::PermissionsExt, process::Command};

use crate::support::*;

#[test]
fn a_user_mounts_and_unmounts_through_fusermount3() {
    let Some(sandbox) = Sandbox::new() else { return };
    let own = sandbox.nobodys_dir("own");
    run(as_nobody(&sandbox).args([&sandbox.src(), &own])).succeeds();
    let (point, fs_type, source) = sandbox.mounts().remove(0);
    assert_eq!(point, own.to_str().expect("ASCII"));
    assert_eq!(fs_type, "fuse.npzfs");
    assert_eq!(source, sandbox.src().to_str().expect("ASCII"));
    run(as_nobody(&sandbox).arg("unmount").arg(&own)).succeeds();
    assert_eq!(sandbox.servers(), [] as [u32; 0], "unmount waits for the server");
    sandbox.assert_all_gone();
}

#[test]
fn a_strange_name_of_a_users_source_survives_fusermount3() {
    let Some(sandbox) = Sandbox::new() else { return };
    let own = sandbox.nobodys_dir("own");
    let source = sandbox.dir("src/a, b\\c,allow_other");
    run(as_nobody(&sandbox).args([&source, &own])).succeeds();
    let shown = sandbox.mounts().remove(0).2;
    assert!(shown.ends_with("src/a,\\040b\\134c,allow_other"), "{shown}");
}

#[test]
fn sigterm_unmounts_what_a_user_has_mounted() {
    let Some(sandbox) = Sandbox::new() else { return };
    let own = sandbox.nobodys_dir("own");
    run(as_nobody(&sandbox).args([&sandbox.src(), &own])).succeeds();
    kill("TERM", sandbox.server());
    sandbox.assert_all_gone();
}

#[test]
fn a_users_mount_in_use_is_detached() {
    let Some(sandbox) = Sandbox::new() else { return };
    let own = sandbox.nobodys_dir("own");
    run(as_nobody(&sandbox).args([&sandbox.src(), &own])).succeeds();
    // nobody's own directory, entered as nobody: root may not.
    let mut user = Command::new("setpriv");
    user.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c"])
        .arg("cd \"$1\" && exec sleep 1000")
        .arg("sh")
        .arg(&own);
    let mut user = user.spawn().expect("setpriv");
    let cwd = format!("/proc/{}/cwd", user.id());
    eventually("the user is in the mount", || fs::read_link(&cwd).is_ok_and(|cwd| cwd == own));
    run(as_nobody(&sandbox).arg("unmount").arg(&own)).fails(1, &["is in use", "--lazy"]);
    let server = sandbox.servers();
    kill("TERM", server[0]);
    eventually("it is detached", || sandbox.mounts().is_empty());
    user.kill().expect("kill");
    user.wait().expect("wait");
    sandbox.assert_all_gone();
}

#[test]
fn a_users_dead_mount_is_cleared() {
    let Some(sandbox) = Sandbox::new() else { return };
    let own = sandbox.nobodys_dir("own");
    for _ in 0..2 {
        run(as_nobody(&sandbox).args([&sandbox.src(), &own])).succeeds();
        assert_eq!(sandbox.mounts().len(), 1);
        kill("KILL", sandbox.server());
        eventually("the server is dead", || sandbox.servers().is_empty());
    }
    run(as_nobody(&sandbox).arg("unmount").arg(&own)).succeeds();
    sandbox.assert_all_gone();
}

#[test]
fn a_user_needs_a_mountpoint_of_their_own() {
    let Some(sandbox) = Sandbox::new() else { return };
    run(as_nobody(&sandbox).args([sandbox.src(), sandbox.mnt()]))
        .fails(1, &["cannot mount on", "write access", "a directory of your own"]);
    sandbox.assert_all_gone();
}

#[test]
fn a_user_cannot_unmount_what_is_not_theirs() {
    let Some(sandbox) = Sandbox::new() else { return };
    run(npzfs().args(["-o", "allow_other"]).args([sandbox.src(), sandbox.mnt()])).succeeds();
    run(as_nobody(&sandbox).arg("unmount").arg(sandbox.mnt()))
        .fails(1, &["cannot unmount", "as the user who mounted it"]);
    assert_eq!(sandbox.mounts().len(), 1);
}

#[test]
fn a_users_mountpoint_where_somebody_else_has_mounted_is_busy() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.mount();
    run(as_nobody(&sandbox).args([sandbox.src(), sandbox.mnt()]))
        .fails(1, &["is busy", "fuse.npzfs"]);
}

#[test]
fn a_source_that_the_user_may_not_read() {
    let Some(sandbox) = Sandbox::new() else { return };
    let own = sandbox.nobodys_dir("own");
    fs::set_permissions(sandbox.src(), fs::Permissions::from_mode(0o700)).expect("chmod");
    run(as_nobody(&sandbox).args([&sandbox.src(), &own]))
        .fails(1, &["src is not readable by this user"]);
    let sealed = sandbox.dir("sealed");
    fs::create_dir(sealed.join("in")).expect("mkdir");
    fs::set_permissions(&sealed, fs::Permissions::from_mode(0o700)).expect("chmod");
    run(as_nobody(&sandbox).args([&sealed.join("in"), &own]))
        .fails(1, &["sealed/in is not readable by this user"]);
    sandbox.assert_all_gone();
}

#[test]
fn without_fusermount3() {
    let Some(sandbox) = Sandbox::new() else { return };
    let own = sandbox.nobodys_dir("own");
    // setpriv must still be found.
    let program = as_nobody(&sandbox);
    let mut command = Command::new("/usr/bin/env");
    command.arg("PATH=/nonexistent").arg("/usr/bin/setpriv").args(program.get_args());
    run(command.args([&sandbox.src(), &own]))
        .fails(1, &["fusermount3 is not in PATH", "install the package fuse3"]);
    sandbox.assert_all_gone();
}

/// Runs the program as nobody in a namespace where `prepare` was done as root.
fn with_changed_machine(sandbox: &Sandbox, prepare: &str, options: &str) -> Ended {
    let own = sandbox.nobodys_dir("own");
    let _ = as_nobody(sandbox);
    let script = format!(
        "{prepare}; \
         exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$1/npzfs\" -f {options} \
         \"$1/src\" \"$2\""
    );
    run(&mut in_namespace(&script, &[sandbox.root().as_ref(), own.as_ref()]))
}

#[test]
fn a_dev_fuse_that_the_user_may_not_open() {
    let Some(sandbox) = Sandbox::new() else { return };
    let prepare =
        "touch \"$1/device\"; chmod 600 \"$1/device\"; mount --bind \"$1/device\" /dev/fuse";
    with_changed_machine(&sandbox, prepare, "")
        .fails(1, &["/dev/fuse may not be opened", "chmod 666 /dev/fuse"]);
}

#[test]
fn allow_other_that_the_machine_does_not_allow() {
    for option in ["allow_other", "allow_root"] {
        let Some(sandbox) = Sandbox::new() else { return };
        let prepare = "touch \"$1/conf\" /etc/fuse.conf; mount --bind \"$1/conf\" /etc/fuse.conf";
        with_changed_machine(&sandbox, prepare, &format!("-o {option}"))
            .fails(1, &["user_allow_other", "/etc/fuse.conf"]);
    }
}

#[test]
fn allow_other_that_the_machine_allows_lets_root_in() {
    let Some(sandbox) = Sandbox::new() else { return };
    let own = sandbox.nobodys_dir("own");
    let _ = as_nobody(&sandbox);
    let script = "touch /etc/fuse.conf; echo user_allow_other > \"$1/conf\"; \
                  mount --bind \"$1/conf\" /etc/fuse.conf; \
                  setpriv --reuid=65534 --regid=65534 --clear-groups \"$1/npzfs\" -o \"$3\" \
                  \"$1/src\" \"$2\"; \
                  ls \"$2\"; umount \"$2\"";
    for option in ["allow_other", "allow_root"] {
        let arguments: [&OsStr; 3] = [sandbox.root().as_ref(), own.as_ref(), option.as_ref()];
        let ended = run(&mut in_namespace(script, &arguments));
        ended.succeeds();
        assert_eq!(ended.stdout(), "notes.txt\n", "{option}");
    }
}

#[test]
fn root_may_not_enter_a_users_mount_without_being_let_in() {
    let Some(sandbox) = Sandbox::new() else { return };
    let own = sandbox.nobodys_dir("own");
    run(as_nobody(&sandbox).args([&sandbox.src(), &own])).succeeds();
    let error = fs::read_dir(&own).expect_err("the kernel keeps root out");
    assert_eq!(error.raw_os_error(), Some(13), "EACCES: {error}");
}

/// Reads `path` as nobody.
fn nobody_reads(path: &std::path::Path) -> Ended {
    run(Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"])
        .arg(path))
}

#[test]
fn modes_count_for_others_when_root_serves() {
    let Some(sandbox) = Sandbox::new() else { return };
    fs::write(sandbox.path("src/secret"), "secret\n").expect("write");
    fs::set_permissions(sandbox.path("src/secret"), fs::Permissions::from_mode(0o600))
        .expect("chmod");
    run(npzfs().args(["-o", "allow_other"]).args([sandbox.src(), sandbox.mnt()])).succeeds();
    assert_eq!(nobody_reads(&sandbox.path("mnt/notes.txt")).stdout(), "notes\n");
    let refused = nobody_reads(&sandbox.path("mnt/secret"));
    assert_eq!((refused.code(), refused.stdout().as_str()), (Some(1), ""));
}

#[test]
fn others_are_kept_out_unless_they_are_let_in() {
    for options in [&[] as &[&str], &["-o", "allow_root"]] {
        let Some(sandbox) = Sandbox::new() else { return };
        run(npzfs().args(options).args([sandbox.src(), sandbox.mnt()])).succeeds();
        let refused = nobody_reads(&sandbox.path("mnt/notes.txt"));
        assert_eq!((refused.code(), refused.stdout().as_str()), (Some(1), ""), "{options:?}");
    }
}
