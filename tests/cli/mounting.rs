//! What a mount looks like from outside, and all the ways it can be asked for.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs,
    os::unix::{
        ffi::OsStringExt,
        fs::{MetadataExt, symlink},
    },
    path::PathBuf,
    process::Command,
};

use crate::support::*;

/// Options of the mount on `mnt`: those of the mount, and those of the filesystem.
fn options(sandbox: &Sandbox) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let mnt = sandbox.mnt().to_str().expect("ASCII").to_string();
    let line = text.lines().find(|line| line.contains(&mnt)).expect("it is mounted");
    let fields: Vec<&str> = line.split(' ').collect();
    let mut options: Vec<String> =
        format!("{},{}", fields[5], fields[fields.len() - 1]).split(',').map(Into::into).collect();
    options.sort();
    options.dedup();
    options
}

fn assert_mounted_with(sandbox: &Sandbox, expected: &[&str]) {
    let found = options(sandbox);
    for option in expected {
        assert!(found.iter().any(|found| found == option), "{option} is missing from {found:?}");
    }
}

#[test]
fn a_mount_is_read_only_and_says_what_it_shows() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.mount();
    let (point, fs_type, source) = sandbox.mounts().remove(0);
    assert_eq!(point, sandbox.mnt().to_str().expect("ASCII"));
    assert_eq!(fs_type, "fuse.npzfs");
    assert_eq!(source, sandbox.src().to_str().expect("ASCII"));
    assert_mounted_with(&sandbox, &["ro", "nosuid", "nodev", "noatime"]);
    let found = options(&sandbox);
    for absent in ["allow_other", "default_permissions", "noexec"] {
        assert!(!found.iter().any(|option| option == absent), "{found:?}");
    }
    let error = fs::write(sandbox.path("mnt/new"), "").expect_err("it is read-only");
    assert_eq!(error.raw_os_error(), Some(30), "EROFS: {error}");
}

#[test]
fn the_source_is_shown() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.mount();
    assert_eq!(fs::read_to_string(sandbox.path("mnt/notes.txt")).expect("read"), "notes\n");
}

#[test]
fn a_single_archive_is_shown_as_its_members() {
    use std::io::Write;
    let Some(sandbox) = Sandbox::new() else { return };
    let path = sandbox.path("run7.npz");
    let mut archive = zip::ZipWriter::new(fs::File::create(&path).expect("create"));
    archive.start_file("x.npy", zip::write::SimpleFileOptions::default()).expect("zip");
    archive.write_all(b"some bytes").expect("zip");
    archive.finish().expect("zip");
    run(npzfs().args([&path, &sandbox.mnt()])).succeeds();
    assert_eq!(fs::read(sandbox.path("mnt/x.npy")).expect("read"), b"some bytes");
    assert_eq!(sandbox.mounts()[0].2, path.to_str().expect("ASCII"));
}

#[test]
fn a_listing_that_fuser_cannot_express_logs_no_error() {
    let Some(sandbox) = Sandbox::new() else { return };
    let names = (0..1000).map(|number| format!("{number}.npz")).collect::<BTreeSet<_>>();
    for name in &names {
        fs::write(sandbox.src().join(name), "").expect("write");
    }
    let log = sandbox.path("log");
    let server = sandbox.foreground(&["-vvv", "--log-file", log.to_str().expect("ASCII")]);
    let listed = fs::read_dir(sandbox.mnt())
        .expect("list")
        .map(|entry| entry.expect("list").file_name().into_string().expect("ASCII"));
    assert_eq!(listed.filter(|name| name != "notes.txt").collect::<BTreeSet<_>>(), names);
    kill("TERM", server.pid());
    assert_eq!(server.end(), (Some(0), String::new()));
    let log = fs::read_to_string(log).expect("read");
    // Whether an empty .npz is a directory is not known: the kernel has had its answer when fuser
    // replies.
    let is_late = |line: &&str| line.ends_with("No such file or directory (os error 2)");
    let late = log.lines().find(is_late).expect("a late reply");
    assert!(late.contains("]: trace: "), "{late}");
    assert_eq!(log.lines().find(|line| line.contains("]: error: ")), None);
}

#[test]
fn others_have_access_only_with_the_modes_checked() {
    for option in ["allow_other", "allow_root"] {
        let Some(sandbox) = Sandbox::new() else { return };
        run(npzfs().args(["-o", option]).args([sandbox.src(), sandbox.mnt()])).succeeds();
        assert_mounted_with(&sandbox, &["allow_other", "default_permissions"]);
    }
}

#[test]
fn options_of_mount_reach_the_kernel() {
    let Some(sandbox) = Sandbox::new() else { return };
    let text = "rw,dev,suid,noexec,default_permissions,fsname=a name,nofail,x-systemd.automount";
    run(npzfs().args([sandbox.src(), sandbox.mnt()]).args(["-o", text])).succeeds();
    assert_mounted_with(&sandbox, &["ro", "nosuid", "nodev", "noexec", "default_permissions"]);
    assert_eq!(sandbox.mounts()[0].2, "a\\040name");
}

