//! Tests single parts: edges, settled chunks, buffers, markers, the finder.

use super::*;

/// The first piece of the first chunk found after byte 1000 of a stream.
fn first_piece(encoded: &[u8], buffers: &Buffers) -> Arc<Piece> {
    let mut speculator = Speculator::new(0..encoded.len() as u64, ByteOffset(1000));
    loop {
        if let Worked::Piece(piece) = speculator.work(&encoded, ByteOffset::MAX, buffers) {
            return piece;
        }
    }
}

#[test]
fn a_chunk_does_not_know_where_the_symbol_before_it_ends() {
    let encoded = deflate(&floats(1 << 20), 6);
    let (source, range) = (&encoded[..], 0..encoded.len() as u64);
    let buffers = Buffers::new(Memory::new(PLENTY));
    let piece = first_piece(&encoded, &buffers);
    let chunk = Settled::new(range, vec![piece], 50_000, &[0; HISTORY], &buffers.memory);
    let chunk = Arc::new(chunk);
    let find = |at| Edge::new(at).find(&[Arc::clone(&chunk)], &source);
    assert_eq!(find(50_000), None);
    assert!(find(50_001).is_some_and(|found| (50_001..50_300).contains(&found.decoded)));
    assert_eq!(find(chunk.range().end), Some(chunk.end()));
    assert_eq!(find(chunk.range().end + 1), None);
}

#[test]
fn a_source_that_has_changed_does_not_lead_past_a_chunk() {
    let encoded = deflate(&floats(1 << 20), 6);
    let range = 0..encoded.len() as u64;
    let buffers = Buffers::new(Memory::new(PLENTY));
    let piece = first_piece(&encoded, &buffers);
    let chunk = Settled::new(range, vec![piece], 50_000, &[0; HISTORY], &buffers.memory);
    let end = chunk.end();
    for bit in end.encoded.0 as usize - 200..end.encoded.0 as usize {
        let mut changed = encoded.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let found = chunk.boundary(&changed, end.decoded);
        assert!(found.is_err() || found.is_ok_and(|found| found.decoded == end.decoded));
    }
}

#[test]
fn matches_that_are_noted_speculatively_are_counted() {
    // Almost as many matches as a piece may note, of four bytes each.
    let mut random = Random(13);
    let mut plain: Vec<u8> = Vec::new();
    while plain.len() < 1 << 20 {
        plain.extend((0..66).map(|_| (random.next() % 150) as u8));
        let from = plain.len().saturating_sub(66 + random.next() as usize % 300);
        plain.extend_from_within(from..from + 4);
    }
    let encoded = deflate(&plain, 6);
    let memory = Memory::new(PLENTY);
    let buffers = Buffers::new(Arc::clone(&memory));
    let mut speculator = Speculator::new(0..encoded.len() as u64, ByteOffset(1000));
    let (mut held, mut pieces) = (0, Vec::new());
    while pieces.len() < 3 {
        if let Worked::Piece(piece) = speculator.work(&encoded, ByteOffset::MAX, &buffers) {
            assert!(piece.matches.memory() > 16 << 10);
            held += piece.matches.memory() + piece.units.memory();
            pieces.push(piece);
        }
    }
    assert!(held as u64 <= memory.reserved(), "{held} of {}", memory.reserved());
}

#[test]
fn the_key_of_a_settled_chunk_is_counted_where_nothing_is_left_too() {
    let encoded = deflate(&floats(1 << 20), 6);
    let memory = Memory::new(8 << 20);
    let buffers = Buffers::new(Arc::clone(&memory));
    let piece = first_piece(&encoded, &buffers);
    let rest = memory.reserve_anyway(memory.limit() - memory.reserved());
    let range = 0..encoded.len() as u64;
    let chunk = Settled::new(range, vec![piece], 50_000, &[0; HISTORY], &memory);
    assert_eq!(memory.reserved(), memory.limit() + markers::Key::MEMORY);
    drop((chunk, rest));
    assert_eq!(memory.reserved(), 0);
}

#[test]
fn memory_without_end_is_room_for_all() {
    assert!(Buffers::new(Memory::new(u64::MAX)).capacity() > u64::MAX / 16);
}

#[test]
fn a_marker_names_its_place_in_the_window() {
    let window: Vec<u8> = (0..HISTORY).map(|at| (at * 7 + at / 251) as u8).collect();
    let key = markers::Key::new(&window);
    let mut out = vec![0; HISTORY];
    key.resolve(&markers::window(), &mut out);
    assert!(out == window);
    assert!(markers::known(&markers::window()).is_none());

    let plain: Vec<u8> = (0..1000).map(|at| at as u8).collect();
    let mut units: Vec<u16> = plain.iter().map(|byte| u16::from(*byte)).collect();
    assert!(markers::known(&units).as_ref() == Some(&plain));
    units[700] = markers::window()[1234];
    assert!(markers::known(&units).is_none());
    let mut out = vec![0; 1000];
    key.resolve(&units, &mut out);
    assert_eq!(out[700], window[1234]);
    out[700] = plain[700];
    assert!(out == plain);
}

#[test]
fn the_finder_finds_each_dynamic_block() {
    let plain = floats(2 << 20);
    let encoded = deflate(&plain, 6);
    // The bits where blocks begin, from a decoder that stops at each block.
    let mut input = crate::inflate::Input::new(0..encoded.len() as u64);
    let mut decoder = crate::inflate::Decoder::new();
    decoder.halt_at(crate::BitOffset(0));
    let mut headers = Vec::new();
    let mut window = Vec::new();
    loop {
        let room = crate::inflate::Output::room(window.len(), 1 << 20);
        let mut out = crate::inflate::Output::new(vec![0u8; room], &window);
        let mut bits = crate::inflate::Bits::new(&mut input, &encoded);
        match decoder.decode(&mut bits, &mut out, 1 << 20).unwrap() {
            crate::inflate::Stop::Block => headers.push(bits.position().0),
            crate::inflate::Stop::Limit => {}
            crate::inflate::Stop::End => break,
        }
        decoder.halt_at(crate::BitOffset(bits.position().0 + 1));
        window = out.window().to_vec();
    }
    assert!(headers.len() > 10);
    let range = 0..encoded.len() as u64;
    // The last block is final, so the finder does not look for it.
    for pair in headers.windows(2) {
        let mut finder = Finder::new(range.clone(), ByteOffset(pair[0] / 8 + 1));
        let found = loop {
            if let Some(found) = finder.step(&encoded, &range).unwrap() {
                break Some(found);
            }
            if finder.position().0 >= pair[1] / 8 + 1000 {
                break None;
            }
        };
        if pair[1] != *headers.last().unwrap() {
            assert_eq!(found.map(|found| *found.end()), Some(crate::BitOffset(pair[1])));
        }
    }
}
