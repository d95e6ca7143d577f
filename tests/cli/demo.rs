//! The demo: what it shows, and that it cleans up.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use crate::support::*;

/// The demo, with its temporary directory in the sandbox.
fn demo(sandbox: &Sandbox) -> Command {
    let mut command = npzfs();
    command.arg("demo").env("TMPDIR", sandbox.dir("tmp"));
    command
}

fn assert_clean(sandbox: &Sandbox) {
    assert_eq!(sandbox.mounts(), []);
    let left: Vec<_> = fs::read_dir(sandbox.path("tmp")).expect("readdir").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn it_shows_the_tree_and_what_a_row_costs_and_leaves_nothing() {
    let Some(sandbox) = Sandbox::new() else { return };
    let ended = run(demo(&sandbox).arg("--once"));
    ended.succeeds();
    let said = ended.stdout();
    for part in [
        "  notes.txt  ",
        "  run1.npz/\n",
        "    positions.npy  ",
        "  run2.npz/\n",
        "    sensor.npy                   96.0 MiB\n",
        "  scan.npy  ",
        "a row in the middle",
        "decoding all 96.0 MiB",
    ] {
        assert!(said.contains(part), "{part:?} is missing from:\n{said}");
    }
    assert!(!said.contains("Try it"), "what is gone cannot be tried:\n{said}");
    assert_clean(&sandbox);
}

#[test]
fn it_waits_for_a_signal_and_cleans_up() {
    for signal in ["INT", "TERM"] {
        let Some(sandbox) = Sandbox::new() else { return };
        let mut child = demo(&sandbox).stdout(Stdio::piped()).spawn().expect("spawn");
        let said = BufReader::new(child.stdout.take().expect("piped"));
        let mut said = said.lines().map(|line| line.expect("read"));
        let row = "/run2.npz/sensor.npy', mmap_mode='r')[12345])";
        assert!(said.any(|line| line.contains(row)));
        assert!(said.any(|line| line.contains("until you press Ctrl-C")));
        assert_eq!(sandbox.mounts().len(), 1);
        kill(signal, child.id());
        assert_eq!(child.wait().expect("wait").code(), Some(0), "{signal}");
        assert_clean(&sandbox);
    }
}

#[test]
fn it_can_be_interrupted_while_it_makes_its_sample() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut child = demo(&sandbox).stdout(Stdio::null()).spawn().expect("spawn");
    eventually("it has begun", || {
        let begun = |path: fs::DirEntry| path.path().join("data/run2.npz").exists();
        fs::read_dir(sandbox.path("tmp")).expect("readdir").flatten().any(begun)
    });
    kill("INT", child.id());
    assert_eq!(child.wait().expect("wait").code(), Some(0));
    assert_clean(&sandbox);
}