#[test]
fn mounting_over_the_source_shows_the_source() {
    let Some(sandbox) = Sandbox::new() else { return };
    let before = fs::metadata(sandbox.src()).expect("stat").dev();
    run(npzfs().args([sandbox.src(), sandbox.src()])).succeeds();
    assert_ne!(fs::metadata(sandbox.src()).expect("stat").dev(), before);
    assert_eq!(fs::read_to_string(sandbox.path("src/notes.txt")).expect("read"), "notes\n");
    run(npzfs().arg("unmount").arg(sandbox.src())).succeeds();
    sandbox.assert_all_gone();
    assert_eq!(fs::metadata(sandbox.src()).expect("stat").dev(), before);
}

#[test]
fn a_source_with_a_path_longer_than_the_kernel_takes_is_named_by_its_end() {
    let Some(sandbox) = Sandbox::new() else { return };
    let source = sandbox.path(format!("src/{0}/{0}/{0}/end", "x".repeat(99)));
    fs::create_dir_all(&source).expect("mkdir");
    run(npzfs().args([&source, &sandbox.mnt()])).succeeds();
    let shown = &sandbox.mounts()[0].2;
    assert!(shown.starts_with("...xx") && shown.ends_with("x/end"), "{shown}");
    assert_eq!(shown.len(), 255);
}

#[test]
fn relative_paths_and_symbolic_links_are_resolved() {
    let Some(sandbox) = Sandbox::new() else { return };
    symlink("mnt", sandbox.path("link")).expect("symlink");
    run(npzfs().current_dir(sandbox.root()).args(["src/../src", "./link/"])).succeeds();
    assert_eq!(sandbox.mounts()[0].0, sandbox.mnt().to_str().expect("ASCII"));
    run(npzfs().current_dir(sandbox.root()).args(["unmount", "link"])).succeeds();
    sandbox.assert_all_gone();
}

#[test]
fn strange_names_survive() {
    let names: [OsString; 4] = [
        "a, b\\c#d".into(),
        "line\nbreak".into(),
        "-o".into(),
        OsString::from_vec(b"not \xff utf-8".to_vec()),
    ];
    for name in names {
        let Some(sandbox) = Sandbox::new() else { return };
        let source = sandbox.dir(PathBuf::from("src").join(&name));
        let mountpoint = sandbox.dir(PathBuf::from("mnt").join(&name));
        fs::write(source.join("file"), "x").expect("write");
        run(npzfs().arg("--").args([&source, &mountpoint])).succeeds();
        assert_eq!(sandbox.mounts().len(), 1, "{name:?}");
        assert!(mountpoint.join("file").exists(), "{name:?}");
        run(npzfs().args(["unmount", "--"]).arg(&mountpoint)).succeeds();
        sandbox.assert_all_gone();
    }
}

#[test]
fn a_source_with_the_name_of_a_subcommand_is_given_with_a_slash() {
    let Some(sandbox) = Sandbox::new() else { return };
    let demo = sandbox.dir("demo");
    run(npzfs().current_dir(sandbox.root()).args(["./demo", "mnt"])).succeeds();
    assert_eq!(sandbox.mounts()[0].2, demo.to_str().expect("ASCII"));
}

#[test]
fn a_dead_mount_of_ours_is_cleared_and_mounted_again() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.dead_mount();
    sandbox.mount();
    assert_eq!(sandbox.mounts().len(), 1);
    assert!(fs::read_dir(sandbox.mnt()).is_ok());
}

#[test]
fn a_dead_mount_is_known_as_such_while_the_kernel_remembers_its_attributes() {
    let Some(sandbox) = Sandbox::new() else { return };
    run(npzfs().args(["--ttl", "3600"]).args([sandbox.src(), sandbox.mnt()])).succeeds();
    fs::metadata(sandbox.mnt()).expect("it is served");
    sandbox.kill_server();
    fs::metadata(sandbox.mnt()).expect("the kernel remembers");
    sandbox.mount();
    assert!(fs::read_dir(sandbox.mnt()).is_ok());
}

#[test]
fn dead_mounts_on_top_of_each_other_are_all_cleared() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.allow_moves();
    sandbox.dead_mount();
    // Two at one place: the first one is hidden while the second one is made elsewhere.
    let second = sandbox.dir("second");
    run(npzfs().args([sandbox.src(), second.clone()])).succeeds();
    run(Command::new("mount").arg("--move").args([second, sandbox.mnt()])).succeeds();
    kill("KILL", sandbox.server());
    eventually("the server is dead", || sandbox.servers().is_empty());
    assert_eq!(sandbox.mounts().len(), 2);
    sandbox.mount();
    assert_eq!(sandbox.mounts().len(), 1);
}

#[test]
fn a_dead_mount_over_the_source_is_cleared_and_mounted_again() {
    let Some(sandbox) = Sandbox::new() else { return };
    run(npzfs().args([sandbox.src(), sandbox.src()])).succeeds();
    kill("KILL", sandbox.server());
    eventually("the server is dead", || sandbox.servers().is_empty());
    run(npzfs().args([sandbox.src(), sandbox.src()])).succeeds();
    assert_eq!(sandbox.mounts().len(), 1);
    assert!(fs::read_dir(sandbox.src()).is_ok());
}

