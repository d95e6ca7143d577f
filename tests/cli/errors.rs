//! Every way to fail: one line, the right code, nothing left mounted.

use std::{
    fs,
    os::unix::fs::symlink,
    process::{Child, Command},
};

use crate::support::*;

/// Kills and reaps the process when the test is over.
struct Helper(Child);

impl Helper {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn usage_errors_end_with_2_and_name_what_is_wrong() {
    let cases: &[(&[&str], &str)] = &[
        (&[], "SOURCE"),
        (&["a"], "MOUNTPOINT"),
        (&["a", "b", "c"], "\"c\" is one path too many"),
        (&["unmont", "b"], "did you mean: npzfs unmount"),
        (&["rnu"], "did you mean: npzfs run"),
        (&["--cache-size", "64", "MB", "a", "b"], "without a blank: --cache-size 64MB"),
        (&["--ttl", "-1", "a", "b"], "--ttl takes no negative number"),
        (&["-d", "a", "b"], "-f -vv"),
        (&["a", "b", "-o", "remount"], "unmount it, and mount it again"),
        (&["a", "b", "-o", "ro, noexec"], "\" noexec\": there is a blank in it"),
        (&["-o", "ro,", "noexec", "a", "b"], "without blanks: -o ro,"),
        (&["a", "b", "-o", "memory_limt=1G"], "did you mean memory_limit"),
        (&["", "b"], "SOURCE is empty"),
        (&["a", ""], "MOUNTPOINT is empty"),
        (&["man", "nonsense"], "\"nonsense\""),
        (&["--nonsense", "a", "b"], "--nonsense"),
        (&["a", "b", "-o", "ro,nonsense"], "unknown mount option \"nonsense\""),
        (&["a", "b", "-o", "uid=5"], "\"uid=5\""),
        (&["a", "b", "-o", "ttl=soon"], "ttl"),
        (&["--ttl=-1", "a", "b"], "--ttl"),
        (&["--layout", "sideways", "a", "b"], "sideways"),
        (&["--cache-size", "much", "a", "b"], "much"),
        (&["unmount"], "MOUNTPOINT"),
        (&["demo", "extra"], "extra"),
        (&["ls"], "PATH"),
        (&["verify", "--jsn", "a"], "--json"),
    ];
    for (arguments, named) in cases {
        let ended = run(npzfs().args(*arguments));
        assert_eq!(ended.code(), Some(2), "{arguments:?}");
        assert!(ended.stderr().contains(named), "{arguments:?}: {}", ended.stderr());
        assert_eq!(ended.stdout(), "", "{arguments:?}");
    }
}

#[test]
fn usage_errors_tell_the_whole_usage() {
    for arguments in [&["a"][..], &["--cache-sise", "1G", "a", "b"]] {
        let ended = run(npzfs().args(arguments));
        assert_eq!(ended.code(), Some(2), "{arguments:?}");
        for way in
            ["npzfs [OPTIONS] SOURCE MOUNTPOINT\n", "npzfs run|unmount|ls|index|verify|demo|"]
        {
            assert!(ended.stderr().contains(way), "{arguments:?}: {}", ended.stderr());
        }
    }
}

#[test]
fn an_unknown_mount_option_is_told_in_one_line() {
    run(npzfs().args(["a", "b", "-o", "nonsense"])).fails(2, &["nonsense", "--help"]);
}

#[test]
fn help_and_version_go_to_standard_output() {
    let help = run(npzfs().arg("--help"));
    help.succeeds();
    for part in
        ["SOURCE MOUNTPOINT", "unmount", "demo", "npzfs run", "--layout", "allow_other", "Examples"]
    {
        assert!(help.stdout().contains(part), "{part}: {}", help.stdout());
    }
    let of_run = run(npzfs().args(["run", "--help"]));
    of_run.succeeds();
    for help in [help, of_run] {
        assert!(help.stdout().lines().count() <= 45, "the help should fit on a screen");
        assert!(help.stdout().lines().all(|line| line.len() <= 100));
    }

    let version = run(npzfs().arg("--version"));
    version.succeeds();
    let expected = concat!("npzfs ", env!("CARGO_PKG_VERSION"), " (commit ");
    assert!(version.stdout().starts_with(expected), "{}", version.stdout());
}

#[test]
fn words_stand_for_options_of_other_programs() {
    let shown = |arguments: &[&str]| {
        let ended = run(npzfs().args(arguments));
        ended.succeeds();
        ended.stdout()
    };
    assert_eq!(shown(&["help"]), shown(&["--help"]));
    assert_eq!(shown(&["help", "run"]), shown(&["run", "--help"]));
    assert_eq!(shown(&["version"]), shown(&["--version"]));
    assert_eq!(shown(&["umount", "--help"]), shown(&["unmount", "--help"]));
    let nothing = run(&mut npzfs());
    assert_eq!((nothing.code(), nothing.stderr()), (Some(2), shown(&["--help"])));
    run(npzfs().args(["mount", "/none", "/none"])).fails(1, &["source /none does not exist"]);
}

#[test]
fn completions_and_manual_pages_have_the_options() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(npzfs().args(["completions", shell]));
        script.succeeds();
        for word in ["unmount", "verify", "index-dir"] {
            assert!(script.stdout().contains(word), "{shell}: {word}");
        }
    }
    for (command, words) in
        [(&["man"][..], "disk\\-cache"), (&["man", "run"], "writable"), (&["man", "ls"], "json")]
    {
        let page = run(npzfs().args(command));
        page.succeeds();
        assert!(
            page.stdout().contains(".TH npzfs") && page.stdout().contains(words),
            "{command:?}"
        );
    }
}

