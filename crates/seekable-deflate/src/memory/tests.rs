use super::{cache::OLDEST, *};

fn span(buffer: Vec<u8>) -> Span {
    let range = 0..buffer.len();
    Span::new(0, buffer, range)
}

#[test]
fn the_buffer_of_the_span_that_has_to_go_is_used_again() {
    let memory = Memory::new(3 << 20);
    let reader = memory.add_reader();
    let first = vec![1; 1 << 20];
    let place = first.as_ptr();
    memory.insert(reader, 0, &span(first));
    memory.insert(reader, 1, &span(vec![2; 1 << 20]));
    let (buffer, _) = memory.buffer(1_000_000);
    assert_ne!(buffer.as_ptr(), place, "there is room for one more");
    memory.insert(reader, 2, &span(buffer));
    let (buffer, _) = memory.buffer(1_000_000);
    assert_eq!(buffer.as_ptr(), place);
    assert!(memory.span(reader, 0).is_none() && memory.span(reader, 1).is_some());
}

#[test]
fn the_oldest_span_whose_buffer_serves_is_dropped() {
    let memory = Memory::new(3 << 20);
    let reader = memory.add_reader();
    for (number, len) in [500_000, 1 << 20, 500_000, 500_000].into_iter().enumerate() {
        memory.insert(reader, number, &span(vec![1; len]));
    }
    let held = memory.peek(reader, 1).unwrap();
    let place = held.bytes().as_ptr();
    let cached = || (0..4).filter(|at| memory.peek(reader, *at).is_some()).collect::<Vec<_>>();
    drop(held);
    let (buffer, _) = memory.buffer(1_000_000);
    assert_eq!((buffer.as_ptr(), cached()), (place, vec![0, 2, 3]));
    memory.insert(reader, 1, &span(buffer));
    // Spans whose buffers do not fit are dropped in the order of their last use.
    memory.buffer(1_500_000);
    assert_eq!(cached(), [1, 3]);
}

#[test]
fn spans_of_another_size_that_nobody_reads_do_not_stay() {
    let memory = Memory::new(4 << 20);
    let reader = memory.add_reader();
    for number in 0..3 {
        memory.insert(reader, number, &span(vec![1; 1 << 20]));
    }
    let unread = || (0..3).filter(|number| memory.peek(reader, *number).is_some()).count();
    for number in 3..100 {
        let (buffer, lent) = memory.buffer(100_000);
        drop(lent);
        memory.insert(reader, number, &span(buffer));
        assert!(number > 8 + OLDEST || unread() > 0, "not at once");
    }
    assert_eq!(unread(), 0);
    let cached = (3..100).filter(|number| memory.peek(reader, *number).is_some()).count();
    assert!(cached >= 35, "{cached} of 41 that there is room for");
}

#[test]
fn two_that_decode_at_once_both_use_buffers_again() {
    let memory = Memory::new(4 << 20);
    let reader = memory.add_reader();
    let spans = [1, 2, 3].map(|byte| vec![byte; 1 << 20]);
    let places: Vec<_> = spans.iter().map(|span| span.as_ptr()).collect();
    for (number, bytes) in spans.into_iter().enumerate() {
        memory.insert(reader, number, &span(bytes));
    }
    let (first, lent) = memory.buffer(1_000_000);
    assert!(!places.contains(&first.as_ptr()), "there is room for one more");
    let (second, also_lent) = memory.buffer(1_000_000);
    assert_eq!(second.as_ptr(), places[0]);
    drop((lent, also_lent));
    assert!(!places.contains(&memory.buffer(1_000_000).0.as_ptr()));
}

#[test]
fn a_span_that_somebody_holds_keeps_its_buffer() {
    let memory = Memory::new(1 << 20);
    let reader = memory.add_reader();
    let held = span(vec![1; 1_000_000]);
    memory.insert(reader, 0, &held);
    let (buffer, _) = memory.buffer(1_000_000);
    assert_ne!(buffer.as_ptr(), held.bytes().as_ptr());
    assert_eq!(memory.used(), 0);
    assert!(held.bytes().iter().all(|byte| *byte == 1));
}

#[test]
fn what_is_given_up_is_used_again_and_counted_until_then() {
    let memory = Memory::new(1 << 20);
    let reader = memory.add_reader();
    let first = vec![1; 100_000];
    let place = first.as_ptr();
    memory.insert(reader, 0, &span(first));
    memory.insert(reader, 1, &span(vec![2; 100_000]));
    memory.give_up(reader, 0..1);
    assert!(memory.peek(reader, 0).is_none() && memory.peek(reader, 1).is_some());
    assert!(memory.used() >= 200_000);
    let (buffer, _) = memory.buffer(90_000);
    assert_eq!(buffer.as_ptr(), place);
    assert!(memory.used() < 200_000);
    memory.give_up(reader, 0..2);
    memory.clear();
    assert_eq!(memory.used(), 0);
}

