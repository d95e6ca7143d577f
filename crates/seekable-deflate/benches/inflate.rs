//! Builds and runs the comparison with other decoders, which is in `peers/`.
//!
//! The comparison is a package of its own, outside of the workspace: the other decoders take longer
//! to build than the crate and its tests, and cargo builds the dependencies of a benchmark for the
//! tests too. Arguments are passed on; `peers/src/main.rs` lists them.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

fn main() -> ExitCode {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/Cargo.toml");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is target/tmp");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--release", "--manifest-path"]).arg(package);
    cargo.arg("--target-dir").arg(target.join("peers"));
    if cfg!(feature = "portable") {
        cargo.args(["--features", "portable"]);
    }
    cargo.arg("--").args(std::env::args().skip(1));
    cargo.env("BENCH_JSON", target.join("seekable-deflate-bench.json"));
    match cargo.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}: {error}", env!("CARGO"));
            ExitCode::FAILURE
        }
    }
}
