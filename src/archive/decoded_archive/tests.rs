use std::{collections::BTreeSet, fs::File, io::Read, os::unix::fs::FileExt};

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::archive::{
    MAX_DICTIONARY, NPZ,
    testing::{RawMember, RawZip, open, put16, source_of},
};

/// An archive, laid out.
fn laid_out(bytes: &[u8]) -> Container {
    let mut container = open(bytes).unwrap();
    container.lay_out_decoded(&mut |_| Ok(())).unwrap();
    container
}

/// The bytes of `range` of the decoded archive, part by part.
fn read(container: &Container, range: Range<u64>) -> Result<Vec<u8>, Error> {
    let archive = container.decoded().unwrap();
    let mut out = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let part = archive.part_at(at).first(range.end - at);
        at += part.size();
        assert!(part.size() > 0, "{part:?}");
        match part {
            Part::Headers(range) => archive.headers(range, &mut out)?,
            Part::Decoded(id, range) => {
                let mut plain = Vec::new();
                container.decode(id, MAX_DICTIONARY, &mut plain)?;
                out.extend_from_slice(&plain[range.start as usize..range.end as usize]);
            }
            Part::Encoded(id, range) => {
                let start = out.len();
                out.resize(start + (range.end - range.start) as usize, 0);
                archive.encoded(id, &mut out[start..], range.start)?;
            }
        }
    }
    Ok(out)
}

fn whole(container: &Container) -> Vec<u8> {
    let size = container.decoded().unwrap().size();
    let bytes = read(container, 0..size).unwrap();
    assert_eq!(bytes.len() as u64, size);
    bytes
}

/// A member as a reader finds it: name, method, flags, bytes, and where the bytes start.
type Found = (Vec<u8>, u16, u16, Vec<u8>, usize);

/// The members that a reader such as cnpy finds, which reads a zip from its start. Members have
/// sizes of 32 bits and no data descriptors.
fn from_the_start(bytes: &[u8]) -> Vec<Found> {
    let le16 = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let le32 = |at: usize| usize::from(le16(at)) | usize::from(le16(at + 2)) << 16;
    let mut found = Vec::new();
    let mut at = 0;
    while bytes[at..].starts_with(b"PK\x03\x04") {
        let name_end = at + 30 + usize::from(le16(at + 26));
        let data = name_end + usize::from(le16(at + 28));
        let end = data + le32(at + 18);
        let name = bytes[at + 30..name_end].to_vec();
        found.push((name, le16(at + 8), le16(at + 6), bytes[data..end].to_vec(), data));
        at = end;
    }
    found
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(next).collect()
}

fn sample() -> RawZip {
    let mut with_fields = RawMember::deflated("b.npy", noise(1000));
    put16(&mut with_fields.extra, &[0x5455, 5, 1, 2, 0x4b00]);
    with_fields.comment = b"of b".to_vec();
    with_fields.modified = 0x5a21_1234;
    RawZip {
        comment: b"of all".to_vec(),
        ..RawZip::of([
            RawMember::stored("a.npy", noise(77)),
            with_fields,
            RawMember::stored("dir/", b""),
            RawMember::deflated("large.npy", noise(100_003)),
            RawMember::deflated("b.npy", b"the second of this name"),
            RawMember::deflated("../up", b"not shown in a directory"),
            RawMember::deflated("", b"nor this"),
            RawMember::deflated(b"caf\xe9.npy", noise(70_000)),
            RawMember::stored("last.npy", noise(65_536)),
        ])
    }
}

#[test]
fn a_decoded_archive_has_the_members_of_the_archive_in_their_order() {
    let raw = sample();
    let container = laid_out(&raw.bytes());
    let bytes = whole(&container);
    let found = from_the_start(&bytes);
    assert_eq!(found.len(), raw.members.len());
    for ((name, method, flags, data, _), (index, member)) in
        found.iter().zip((0..).zip(&raw.members))
    {
        let mut plain = Vec::new();
        container.decode(MemberId(index), MAX_DICTIONARY, &mut plain).unwrap();
        assert_eq!((name, *method, *flags), (&member.name, 0, 0));
        assert_eq!(data, &plain);
    }
    let again = open(&bytes).unwrap();
    for (index, member) in (0..).zip(&raw.members) {
        let stored = again.member(MemberId(index));
        assert_eq!((stored.size, stored.crc32), (member.size, Some(member.crc32)));
        assert_eq!(stored.method, crate::archive::Method::Stored);
        assert!(again.data_offset(MemberId(index)).is_ok());
    }
    assert!(bytes.ends_with(b"of all"));
    let field = b"UT\x05\x00\x01\x00\x02\x00\x00";
    assert!(bytes.windows(9).any(|bytes| bytes == field), "extra fields are kept");
    assert!(bytes.windows(4).any(|bytes| bytes == b"of b"), "comments are kept");
}

