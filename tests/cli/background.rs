//! Going to the background, and the signals that end a server.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::*;

/// The time a server gives to those who still use its mount.
const GRACE: Duration = Duration::from_secs(5);

#[test]
fn the_program_returns_when_the_mount_answers() {
    let Some(sandbox) = Sandbox::new() else { return };
    // `run` returns only if the server has let go of our standard output and error.
    run(npzfs().args([sandbox.src(), sandbox.mnt()])).succeeds();
    assert_eq!(sandbox.mounts().len(), 1);
    assert!(fs::read_dir(sandbox.mnt()).is_ok());
}

#[test]
fn the_server_in_the_background_holds_on_to_nothing_of_its_starter() {
    let Some(sandbox) = Sandbox::new() else { return };
    run(npzfs().current_dir(sandbox.root()).args(["src", "mnt"])).succeeds();
    let pid = pids_mounting(&sandbox);
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).expect("cwd"), Path::new("/"));
    for fd in 0..=2 {
        let file = fs::read_link(format!("/proc/{pid}/fd/{fd}")).expect("fd");
        assert_eq!(file, Path::new("/dev/null"), "descriptor {fd}");
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let (name, rest) = stat.rsplit_once(") ").expect("a name");
    assert!(name.ends_with("(npzfs"), "{stat}");
    let session = rest.split(' ').nth(3).expect("session");
    assert_eq!(session, pid.to_string(), "it leads a session of its own");
}

/// The server, where its command line does not name the sandbox.
fn pids_mounting(sandbox: &Sandbox) -> u32 {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        for fd in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            if fs::read_link(fd.path()).is_ok_and(|target| target == sandbox.src()) {
                found.push(pid);
            }
        }
    }
    assert_eq!(found.len(), 1, "one process has the source open: {found:?}");
    found[0]
}

#[test]
fn a_server_that_dies_before_its_mount_answers_is_reported() {
    let Some(sandbox) = Sandbox::new() else { return };
    // While the server waits for the hanging mount, it is killed.
    let hanging = foreign_fuse(&sandbox.mnt());
    let command = npzfs()
        .args([sandbox.src(), sandbox.mnt()])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let starter = command.id();
    let server = || {
        sandbox.servers().into_iter().find(|&pid| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            pid != starter && line.contains("--server-in-background")
        })
    };
    eventually("the server starts", || server().is_some());
    kill("KILL", server().expect("it was just there"));
    let output = command.wait_with_output().expect("wait");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, "npzfs: the server was killed by signal 9 before its mount answered\n");
    kill("KILL", hanging.id());
    let _ = hanging.wait_with_output();
}

#[test]
fn sigterm_and_sigint_unmount_and_end_with_0() {
    for signal in ["TERM", "INT"] {
        let Some(sandbox) = Sandbox::new() else { return };
        let server = sandbox.foreground(&[]);
        kill(signal, server.pid());
        assert_eq!(server.end(), (Some(0), String::new()), "{signal}");
        sandbox.assert_all_gone();

        sandbox.mount();
        kill(signal, sandbox.server());
        sandbox.assert_all_gone();
    }
}

#[test]
fn sighup_ends_a_server_in_the_foreground() {
    let Some(sandbox) = Sandbox::new() else { return };
    let server = sandbox.foreground(&[]);
    kill("HUP", server.pid());
    assert_eq!(server.end(), (Some(0), String::new()));
    sandbox.assert_all_gone();
}

#[test]
fn sighup_does_not_end_a_server_in_the_background() {
    let Some(sandbox) = Sandbox::new() else { return };
    let log = sandbox.path("log");
    run(npzfs().args(["-v", "--log-file"]).args([&log, &sandbox.src(), &sandbox.mnt()])).succeeds();
    kill("HUP", sandbox.server());
    eventually("the signal is noticed", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("SIGHUP"))
    });
    assert!(fs::read_dir(sandbox.mnt()).is_ok());
    assert_eq!(sandbox.servers().len(), 1);
}

#[test]
fn a_mount_in_use_is_detached_at_once_and_the_server_ends_after_a_grace() {
    let Some(sandbox) = Sandbox::new() else { return };
    let server = sandbox.foreground(&[]);
    let user = User::of(&sandbox);
    let begin = Instant::now();
    kill("TERM", server.pid());
    eventually("it is detached", || sandbox.mounts().is_empty());
    assert!(begin.elapsed() < GRACE, "detaching must not wait for the users");
    let (code, said) = server.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(begin.elapsed() >= GRACE, "users get some time");
    let named = format!("is in use by sleep ({}): detaching it", user.pid());
    assert!(said.contains(&named), "{named:?} is missing from: {said}");
    assert!(said.contains("still used after 5 s"), "{said}");
}

#[test]
fn the_server_ends_before_the_grace_is_over_if_the_users_go() {
    let Some(sandbox) = Sandbox::new() else { return };
    let server = sandbox.foreground(&[]);
    let user = User::of(&sandbox);
    let begin = Instant::now();
    kill("TERM", server.pid());
    eventually("it is detached", || sandbox.mounts().is_empty());
    drop(user);
    assert_eq!(server.end().0, Some(0));
    assert!(begin.elapsed() < GRACE);
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    let Some(sandbox) = Sandbox::new() else { return };
    let server = sandbox.foreground(&[]);
    let _user = User::of(&sandbox);
    let begin = Instant::now();
    kill("TERM", server.pid());
    eventually("it is detached", || sandbox.mounts().is_empty());
    kill("INT", server.pid());
    assert_eq!(server.end().0, Some(128 + 2));
    assert!(begin.elapsed() < GRACE);
}

