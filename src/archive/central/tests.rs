use super::*;
use crate::archive::{
    Container, DirId, MemberId,
    testing::{RawMember, RawZip, open, paths, read},
};

fn names(archive: &Container) -> Vec<String> {
    paths(archive).into_iter().map(|(path, _)| String::from_utf8(path).unwrap()).collect()
}

fn a_and_b() -> RawZip {
    RawZip::of([RawMember::stored("a", b"first"), RawMember::deflated("b", b"second")])
}

/// Asserts that the archive holds both members of `a_and_b`, with their bytes.
fn assert_a_and_b(bytes: &[u8]) {
    let archive = open(bytes).unwrap();
    assert_eq!(names(&archive), ["a", "b"]);
    assert_eq!(read(&archive, "a").unwrap(), b"first");
    assert_eq!(read(&archive, "b").unwrap(), b"second");
}

fn reason(bytes: &[u8]) -> String {
    match open(bytes) {
        Err(Error::Corrupt(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_without_an_end_record_is_pending() {
    let whole = a_and_b().bytes();
    for bytes in [
        &b""[..],
        b"P",
        b"PK\x05\x06",
        &[0; 22],
        &[7; 100_000],
        &whole[..whole.len() - 1],
        &whole[..40],
    ] {
        match open(bytes) {
            Err(Error::Pending(why)) => assert_eq!(why, "no end of central directory record"),
            other => panic!("{other:?} for {} bytes", bytes.len()),
        }
    }
}

#[test]
fn an_archive_may_be_empty() {
    let archive = RawZip::default().open().unwrap();
    assert_eq!(archive.dir(DirId::ROOT).entries().len(), 0);
    assert_eq!(archive.dir(DirId::ROOT).parent(), DirId::ROOT);
}

#[test]
fn every_truncation_is_pending_or_corrupt() {
    let bytes = a_and_b().bytes();
    for len in 0..bytes.len() {
        match open(&bytes[..len]) {
            Err(Error::Pending(_) | Error::Corrupt(_)) => {}
            other => panic!("{other:?} for {len} bytes"),
        }
    }
}

#[test]
fn bytes_before_the_zip_do_no_harm() {
    let mut zip = a_and_b();
    for zip64 in [false, true] {
        zip.zip64 = zip64;
        for prefix in [&b"#!/bin/sh\n"[..], &[0x50; 100_000]] {
            assert_a_and_b(&[prefix, &zip.bytes()].concat());
        }
    }
}

#[test]
fn offsets_that_count_the_bytes_before_the_zip_are_right_too() {
    let prefix = b"prefix";
    let mut zip = a_and_b();
    zip.members[0].offset = Some(6);
    zip.members[1].offset = Some(6 + 30 + 1 + 5);
    zip.directory_offset = 6;
    assert_a_and_b(&[prefix, &zip.bytes()[..]].concat());
}

#[test]
fn a_zip_whose_start_was_cut_off_still_has_its_later_members() {
    let bytes = a_and_b().bytes();
    let archive = open(&bytes[10..]).unwrap();
    assert!(matches!(archive.data_offset(MemberId(0)), Err(Error::Corrupt(_))));
    assert_eq!(read(&archive, "b").unwrap(), b"second");
}

#[test]
fn bytes_after_the_zip_do_no_harm() {
    assert_a_and_b(&[&a_and_b().bytes()[..], b"\n"].concat());
    assert_a_and_b(&[&a_and_b().bytes()[..], &[0; 60_000]].concat());
}

#[test]
fn a_comment_of_any_length_is_skipped() {
    for len in [1, 21, 22, 23, 65_535] {
        let zip = RawZip { comment: vec![b'c'; len], ..a_and_b() };
        assert_a_and_b(&zip.bytes());
    }
}

#[test]
fn a_comment_that_holds_an_end_record_does_not_hide_the_archive() {
    let empty = RawZip::default().bytes();
    let mut nonsense = empty.clone();
    nonsense[12] = 200;
    let mut other_end = empty.clone();
    other_end[16] = 9;
    for fake in [&empty[..], &nonsense, &other_end, &empty[..10], b"PK\x05\x06"] {
        for after in [&b""[..], b"more comment"] {
            let comment = [b"see ", fake, after].concat();
            assert_a_and_b(&RawZip { comment, ..a_and_b() }.bytes());
        }
    }
}

#[test]
fn no_more_than_a_few_end_records_are_tried() {
    // End records that lead to no directory. The comment of each ends at the end of the file.
    let fakes = |count: u16| -> Vec<u8> {
        (0..count)
            .rev()
            .flat_map(|after| {
                let mut end = RawZip::default().bytes();
                end[12] = 255;
                end[20..].copy_from_slice(&(after * 22).to_le_bytes());
                end
            })
            .collect()
    };
    assert_a_and_b(&RawZip { comment: fakes(3), ..a_and_b() }.bytes());
    assert!(reason(&RawZip { comment: fakes(4), ..a_and_b() }.bytes()).contains("no header"));
}

#[test]
fn an_archive_inside_a_stored_member_is_not_taken_for_the_archive() {
    let inner = RawZip::of([RawMember::stored("inner", b"wrong")]).bytes();
    let archive = RawZip::of([RawMember::stored("outer", &inner)]).open().unwrap();
    assert_eq!(names(&archive), ["outer"]);
    assert_eq!(read(&archive, "outer").unwrap(), inner);
}

#[test]
fn entry_counts_are_not_believed() {
    for count in [0, 1, 3, u16::MAX] {
        assert_a_and_b(&RawZip { count: Some(count), ..a_and_b() }.bytes());
    }
}

#[test]
fn more_than_65535_members_need_no_zip64() {
    let count = 70_000;
    let zip = RawZip {
        count: Some((count % 65_536) as u16),
        ..RawZip::of((0..count).map(|i| RawMember::stored(format!("{i:05}"), i.to_string())))
    };
    let archive = zip.open().unwrap();
    assert_eq!(archive.dir(DirId::ROOT).entries().len(), count);
    assert_eq!(read(&archive, "00000").unwrap(), b"0");
    assert_eq!(read(&archive, "69999").unwrap(), b"69999");
}

#[test]
fn a_size_of_the_directory_that_is_wrong_is_corrupt() {
    for (wrong, why) in [
        (1, "there is no header at byte 0"),
        (-1, "there is no header at byte 0"),
        (-46, "there is no header at byte 0"),
        (1 << 20, "cannot end at offset"),
    ] {
        let zip = RawZip { directory_len: wrong, ..a_and_b() };
        let reason = reason(&zip.bytes());
        assert!(reason.contains(why), "{reason}");
    }
}

#[test]
fn a_directory_larger_than_the_bound_is_corrupt_before_it_is_read() {
    let len = MAX_DIRECTORY + 1;
    let mut end = RawZip::default().bytes();
    end[12..16].copy_from_slice(&(len as u32).to_le_bytes());
    let file = crate::archive::testing::file_of(b"");
    std::os::unix::fs::FileExt::write_all_at(&file, &end, len).unwrap();
    let source = SourceFile::new(file).unwrap();
    assert!(
        matches!(Central::read(&source, end.clone(), &mut |_| Ok(())), Err(Error::Corrupt(why)) if why.contains("more than"))
    );
}

#[test]
fn a_name_that_ends_after_the_directory_is_cut() {
    let mut bytes = RawZip::of([RawMember::stored("x", b"data")]).bytes();
    let header = bytes.len() - 22 - 47;
    bytes[header + 28..header + 30].fill(0xFF);
    let archive = open(&bytes).unwrap();
    assert_eq!(read(&archive, "x").unwrap(), b"data");
}

#[test]
fn a_comment_that_ends_after_the_directory_is_cut() {
    let mut bytes = RawZip::of([RawMember::stored("x", b"data")]).bytes();
    let header = bytes.len() - 22 - 47;
    bytes[header + 32] = 200;
    assert_eq!(read(&open(&bytes).unwrap(), "x").unwrap(), b"data");
}

#[test]
fn zip64_tells_sizes_and_offsets() {
    let mut zip = a_and_b();
    for member in &mut zip.members {
        member.zip64 = true;
    }
    assert_a_and_b(&zip.bytes());
    zip.zip64 = true;
    assert_a_and_b(&zip.bytes());

    zip.members[1].size = 0x1_2345_6789;
    zip.members[1].encoded_size = 0x1_0000_0001;
    zip.members[1].offset = Some(0x2_0000_0002);
    let archive = zip.open().unwrap();
    let member = archive.member(MemberId(1));
    assert_eq!(member.size, 0x1_2345_6789);
    assert_eq!(member.encoded_size, 0x1_0000_0001);
    assert_eq!(member.header_offset, 0x2_0000_0002);
}

#[test]
fn a_zip64_field_has_only_the_values_that_do_not_fit() {
    let mut member = RawMember::stored("x", b"data");
    member.offset = Some(u64::from(u32::MAX));
    member.extra = vec![9, 9, 2, 0, 1, 2, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    let archive = RawZip::of([member]).open().unwrap();
    assert_eq!(archive.member(MemberId(0)).header_offset, 0);
    assert_eq!(read(&archive, "x").unwrap(), b"data");
}

#[test]
fn a_zip64_field_without_a_value_that_is_needed_is_corrupt() {
    let mut member = RawMember::stored("x", b"data");
    member.offset = Some(u64::from(u32::MAX));
    member.extra = vec![1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0];
    let reason = reason(&RawZip::of([member]).bytes());
    assert!(reason.contains("a zip64 field is cut short at byte 0"), "{reason}");
}

#[test]
fn sizes_of_all_ones_without_a_zip64_field_are_sizes() {
    let mut member = RawMember::deflated("x", b"data");
    member.size = u64::from(u32::MAX);
    let archive = RawZip::of([member]).open().unwrap();
    assert_eq!(archive.member(MemberId(0)).size, u64::from(u32::MAX));
}

#[test]
fn a_zip64_end_record_may_have_extensible_data() {
    let zip = RawZip { zip64: true, zip64_data: vec![0xEE; 33], ..a_and_b() };
    assert_a_and_b(&zip.bytes());
    // The data is longer than the tail that is read first.
    let zip = RawZip { zip64_data: vec![0xEE; 100_000], ..zip };
    assert_a_and_b(&zip.bytes());
}

#[test]
fn a_locator_that_leads_nowhere_leaves_the_end_record_to_count() {
    let mut zip = a_and_b();
    zip.members.push(RawMember::stored("c", b""));
    // The comment of the last member looks like a locator, and lies just before the end record.
    zip.members[2].comment =
        [b"PK\x06\x07".as_slice(), &[0; 4], &[0xFF; 8], &[1, 0, 0, 0]].concat();
    let archive = zip.open().unwrap();
    assert_eq!(names(&archive), ["a", "b", "c"]);
}

#[test]
fn a_part_of_a_split_archive_is_corrupt() {
    let mut bytes = RawZip { zip64: true, ..a_and_b() }.bytes();
    let disks = bytes.len() - 22 - 4;
    bytes[disks] = 2;
    assert!(reason(&bytes).contains("a part of an archive of 2 files"));
}

#[test]
fn np_savez_leaves_zip64_sizes_in_the_local_header_alone() {
    let mut member = RawMember::stored("x.npy", b"data");
    member.local_extra = [&[1, 0, 16, 0, 4][..], &[0; 7], &[4], &[0; 7]].concat();
    let archive = RawZip::of([member]).open().unwrap();
    assert_eq!(archive.data_offset(MemberId(0)).unwrap(), 30 + 5 + 20);
    assert_eq!(read(&archive, "x.npy").unwrap(), b"data");
}

#[test]
fn data_descriptors_are_skipped() {
    let mut first = RawMember::deflated("a", b"first");
    first.flags = 1 << 3;
    first.after = [b"PK\x07\x08".as_slice(), &[0; 20]].concat();
    let mut bytes = RawZip::of([first, RawMember::deflated("b", b"second")]).bytes();
    // A writer that cannot seek leaves zeros for CRC-32 and sizes in the local header.
    bytes[14..26].fill(0);
    assert_a_and_b(&bytes);
}

#[test]
fn a_date_of_zero_as_cnpy_writes_it_does_no_harm() {
    let mut zip = a_and_b();
    zip.members.iter_mut().for_each(|member| member.modified = 0);
    assert_a_and_b(&zip.bytes());
}

#[test]
fn a_digital_signature_ends_the_directory() {
    let mut zip = a_and_b();
    // The last comment is a digital signature. Its length is then set to 0, so that the signature
    // follows the last entry.
    zip.members[1].comment = b"PK\x05\x05\x02\0ab".to_vec();
    let mut bytes = zip.bytes();
    let header = bytes.len() - 22 - 8 - 47;
    bytes[header + 32] = 0;
    assert_a_and_b(&bytes);
}

#[test]
fn names_are_cp437_unless_they_say_utf8() {
    let mut utf8 = RawMember::stored("\u{e9}".as_bytes(), b"utf-8");
    utf8.flags = UTF8;
    let mut invalid = RawMember::stored(b"\xff\xfe", b"bytes");
    invalid.flags = UTF8;
    let cp437 = RawMember::stored(b"\x81\xe3", b"cp437");
    let archive = RawZip::of([utf8, invalid, cp437]).open().unwrap();
    let shown: Vec<Vec<u8>> = paths(&archive).into_iter().map(|(path, _)| path).collect();
    let expected = ["\u{e9}".as_bytes(), "\u{fc}\u{3c0}".as_bytes(), b"\xff\xfe"];
    assert_eq!(shown, expected);
    assert_eq!(archive.warning(), None);
}

#[test]
fn an_info_zip_unicode_path_goes_before_the_plain_name() {
    let mut member = RawMember::stored("old.npy", b"data");
    let unicode = [&[1][..], &crc32fast::hash(b"old.npy").to_le_bytes(), b"new.npy"].concat();
    member.extra = [&[0x75, 0x70, unicode.len() as u8, 0][..], &unicode].concat();
    let archive = RawZip::of([member]).open().unwrap();
    assert_eq!(names(&archive), ["new.npy"]);
    // The local header has the plain name, not the Unicode name.
    assert_eq!(read(&archive, "new.npy").unwrap(), b"data");
}

#[test]
fn extra_fields_that_are_cut_short_are_skipped() {
    for extra in [&[1][..], &[1, 0, 9], &[1, 0, 9, 0], &[7, 7, 0xFF, 0xFF, 0], &[0; 11]] {
        let mut zip = a_and_b();
        zip.members[0].extra = extra.to_vec();
        assert_a_and_b(&zip.bytes());
    }
}

#[test]
fn a_directory_longer_than_one_piece_is_read_whole() {
    let zip = RawZip::of((0..60).map(|i| {
        let mut member = RawMember::stored(format!("{i:02}"), [i]);
        member.comment = vec![b'c'; 60_000];
        member
    }));
    let archive = zip.open().unwrap();
    assert_eq!(archive.dir(DirId::ROOT).entries().len(), 60);
    assert_eq!(read(&archive, "59").unwrap(), [59]);
}
