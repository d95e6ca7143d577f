//! Measures how the decoding of one stream scales with threads: `cores FILE [THREADS [MIB]]`.
//!
//! FILE is a gzip file if its name ends in .gz, else a bare DEFLATE stream. Prints the rate of a
//! first pass with that many threads (2), and then the rate of decoding everything again by the
//! checkpoints that the first pass left. MIB is the memory budget (256).

use std::{
    error::Error,
    fs::File,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use seekable_deflate::{DEFAULT_SPACING, DeflateReader, Format, Memory, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("a file to decode is missing")?;
    let threads: usize = arguments.next().unwrap_or("2".into()).parse()?;
    let mib: u64 = arguments.next().unwrap_or("256".into()).parse()?;
    let file = File::open(&path)?;
    let encoded = 0..file.metadata()?.len();
    let format = if path.ends_with(".gz") { Format::Gzip } else { Format::Deflate };
    let options = Options { format, spacing: DEFAULT_SPACING, decoded_len: None, crc32: None };
    let memory = Memory::new(mib << 20);
    let reader = DeflateReader::new(file, encoded, options, memory.clone());

    let began = Instant::now();
    let len = first_pass(&reader, threads)?;
    let first = began.elapsed();
    memory.clear();
    let began = Instant::now();
    decode_again(&reader, threads, len)?;
    let again = began.elapsed();
    let rate = |time: Duration| len as f64 / time.as_secs_f64() / 1e6;
    println!(
        "{threads} threads: first pass {:.0} MB/s, again {:.0} MB/s",
        rate(first),
        rate(again)
    );
    Ok(())
}

/// Reads in sequence while `threads - 1` other threads help. Returns the decoded length.
fn first_pass(
    reader: &DeflateReader<File>,
    threads: usize,
) -> Result<u64, seekable_deflate::Error> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if !reader.help() {
                        thread::sleep(Duration::from_micros(50));
                    }
                }
            });
        }
        let mut at = 0;
        let result = loop {
            match reader.span_at(at) {
                Ok(Some(span)) => {
                    let start = at;
                    at += span.bytes().len() as u64;
                    // As npzfs does for a sequential reader: the next span is decoded into this
                    // span's buffer, which is still in the caches of the processor.
                    drop(span);
                    reader.give_up(start..at);
                }
                Ok(None) => break Ok(at),
                Err(error) => break Err(error),
            }
        };
        over.store(true, Ordering::Relaxed);
        result
    })
}

/// Reads the whole stream again with all threads, each of which takes one span at a time.
fn decode_again(
    reader: &DeflateReader<File>,
    threads: usize,
    len: u64,
) -> Result<(), seekable_deflate::Error> {
    let next = AtomicU64::new(0);
    let work = || {
        loop {
            // A span begins at a multiple of the spacing or less than a match (258 bytes) after it.
            let at = next.fetch_add(DEFAULT_SPACING, Ordering::Relaxed) + 300;
            if at >= len {
                return Ok(());
            }
            reader.span_at(at)?;
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("it does not panic"))
    })
}
