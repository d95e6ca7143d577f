//! What must hold of the checkpoints in a table.

use super::{
    IndexError,
    layout::{Header, Record},
};
use crate::inflate::{HISTORY, MAX_MATCH, Place};

/// The records of a table, once all is checked that can be known of it without the stream.
pub(super) fn records(header: &Header, table: &[u8]) -> Result<Vec<Record>, IndexError> {
    let (records, _) = table.as_chunks::<{ Record::LEN }>();
    let records = records.iter().map(Record::of).collect::<Result<Vec<_>, _>>()?;
    check(header, &records)?;
    Ok(records)
}

fn check(header: &Header, records: &[Record]) -> Result<(), IndexError> {
    let frontier = header.sums.whole.len();
    let mut before: Option<&Record> = None;
    let mut windows = 0;
    for record in records {
        match before {
            None => check_first(record)?,
            Some(before) => check_next(before, record, header)?,
        }
        windows = check_window(record, windows)?;
        before = Some(record);
    }
    let last = before.ok_or(IndexError::Corrupt("no checkpoint"))?;
    // The last one of a complete index has a span behind it, of any other it is the frontier.
    let ends = match header.complete {
        true => last.decoded < frontier,
        false => last.decoded == frontier,
    };
    if !ends {
        return Err(IndexError::Corrupt("the last checkpoint"));
    }
    if windows != header.windows_len {
        return Err(IndexError::Corrupt("length of the windows"));
    }
    Ok(())
}

fn check_first(record: &Record) -> Result<(), IndexError> {
    let at_start = (record.encoded.0, record.decoded, record.place, record.window);
    match at_start == (0, 0, None, None) {
        true => Ok(()),
        false => Err(IndexError::Corrupt("the first checkpoint")),
    }
}

fn check_next(before: &Record, record: &Record, header: &Header) -> Result<(), IndexError> {
    let at = record.encoded;
    if at <= before.encoded || record.decoded <= before.decoded {
        return Err(IndexError::Corrupt("order of checkpoints"));
    }
    if at.0 > header.encoded_len * 8 || record.decoded > header.sums.whole.len() {
        return Err(IndexError::Corrupt("a checkpoint behind the end"));
    }
    // Two bits for the longest match are the best there is.
    let most = (at.0 - before.encoded.0).saturating_mul(MAX_MATCH as u64 / 2);
    if record.decoded - before.decoded > most {
        return Err(IndexError::Corrupt("a span of more than its bits can yield"));
    }
    let right = match record.place {
        None => false,
        Some(Place::BlockHeader) => true,
        Some(Place::Coded { header }) => header < at,
        Some(Place::Stored { .. }) => at.0.is_multiple_of(8),
    };
    if right { Ok(()) } else { Err(IndexError::Corrupt("place of a checkpoint")) }
}

/// Checks where a window lies: behind the one before. Returns its end.
fn check_window(record: &Record, end: u64) -> Result<u64, IndexError> {
    let Some(window) = record.window else { return Ok(end) };
    if window.at != end {
        return Err(IndexError::Corrupt("place of a window"));
    }
    if usize::from(window.len) > HISTORY || u64::from(window.len) > record.decoded {
        return Err(IndexError::Corrupt("length of a window"));
    }
    // The lengths add up in the header, so this cannot overflow unless it is wrong.
    end.checked_add(window.packed_len.into()).ok_or(IndexError::Corrupt("length of a window"))
}