/// mount(8) for one of our types, and then another command. mount(8) takes PATH away from its
/// helpers, so the program must lie where a shell looks without one: in a namespace, in
/// /usr/local/bin; as helper of the type npzfs in /sbin.
fn mount_8(sandbox: &Sandbox, fs_type: &str, options: &str, then: &str) -> Ended {
    for directory in ["bin", "upper", "work"] {
        sandbox.dir(directory);
    }
    let program = env!("CARGO_BIN_EXE_npzfs");
    symlink(program, sandbox.path("bin/npzfs")).expect("symlink");
    symlink(program, sandbox.path("upper/mount.npzfs")).expect("symlink");
    let script = format!(
        "mount --bind \"$1/bin\" /usr/local/bin; \
         mount -t overlay overlay -o lowerdir=/sbin,upperdir=\"$1/upper\",workdir=\"$1/work\" /sbin; \
         mount -t \"$3\" \"$1/src\" \"$1/mnt\" -o \"$2\"; {then}"
    );
    run(&mut in_namespace(&script, &[sandbox.root().as_ref(), options.as_ref(), fs_type.as_ref()]))
}

#[test]
fn mount_8_mounts() {
    let options = "noauto,nofail,_netdev,x-systemd.idle-timeout=60,allow_other,ttl=3,layout=beside";
    for fs_type in ["fuse.npzfs", "npzfs"] {
        let Some(sandbox) = Sandbox::new() else { return };
        let then = "grep \"$1/mnt\" /proc/self/mountinfo; umount \"$1/mnt\"";
        let ended = mount_8(&sandbox, fs_type, options, then);
        ended.succeeds();
        let line = ended.stdout();
        for part in [" ro,nosuid,nodev,noatime - fuse.npzfs ", "allow_other", "default_permissions"]
        {
            assert!(line.contains(part), "{part:?} is missing from: {line}");
        }
        sandbox.assert_all_gone();
    }
}

#[test]
fn mount_8_with_fake_mounts_nothing() {
    let Some(sandbox) = Sandbox::new() else { return };
    let then =
        "mount --fake -t npzfs \"$1/src\" \"$1/mnt\"; grep -c \"$1/mnt\" /proc/self/mountinfo";
    let ended = mount_8(&sandbox, "npzfs", "ro", &format!("umount \"$1/mnt\"; {then}"));
    assert_eq!((ended.stdout().trim(), ended.stderr()), ("0", String::new()));
    sandbox.assert_all_gone();
}

#[test]
fn mount_8_fails_as_we_do() {
    for fs_type in ["fuse.npzfs", "npzfs"] {
        let Some(sandbox) = Sandbox::new() else { return };
        let ended = mount_8(&sandbox, fs_type, "nonsense", "");
        assert_eq!(ended.code(), Some(2));
        assert!(ended.stderr().contains("unknown mount option \"nonsense\""), "{}", ended.stderr());
        sandbox.assert_all_gone();
    }
}

#[test]
fn a_service_manager_is_told_when_the_mount_answers_and_when_it_ends() {
    let Some(sandbox) = Sandbox::new() else { return };
    let path = sandbox.path("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
    let mut command = npzfs();
    command.env("NOTIFY_SOCKET", &path).arg("-f").args([sandbox.src(), sandbox.mnt()]);
    let server = Foreground::start(command);
    let receive = || {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };

    let message = receive();
    assert!(message.contains("READY=1\n"), "{message}");
    assert!(message.contains(&format!("STATUS={}", sandbox.src().display())), "{message}");
    assert_eq!(sandbox.mounts().len(), 1, "ready means mounted");
    assert!(fs::read_dir(sandbox.mnt()).is_ok());

    kill("TERM", server.pid());
    let message = receive();
    assert!(message.contains("STOPPING=1\n"), "{message}");
    assert_eq!(server.end(), (Some(0), String::new()));
}

/// In a namespace with a /dev of its own, where /dev/log is a socket of the test's.
#[test]
fn a_server_in_the_background_logs_to_the_system_log() {
    let Some(sandbox) = Sandbox::new() else { return };
    let path = sandbox.path("log");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
    let script = "mkdir \"$1/dev\"; mount -t tmpfs none \"$1/dev\"; \
                  mknod \"$1/dev/null\" c 1 3; mknod \"$1/dev/fuse\" c 10 229; \
                  ln -s \"$1/log\" \"$1/dev/log\"; mount --bind \"$1/dev\" /dev; \
                  \"$2\" -v \"$1/src\" \"$1/mnt\"; umount \"$1/mnt\"";
    let program: &OsStr = env!("CARGO_BIN_EXE_npzfs").as_ref();
    run(&mut in_namespace(script, &[sandbox.root().as_ref(), program])).succeeds();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("a message");
    let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
    // Facility daemon, severity info.
    assert!(message.starts_with("<30>npzfs["), "{message}");
    assert!(message.contains("]: serving ") && !message.contains('\n'), "{message}");
}
