//! gzip files: headers and trailers, several members, and bytes after the last member.

use std::io::{Read, Write};

use seekable_deflate::{Error, Format, Options};

use crate::{bits::Writer, support::*};

fn gzip(spacing: u64) -> Options {
    Options { format: Format::Gzip, ..bare(spacing) }
}

fn member(plain: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = flate2::GzBuilder::new()
        .mtime(1)
        .extra(vec![7; 300])
        .filename("a name")
        .comment("a comment")
        .write(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(plain).expect("a vector takes all");
    encoder.finish().expect("a vector takes all")
}

/// A member with one stored block, and with these header flags and the fields for them.
fn by_hand(flags: u8, fields: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut member = vec![0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 255];
    member.extend(fields);
    member.extend(Writer::new().stored(true, plain).done());
    member.extend(crc32fast::hash(plain).to_le_bytes());
    member.extend((plain.len() as u32).to_le_bytes());
    member
}

/// Reads everything, and then once more after the end.
fn read_all(encoded: &[u8], options: Options) -> Result<Vec<u8>, Error> {
    let reader = reader(encoded, options);
    let plain = read(&reader, 0, 1 << 22)?;
    read(&reader, plain.len() as u64, 1)?;
    Ok(plain)
}

#[test]
fn members_follow_each_other() {
    let mut random = Random::new(2);
    for members in 1..6 {
        let (mut encoded, mut plain) = (Vec::new(), Vec::new());
        for number in 0..members {
            let len = random.below(100_000) as usize * (number % 3);
            let part = data(Data::Mixed, len, random.next());
            encoded.extend(member(&part, random.below(10) as u32));
            // Python accepts zeros between members, too.
            encoded.extend(vec![0; random.below(3) as usize * 100]);
            plain.extend(part);
        }
        let mut judge = Vec::new();
        if !encoded.ends_with(&[0; 50]) && members < 2 {
            flate2::read::MultiGzDecoder::new(&encoded[..]).read_to_end(&mut judge).unwrap();
            assert!(judge == plain);
        }
        for spacing in [100, 32 << 10, 50_000, 1 << 20] {
            let known = Options {
                decoded_len: Some(plain.len() as u64),
                crc32: Some(crc32fast::hash(&plain)),
                ..gzip(spacing)
            };
            for options in [gzip(spacing), known] {
                let reader = reader(&encoded[..], options);
                check_reads(&reader, &plain, &mut random, 20);
                assert!(
                    reader.progress().verdict.damage().is_none()
                        && reader.progress().verdict.stopped().is_none()
                );
            }
        }
    }
}

#[test]
fn every_header_field_is_passed_over() {
    for flags in 0..0x20u8 {
        let mut fields = Vec::new();
        if flags & 4 != 0 {
            fields.extend([5, 0, b'e', b'x', b't', b'r', b'a']);
        }
        for flag in [8, 16] {
            if flags & flag != 0 {
                fields.extend(*b"name or comment\0");
            }
        }
        if flags & 2 != 0 {
            let header = [&[0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 255], &fields[..]].concat();
            fields.extend(&crc32fast::hash(&header).to_le_bytes()[..2]);
        }
        let encoded = by_hand(flags, &fields, b"plain");
        assert_eq!(read_all(&encoded, gzip(2)).unwrap(), b"plain", "flags {flags:02x}");
        // Wherever the member is cut off, the error says so.
        for cut in 0..encoded.len() {
            let error = read_all(&encoded[..cut], gzip(1 << 20)).unwrap_err();
            assert!(matches!(error, Error::Truncated { .. }), "cut at {cut}: {error:?}");
        }
    }
}

#[test]
fn a_bad_header_is_corrupt() {
    let good = by_hand(0, &[], b"plain");
    for (at, value, message) in [
        (0, 0x1e, "not a gzip member"),
        (1, 0x8a, "not a gzip member"),
        (2, 7, "unknown compression method"),
        (3, 0x20, "unknown header flags set"),
        (3, 0x80, "unknown header flags set"),
    ] {
        let mut encoded = good.clone();
        encoded[at] = value;
        let error = read_all(&encoded, gzip(1 << 20)).unwrap_err();
        assert!(matches!(error, Error::Corrupt { what, .. } if what == message), "{error:?}");
    }
    let encoded = by_hand(2, &[1, 2], b"plain");
    let error = read_all(&encoded, gzip(1 << 20)).unwrap_err();
    assert!(matches!(error, Error::Corrupt { what: "header crc mismatch", .. }), "{error:?}");
}

#[test]
fn zeros_may_follow_the_last_member_and_nothing_else() {
    let mut encoded = member(b"plain", 6);
    encoded.extend([0; 100_000]);
    assert_eq!(read_all(&encoded, gzip(1 << 20)).unwrap(), b"plain");
    let place = encoded.len() as u64 * 8;
    for junk in [&b"junk"[..], b"\x1f", b"\x1fj"] {
        let encoded = [&encoded[..], junk].concat();
        let reader = reader(&encoded[..], gzip(1 << 20));
        assert_eq!(read(&reader, 0, 10).unwrap(), b"plain", "bytes before it are good");
        match read(&reader, 5, 1).unwrap_err() {
            Error::Corrupt { at, what: "not a gzip member" } => assert_eq!(at.0, place),
            Error::Truncated { decoded: 5 } if junk.len() == 1 => (),
            error => panic!("{error:?}"),
        }
        assert!(reader.progress().verdict.damage().is_none());
    }
}

#[test]
fn a_bad_trailer_makes_the_whole_unfit() {
    let good = member(b"the first member", 6);
    for at in 1..=8 {
        let mut bad = member(b"the second", 6);
        let len = bad.len();
        bad[len - at] ^= 0x10;
        let encoded = [&good[..], &bad, &good].concat();
        // The fault shows only at the end of the member: until then its bytes can be read.
        let reader = reader(&encoded[..], gzip(4));
        assert_eq!(read(&reader, 0, 20).unwrap(), b"the first memberthe ");
        let error = read(&reader, 25, 1).unwrap_err();
        match at {
            5..=8 => assert!(matches!(error, Error::Checksum { start: 16, end: 26, .. })),
            _ => assert!(matches!(error, Error::Length { found: 10, .. })),
        }
        assert!(reader.progress().verdict.damage().is_some());
        assert!(reader.read_at(&mut [0], 0).is_err());
    }
}

#[test]
fn a_match_may_not_reach_into_the_member_before() {
    let (litlen, distance) = crate::bits::fixed();
    let mut writer = Writer::new();
    writer.bits(3, 3);
    let mut symbols = crate::bits::Symbols::new(&mut writer, &litlen, &distance);
    symbols.literal(b'x');
    symbols.plain.insert(0, b'y');
    symbols.repeat(3, 2).end();
    let mut second = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    second.extend(writer.done());
    second.extend([0; 8]);
    let encoded = [&member(b"first", 6)[..], &second].concat();
    for spacing in [1, 6, 100] {
        let reader = reader(&encoded[..], gzip(spacing));
        assert_eq!(read(&reader, 0, 100).unwrap(), b"firstx");
        let error = read(&reader, 6, 1).unwrap_err();
        let what = "invalid distance too far back";
        assert!(matches!(error, Error::Corrupt { what: found, .. } if found == what), "{error:?}");
    }
}

#[test]
fn nothing_at_all_is_cut_off() {
    assert!(matches!(read_all(b"", gzip(1)), Err(Error::Truncated { decoded: 0 })));
    assert!(matches!(read_all(b"", bare(1)), Err(Error::Truncated { decoded: 0 })));
}

/// As in gzip(1): "decompression OK, trailing garbage ignored".
#[test]
fn what_follows_a_member_that_holds_all_that_was_promised_does_not_matter() {
    let plain = data(Data::Mixed, 100_000, 3);
    let good = member(&plain, 6);
    let cut_member = member(&plain, 6)[..40].to_vec();
    let garbage: [&[u8]; 5] = [b"garbage", b"\x1f", b"\x1f\x8b", b"\0\0\0x", &cut_member];
    for spacing in [1000, 1 << 20] {
        for garbage in garbage {
            let encoded = [&good[..], garbage].concat();
            let promised = Options { decoded_len: Some(plain.len() as u64), ..gzip(spacing) };
            assert!(read_all(&encoded, promised.clone()).unwrap() == plain);
            let reader = reader(&encoded[..], promised);
            assert!(read(&reader, 0, 1 << 22).unwrap() == plain);
            assert!(
                reader.progress().verdict.is_ended()
                    && reader.progress().verdict.stopped().is_none(),
                "{garbage:?}"
            );
            // Without a promised length, the reader cannot know that these bytes are garbage.
            assert!(read_all(&encoded, gzip(spacing)).is_err(), "{garbage:?}");
        }
        // The trailer is no garbage: without it, nothing confirms the bytes.
        for cut in 1..=8 {
            let promised = Options { decoded_len: Some(plain.len() as u64), ..gzip(spacing) };
            let reader = reader(&good[..good.len() - cut], promised);
            assert!(read(&reader, 0, 1 << 22).unwrap() == plain);
            assert!(
                !reader.progress().verdict.is_ended()
                    && reader.progress().verdict.stopped().is_some(),
                "{cut}"
            );
        }
    }
}
