//! Writes an index.
//!
//! Windows are packed one by one. Each packed window replaces the raw one in the reader, where the
//! budget counts it, before anything is written. So saving takes no memory that grows with the
//! stream, except a copy of the checkpoints of about 130 bytes each.

use std::{
    borrow::Cow,
    io::{self, Write},
    sync::Arc,
};

use super::{Core, state::StreamVerdict};
use crate::{
    Error, Options, ReadAt,
    crc::{SpanCrcs, Sums},
    index::Checkpoint,
    inflate::HISTORY,
    saved::{Header, Record, WindowRecord},
    windows::{Packed, Window},
};

/// Maximum number of damaged windows that are rebuilt when an index is written; to rebuild one, a
/// span or a few are decoded. The other damaged windows are left out, and reads that need them
/// rebuild them.
const MADE_ANEW: usize = 256;

/// How far a stream had been decoded when writing began.
struct Known {
    /// Number of checkpoints worth saving.
    checkpoints: usize,
    spans: usize,
    sums: Sums,
    ended: bool,
    /// The window at the frontier, kept here because the reader may drop it once the frontier has
    /// moved on.
    last: Option<Window>,
}

/// Packed windows with the numbers of their checkpoints, in order.
type Kept = Vec<(usize, Arc<Packed>)>;

/// The content of the index to be written.
struct Snapshot {
    checkpoints: Vec<Checkpoint>,
    crcs: Vec<SpanCrcs>,
    sums: Sums,
    ended: bool,
}

impl Core {
    /// See `DeflateReader::write_index`.
    pub(crate) fn write_index(
        self: &Arc<Self>,
        source: &dyn ReadAt,
        out: &mut dyn Write,
    ) -> Result<bool, Error> {
        let Some(known) = self.known() else { return Ok(false) };
        let kept = self.pack_all(source, &known)?;
        let was_damaged = self.lock().set_damaged_windows(false);
        let encoded_len = self.encoded.end - self.encoded.start;
        match self.snapshot(known, kept).write(&self.options, encoded_len, out) {
            Ok(()) => Ok(true),
            Err(error) => {
                if was_damaged {
                    self.lock().set_damaged_windows(true);
                }
                Err(Error::Sink(Arc::new(error)))
            }
        }
    }

    /// The part of the stream that is worth saving, if there is one.
    fn known(&self) -> Option<Known> {
        let state = self.lock();
        let ended = match state.verdict() {
            StreamVerdict::Open => false,
            StreamVerdict::Ended => true,
            StreamVerdict::Stopped(_) | StreamVerdict::Damaged(_) => return None,
        };
        let (checkpoints, crcs) = state.index().parts();
        // A checkpoint at the end of the stream is of no use.
        let spans = crcs.len();
        let count = if ended { spans } else { checkpoints.len() };
        (count > 1).then(|| Known {
            checkpoints: count,
            spans,
            sums: state.sums(),
            ended,
            last: checkpoints[count - 1].window.clone(),
        })
    }

    /// Packs all windows; damaged ones are rebuilt first. Bytes that are not decoded yet may refer
    /// to the last windows: these are packed with all their bytes and returned, and stay unpacked
    /// in the reader.
    fn pack_all(self: &Arc<Self>, source: &dyn ReadAt, known: &Known) -> Result<Kept, Error> {
        let frontier = known.sums.whole.len();
        let mut packer = self.packer();
        let (mut kept, mut made_anew) = (Kept::new(), 0);
        for number in 1..known.checkpoints {
            let mut checkpoint = self.lock().index().checkpoint(number).clone();
            if let Some(Window::Saved(saved)) = &checkpoint.window
                && made_anew < MADE_ANEW
                && saved.packed().is_none()
            {
                made_anew += 1;
                match self.window(source, number) {
                    Ok(_) => checkpoint = self.lock().index().checkpoint(number).clone(),
                    Err(error @ Error::Source(_)) => return Err(error),
                    // A read of these bytes will return the error.
                    Err(_) => continue,
                }
            }
            if number == known.checkpoints - 1 && checkpoint.window.is_none() {
                checkpoint.window.clone_from(&known.last);
            }
            let Some(window) = &checkpoint.window else { continue };
            let ended = known.ended;
            let packed = match window {
                Window::Raw(raw) => {
                    self.packed(&mut packer, source, &checkpoint, raw, frontier, ended)?
                }
                Window::Sparse(sparse) => packer.pack(&sparse.unpack()),
                Window::Packed(_) | Window::Saved(_) => continue,
            };
            let packed = Arc::new(packed);
            if ended || frontier - checkpoint.decoded >= HISTORY as u64 {
                self.put_packed(number, window, &packed);
            } else {
                kept.push((number, packed));
            }
        }
        self.memory.keep_packer(packer);
        Ok(kept)
    }

    /// The index to be written, once all windows are packed. Windows are shared, not copied.
    fn snapshot(&self, known: Known, kept: Kept) -> Snapshot {
        let state = self.lock();
        let (checkpoints, crcs) = state.index().parts();
        let mut checkpoints = checkpoints[..known.checkpoints].to_vec();
        let crcs = crcs[..known.spans].to_vec();
        drop(state);
        for (number, packed) in kept {
            checkpoints[number].window = Some(Window::Packed(packed));
        }
        Snapshot { checkpoints, crcs, sums: known.sums, ended: known.ended }
    }
}

