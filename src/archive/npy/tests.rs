use proptest::prelude::*;

use super::*;

fn file(major: u8, dict: &str) -> Vec<u8> {
    // As in NumPy: Latin-1 up to format 2.0, UTF-8 in format 3.0.
    let text: Vec<u8> = match major {
        3 => dict.into(),
        _ => dict.chars().map(|c| u8::try_from(c).unwrap()).collect(),
    };
    let mut out = b"\x93NUMPY".to_vec();
    out.extend_from_slice(&[major, 0]);
    match major {
        1 => out.extend_from_slice(&(text.len() as u16).to_le_bytes()),
        _ => out.extend_from_slice(&(text.len() as u32).to_le_bytes()),
    }
    out.extend_from_slice(&text);
    out
}

fn parse(dict: &str) -> Result<Header, NpyError> {
    Header::parse(&file(1, dict))
}

fn dict_of(descr: &str, shape: &str) -> String {
    format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}")
}

fn itemsize(descr: &str) -> Result<Option<u64>, NpyError> {
    parse(&dict_of(descr, "()")).map(|header| header.itemsize)
}

#[test]
fn a_header_says_what_np_save_wrote() {
    let dict = "{'descr': '<f8', 'fortran_order': True, 'shape': (3, 4), }          \n";
    for major in [1, 2, 3] {
        let mut bytes = file(major, dict);
        let data_offset = bytes.len() as u64;
        let header = Header::parse(&bytes).unwrap();
        let expected = Header {
            data_offset,
            descr: "'<f8'".into(),
            fortran_order: true,
            shape: vec![3, 4],
            itemsize: Some(8),
        };
        assert_eq!(header, expected);
        assert_eq!(header.file_size(), Some(data_offset + 96));
        bytes.extend_from_slice(&[0x93; 96]);
        assert_eq!(Header::parse(&bytes).unwrap(), expected);
    }
}

#[test]
fn a_start_too_short_says_how_much_is_needed() {
    for major in [1, 2, 3] {
        let bytes = file(major, &dict_of("'<f4'", "(7,)"));
        let mut have = 0;
        let mut steps = 0;
        while let Err(error) = Header::parse(&bytes[..have]) {
            let NpyError::Truncated { needed } = error else { panic!("{error}") };
            assert!(needed > have && needed <= bytes.len());
            have = needed;
            steps += 1;
        }
        assert_eq!((have, steps), (bytes.len(), 2));
        for len in 0..bytes.len() {
            let truncated = matches!(
                Header::parse(&bytes[..len]),
                Err(NpyError::Truncated { needed }) if needed > len
            );
            assert!(truncated, "{len} bytes of version {major}");
        }
    }
}

#[test]
fn the_smallest_header_of_version_1_needs_no_12_bytes() {
    assert!(matches!(Header::parse(b"\x93NUMPY\x01\x00\x01\x00{"), Err(NpyError::Malformed(_))));
}

#[test]
fn other_files_and_versions_are_refused() {
    for bytes in [&b"X"[..], b"\x93NUMPX", b"PK\x03\x04 and so on, for a while", b"\x93NUMpy\x01"] {
        assert_eq!(Header::parse(bytes), Err(NpyError::NoMagic));
    }
    for (major, minor) in [(0, 0), (4, 0), (1, 1), (2, 1), (255, 255)] {
        let mut bytes = file(2, "{}");
        (bytes[6], bytes[7]) = (major, minor);
        assert_eq!(Header::parse(&bytes), Err(NpyError::Version { major, minor }));
    }
}

#[test]
fn a_header_longer_than_the_bound_is_refused_before_it_is_there() {
    let mut bytes = file(2, "");
    bytes[8..12].copy_from_slice(&(MAX_HEADER_LEN as u32 + 1).to_le_bytes());
    assert_eq!(Header::parse(&bytes), Err(NpyError::TooLong { len: MAX_HEADER_LEN + 1 }));
    bytes[8..12].copy_from_slice(&(MAX_HEADER_LEN as u32).to_le_bytes());
    assert!(matches!(Header::parse(&bytes), Err(NpyError::Truncated { .. })));
}

