//! Which bytes of a window are of use.
//!
//! A match reaches back 32 KiB at most, so only the first 32 KiB behind a checkpoint can refer to
//! its window; what comes later refers to copies. These are decoded behind a window of marks, each
//! of which names its place: those that turn up in the result are of use.

use std::ops::Range;

use crate::{
    BitOffset, Format, ReadAt,
    inflate::{Fault, HISTORY, Output, Place},
    stream::{Pause, Stream},
};

/// A checkpoint whose window is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) at: BitOffset,
    pub(crate) place: Place,
    /// Length of its window.
    pub(crate) window: usize,
}

/// Where the marks begin; bytes are below.
const FIRST_MARK: usize = 1 << 8;

/// For each byte of the window at `start`, whether the `len` bytes behind it refer to it, of which
/// 32 KiB are enough. All do if the stream is not what it was.
///
/// # Errors
/// [`Fault::Source`] alone.
pub(crate) fn needed(
    source: &dyn ReadAt,
    (format, encoded): (Format, &Range<u64>),
    start: Start,
    len: usize,
) -> Result<Vec<bool>, Fault> {
    let marks: Vec<u16> = (FIRST_MARK..FIRST_MARK + start.window).map(|mark| mark as u16).collect();
    let mut out = Output::new(vec![0; Output::room(marks.len(), len)], &marks);
    let mut stream = Stream::new(format, encoded.clone());
    match decode(&mut stream, source, start, &mut out, len) {
        Err(Fault::Source(error)) => return Err(Fault::Source(error)),
        Ok(()) if out.len() >= len => {}
        Ok(()) | Err(_) => return Ok(vec![true; start.window]),
    }
    let mut needed = vec![false; FIRST_MARK + start.window];
    let (units, decoded) = out.into_parts();
    for unit in &units[decoded] {
        needed[usize::from(*unit)] = true;
    }
    Ok(needed.split_off(FIRST_MARK))
}

fn decode(
    stream: &mut Stream,
    source: &dyn ReadAt,
    start: Start,
    out: &mut Output<u16>,
    len: usize,
) -> Result<(), Fault> {
    // The ratio is seldom so bad that this is too little, and then a little more is read.
    let wanted = start.at.0 / 8 + HISTORY as u64;
    stream.resume(source, start.at, start.place, wanted)?;
    while out.len() < len {
        if let Pause::End = stream.decode(source, out, len)? {
            break;
        }
    }
    Ok(())
}