#[test]
fn options_that_are_seldom_meant_are_warned_about() {
    let Some(sandbox) = Sandbox::new() else { return };
    let paths = [sandbox.src(), sandbox.mnt()];
    let mounted = run(npzfs().args(["--cache-size", "64", "--ttl", "1000000"]).args(paths));
    let lines: Vec<_> = mounted.stderr().lines().map(str::to_owned).collect();
    assert_eq!(
        lines,
        [
            "npzfs: warning: --cache-size 64 is 64 bytes; write 64M if you mean MiB",
            "npzfs: warning: --ttl: for 277 hours, changes of the data may not be seen",
        ]
    );
    assert_eq!(mounted.code(), Some(0));
    assert_eq!(sandbox.mounts().len(), 1);
}

#[test]
fn a_source_that_cannot_be_shown() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mnt = sandbox.mnt();
    run(npzfs().args([sandbox.path("none"), mnt.clone()]))
        .fails(1, &["source", "none does not exist"]);
    run(Command::new("mkfifo").arg(sandbox.path("fifo"))).succeeds();
    run(npzfs().args([sandbox.path("fifo"), mnt.clone()]))
        .fails(1, &["fifo is neither a directory nor a file"]);
    run(npzfs().args([sandbox.path("src/notes.txt/x"), mnt])).fails(1, &["Not a directory"]);
    sandbox.assert_all_gone();
}

#[test]
fn a_source_that_is_a_file_but_no_archive() {
    let Some(sandbox) = Sandbox::new() else { return };
    for (name, bytes) in [("empty.npz", &b""[..]), ("text.npz", b"not a zip"), ("x.txt", b"x")] {
        fs::write(sandbox.path(name), bytes).expect("write");
        run(npzfs().args([sandbox.path(name), sandbox.mnt()]))
            .fails(1, &[name, "not a zip archive", "give a directory or one .npz file"]);
    }
    sandbox.assert_all_gone();
}

#[test]
fn a_source_that_lies_on_a_dead_mount() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.dead_mount();
    let other = sandbox.dir("other");
    run(npzfs().args([sandbox.mnt(), other.clone()]))
        .fails(1, &["dead mount", "Transport endpoint is not connected", "npzfs unmount --lazy"]);
    run(npzfs().args([sandbox.path("mnt/below"), other])).fails(1, &["dead mount"]);
}

#[test]
fn a_mountpoint_that_is_no_empty_directory() {
    let Some(sandbox) = Sandbox::new() else { return };
    let src = sandbox.src();
    run(npzfs().args([src.clone(), sandbox.path("none/mnt")]))
        .fails(1, &["none/mnt does not exist", "mkdir -p"]);
    fs::write(sandbox.path("file"), "").expect("write");
    run(npzfs().args([src.clone(), sandbox.path("file")])).fails(1, &["file is not a directory"]);
    let full = sandbox.dir("full");
    fs::write(full.join(".hidden"), "").expect("write");
    run(npzfs().args([src, full])).fails(1, &["full is not empty"]);
    sandbox.assert_all_gone();
}

#[test]
fn a_control_character_in_a_path_does_not_break_the_line() {
    let Some(sandbox) = Sandbox::new() else { return };
    run(npzfs().args([sandbox.path("a\nb"), sandbox.mnt()])).fails(1, &["a\\nb"]);
}

#[test]
fn a_mountpoint_inside_the_source() {
    let Some(sandbox) = Sandbox::new() else { return };
    let inside = sandbox.dir("src/a");
    let deeper = sandbox.dir("src/a/b");
    let link = sandbox.path("link");
    symlink(&deeper, &link).expect("symlink");
    for mountpoint in [inside, deeper, link] {
        run(npzfs().args([sandbox.src(), mountpoint]))
            .fails(1, &["lies inside the source", "outside of it"]);
    }
    sandbox.assert_all_gone();
}

#[test]
fn a_mountpoint_inside_the_source_behind_a_bind_mount() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.dir("src/a");
    let bound = sandbox.dir("bound");
    run(Command::new("mount").arg("--bind").args([sandbox.src(), bound.clone()])).succeeds();
    run(npzfs().args([sandbox.src(), bound.join("a")])).fails(1, &["lies inside the source"]);
    run(npzfs().args([bound, sandbox.path("src/a")])).fails(1, &["lies inside the source"]);
}