#[test]
fn shapes_are_tuples_of_lengths() {
    for (shape, expected) in [
        ("()", &[][..]),
        ("(3,)", &[3]),
        ("(3L,)", &[3]),
        ("(3L, 4L)", &[3, 4]),
        ("( 3 ,4 , 5,)", &[3, 4, 5]),
        ("(0,)", &[0]),
        ("(18446744073709551615, 0)", &[u64::MAX, 0]),
    ] {
        assert_eq!(parse(&dict_of("'|u1'", shape)).unwrap().shape, expected, "{shape}");
    }
    for shape in
        ["3", "(3)", "[3]", "(-1,)", "(1.5,)", "('3',)", "(True,)", "(,)", "(3 4)", "((3,),)"]
    {
        let refused = parse(&dict_of("'|u1'", shape));
        assert!(matches!(refused, Err(NpyError::Malformed(_))), "{shape}: {refused:?}");
    }
}

#[test]
fn every_dtype_string_of_numpy_has_its_size() {
    for (names, size) in [
        (&["|b1", "|i1", "|u1", "?", "b", "B", "c", "bool", "int8", "uint8"][..], 1),
        (&["<i2", ">u2", "=f2", "h", "H", "e", "int16", "float16"], 2),
        (&["<i4", "<u4", "<f4", "f4", "i", "I", "f", "float32", ">uint32"], 4),
        (&["<i8", "<u8", "<f8", "<c8", "l", "q", "d", "F", "float64", "complex64", "int"], 8),
        (&["<f16", "<c16", "g", "D", "complex128"], 16),
        (&["<c32", "G"], 32),
        (&["<f12"], 12),
        (&["<c24"], 24),
        (&["<M8", "<M8[ns]", "<m8[25s]", ">m8[D]", "<M8[Y]", "<m8[generic]"], 8),
        (&["|S5", "S5", "|a5", "|V5"], 5),
        (&["<U5", ">U5"], 20),
        (&["|S0", "<U0", "|V0", "S", "U", "V"], 0),
        (&["|V4294967296"], 1 << 32),
    ] {
        for name in names {
            assert_eq!(itemsize(&format!("'{name}'")), Ok(Some(size)), "{name}");
        }
    }
    for name in ["|O", "O", "|O8", "|O4"] {
        assert_eq!(itemsize(&format!("'{name}'")), Ok(None), "{name}");
    }
}

#[test]
fn strings_that_name_no_dtype_are_refused() {
    for name in [
        "",
        "<",
        "<<f4",
        "f3",
        "i16",
        "u0",
        "b2",
        "c4",
        "x4",
        "<M4",
        "<M8[",
        "<M8[]",
        "<M8ns",
        "<M8]ns[",
        "f4 ",
        " f4",
        "i4,f8",
        "f-4",
        "S-1",
        "S99999999999999999999",
        "O3",
        "3f4",
        "\u{e9}4",
    ] {
        let refused = itemsize(&format!("'{name}'"));
        assert!(matches!(refused, Err(NpyError::Dtype(_))), "{name}: {refused:?}");
    }
}