#[test]
fn another_reader_of_zips_finds_the_same() {
    let raw = sample();
    let bytes = whole(&laid_out(&raw.bytes()));
    let mut source = ::zip::ZipArchive::new(std::io::Cursor::new(raw.bytes())).unwrap();
    let mut decoded = ::zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    assert_eq!(decoded.len(), source.len());
    for index in 0..source.len() {
        let (mut one, mut other) =
            (source.by_index(index).unwrap(), decoded.by_index(index).unwrap());
        assert_eq!(one.name_raw(), other.name_raw());
        assert_eq!(one.last_modified(), other.last_modified());
        assert_eq!((one.comment(), one.crc32()), (other.comment(), other.crc32()));
        assert_eq!(other.compression(), ::zip::CompressionMethod::Stored);
        let (mut plain, mut again) = (Vec::new(), Vec::new());
        one.read_to_end(&mut plain).unwrap();
        other.read_to_end(&mut again).unwrap();
        assert_eq!(plain, again);
    }
}

#[test]
fn arrays_are_aligned_and_large_members_share_no_page() {
    let container = laid_out(&sample().bytes());
    let bytes = whole(&container);
    let data: Vec<Range<u64>> = from_the_start(&bytes)
        .iter()
        .map(|(_, _, _, data, start)| *start as u64..(*start + data.len()) as u64)
        .collect();
    let page = |offset: u64| offset / PAGE;
    let archive = container.decoded().unwrap();
    for (index, range) in data.iter().enumerate() {
        let name = String::from_utf8_lossy(&sample().members[index].name).into_owned();
        match (range.end - range.start, name.ends_with(".npy")) {
            (LARGE.., _) => {
                let before = archive.part_at(page(range.start) * PAGE);
                assert!(
                    matches!(before, Part::Headers(_) | Part::Decoded(..)),
                    "its page begins with its own padding or data"
                );
                let header = archive.layout.starts[index];
                assert!(page(header + 30) < page(range.start), "{name}");
                let next = archive.layout.starts.get(index + 1).unwrap_or(&archive.layout.central);
                assert!(page(range.end - 1) < page(*next), "{name}");
            }
            (_, true) => assert_eq!(range.start % ALIGNMENT, 0, "{name}"),
            _ => {}
        }
    }
    assert_eq!(data.last().unwrap().start % PAGE, 0, "the last one starts with a page");
}

#[test]
fn a_large_member_of_whole_lines_is_aligned_wherever_it_stands() {
    let members = [128 + 64 * 2000, 1 << 20, 3 << 20]
        .map(|size| RawMember::deflated(format!("{size}.npy"), noise(size)));
    let bytes = whole(&laid_out(&RawZip::of(members).bytes()));
    let starts: Vec<_> = from_the_start(&bytes).iter().map(|found| found.4 % 64).collect();
    assert_eq!(starts, [0, 0, 0]);
}

#[test]
fn members_that_cannot_be_decoded_keep_their_bytes() {
    let mut encrypted = RawMember::encoded("secret.npy", 8, b"twelve bytes and more", b"plain");
    encrypted.flags = 1 | 1 << 3;
    let mut patched = RawMember::deflated("patched", b"patched");
    patched.flags = 1 << 5;
    let mut wrong_sizes = RawMember::stored("wrong", b"six by");
    wrong_sizes.size = 7;
    let unknown = RawMember::encoded("unknown", 77, b"encoded", b"x");
    let raw = RawZip::of([encrypted, patched, wrong_sizes, unknown, RawMember::stored("z", b"z")]);
    let container = laid_out(&raw.bytes());
    let bytes = whole(&container);
    let again = open(&bytes).unwrap();
    for (index, member) in (0..).map(MemberId).zip(&raw.members[..4]) {
        let told = again.member(index);
        assert_eq!((told.size, told.encoded_size), (member.size, member.encoded_size));
        let archive = laid_out(&bytes);
        let mut data = vec![0; member.encoded_size as usize];
        let archive = archive.decoded().unwrap();
        archive.encoded(index, &mut data, 0).unwrap();
        assert_eq!(data, member.data, "{index:?}");
    }
    assert_eq!(again.member(MemberId(4)).size, 1);
    assert!(bytes.windows(8).any(|bytes| bytes[..4] == *b"PK\x07\x08"), "a data descriptor");
}