#[test]
fn a_bind_mount_that_shares_its_mounts_with_the_source_is_inside_too() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.dir("src/a");
    let bound = sandbox.dir("bound");
    let script = "mount --bind \"$1\" \"$1\"; mount --make-shared \"$1\"; \
                  mount --bind \"$1/a\" \"$2\"; exec \"$3\" -f \"$1\" \"$2\"";
    let program = env!("CARGO_BIN_EXE_npzfs").as_ref();
    run(&mut in_namespace(script, &[sandbox.src().as_ref(), bound.as_ref(), program]))
        .fails(1, &["lies inside the source"]);
}

#[test]
fn a_mountpoint_where_something_is_mounted() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.mount();
    run(npzfs().args([sandbox.src(), sandbox.mnt()])).fails(
        1,
        &["is busy", "fuse.npzfs of", sandbox.src().to_str().expect("ASCII"), "npzfs unmount"],
    );
    assert_eq!(sandbox.mounts().len(), 1, "the first mount stays alone");

    let other = sandbox.dir("other");
    run(Command::new("mount").args(["-t", "tmpfs", "thing"]).arg(&other)).succeeds();
    fs::write(other.join("file"), "").expect("write");
    run(npzfs().args([sandbox.src(), other])).fails(1, &["is busy", "tmpfs of thing", "umount"]);
}

#[test]
fn a_mount_of_ours_that_shows_nothing_is_busy_too() {
    let Some(sandbox) = Sandbox::new() else { return };
    run(npzfs().args([sandbox.dir("empty"), sandbox.mnt()])).succeeds();
    run(npzfs().args([sandbox.src(), sandbox.mnt()])).fails(1, &["is busy", "fuse.npzfs of"]);
    assert_eq!(sandbox.mounts().len(), 1, "the first mount stays alone");
}

#[test]
fn an_empty_filesystem_can_be_mounted_on() {
    let Some(sandbox) = Sandbox::new() else { return };
    run(Command::new("mount").args(["-t", "tmpfs", "thing"]).arg(sandbox.mnt())).succeeds();
    sandbox.mount();
    assert_eq!(sandbox.mounts().len(), 2);
    run(npzfs().arg("unmount").arg(sandbox.mnt())).succeeds();
    assert_eq!(sandbox.mounts()[0].1, "tmpfs");
}

#[test]
fn a_dead_mount_of_another_kind_is_named_and_left() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut server = Helper(foreign_fuse(&sandbox.mnt()));
    server.end();
    run(npzfs().args([sandbox.src(), sandbox.mnt()]))
        .fails(1, &["fuse.other", "Transport endpoint is not connected", "fusermount3 -u -z"]);
    assert_eq!(sandbox.mounts().len(), 1);
}

#[test]
fn a_mount_that_hangs_does_not_hang_us() {
    let Some(sandbox) = Sandbox::new() else { return };
    let _server = Helper(foreign_fuse(&sandbox.mnt()));
    run(npzfs().args([sandbox.src(), sandbox.mnt()]))
        .fails(1, &["fuse.other", "does not answer", "umount --lazy"]);
    let other = sandbox.dir("other");
    run(npzfs().args([sandbox.mnt(), other])).fails(1, &["fuse.other", "does not answer"]);
}

#[test]
fn a_mount_of_ours_that_hangs_can_be_cleared() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.mount();
    let server = sandbox.server();
    stop(server);
    run(npzfs().args([sandbox.src(), sandbox.mnt()]))
        .fails(1, &["fuse.npzfs", "does not answer", "npzfs unmount --lazy"]);
    let begin = std::time::Instant::now();
    run(npzfs().args(["unmount", "--lazy"]).arg(sandbox.mnt())).succeeds();
    assert!(begin.elapsed().as_secs() < 4, "it is not asked whether it answers");
    assert_eq!(sandbox.mounts(), []);
    kill("CONT", server);
    sandbox.assert_all_gone();
}

#[test]
fn a_log_file_that_cannot_be_written() {
    let Some(sandbox) = Sandbox::new() else { return };
    run(npzfs().arg("--log-file").args([sandbox.path("none/log"), sandbox.src(), sandbox.mnt()]))
        .fails(1, &["log file", "none/log"]);
    sandbox.assert_all_gone();
}

#[test]
fn without_dev_fuse() {
    let Some(sandbox) = Sandbox::new() else { return };
    // In the foreground, since going to the background needs /dev/null.
    let script = "mount -t tmpfs none /dev; exec \"$1\" -f \"$2\" \"$3\"";
    let program = env!("CARGO_BIN_EXE_npzfs").as_ref();
    run(&mut in_namespace(script, &[program, sandbox.src().as_ref(), sandbox.mnt().as_ref()]))
        .fails(1, &["/dev/fuse", "modprobe fuse", "--device /dev/fuse"]);
}

#[test]
fn root_without_the_capability_to_mount_and_without_fusermount3() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"]);
    command.arg(env!("CARGO_BIN_EXE_npzfs")).args([sandbox.src(), sandbox.mnt()]);
    run(command.env("PATH", "/nonexistent")).fails(1, &["fusermount3", "--cap-add SYS_ADMIN"]);
    sandbox.assert_all_gone();
}
