//! Tells the program which commit it is built from, as `NPZFS_COMMIT`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let commit = packaged_commit().or_else(git_commit);
    println!("cargo::rustc-env=NPZFS_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// From the file that `cargo package` adds: there is no git where a released crate is built.
fn packaged_commit() -> Option<String> {
    let text = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = text.split_once("\"sha1\":")?;
    Some(rest.split('"').nth(1)?.chars().take(12).collect())
}

fn git_commit() -> Option<String> {
    // The directory may lie in a repository of somebody else's.
    let top = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()?;
    if top != std::env::current_dir().ok()?.canonicalize().ok()? {
        return None;
    }
    // HEAD names a branch, the branch a commit; either may move. A file that is named but not
    // there would have cargo build everything anew each time.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_string())
}
