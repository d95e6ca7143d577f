//! How fast the engine decodes in memory, on one thread.
//!
//!     engine-speed FILE START END DECODED_LEN
//!
//! Decodes the DEFLATE stream in bytes START..END of FILE, span after span with checkpoints, and
//! prints the seconds of each of three passes. Without a kernel, this is what a first pass costs.
#![forbid(unsafe_code)]

use std::{
    env, error::Error, fs::File, hint::black_box, os::unix::fs::FileExt, process::ExitCode,
    sync::Arc, time::Instant,
};

use seekable_deflate::{DEFAULT_SPACING, DeflateReader, Format, Memory, Options};

/// What npzfs gives decoded spans and windows unasked.
const MEMORY: u64 = 64 << 20;

const PASSES: usize = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [file, numbers @ ..] = &arguments[..] else {
        eprintln!("usage: engine-speed FILE START END DECODED_LEN");
        return ExitCode::from(2);
    };
    match measure(file, numbers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engine-speed: {file}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(file: &str, numbers: &[String]) -> Result<(), Box<dyn Error>> {
    let numbers: Vec<u64> = numbers.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let &[start, end, decoded_len] = &numbers[..] else { return Err("give three numbers".into()) };
    let mut encoded = vec![0; end.checked_sub(start).ok_or("END lies before START")? as usize];
    File::open(file)?.read_exact_at(&mut encoded, start)?;
    for _ in 0..PASSES {
        let start = Instant::now();
        decode(&encoded, decoded_len)?;
        println!("{}", start.elapsed().as_secs_f64());
    }
    Ok(())
}

fn decode(encoded: &[u8], decoded_len: u64) -> Result<(), Box<dyn Error>> {
    let options = Options {
        format: Format::Deflate,
        spacing: DEFAULT_SPACING,
        decoded_len: Some(decoded_len),
        crc32: None,
    };
    let memory = Memory::new(MEMORY);
    let reader = DeflateReader::new(encoded, 0..encoded.len() as u64, options, Arc::clone(&memory));
    let mut next = 0;
    while let Some(span) = reader.span_at(next)? {
        next = span.start() + black_box(span.bytes()).len() as u64;
    }
    match next == decoded_len {
        true => Ok(()),
        false => Err(format!("the stream holds {next} bytes, not {decoded_len}").into()),
    }
}
