//! Writing an index.

use std::{
    borrow::Cow,
    io::{self, Write},
    sync::Arc,
};

use super::layout::{Header, Lies, Record};
use crate::{
    Error, Options, ReadAt,
    core::Core,
    frontier::Sums,
    index::Checkpoint,
    inflate::HISTORY,
    window::{Packed, Window},
};

/// What is known of a stream at one time.
struct Snapshot {
    checkpoints: Vec<Checkpoint>,
    crcs: Vec<u32>,
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
        let Some(mut snapshot) = self.snapshot() else { return Ok(false) };
        let frontier = snapshot.sums.whole.len();
        let ended = snapshot.ended;
        let mut packer = self.packer();
        for (number, checkpoint) in snapshot.checkpoints.iter_mut().enumerate().skip(1) {
            let Some(Window::Raw(raw)) = &checkpoint.window else { continue };
            let raw = Arc::clone(raw);
            let packed = self.packed(&mut packer, source, checkpoint, &raw, frontier, ended)?;
            let packed = Arc::new(packed);
            // What follows the others may need less of them, and goes on from the last.
            if ended || frontier - checkpoint.decoded >= HISTORY as u64 {
                self.put_packed(number, &raw, &packed);
            }
            checkpoint.window = Some(Window::Packed(packed));
        }
        let encoded_len = self.encoded.end - self.encoded.start;
        snapshot
            .write(&self.options, encoded_len, out)
            .map_err(|error| Error::Sink(Arc::new(error)))?;
        Ok(true)
    }

    /// What is worth saving. Windows are shared, not copied: it takes 100 bytes for each.
    fn snapshot(&self) -> Option<Snapshot> {
        let state = self.lock();
        if state.stopped.is_some() || state.damage.is_some() {
            return None;
        }
        let (checkpoints, crcs) = state.index.parts();
        // One that nothing follows is of no use.
        let spans = crcs.len();
        let count = if state.ended { spans } else { checkpoints.len() };
        (count > 1).then(|| Snapshot {
            checkpoints: checkpoints[..count].to_vec(),
            crcs: crcs.to_vec(),
            sums: state.sums,
            ended: state.ended,
        })
    }
}

impl Snapshot {
    fn write(&self, options: &Options, encoded_len: u64, out: &mut dyn Write) -> io::Result<()> {
        let mut table = crc32fast::Hasher::new();
        let windows_len = self.each_record(|record| {
            table.update(&record);
            Ok(())
        })?;
        let header = Header {
            options: options.clone(),
            encoded_len,
            sums: self.sums,
            complete: self.ended,
            checkpoints: self.checkpoints.len() as u64,
            table_crc32: table.finalize(),
            windows_len,
        };
        out.write_all(&header.to_bytes())?;
        self.each_record(|record| out.write_all(&record))?;
        for checkpoint in &self.checkpoints {
            if let Some((_, packed)) = packed(checkpoint) {
                out.write_all(&packed)?;
            }
        }
        Ok(())
    }

    /// Makes the records of the table one by one. Returns the length of all windows.
    fn each_record(
        &self,
        mut put: impl FnMut([u8; Record::LEN]) -> io::Result<()>,
    ) -> io::Result<u64> {
        let mut end = 0;
        for (number, checkpoint) in self.checkpoints.iter().enumerate() {
            let window = packed(checkpoint).map(|(lies, _)| Lies { at: end, ..lies });
            end += window.map_or(0, |window| u64::from(window.packed_len));
            let record = Record {
                encoded: checkpoint.encoded,
                decoded: checkpoint.decoded,
                place: checkpoint.place,
                crc32: self.crcs.get(number).copied().unwrap_or(0),
                window,
            };
            put(record.to_bytes())?;
        }
        Ok(end)
    }
}

/// The packed window of a checkpoint, and what is to be said of it but for where it lies.
fn packed(checkpoint: &Checkpoint) -> Option<(Lies, Cow<'_, [u8]>)> {
    match checkpoint.window.as_ref()? {
        Window::Raw(_) => None,
        Window::Packed(packed) => Some((lies(packed), Cow::Borrowed(&packed.deflated[..]))),
        Window::Saved(saved) => {
            let (lies, packed) = saved.packed()?;
            Some((lies, packed.into()))
        }
    }
}

fn lies(packed: &Packed) -> Lies {
    Lies {
        at: 0,
        // 32 KiB and what deflating them adds at most.
        packed_len: packed.deflated.len() as u32,
        len: packed.len as u16,
        crc32: crc32fast::hash(&packed.deflated),
    }
}
