//! Memory stays within the budget, and reads stay right.

use seekable_deflate::Memory;

use crate::support::*;

#[test]
fn memory_stays_within_the_budget_while_windows_are_thinned() {
    let plain = data(Data::Floats, 4 << 20, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let mut random = Random::new(1);
    for limit in [2 << 20, 4 << 20] {
        let memory = Memory::new(limit);
        let readers =
            [(); 3].map(|()| reader_within(&encoded[..], known(&plain, 32 << 10), &memory));
        for step in 0..150 {
            let reader = &readers[random.below(3) as usize];
            let offset = random.below(plain.len() as u64) * step / 150;
            assert!(read(reader, offset, 5000).unwrap() == slice(&plain, offset, 5000));
            assert!(memory.used() <= limit, "{} of {limit}", memory.used());
        }
        readers.iter().for_each(|reader| check_reads(reader, &plain, &mut random, 2));
        for reader in readers {
            let before = index_bytes(&memory);
            drop(reader);
            let bytes = before - memory.used();
            assert!(bytes <= limit / 2);
            // Each reader has 1 to 12 windows, and its paused decoder.
            assert!(bytes >= 40_000, "one reader was thinned to nothing");
        }
    }
}

#[test]
fn any_budget_serves_every_read() {
    let plain = data(Data::Text, 1 << 20, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    for limit in [0, 1, 40_000, 100_000, 500_000] {
        let memory = Memory::new(limit);
        let reader = reader_within(&encoded[..], known(&plain, 50_000), &memory);
        check_reads(&reader, &plain, &mut Random::new(limit), 30);
        // Neither the checkpoints themselves nor the window at the frontier can be given up.
        let used = memory.used();
        assert!(used <= limit.max(index_bytes(&memory)), "{used}");
        assert!(index_bytes(&memory) < 5000 + limit);
    }
}

#[test]
fn a_reader_that_is_dropped_gives_its_memory_back() {
    let plain = data(Data::Labels, 1 << 20, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let memory = Memory::new(PLENTY);
    let one = reader_within(&encoded[..], bare(65536), &memory);
    let other = reader_within(&encoded[..], bare(65536), &memory);
    assert_eq!(memory.used(), 0);
    read(&one, 0, 1 << 20).unwrap();
    let used = memory.used();
    assert!(used > 1 << 20);
    read(&other, 0, 1 << 20).unwrap();
    assert_eq!(memory.used(), 2 * used);
    drop(other);
    assert_eq!(memory.used(), used);
    assert!(is_cached(&one, 0));
    memory.clear();
    assert!(!is_cached(&one, 0));
    assert!(memory.used() < 700_000, "windows and the paused decoder stay");
    drop(one);
    assert_eq!(memory.used(), 0);
}

#[test]
fn a_reader_at_its_end_holds_no_decoder() {
    let plain = data(Data::Text, 1000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let memory = Memory::new(PLENTY);
    let reader = reader_within(&encoded[..], bare(1 << 20), &memory);
    read(&reader, 0, 2000).unwrap();
    memory.clear();
    assert!(memory.used() < 500, "{}", memory.used());
}

#[test]
fn windows_count_as_what_they_take_packed() {
    let plain = data(Data::Text, 1 << 20, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let memory = Memory::new(PLENTY);
    let reader = reader_within(&encoded[..], bare(65536), &memory);
    read(&reader, 0, 2 << 20).unwrap();
    memory.clear();
    let before = memory.used();
    reader.write_index(&mut std::io::sink()).unwrap();
    assert!(memory.used() < before);
}

#[test]
fn spans_of_a_thousandfold_stream_stay_small() {
    let plain = data(Data::Zeros, 40 << 20, 1);
    let encoded = deflate(&plain, Encoder::Flate2(9));
    let memory = Memory::new(4 << 20);
    let reader = reader_within(&encoded[..], known(&plain, u64::MAX), &memory);
    let mut offset = 0;
    while let Some(span) = reader.span_at(offset).unwrap() {
        assert!(span.bytes().len() <= (1 << 20) + 258);
        assert!(memory.used() <= 4 << 20);
        offset += span.bytes().len() as u64;
    }
    assert_eq!(offset, plain.len() as u64);
}

#[test]
fn checkpoints_of_many_small_spans_stay_few() {
    let plain = data(Data::Floats, 1 << 20, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let memory = Memory::new(1 << 20);
    let reader = reader_within(&encoded[..], known(&plain, 1), &memory);
    assert!(read(&reader, plain.len() as u64 - 9, 9).unwrap() == plain[plain.len() - 9..]);
    assert!(memory.used() <= 1 << 20);
    assert!(index_bytes(&memory) < 512 << 10, "{}", memory.used());
    let middle = plain.len() as u64 / 2;
    assert!(read(&reader, middle, 100).unwrap() == slice(&plain, middle, 100));
}

#[test]
fn what_is_given_up_after_a_pass_reads_the_same_again() {
    let plain = data(Data::Text, 1 << 20, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let memory = Memory::new(PLENTY);
    let reader = reader_within(&encoded[..], known(&plain, 65536), &memory);
    for at in (0..plain.len()).step_by(50_000) {
        assert!(read(&reader, at as u64, 50_000).unwrap() == slice(&plain, at as u64, 50_000));
        reader.give_up(0..at as u64);
        let earlier = at as u64 / 2;
        assert!(read(&reader, earlier, 100).unwrap() == slice(&plain, earlier, 100));
    }
    reader.give_up(0..u64::MAX);
    assert!((0..16).all(|number| !is_cached(&reader, number * 65536)));
    assert!(read(&reader, 0, plain.len()).unwrap() == plain);
}

#[test]
fn a_span_outlives_its_place_in_the_cache() {
    let plain = data(Data::Text, 500_000, 1);
    let encoded = deflate(&plain, Encoder::Flate2(6));
    let memory = Memory::new(400_000);
    let reader = reader_within(&encoded[..], known(&plain, 100_000), &memory);
    let spans: Vec<_> =
        (0..5).map(|number| reader.span_at(number * 100_000 + 300).unwrap().unwrap()).collect();
    memory.clear();
    let joined: Vec<u8> = spans.iter().flat_map(|span| span.bytes()).copied().collect();
    assert!(joined == plain);
    assert!(spans.is_sorted_by_key(|span| span.start()));
}
