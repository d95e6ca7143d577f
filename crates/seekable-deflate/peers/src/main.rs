//! Prints a table of decoding speeds: of seekable-deflate and of decoders that others wrote.
//!
//!     cargo bench -p seekable-deflate [-- [--size MIB] [--runs N] [--threads N,N...] [KIND...]]
//!
//! Each kind of data is deflated at level 6. Then all decoders run in turns, and the medians of the
//! runs are compared. A first round, which is not timed, warms up and compares every decoded byte.
//! Input and output are in memory. The table goes to standard output, and as JSON to the file that
//! `$BENCH_JSON` names.

mod cases;
mod data;
mod latency;
mod options;
mod ours;
mod peers;
mod table;

use std::{error::Error, fs, sync::Arc};

use cases::{Stream, rates};
use options::Options;

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::from_arguments(std::env::args().skip(1))?;
    let mut results = Vec::new();
    for (kind, make) in data::KINDS {
        if !options.has(kind) {
            continue;
        }
        eprintln!("{kind} ...");
        let plain = make(options.size);
        let encoded = Arc::new(data::deflate(&plain));
        let crc32 = crc32fast::hash(&plain);
        let stream = Stream { kind, plain: &plain, encoded: &encoded, crc32 };
        results.extend(rates(&stream, &options));
        results.extend(latency::random_reads(&stream));
    }
    print!("{}", table::text(&results));
    if let Some(path) = std::env::var_os("BENCH_JSON") {
        fs::write(&path, table::json(&results))?;
        println!("\n{}", path.display());
    }
    Ok(())
}