#[test]
fn structured_dtypes_have_the_size_of_their_fields() {
    // Written by np.save of NumPy 2.4.6; the size is dtype.itemsize.
    for (descr, size) in [
        ("[('a', '<i2'), ('b', '<f4', (2, 3)), ('c', '|S5')]", 31),
        // np.dtype([('a', 'i1'), ('b', 'f8')], align=True)
        ("[('a', '|i1'), ('', '|V7'), ('b', '<f8')]", 16),
        // np.dtype([('s', np.dtype([('x', 'i1'), ('y', 'i4')], align=True), (2,)), ('t', 'u1')])
        ("[('s', [('x', '|i1'), ('', '|V3'), ('y', '<i4')], (2,)), ('t', '|u1')]", 17),
        // np.dtype({'names': ['a'], 'formats': ['<i4'], 'offsets': [4], 'itemsize': 16})
        ("[('', '|V4'), ('a', '<i4'), ('', '|V8')]", 16),
        // np.dtype([(('title', 'name'), '<f8')])
        ("[(('title', 'name'), '<f8')]", 8),
        ("[('empty', '<f8', (0,)), ('a', '|u1')]", 1),
        ("[('number', '<f4', 3)]", 12),
        ("[('scalar', '<f4', ())]", 4),
        ("[]", 0),
        ("('<f4', (2, 3))", 24),
        ("(('<f4', (2,)), (3,))", 24),
    ] {
        assert_eq!(itemsize(descr), Ok(Some(size)), "{descr}");
        assert_eq!(parse(&dict_of(descr, "()")).unwrap().descr, descr);
    }
    assert_eq!(itemsize("[('a', '<i2'), ('b', '|O')]"), Ok(None));
    assert_eq!(itemsize("[('a', [('b', '|O')], (2,))]"), Ok(None));
}

#[test]
fn what_is_no_dtype_is_refused() {
    for descr in [
        "3",
        "None",
        "True",
        "{}",
        "('<f4',)",
        "('<f4', '<f4')",
        "[('a',)]",
        "['<f4']",
        "[('a', 3)]",
        "[('a', '<f4', -1)]",
        "[('a', '<f4', ('3',))]",
        "[(3, '<f4')]",
        "[('a', '<f4', (), ())]",
        "[('a', '|O', 'x')]",
    ] {
        let refused = itemsize(descr);
        assert!(
            matches!(refused, Err(NpyError::Dtype(_) | NpyError::Malformed(_))),
            "{descr}: {refused:?}"
        );
    }
}

#[test]
fn sizes_that_do_not_fit_63_bits_are_refused() {
    for (descr, shape) in [
        ("'|u1'", "(9223372036854775807,)"),
        ("'<f8'", "(4294967296, 4294967296)"),
        ("'<U9223372036854775807'", "()"),
        ("[('a', '|V18446744073709551615'), ('b', '|u1')]", "()"),
        ("[('a', '<f8', (4294967296, 4294967296))]", "()"),
    ] {
        assert_eq!(parse(&dict_of(descr, shape)), Err(NpyError::TooLarge), "{descr} {shape}");
    }
    let header = parse(&dict_of("'<f8'", "(4294967296, 4294967296, 0)")).unwrap();
    assert_eq!(header.file_size(), Some(header.data_offset));
}

#[test]
fn objects_have_no_size() {
    let header = parse(&dict_of("'|O'", "(4294967296, 4294967296)")).unwrap();
    assert_eq!((header.itemsize, header.file_size()), (None, None));
}

#[test]
fn the_dict_may_be_written_in_any_way_that_python_reads() {
    let expected = Header { data_offset: 0, ..parse(&dict_of("'<f4'", "(3,)")).unwrap() };
    for dict in [
        "{'descr':'<f4','fortran_order':False,'shape':(3,)}",
        "  { \"shape\" : ( 3 , ) ,\n\t'fortran_order' : False , 'descr' : '<f4' } \n",
        "{'descr': '>f8', 'fortran_order': False, 'shape': (3,), 'descr': '<f4'}",
        "({'descr': '<f4', 'fortran_order': False, 'shape': (3,)})",
    ] {
        assert_eq!(
            parse(dict).map(|header| Header { data_offset: 0, ..header }),
            Ok(expected.clone())
        );
    }
    let unicode = parse(&dict_of("u'<f4'", "(3L,)")).unwrap();
    assert_eq!((unicode.itemsize, unicode.descr.as_str()), (Some(4), "u'<f4'"));
}

