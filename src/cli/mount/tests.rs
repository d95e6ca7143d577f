//! Tests how the command line and `-o` become the options that the daemon gets.

use std::os::unix::ffi::OsStringExt;

use super::*;
use crate::{cli, tree::FlatNames};

fn parsed(line: &[&str]) -> Result<Arguments, String> {
    let line = ["npzfs"].iter().chain(line).chain(&["source", "mountpoint"]);
    match cli::parse(line.map(OsString::from).collect()) {
        Ok(cli) => Ok(cli.mount),
        Err(wrong) => Err(mount_option_of(wrong)),
    }
}

fn mount_option_of(wrong: cli::Wrong) -> String {
    match wrong {
        cli::Wrong::MountOption(error) => error,
        cli::Wrong::Usage(error) => panic!("{error}"),
    }
}

fn options_of(line: &[&str]) -> (Options, Option<PathBuf>) {
    options(parsed(line).expect("the line is valid")).expect("the line is valid")
}

const ALL: &str = "layout=beside,ttl=7.5,memory_limit=5G,cache_size=1M,scratch_size=2M,verify=never,\
                   index_dir=/i,index_dir_size=3M,disk_cache=/d,disk_cache_size=4M,\
                   log_file=/a\\,b\\\\c\\d,fsname=x=y,allow_other,default_permissions,noexec";

#[test]
fn what_o_says_reaches_the_mount() {
    let (options, log_file) = options_of(&["-o", ALL]);
    let Settings { layout, ttl, serve, .. } = options.settings;
    assert_eq!((layout, ttl), (Layout::Beside, Duration::from_millis(7500)));
    assert_eq!((serve.memory_limit, serve.cache_size), (5 << 30, 1 << 20));
    assert_eq!((serve.scratch_size, serve.verify), (Some(2 << 20), Verify::Never));
    assert_eq!(options.index_dir, Some(("/i".into(), 3 << 20)));
    assert_eq!(options.disk_cache, Some(("/d".into(), 4 << 20)));
    assert_eq!((log_file, options.fs_name), (Some(r"/a,b\c\d".into()), Some("x=y".into())));
    assert_eq!(options.access, Access::Everybody);
    assert!(options.default_permissions && options.noexec);
}

#[test]
fn what_is_said_without_o_goes_before_it() {
    let line = "--layout replace --ttl 8 --memory-limit 6G --cache-size 5M --scratch-size 6M \
                --verify background --index-dir /j --index-dir-size 7M --disk-cache /e \
                --disk-cache-size 8M --log-file /m";
    let line: Vec<_> = line.split_whitespace().collect();
    for line in [[&line[..], &["-o", ALL]].concat(), [&["-o", ALL], &line[..]].concat()] {
        let (options, log_file) = options_of(&line);
        let Settings { layout, ttl, serve, .. } = options.settings;
        assert_eq!((layout, ttl), (Layout::Replace, Duration::from_secs(8)));
        assert_eq!((serve.memory_limit, serve.cache_size), (6 << 30, 5 << 20));
        assert_eq!((serve.scratch_size, serve.verify), (Some(6 << 20), Verify::Background));
        assert_eq!(options.index_dir, Some(("/j".into(), 7 << 20)));
        assert_eq!(options.disk_cache, Some(("/e".into(), 8 << 20)));
        assert_eq!(log_file, Some("/m".into()));
    }
}

#[test]
fn what_is_not_said_is_as_the_help_has_it() {
    let (options, log_file) = options_of(&["--index-dir", "/i"]);
    let Settings { layout, ttl, serve, .. } = options.settings;
    assert_eq!((layout, ttl), (Layout::Replace, Duration::from_secs(1)));
    assert_eq!((serve.memory_limit, serve.cache_size), (256 << 20, 64 << 20));
    assert_eq!((serve.scratch_size, serve.verify), (None, Verify::Small));
    assert_eq!(options.index_dir, Some(("/i".into(), 10 << 30)));
    assert_eq!((options.disk_cache, options.fs_name, log_file), (None, None, None));
    assert_eq!(options.access, Access::Owner);
    assert!(!options.default_permissions && !options.noexec);
}

