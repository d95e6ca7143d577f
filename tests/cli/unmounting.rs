//! Taking mounts away from outside.

use std::{fs, process::Command};

use crate::support::*;

#[test]
fn every_way_to_unmount_ends_the_server_with_0() {
    let program = env!("CARGO_BIN_EXE_npzfs");
    let ways: [&[&str]; 5] = [
        &["umount"],
        &["umount", "--lazy"],
        &["fusermount3", "-u"],
        &[program, "unmount"],
        &[program, "unmount", "--lazy"],
    ];
    for way in ways {
        let Some(sandbox) = Sandbox::new() else { return };
        let server = sandbox.foreground(&[]);
        run(Command::new(way[0]).args(&way[1..]).arg(sandbox.mnt())).succeeds();
        assert_eq!(server.end(), (Some(0), String::new()), "{way:?}");
        sandbox.assert_all_gone();
    }
}

#[test]
fn unmount_returns_when_the_server_has_ended() {
    let Some(sandbox) = Sandbox::new() else { return };
    for _ in 0..10 {
        sandbox.mount();
        run(npzfs().arg("unmount").arg(sandbox.mnt())).succeeds();
        assert_eq!(sandbox.servers(), [] as [u32; 0]);
        assert_eq!(sandbox.mounts(), []);
    }
}

#[test]
fn a_mount_in_use_is_not_unmounted_and_its_users_are_named() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.mount();
    let user = User::of(&sandbox);
    let named = format!("sleep ({})", user.pid());
    run(npzfs().arg("unmount").arg(sandbox.mnt()))
        .fails(1, &["is in use by", &named, "npzfs unmount --lazy"]);
    assert_eq!(sandbox.mounts().len(), 1);
    assert!(fs::read_dir(sandbox.mnt()).is_ok());

    run(npzfs().args(["unmount", "--lazy"]).arg(sandbox.mnt())).succeeds();
    assert_eq!(sandbox.mounts(), []);
    assert_eq!(sandbox.servers().len(), 1, "it serves on while it is used");
    drop(user);
    sandbox.assert_all_gone();
}

#[test]
fn a_process_that_maps_a_file_is_named() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.mount();
    // mmap of Python keeps a descriptor of its own, which would name it as well.
    let script = "import ctypes, os, sys, time\n\
                  libc = ctypes.CDLL(None)\n\
                  numbers = [ctypes.c_int] * 3 + [ctypes.c_long]\n\
                  libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *numbers]\n\
                  file = os.open(sys.argv[1], os.O_RDONLY)\n\
                  libc.mmap(None, 1, 1, 2, file, 0)\n\
                  os.close(file)\n\
                  time.sleep(1000)";
    let child = Command::new("python3")
        .args(["-c", script])
        .arg(sandbox.path("mnt/notes.txt"))
        .spawn()
        .expect("python3");
    let user = User::new(child);
    let [maps, descriptors] = ["maps", "fd"].map(|of| format!("/proc/{}/{of}", user.pid()));
    let has_open = || {
        let mut files = fs::read_dir(&descriptors).expect("it lives").flatten();
        files.any(|file| fs::read_link(file.path()).is_ok_and(|to| to.ends_with("notes.txt")))
    };
    eventually("it maps the file and has closed it", || {
        fs::read_to_string(&maps).is_ok_and(|text| text.contains("notes.txt")) && !has_open()
    });
    let named = format!(" ({})", user.pid());
    run(npzfs().arg("unmount").arg(sandbox.mnt())).fails(1, &["is in use by python3", &named]);
}

#[test]
fn a_dead_mount_is_cleared() {
    for option in [None, Some("--lazy")] {
        let Some(sandbox) = Sandbox::new() else { return };
        sandbox.dead_mount();
        run(npzfs().arg("unmount").args(option).arg(sandbox.mnt())).succeeds();
        assert_eq!(sandbox.mounts(), []);
    }
}

#[test]
fn a_dead_mount_in_use_is_cleared_as_well() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.mount();
    let _user = User::of(&sandbox);
    sandbox.kill_server();
    run(npzfs().arg("unmount").arg(sandbox.mnt())).succeeds();
    assert_eq!(sandbox.mounts(), []);
}

#[test]
fn what_is_not_mounted_cannot_be_unmounted() {
    let Some(sandbox) = Sandbox::new() else { return };
    run(npzfs().arg("unmount").arg(sandbox.mnt())).fails(1, &["nothing is mounted at"]);
    run(npzfs().arg("unmount").arg(sandbox.path("none"))).fails(1, &["nothing is mounted at"]);
}

#[test]
fn what_is_not_ours_is_not_unmounted() {
    let Some(sandbox) = Sandbox::new() else { return };
    run(Command::new("mount").args(["-t", "tmpfs", "thing"]).arg(sandbox.mnt())).succeeds();
    run(npzfs().arg("unmount").arg(sandbox.mnt())).fails(1, &["is not npzfs but tmpfs", "umount"]);
    assert_eq!(sandbox.mounts().len(), 1);
}

#[test]
fn a_directory_in_a_mount_is_not_the_mount() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.dir("src/below");
    sandbox.mount();
    run(npzfs().arg("unmount").arg(sandbox.path("mnt/below")))
        .fails(1, &["is no mountpoint", "npzfs unmount"]);
    assert_eq!(sandbox.mounts().len(), 1);
}

#[test]
fn a_path_below_a_dead_mount_tells_of_the_dead_mount() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.dead_mount();
    run(npzfs().arg("unmount").arg(sandbox.path("mnt/below")))
        .fails(1, &["is a dead mount", "npzfs unmount --lazy", "mnt\n"]);
}

#[test]
fn a_mount_that_is_seen_at_two_places_loses_one() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.mount();
    let second = sandbox.dir("second");
    run(Command::new("mount").arg("--bind").args([sandbox.mnt(), second.clone()])).succeeds();
    run(npzfs().arg("unmount").arg(sandbox.mnt())).succeeds();
    assert_eq!(sandbox.mounts().len(), 1);
    assert!(fs::read_dir(&second).is_ok());
    run(npzfs().arg("unmount").arg(second)).succeeds();
    sandbox.assert_all_gone();
}