#[test]
fn names_of_fields_may_hold_quotes_escapes_and_any_character() {
    let descr =
        r#"[('it\'s', '<f4'), ("\\", '<f4'), ('a\nb', '<f4'), ("'", '<f4'), ('#}', '<f4')]"#;
    assert_eq!(itemsize(descr), Ok(Some(20)));
    assert_eq!(itemsize("[('\u{e9}', '<f4')]"), Ok(Some(4)));
    let dict = dict_of("[('\u{20ac}', '<f4')]", "()");
    assert_eq!(Header::parse(&file(3, &dict)).unwrap().itemsize, Some(4));
    let mut invalid = file(3, &dict);
    let at = invalid.iter().position(|&byte| byte == 0xE2).unwrap();
    invalid[at] = b'x';
    assert!(matches!(Header::parse(&invalid), Err(NpyError::Malformed(_))));
}

#[test]
fn dicts_that_numpy_refuses_are_malformed() {
    for dict in [
        "",
        " ",
        "{",
        "{}",
        "()",
        "3",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'shape': (3,)}",
        "{'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'more': 1}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}",
        "{'descr': '<f4', 'fortran_order': None, 'shape': (3,)}",
        "{'descr': '<f4' 'fortran_order': False, 'shape': (3,)}",
        "{'descr' '<f4', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)} x",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)",
        "{'descr': '<f4, 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f4\\",
        "{'descr': '\\",
        "{'descr': '\\'",
        "{'descr': __import__('os'), 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f4', 'fortran_order': Falsehood, 'shape': (3,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
    ] {
        let refused = parse(dict);
        assert!(matches!(refused, Err(NpyError::Malformed(_))), "{dict}: {refused:?}");
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let too_deep = parse(&nested(50_000)).unwrap_err();
    assert!(too_deep.to_string().contains("nests too deep"), "{too_deep}");
    // Thirty nested dtypes: each is the only field of the next one.
    let mut descr = "'<f4'".to_owned();
    for _ in 0..30 {
        descr = format!("[('a', {descr})]");
    }
    assert_eq!(itemsize(&descr), Ok(Some(4)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Header::parse(&bytes);
        let _ = Header::parse(&[b"\x93NUMPY\x01\x00\xff\x00", bytes.as_slice()].concat());
    }

    #[test]
    fn anything_like_a_header_is_answered(
        tokens in proptest::collection::vec(
            proptest::sample::select(vec![
                "{", "}", "(", ")", "[", "]", ",", ":", "'descr'", "'shape'", "'fortran_order'",
                "'<f4'", "'|O'", "'|V99999999999'", "3", "18446744073709551615", "L", "True",
                "False", "None", "u", "\"", "'", "\\", " ", "\n", "\u{e9}", "-", ".",
            ]),
            0..40,
        ),
        major in 1..4_u8,
    ) {
        if let Ok(header) = Header::parse(&file(major, &tokens.concat())) {
            prop_assert!(header.itemsize.is_none() || header.file_size().is_some());
        }
    }

    #[test]
    fn sizes_are_products(
        shape in proptest::collection::vec(0..50_u64, 0..5),
        (name, size) in proptest::sample::select(vec![("<f4", 4), ("|u1", 1), ("<U3", 12), ("|S0", 0)]),
    ) {
        let axes: String = shape.iter().map(|axis| format!("{axis}, ")).collect();
        let header = parse(&dict_of(&format!("'{name}'"), &format!("({axes})"))).unwrap();
        let expected = header.data_offset + shape.iter().product::<u64>() * size;
        prop_assert_eq!(header.file_size(), Some(expected));
    }
}

#[test]
fn the_number_of_values_is_bounded() {
    // The tuple itself counts as one value.
    let tuple = |values: usize| format!("({})", "0,".repeat(values - 1));
    assert!(literal::parse(&tuple(1 << 18)).is_ok());
    let error = literal::parse(&tuple((1 << 18) + 1)).unwrap_err();
    assert!(error.contains("too much"), "{error}");
}