#[test]
fn a_moved_mount_is_found_again_by_its_server() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.allow_moves();
    let server = sandbox.foreground(&[]);
    let moved = sandbox.dir("moved");
    run(Command::new("mount").arg("--move").args([sandbox.mnt(), moved])).succeeds();
    kill("TERM", server.pid());
    assert_eq!(server.end().0, Some(0));
    sandbox.assert_all_gone();
}

#[test]
fn what_was_mounted_on_top_of_it_is_not_unmounted() {
    let Some(sandbox) = Sandbox::new() else { return };
    let server = sandbox.foreground(&[]);
    run(Command::new("mount").args(["-t", "tmpfs", "top"]).arg(sandbox.mnt())).succeeds();
    kill("TERM", server.pid());
    let (code, said) = server.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("tmpfs is mounted on top of it"), "{said}");
    let left: Vec<String> = sandbox.mounts().into_iter().map(|(_, fs_type, _)| fs_type).collect();
    assert_eq!(left, ["fuse.npzfs", "tmpfs"]);
}

#[test]
fn the_log_file_tells_what_happened_line_by_line() {
    let Some(sandbox) = Sandbox::new() else { return };
    let log = sandbox.path("log");
    run(npzfs().args(["-v", "--log-file"]).args([&log, &sandbox.src(), &sandbox.mnt()])).succeeds();
    run(npzfs().arg("unmount").arg(sandbox.mnt())).succeeds();
    sandbox.assert_all_gone();
    let text = fs::read_to_string(&log).expect("read");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() >= 2, "{text}");
    for line in &lines {
        // 2026-11-23T12:41:05Z npzfs[123]: info: ...
        let (time, rest) = line.split_once(" npzfs[").expect(line);
        assert!(time.ends_with('Z') && time.contains('T'), "{line}");
        assert!(rest.contains("]: info: "), "{line}");
    }
    assert!(text.contains("info: serving "), "{text}");
    assert!(text.contains(" was unmounted"), "{text}");
}

#[test]
fn the_log_file_is_gone_on_with() {
    let Some(sandbox) = Sandbox::new() else { return };
    let log = sandbox.path("log");
    fs::write(&log, "of the mount before\n").expect("write");
    run(npzfs().args(["-v", "--log-file"]).args([&log, &sandbox.src(), &sandbox.mnt()])).succeeds();
    let text = || fs::read_to_string(&log).expect("read");
    eventually("it says what it serves", || text().contains("info: serving "));
    assert!(text().starts_with("of the mount before\n"), "{}", text());
}

#[test]
fn the_level_of_the_log_can_be_set_in_the_environment() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut command = npzfs();
    command.env("NPZFS_LOG", "info").arg("-f").args([sandbox.src(), sandbox.mnt()]);
    let server = Foreground::start(command).until_mounted(&sandbox);
    kill("TERM", server.pid());
    let (_, said) = server.end();
    assert!(said.contains("npzfs: info: serving "), "{said}");
}

/// A process that holds a shared lock on `file`, through flock(1).
fn locker(file: &Path) -> User {
    let mut command = Command::new("flock");
    let child = command.args(["--no-fork", "--shared"]).arg(file).args(["sleep", "1000"]);
    let child = child.spawn().expect("flock");
    eventually("the file is locked", || !can_be_locked(file));
    User::new(child)
}

fn can_be_locked(file: &Path) -> bool {
    let mut command = Command::new("flock");
    command.arg("--nonblock").arg(file).arg("true").status().expect("flock").success()
}

#[test]
fn while_locked_the_server_runs_and_ends_when_the_last_lock_is_gone() {
    let Some(sandbox) = Sandbox::new() else { return };
    let lock = sandbox.path("lock");
    fs::write(&lock, "").expect("write");
    let first = locker(&lock);
    let second = locker(&lock);
    let mut command = npzfs();
    command.current_dir(sandbox.root()).args(["--while-locked", "lock"]);
    run(command.args([sandbox.src(), sandbox.mnt()])).succeeds();
    let server = pids_mounting(&sandbox);
    drop(first);
    assert!(sandbox.mnt().join("notes.txt").exists());
    drop(second);
    eventually("the mount is gone", || sandbox.mounts().is_empty());
    eventually("the server ends", || !Path::new(&format!("/proc/{server}")).exists());
    assert!(lock.exists(), "the file belongs to somebody else");
}

#[test]
fn a_mount_that_is_in_use_when_the_last_lock_goes_is_detached() {
    let Some(sandbox) = Sandbox::new() else { return };
    let lock = sandbox.dir("lock");
    let holder = locker(&lock);
    let mut command = npzfs();
    command.arg("--while-locked").args([&lock, &sandbox.src(), &sandbox.mnt()]);
    run(&mut command).succeeds();
    let _user = User::of(&sandbox);
    drop(holder);
    eventually("the mount is gone", || sandbox.mounts().is_empty());
    // A process that locks the file from now on learns that this server is about to end.
    assert!(sandbox.servers().is_empty() || !shares(&lock));
}

fn shares(file: &Path) -> bool {
    let mut command = Command::new("flock");
    command.args(["--shared", "--nonblock"]).arg(file).arg("true");
    command.status().expect("flock").success()
}

#[test]
fn a_file_to_be_locked_that_does_not_exist() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut command = npzfs();
    command.arg("--while-locked").args([sandbox.path("none"), sandbox.src(), sandbox.mnt()]);
    run(&mut command).fails(1, &["cannot lock", "none (--while-locked)"]);
    assert_eq!(sandbox.mounts(), []);
}
