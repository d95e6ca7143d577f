//! Checks the table of a saved index.

use super::{
    IndexError,
    layout::{Header, Record},
};
use crate::{
    crc::SpanCrcs,
    inflate::{HISTORY, MAX_MATCH, Place},
};

/// Parses the records and the checksums of a table, and checks everything that can be checked
/// without the stream.
pub(super) fn parse(header: &Header, table: &[u8]) -> Result<(Vec<Record>, Vec<u32>), IndexError> {
    // The length of the table follows from these numbers in the header.
    let (records, crcs) = table.split_at(table.len() - 4 * header.block_crcs as usize);
    let (records, _) = records.as_chunks::<{ Record::LEN }>();
    let (crcs, _) = crcs.as_chunks();
    let records = records.iter().map(Record::of).collect::<Result<Vec<_>, _>>()?;
    check(header, &records)?;
    Ok((records, crcs.iter().map(|crc| u32::from_le_bytes(*crc)).collect()))
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
    // In a complete index, a span follows the last checkpoint. In any other, the last checkpoint is
    // at the frontier.
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
    let ends = records.iter().skip(1).map(|record| record.decoded).chain([frontier]);
    let spans = records.iter().zip(ends).map(|(record, end)| end - record.decoded);
    if spans.map(SpanCrcs::inner_of).sum::<u64>() != header.block_crcs.into() {
        return Err(IndexError::Corrupt("number of checksums"));
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
        return Err(IndexError::Corrupt("a checkpoint beyond the end"));
    }
    // More is not possible: the longest match takes two bits at least.
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

/// Checks that the window of `record` begins at `end`, where the previous window ends. Returns the
/// end of this window.
fn check_window(record: &Record, end: u64) -> Result<u64, IndexError> {
    let Some(window) = record.window else { return Ok(end) };
    if window.at != end {
        return Err(IndexError::Corrupt("place of a window"));
    }
    if usize::from(window.len) > HISTORY || u64::from(window.len) > record.decoded {
        return Err(IndexError::Corrupt("length of a window"));
    }
    // The lengths of all windows must add up to `header.windows_len` (see `check`), which is a
    // `u64`. So a sum that overflows means damage.
    end.checked_add(window.packed_len.into()).ok_or(IndexError::Corrupt("length of a window"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BitOffset, Format, Options,
        crc::{Crc, Sums},
        saved::layout::WindowRecord,
    };

    /// The header of an index of 1000 encoded and 100,000 decoded bytes.
    fn header() -> Header {
        let whole = Crc::new(7, 100_000);
        Header {
            options: Options {
                format: Format::Deflate,
                spacing: 50_000,
                decoded_len: None,
                crc32: None,
            },
            encoded_len: 1000,
            sums: Sums { whole, member: whole },
            complete: false,
            checkpoints: 3,
            block_crcs: 0,
            table_crc32: 0,
            windows_len: 20,
        }
    }

    fn records() -> [Record; 3] {
        let window = |at| Some(WindowRecord { at, packed_len: 10, len: 32768, crc32: 0 });
        let at = |encoded, decoded, place, window| Record {
            encoded: BitOffset(encoded),
            decoded,
            place,
            crc32: 0,
            window,
        };
        let coded = Place::Coded { header: BitOffset(100) };
        let stored = Place::Stored { left: 5, last: false };
        [
            at(0, 0, None, None),
            at(4001, 50_000, Some(coded), window(0)),
            at(8000, 100_000, Some(stored), window(10)),
        ]
    }

    #[test]
    fn a_table_that_contradicts_itself_is_corrupt() {
        assert_eq!(check(&header(), &records()), Ok(()));
        type Change = fn(&mut [Record; 3]);
        let changes: [(&str, Change); 14] = [
            ("the first checkpoint", |of| of[0].decoded = 1),
            ("the first checkpoint", |of| of[0].place = Some(Place::BlockHeader)),
            ("order of checkpoints", |of| of[2].encoded = of[1].encoded),
            ("order of checkpoints", |of| of[2].decoded = of[1].decoded),
            ("a checkpoint beyond the end", |of| of[2].encoded.0 += 8),
            ("a checkpoint beyond the end", |of| of[2].decoded += 1),
            ("a span of more than its bits can yield", |of| of[1].encoded.0 = 387),
            ("place of a checkpoint", |of| of[1].place = None),
            ("place of a checkpoint", |of| {
                of[1].place = Some(Place::Coded { header: of[1].encoded });
            }),
            ("place of a checkpoint", |of| of[1].place = of[2].place),
            ("place of a window", |of| of[2].window.as_mut().unwrap().at = 9),
            ("length of a window", |of| of[1].window.as_mut().unwrap().len = 32769),
            ("length of a window", |of| {
                (of[1].decoded, of[1].window.as_mut().unwrap().len) = (1000, 1001);
            }),
            ("length of the windows", |of| of[2].window.as_mut().unwrap().packed_len = 9),
        ];
        for (what, change) in changes {
            let mut records = records();
            change(&mut records);
            assert_eq!(check(&header(), &records), Err(IndexError::Corrupt(what)));
        }
        // 129 decoded bytes for each encoded bit are the most that is possible.
        let mut records = records();
        records[1].encoded.0 = 388;
        assert_eq!(check(&header(), &records), Ok(()));
    }

    #[test]
    fn a_table_has_a_checksum_for_each_end_of_a_block_within_a_span() {
        let mut records = records();
        let of = |records: &[Record], block_crcs| {
            check(&Header { block_crcs, ..header() }, records).map_err(|error| error.to_string())
        };
        assert!(of(&records, 0).is_ok() && of(&records, 1).is_err());
        // The end of a span is not within the span.
        records[1].decoded = 100_000 - (64 << 10);
        assert!(of(&records, 0).is_ok());
        records[1].decoded -= 1;
        assert!(of(&records, 1).is_ok() && of(&records, 0).is_err());
    }

    #[test]
    fn the_last_checkpoint_is_the_frontier_unless_the_index_is_complete() {
        let is_last = Err(IndexError::Corrupt("the last checkpoint"));
        let complete = Header { complete: true, ..header() };
        assert_eq!(check(&complete, &records()), is_last);
        assert_eq!(check(&Header { windows_len: 10, ..header() }, &records()[..2]), is_last);
        assert_eq!(check(&Header { windows_len: 10, ..complete }, &records()[..2]), Ok(()));
    }

    #[test]
    fn a_member_is_no_longer_than_its_stream() {
        let len = Header::LEN as u64 + header().table_len() + header().windows_len;
        let of = |member| {
            let sums = Sums { member: Crc::new(7, member), ..header().sums };
            Header::of(&Header { sums, ..header() }.to_bytes(), len).map(|_| ())
        };
        assert_eq!(of(100_000), Ok(()));
        assert_eq!(of(100_001), Err(IndexError::Corrupt("lengths of the stream")));
    }
}