impl Snapshot {
    fn write(&self, options: &Options, encoded_len: u64, out: &mut dyn Write) -> io::Result<()> {
        let mut end = 0;
        let mut windows = Vec::with_capacity(self.checkpoints.len());
        for checkpoint in &self.checkpoints {
            let window = packed(checkpoint).map(|(record, _)| WindowRecord { at: end, ..record });
            end += window.map_or(0, |window| u64::from(window.packed_len));
            windows.push(window);
        }
        let mut table = crc32fast::Hasher::new();
        self.records(&windows).for_each(|record| table.update(&record));
        let block_crcs = || self.crcs.iter().flat_map(SpanCrcs::inner).map(|crc| crc.to_le_bytes());
        block_crcs().for_each(|crc| table.update(&crc));
        let count = u32::try_from(block_crcs().count()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let header = Header {
            options: options.clone(),
            encoded_len,
            sums: self.sums,
            complete: self.ended,
            checkpoints: self.checkpoints.len() as u64,
            block_crcs: count,
            table_crc32: table.finalize(),
            windows_len: end,
        };
        out.write_all(&header.to_bytes())?;
        self.records(&windows).try_for_each(|record| out.write_all(&record))?;
        block_crcs().try_for_each(|crc| out.write_all(&crc))?;
        let written = self.checkpoints.iter().zip(&windows);
        for (checkpoint, _) in written.filter(|(_, window)| window.is_some()) {
            // The saved window was readable just before.
            let (_, packed) = packed(checkpoint).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.write_all(&packed)?;
        }
        Ok(())
    }

    /// The records of the table. `windows` are the places of their windows.
    fn records(&self, windows: &[Option<WindowRecord>]) -> impl Iterator<Item = [u8; Record::LEN]> {
        self.checkpoints.iter().zip(windows).enumerate().map(|(number, (checkpoint, window))| {
            let record = Record {
                encoded: checkpoint.encoded,
                decoded: checkpoint.decoded,
                place: checkpoint.place,
                crc32: self.crcs.get(number).map_or(0, SpanCrcs::whole),
                window: *window,
            };
            record.to_bytes()
        })
    }
}

/// The packed bytes of a checkpoint's window, and their record except for its offset.
fn packed(checkpoint: &Checkpoint) -> Option<(WindowRecord, Cow<'_, [u8]>)> {
    match checkpoint.window.as_ref()? {
        Window::Raw(_) | Window::Sparse(_) => None,
        Window::Packed(packed) => {
            Some((window_record(packed), Cow::Borrowed(&packed.deflated[..])))
        }
        Window::Saved(saved) => {
            let (record, packed) = saved.packed()?;
            Some((record, packed.into()))
        }
    }
}

fn window_record(packed: &Packed) -> WindowRecord {
    WindowRecord {
        at: 0,
        // At most 32 KiB and the little that deflating can add, so it fits.
        packed_len: packed.deflated.len() as u32,
        len: packed.len as u16,
        crc32: crc32fast::hash(&packed.deflated),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, Weak};

    use super::*;
    use crate::{Format, Memory, memory::Thin};

    /// A source that calls a function before each read.
    struct Hooked<'a> {
        bytes: &'a [u8],
        before: &'a (dyn Fn() + Send + Sync),
    }

    impl ReadAt for Hooked<'_> {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            (self.before)();
            self.bytes.read_exact_at(buf, offset)
        }
    }

    fn raw_windows(core: &Core) -> Vec<Weak<[u8]>> {
        let state = core.lock();
        let (checkpoints, _) = state.index().parts();
        let raw = checkpoints.iter().skip(1).filter_map(|checkpoint| match &checkpoint.window {
            Some(Window::Raw(raw)) => Some(Arc::downgrade(raw)),
            _ => None,
        });
        raw.collect()
    }

    #[test]
    fn windows_that_are_given_up_while_an_index_is_written_are_gone() {
        let plain: Vec<u8> = (0..600_000u32).flat_map(|n| (n / 9).to_le_bytes()).collect();
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(1));
        encoder.write_all(&plain).unwrap();
        let encoded = encoder.finish().unwrap();
        let options =
            Options { format: Format::Deflate, spacing: 40_000, decoded_len: None, crc32: None };
        let memory = Memory::new(64 << 20);
        let core = Core::new(0..encoded.len() as u64, options, memory);
        core.span_at(&encoded, 2_300_000).unwrap().unwrap();
        let raw = raw_windows(&core);
        assert!(raw.len() > 50);
        let most_held = Mutex::new(0);
        let before = || {
            // Give up windows, as happens when memory is scarce.
            (0..10).for_each(|_| _ = core.thin());
            let held = raw.iter().filter(|window| window.strong_count() > 0).count();
            let mut most = most_held.lock().unwrap();
            *most = held.max(*most);
        };
        let source = Hooked { bytes: &encoded, before: &before };
        let mut written = Vec::new();
        assert!(core.write_index(&source, &mut written).unwrap());
        // The window that is being packed, and the window at the frontier.
        assert!((1..=3).contains(&*most_held.lock().unwrap()), "{most_held:?}");
        let len = written.len() as u64;
        assert!(crate::SavedIndex::new(Arc::new(written), 0..len).is_ok());
    }
}