#[test]
fn names_of_flat_files_add_up_and_need_the_flat_layout() {
    let names = |texts: &[&str]| texts.iter().map(|text| FlatName::parse(text).unwrap()).collect();
    let (given, _) = options_of(&[
        "--flat-name",
        "x={stem}.x",
        "-o",
        "layout=flat,flat_name=data={stem}.npy,flat_name={key}.{stem}",
    ]);
    assert_eq!(given.settings.layout, Layout::Flat);
    let wanted: FlatNames = names(&["data={stem}.npy", "{key}.{stem}", "x={stem}.x"]);
    assert_eq!(given.settings.flat_names, wanted);
    assert_eq!(options_of(&["--layout=flat"]).0.settings.flat_names, FlatNames::default());
    let without = options(parsed(&["--flat-name={stem}{key}"]).unwrap()).unwrap_err();
    assert!(without.contains("--layout flat"), "{without}");
    let wrong = parsed(&["-o", "flat_name=x.npy"]).unwrap_err();
    assert!(wrong.contains("flat_name") && wrong.contains("{stem}"), "{wrong}");
}

#[test]
fn what_mount_and_fstab_add_is_taken_without_effect() {
    let text = "rw,ro,nosuid,nodev,suid,dev,user,users,nofail,_netdev,noauto,defaults,,relatime,\
                x-systemd.automount,x-systemd.idle-timeout=60,X-mount.mkdir,comment=a b,\
                subtype=npzfs,";
    for text in [text, ""] {
        let with = options_of(&["--index-dir", "/i", "-o", text]);
        assert_eq!(format!("{with:?}"), format!("{:?}", options_of(&["--index-dir", "/i"])));
    }
}

#[test]
fn the_last_of_two_that_contradict_wins_and_the_wider_access() {
    let options_of = |text| options_of(&["-o", text]).0;
    assert!(!options_of("noexec,exec").noexec);
    assert!(options_of("exec,noexec").noexec);
    assert_eq!(options_of("ttl=1,ttl=2").settings.ttl, Duration::from_secs(2));
    assert_eq!(options_of("allow_root").access, Access::OwnerAndRoot);
    assert_eq!(options_of("allow_other,allow_root").access, Access::Everybody);
    assert_eq!(options_of("allow_root,allow_other").access, Access::Everybody);
}

#[test]
fn an_option_that_is_wrong_is_named() {
    for (text, named) in [
        ("ro,nonsense", "\"nonsense\""),
        ("uid=5", "\"uid=5\""),
        ("ro=1", "\"ro=1\""),
        ("noexec=1", "\"noexec=1\""),
        ("allow_other=1", "\"allow_other=1\""),
        ("foreground", "\"foreground\""),
        ("verbose", "\"verbose\""),
        ("help", "\"help\""),
        ("server_in_background", "\"server_in_background\""),
        ("layout=sideways", "layout: \"sideways\""),
        ("layout", "layout needs a value"),
        ("ttl=-1", "ttl: \"-1\""),
        ("ttl=", "ttl needs a value"),
        ("cache_size=much", "cache_size: \"much\""),
        ("memory_limit=1e9", "memory_limit: \"1e9\""),
        ("verify=often", "verify: \"often\""),
        ("log_file", "log_file needs a value"),
        ("subtype=sshfs", "subtype"),
        ("subtype", "subtype"),
        ("a\nb", "\"a\\nb\""),
    ] {
        let error = parsed(&["-o", text]).expect_err(text);
        assert!(error.contains(named) && !error.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn a_path_in_o_need_not_be_utf8() {
    let path = OsString::from_vec(b"/\xff".to_vec());
    let parse = |name: &str| {
        let option = [name.as_ref(), path.as_os_str()].join("=".as_ref());
        cli::parse(vec!["npzfs".into(), "-o".into(), option, "a".into(), "b".into()])
    };
    let arguments = parse("log_file").expect("any path will do").mount;
    assert_eq!(arguments.options.log_file, Some(path.clone().into()));
    let error = parse("ttl").expect_err("no number");
    assert_eq!(mount_option_of(error), "the mount option ttl: the value is not UTF-8");
}

#[test]
fn a_time_is_in_seconds_and_a_year_at_most() {
    assert_eq!(parse_ttl("0.25"), Ok(Duration::from_millis(250)));
    assert_eq!(parse_ttl("1e12"), Ok(LONGEST_TTL));
    for wrong in ["", "-1", "nan", "inf", "1e300", "1s"] {
        assert!(parse_ttl(wrong).is_err(), "{wrong}");
    }
}