#[test]
fn a_large_member_that_cannot_be_decoded_shares_no_page_either() {
    let mut encrypted = RawMember::stored("secret.npy", noise(70_001));
    encrypted.flags = 1 | 1 << 3;
    let raw = RawZip::of([RawMember::stored("a", b"a"), encrypted, RawMember::stored("b", b"b")]);
    let container = laid_out(&raw.bytes());
    let archive = container.decoded().unwrap();
    let page_of = |at: u64| at / PAGE;
    let data = archive.layout.starts[1] + u64::from(archive.layout.header_lens[1]);
    assert!(page_of(archive.layout.starts[1]) < page_of(data));
    assert_eq!(archive.layout.starts[2], data + 70_001 + 16, "after its data descriptor");
    assert_eq!(archive.layout.starts[2] % PAGE, 0);
}

#[test]
fn a_comment_that_holds_an_end_record_is_left_out() {
    for (comment, is_kept) in
        [(&b"a comment"[..], true), (b"PK\x05\x06 and more than twenty bytes of it", false)]
    {
        let raw = RawZip { comment: comment.to_vec(), ..sample() };
        let Ok(mut container) = raw.open() else { continue };
        container.lay_out_decoded(&mut |_| Ok(())).unwrap();
        if container.counts().1 == 0 {
            continue;
        }
        assert_eq!(whole(&container).ends_with(comment), is_kept);
    }
}

#[test]
fn an_empty_archive_stays_empty() {
    let bytes = whole(&laid_out(&RawZip::default().bytes()));
    assert_eq!(bytes.len(), 22);
    assert_eq!(open(&bytes).unwrap().counts().1, 0);
}

/// The headers of the decoded archive from `offset` on, in a sparse file.
fn headers_alone(container: &Container, offset: u64) -> File {
    let archive = container.decoded().unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(archive.size()).unwrap();
    let mut at = offset;
    while at < archive.size() {
        let part = archive.part_at(at);
        if let Part::Headers(range) = &part {
            let mut bytes = Vec::new();
            archive.headers(range.clone(), &mut bytes).unwrap();
            file.write_all_at(&bytes, at).unwrap();
        }
        at += part.size();
    }
    file
}

#[test]
fn sizes_and_offsets_around_4_gib_have_64_bits_where_needed() {
    const MAX: u64 = u32::MAX as u64;
    for size in [MAX - 1, MAX, MAX + 1, 5 << 40] {
        let mut large = RawMember::encoded("large.npy", 12, b"bzip2", b"");
        (large.size, large.zip64, large.crc32) = (size, true, 7);
        let last = RawMember { name: b"last.npy".to_vec(), ..large.clone() };
        let raw = RawZip::of([large, RawMember::stored("b.npy", b"b"), last]);
        let container = laid_out(&raw.bytes());
        let file = headers_alone(&container, 0);
        let source = std::sync::Arc::new(SourceFile::new(file.try_clone().unwrap()).unwrap());
        let again = NPZ.open(source).unwrap();
        for index in [0, 2].map(MemberId) {
            assert_eq!(again.member(index).size, size);
            assert!(again.data_offset(index).unwrap() > 0);
        }
        let version = |at: u64| {
            let mut header = [0; 6];
            FileExt::read_exact_at(&file, &mut header, at).unwrap();
            header[4]
        };
        assert_eq!(version(0), if size >= MAX { 45 } else { 20 });
        let mut other = ::zip::ZipArchive::new(file).unwrap();
        assert_eq!(other.by_index_raw(2).unwrap().size(), size);
    }
}

#[test]
fn more_members_than_16_bits_count_have_a_zip64_end_record() {
    for count in [65_534, 65_535, 70_000] {
        let members = (0..count).map(|number| RawMember::stored(number.to_string(), b""));
        let mut raw = RawZip::of(members);
        raw.zip64 = true;
        let container = laid_out(&raw.bytes());
        let archive = container.decoded().unwrap();
        let file = headers_alone(&container, archive.layout.central);
        assert_eq!(::zip::ZipArchive::new(file).unwrap().len(), count);
        let mut end = Vec::new();
        archive.headers(archive.layout.end..archive.size(), &mut end).unwrap();
        assert_eq!(end.len(), if count < 65_535 { 22 } else { 98 });
        let memory = archive.layout.memory() as u64;
        assert!(memory <= count as u64 * MEMORY_PER_MEMBER + 100, "{memory}");
    }
}

#[test]
fn an_archive_that_would_be_larger_than_a_file_can_be_is_not_decoded() {
    let mut huge = RawMember::encoded("huge", 12, b"bzip2", b"");
    (huge.size, huge.zip64, huge.crc32) = (i64::MAX as u64 - 1, true, 7);
    for count in [1, 3] {
        let raw = RawZip::of(vec![huge.clone(); count]);
        let container = laid_out(&raw.bytes());
        assert!(container.decoded().is_none());
    }
    huge.size = 1 << 62;
    assert!(laid_out(&RawZip::of([huge.clone()]).bytes()).decoded().is_some());
    assert!(laid_out(&RawZip::of([huge.clone(), huge]).bytes()).decoded().is_none());
}