#[test]
fn spare_buffers_that_do_not_fit_go_before_spans() {
    let memory = Memory::new(3 << 20);
    let reader = memory.add_reader();
    memory.insert(reader, 0, &span(vec![1; 1 << 20]));
    memory.insert(reader, 1, &span(vec![2; 1 << 20]));
    memory.give_up(reader, 0..1);
    assert!(memory.buffer(2_000_000).0.len() >= 2_000_000);
    assert!(memory.peek(reader, 1).is_some());
}

#[test]
fn a_smaller_budget_drops_what_is_too_much_at_once() {
    let memory = Memory::new(50_000);
    let reader = memory.add_reader();
    for number in 0..4 {
        memory.insert(reader, number, &span(vec![1; 10_000]));
    }
    memory.set_limit(25_000);
    let cached = || (0..6).filter(|at| memory.peek(reader, *at).is_some()).collect::<Vec<_>>();
    assert_eq!(cached(), [2, 3]);
    assert!(memory.used() < 25_000);
    memory.insert(reader, 4, &span(vec![1; 10_000]));
    assert_eq!(cached(), [3, 4]);
    memory.set_limit(50_000);
    memory.insert(reader, 5, &span(vec![1; 10_000]));
    assert_eq!(cached(), [3, 4, 5]);
}

#[test]
fn spans_leave_in_the_order_of_their_last_use() {
    let memory = Memory::new(10_000);
    let reader = memory.add_reader();
    for number in 0..4 {
        memory.insert(reader, number, &span(vec![0; 2450]));
        memory.span(reader, 0);
    }
    let cached: Vec<_> = (0..4).filter(|at| memory.peek(reader, *at).is_some()).collect();
    assert_eq!(cached, [0, 2, 3]);
    memory.insert(reader, 4, &span(vec![0; 10_001]));
    assert!(memory.peek(reader, 4).is_none() && memory.peek(reader, 0).is_some());
}

#[test]
fn what_is_set_aside_is_counted_and_spans_go_for_it() {
    let memory = Memory::new(10_000);
    let reader = memory.add_reader();
    memory.insert(reader, 0, &span(vec![0; 4000]));
    let held = memory.used();
    let reserved = memory.reserve(5000, 5000).unwrap();
    assert_eq!(memory.used(), held + 5000);
    assert!(memory.peek(reader, 0).is_some(), "there is room for both");
    assert!(memory.reserve(1, 5000).is_none());
    let anyway = memory.reserve_anyway(2000);
    assert!(memory.peek(reader, 0).is_none());
    assert_eq!(memory.used(), 7000);
    drop((reserved, anyway));
    assert_eq!(memory.used(), 0);
}

/// An index that gives up half of its memory each time, down to 100 bytes.
struct Halved(AtomicU64);

impl Thin for Halved {
    fn thin(&self) -> u64 {
        let half = (self.0.load(Ordering::Relaxed) / 2).max(100);
        self.0.store(half, Ordering::Relaxed);
        half
    }
}

#[test]
fn the_largest_index_is_thinned_until_all_take_half_or_none_can_take_less() {
    let memory = Memory::new(1000);
    let indexes = [400, 300].map(|bytes| Arc::new(Halved(bytes.into())));
    let readers = [memory.add_reader(), memory.add_reader()];
    memory.set_index(readers[0], &indexes[0], 400);
    memory.set_index(readers[1], &indexes[1], 300);
    assert_eq!(memory.used(), 200 + 300);
    memory.set_limit(100);
    indexes[1].0.store(301, Ordering::Relaxed);
    memory.set_index(readers[1], &indexes[1], 301);
    assert_eq!(memory.used(), 100 + 100);
}

#[test]
fn a_few_buffers_of_replies_are_kept_though_the_budget_is_full() {
    let memory = Memory::new(16 << 20);
    let reader = memory.add_reader();
    (0..16).for_each(|number| memory.insert(reader, number, &span(vec![1; 1 << 20])));
    (0..10).for_each(|_| memory.keep_reply_buffer(vec![7; 300_000]));
    assert!(memory.used() <= 16 << 20);
    let kept = (0..10).filter(|_| memory.reply_buffer(0).capacity() >= 300_000);
    assert_eq!(kept.count(), 3);
    let buffer = memory.reply_buffer(500_000);
    assert!(buffer.is_empty() && buffer.capacity() >= 500_000);
}

#[test]
fn buffers_of_replies_go_when_the_budget_shrinks() {
    let memory = Memory::new(16 << 20);
    (0..3).for_each(|_| memory.keep_reply_buffer(vec![7; 300_000]));
    assert_eq!(memory.used(), 900_000);
    memory.set_limit(8 << 20);
    assert_eq!(memory.used(), 300_000);
    memory.clear();
    assert_eq!(memory.used(), 0);
}
