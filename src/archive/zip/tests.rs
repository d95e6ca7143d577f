use super::*;
use crate::archive::{
    DirId, Entry, MAX_DICTIONARY, NPZ,
    testing::{RawMember, RawZip, open, paths, read, zip},
};

fn id_of(archive: &Container, name: &str) -> MemberId {
    match archive.dir(DirId::ROOT).get(name.as_bytes()) {
        Some(Entry::Member(id)) => id,
        other => panic!("{name:?} is {other:?}"),
    }
}

fn corrupt(result: Result<impl Sized, Error>) -> String {
    match result {
        Err(Error::Corrupt(reason)) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

fn one(member: RawMember) -> Container {
    RawZip::of([member]).open().unwrap()
}

#[test]
fn members_have_what_the_central_directory_says() {
    let bytes = zip(&[("a.npy", b"stored bytes", false), ("b/c.npy", &[7; 1000], true)]);
    let archive = open(&bytes).unwrap();
    let member = archive.member(id_of(&archive, "a.npy"));
    assert_eq!(member.method, Method::Stored);
    assert!(!member.encrypted);
    assert_eq!((member.encoded_size, member.size), (12, 12));
    assert_eq!(member.crc32, Some(crc32fast::hash(b"stored bytes")));
    assert_eq!(member.header_offset, 0);
    assert_eq!(archive.data_offset(MemberId(0)).unwrap(), 35);
    assert_eq!(archive.member(MemberId(1)).method, Method::Deflated);
    assert_eq!(archive.member(MemberId(1)).size, 1000);
    assert_eq!(read(&archive, "a.npy").unwrap(), b"stored bytes");
    assert_eq!(read(&archive, "b/c.npy").unwrap(), [7; 1000]);
    assert_eq!(archive.warning(), None);
}

#[test]
fn a_member_knows_its_path() {
    let members = ["a/b/c.npy", "d.npy", "../x", "a/b"].map(|name| RawMember::stored(name, b""));
    let archive = RawZip::of(members).open().unwrap();
    for (id, path) in
        [(0, "a/b/c.npy"), (1, "d.npy"), (2, "(member 2, not shown)"), (3, "a/b.member")]
    {
        assert_eq!(archive.path_of(MemberId(id)), path.as_bytes());
    }
}

#[test]
fn the_local_header_tells_where_the_data_starts() {
    let mut member = RawMember::stored("x", b"data");
    member.local_extra = vec![0; 777];
    member.extra = vec![9, 9, 1, 0, 5];
    let archive = one(member);
    assert_eq!(archive.data_offset(MemberId(0)).unwrap(), 30 + 1 + 777);
    assert_eq!(read(&archive, "x").unwrap(), b"data");
}

#[test]
fn the_local_header_is_read_once() {
    let bytes = RawZip::of([RawMember::stored("x", b"data")]).bytes();
    let file = crate::archive::testing::file_of(&bytes);
    let archive = NPZ.open(Arc::new(SourceFile::new(file.try_clone().unwrap()).unwrap())).unwrap();
    assert_eq!(archive.data_offset(MemberId(0)).unwrap(), 31);
    // From here on, any read of the file would fail.
    file.set_len(0).unwrap();
    assert_eq!(archive.data_offset(MemberId(0)).unwrap(), 31);
    let mut out = Vec::new();
    assert!(matches!(
        archive.decode(MemberId(0), MAX_DICTIONARY, &mut out),
        Err(Error::Io(error)) if SourceFile::is_stale(&error)
    ));
}

#[test]
fn encrypted_members_are_listed_and_refused() {
    for flags in [1 << 0, 1 << 6] {
        let mut member = RawMember::stored("secret", b"data");
        member.flags = flags;
        let archive = one(member);
        assert!(archive.member(id_of(&archive, "secret")).encrypted);
        assert!(matches!(archive.data_offset(MemberId(0)), Err(Error::Encrypted)));
        assert!(matches!(read(&archive, "secret"), Err(Error::Encrypted)));
    }
}

#[test]
fn unknown_methods_are_listed_and_refused() {
    for method in [1, 6, 10, 97, 98, 99, 65535] {
        let archive = one(RawMember::encoded("odd", method, b"data", b"data"));
        assert_eq!(archive.member(id_of(&archive, "odd")).method, Method::Other(method));
        let refused = archive.data_offset(MemberId(0));
        assert!(matches!(refused, Err(Error::UnsupportedMethod(m)) if m == method));
    }
}

#[test]
fn patch_data_is_refused_whatever_its_method() {
    let mut member = RawMember::deflated("patch", b"data");
    member.flags = 1 << 5;
    let archive = one(member);
    assert!(matches!(archive.data_offset(MemberId(0)), Err(Error::UnsupportedMethod(8))));
}

#[test]
fn a_local_header_that_names_another_member_is_corrupt() {
    let mut member = RawMember::stored("right", b"data");
    member.local_name = Some(b"wrong".to_vec());
    assert!(corrupt(one(member).data_offset(MemberId(0))).contains("\"wrong\""));
}

#[test]
fn names_are_compared_as_text_each_in_its_own_encoding() {
    // As in zipfile, both names are decoded before they are compared.
    let mut member = RawMember::stored(b"\x82.npy", b"data");
    member.local_name = Some("\u{e9}.npy".into());
    member.local_flags = Some(1 << 11);
    let archive = one(member);
    assert_eq!(read(&archive, "\u{e9}.npy").unwrap(), b"data");

    let mut member = RawMember::stored(b"\x82.npy", b"data");
    member.local_flags = Some(1 << 11);
    corrupt(one(member).data_offset(MemberId(0)));
}

#[test]
fn a_long_name_in_the_local_header_is_read_in_full() {
    let name = "n".repeat(60_000);
    let mut member = RawMember::stored(&name, b"data");
    let archive = one(member.clone());
    assert_eq!(archive.data_offset(MemberId(0)).unwrap(), 30 + 60_000);
    member.local_name = Some([&name.as_bytes()[..59_999], b"x"].concat());
    corrupt(one(member).data_offset(MemberId(0)));
}

#[test]
fn another_method_in_the_local_header_is_corrupt() {
    let mut member = RawMember::stored("x", b"data");
    member.local_method = Some(8);
    let reason = corrupt(one(member).data_offset(MemberId(0)));
    assert!(reason.contains("deflated") && reason.contains("stored"), "{reason}");
}

#[test]
fn data_must_end_before_the_central_directory() {
    let mut member = RawMember::deflated("x", b"data");
    let room = member.data.len() as u64;
    assert!(one(member.clone()).data_offset(MemberId(0)).is_ok());
    member.encoded_size = room + 1;
    corrupt(one(member.clone()).data_offset(MemberId(0)));
    member.encoded_size = u64::MAX;
    member.zip64 = true;
    corrupt(one(member).data_offset(MemberId(0)));
}

#[test]
fn a_header_offset_that_leads_nowhere_is_corrupt() {
    for offset in [1, 20, 1 << 20, u64::from(u32::MAX) - 1, 1 << 40, u64::MAX - 5, u64::MAX] {
        let mut member = RawMember::stored("x", b"data");
        member.offset = Some(offset);
        member.zip64 = true;
        corrupt(one(member).data_offset(MemberId(0)));
    }
}

#[test]
fn sizes_that_cannot_be_are_corrupt_before_anything_is_read() {
    for size in [3, 5] {
        let mut stored = RawMember::stored("x", b"data");
        (stored.size, stored.crc32) = (size, crc32fast::hash(b"dat"));
        corrupt(one(stored).data_offset(MemberId(0)));
    }

    let mut deflated = RawMember::deflated("x", b"data");
    deflated.size = deflated.encoded_size * 1032;
    assert!(one(deflated.clone()).data_offset(MemberId(0)).is_ok());
    deflated.size += 1;
    corrupt(one(deflated).data_offset(MemberId(0)));

    let mut lzma = RawMember::encoded("x", 14, b"data", b"data");
    lzma.size = u64::MAX;
    lzma.zip64 = true;
    let archive = one(lzma);
    assert_eq!(archive.member(MemberId(0)).size, i64::MAX as u64);
    corrupt(archive.data_offset(MemberId(0)));
}

#[test]
fn two_members_may_share_their_bytes() {
    let mut alias = RawMember::stored("x", b"data");
    alias.offset = Some(0);
    let zip = RawZip::of([RawMember::stored("x", b"data"), alias]);
    let archive = zip.open().unwrap();
    assert_eq!(archive.data_offset(MemberId(0)).unwrap(), 31);
    assert_eq!(archive.data_offset(MemberId(1)).unwrap(), 31);
}

#[test]
fn members_of_different_names_cannot_share_a_header() {
    let mut alias = RawMember::stored("y", b"data");
    alias.offset = Some(0);
    let archive = RawZip::of([RawMember::stored("x", b"data"), alias]).open().unwrap();
    corrupt(archive.data_offset(MemberId(1)));
}

#[test]
fn ten_thousand_members_take_less_than_150_bytes_each_beside_their_names() {
    let zip = RawZip::of((0..10_000).map(|i| RawMember::stored(format!("array_{i:05}.npy"), b"")));
    let bytes = zip.bytes();
    let archive = open(&bytes).unwrap();
    assert_eq!(paths(&archive).len(), 10_000);
    let names = 10_000 * "array_00000.npy".len() as u64;
    let for_each = (archive.memory() - names) / 10_000;
    assert!(for_each < 80, "{for_each}");
}

#[test]
fn names_are_part_of_the_memory_of_an_archive() {
    let with_names_of = |len: usize| {
        let name = |number| format!("{number:0len$}");
        let members = (0..1000).map(|number| RawMember::stored(name(number), b""));
        RawZip::of(members).open().unwrap().memory()
    };
    assert_eq!(with_names_of(200) - with_names_of(100), 1000 * 100);
}