#[test]
fn a_directory_that_changed_unnoticed_is_an_error() {
    let bytes = sample().bytes();
    let container = laid_out(&bytes);
    // The name of the first member is shorter now.
    let at = bytes.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    let mut changed = bytes.clone();
    changed[at + 28] -= 1;
    let source = source_of(&changed);
    let archive = DecodedArchive { source: &source, ..container.decoded().unwrap() };
    let mut out = Vec::new();
    let central = archive.layout.central;
    let read = archive.headers(central..central + 46, &mut out);
    assert!(matches!(read, Err(Error::Corrupt(_))));
}

/// Random members: small, large and empty ones, of methods that can be decoded and others.
fn members() -> impl Strategy<Value = Vec<RawMember>> {
    let name = select(vec!["a.npy", "b", "c/d.npy", "c/", "", "\u{e9}.npy", "../x.npy"]);
    let size = prop_oneof![0..300_usize, 65_000..66_000_usize, Just(131_072)];
    let extra = prop_oneof![
        Just(Vec::new()),
        Just(b"\x35\xd9\x02\x00\x40\x00".to_vec()),
        vec(any::<u8>(), 0..40),
        Just([&[1, 2, 0xf0, 0xff][..], &[0; 0xfff0]].concat()),
    ];
    let member = (name, size, 0..5_u8, any::<bool>(), extra, vec(any::<u8>(), 0..9)).prop_map(
        |(name, size, kind, has_descriptor, extra, comment)| {
            let data = noise(size);
            let mut member = match kind {
                0 => RawMember::stored(name, data),
                1 | 2 => RawMember::deflated(name, data),
                3 => RawMember { flags: 1, ..RawMember::stored(name, data) },
                _ => RawMember::encoded(name, 99, &data, b"abc"),
            };
            member.flags |= if has_descriptor { 1 << 3 } else { 0 };
            RawMember { extra, comment, ..member }
        },
    );
    vec(member, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_range_has_the_bytes_of_the_whole(
        members in members(),
        comment in vec(any::<u8>(), 0..30),
        ranges in vec((any::<prop::sample::Index>(), 0..200_000_u64), 8),
    ) {
        let raw = RawZip { comment, ..RawZip::of(members) };
        let container = laid_out(&raw.bytes());
        let bytes = whole(&container);
        let size = bytes.len() as u64;
        for (start, len) in ranges {
            let start = start.index(bytes.len()) as u64;
            let range = start..size.min(start + len);
            let wanted = &bytes[range.start as usize..range.end as usize];
            prop_assert_eq!(read(&container, range).unwrap(), wanted);
        }
        let again = open(&bytes).unwrap();
        prop_assert_eq!(again.counts(), container.counts());
        let names = |container: &Container| {
            let paths = crate::archive::testing::paths(container);
            paths.into_iter().map(|(path, _)| path).collect::<BTreeSet<_>>()
        };
        prop_assert_eq!(names(&again), names(&container));
        for id in (0..container.counts().1).map(MemberId) {
            let (one, other) = (container.member(id), again.member(id));
            prop_assert_eq!((one.size, one.crc32), (other.size, other.crc32));
            prop_assert_eq!(one.encrypted, other.encrypted);
        }
    }

    #[test]
    fn a_damaged_archive_is_laid_out_or_refused(
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let small = sample().members.into_iter().filter(|member| member.size < 2000);
        let mut bytes = RawZip { comment: b"of all".to_vec(), ..RawZip::of(small) }.bytes();
        for (at, flip) in damage {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        let Ok(mut container) = open(&bytes) else { return Ok(()) };
        container.lay_out_decoded(&mut |_| Ok(())).unwrap();
        let Some(archive) = container.decoded() else { return Ok(()) };
        let mut at = 0;
        while at < archive.size() {
            let part = archive.part_at(at).first(1 << 20);
            let mut out = Vec::new();
            match &part {
                Part::Headers(range) => {
                    archive.headers(range.clone(), &mut out).unwrap();
                    prop_assert_eq!(out.len() as u64, part.size());
                }
                Part::Encoded(id, range) => {
                    out.resize((range.end - range.start) as usize, 0);
                    // An error is as good as the bytes: this checks for panics.
                    let _ = archive.encoded(*id, &mut out, range.start);
                }
                Part::Decoded(..) => {}
            }
            // Claimed sizes may be near 2^63: the rest of a part is not read.
            at += archive.part_at(at).size();
        }
    }
}
