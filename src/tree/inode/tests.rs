//! Tests of the kernel's references to inodes.

use std::sync::mpsc;

use super::*;

/// Numbers from `first` on.
fn from<K>(first: u64) -> impl FnOnce(&K) -> Box<dyn Iterator<Item = Ino>> {
    move |_| Box::new((first..).map(Ino))
}

#[test]
fn forget_of_the_last_lookup_frees_the_inode_and_the_same_thing_gets_its_number_again() {
    let inodes = Inodes::new("root");
    let (first, _) = inodes.look_up("key", from(7), || "node");
    assert_eq!(inodes.look_up("key", from(9), || unreachable!()).0, first);
    inodes.forget(first, 1);
    assert!(inodes.get(first).is_some());
    inodes.forget(first, 1);
    assert!(inodes.get(first).is_none());
    assert_eq!(inodes.look_up("key", from(7), || "node").0, Ino(7));
    assert_eq!(inodes.count(), (2, 1));
}

#[test]
fn two_things_that_live_never_have_one_number() {
    let inodes = Inodes::new("root");
    assert_eq!(inodes.look_up("one", from(1), || "one").0, Ino(2), "the root has 1");
    assert_eq!(inodes.look_up("two", from(2), || "two").0, Ino(3));
    inodes.forget(Ino(2), 1);
    assert_eq!(inodes.look_up("two", from(2), || unreachable!()).0, Ino(3), "while it lives");
    assert_eq!(inodes.get(Ino(3)).as_deref(), Some(&"two"));
}

#[test]
fn blocks_lie_beside_each_other() {
    let inodes = Inodes::new(0);
    let block = |key, first, len: u32| {
        let block = inodes.block(key, from(first), || (len, Box::new(|place| place)));
        let ino = block.look_up(0);
        (block, ino.0)
    };
    let (_one, first) = block("one", 100, 10);
    assert_eq!(first, 100);
    for (key, first, len, wanted) in [
        ("on it", 100, 10, 110),
        ("its last", 109, 1, 120),
        ("around it", 95, 30, 121),
        ("before it", 95, 5, 95),
        ("the number before that", 94, 1, 94),
        ("empty", 99, 0, 151),
    ] {
        let (block, found) = block(key, first, len);
        assert_eq!(found, wanted, "{key}");
        std::mem::forget(block);
    }
}

#[test]
fn what_lies_in_a_block_has_numbers_in_a_row() {
    let inodes = Inodes::new("root".to_owned());
    let block = || inodes.block("key", from(5000), || (1000, Box::new(|place| place.to_string())));
    let (first, last) = (block().look_up(0), block().look_up(999));
    assert_eq!((first, last), (Ino(5000), Ino(5999)));
    assert_eq!(inodes.get(last).as_deref(), Some(&"999".to_owned()));
    assert_eq!(inodes.get(Ino(first.0 + 1)), None, "nobody has looked it up");
    assert_eq!(inodes.get(Ino(last.0 + 1)), None, "it is not in the block");
    assert_eq!(block().look_up(999), last);
    assert_eq!(inodes.count(), (3, 3));

    inodes.forget(last, 2);
    inodes.forget(Ino(last.0 - 1), 1);
    assert_eq!(inodes.get(last), None);
    inodes.forget(first, 1);
    assert_eq!(inodes.count(), (1, 0));
    let held = block();
    let again = held.look_up(0);
    inodes.forget(again, 1);
    assert_eq!(held.look_up(0), again, "in use, it stays without any inode");
    drop(held);
    assert_eq!(inodes.get(again).as_deref(), Some(&"0".to_owned()));
}

#[test]
fn who_opens_an_inode_while_it_is_opened_for_the_first_time_waits() {
    let inodes = Inodes::new("root");
    let block = inodes.block("key", from(9), || (3, Box::new(|_| "node")));
    let ino = block.look_up(1);
    let (began, has_begun) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let (told, order) = mpsc::channel();
    let mut was_early = false;
    std::thread::scope(|scope| {
        let (inodes, told_first) = (&inodes, told.clone());
        scope.spawn(move || {
            inodes.at_first_open(ino, || {
                began.send(()).unwrap();
                ended.recv().unwrap();
                told_first.send("first").unwrap();
            });
        });
        has_begun.recv().unwrap();
        let (comes, has_come) = mpsc::channel();
        scope.spawn(move || {
            comes.send(()).unwrap();
            inodes.at_first_open(ino, || unreachable!());
            told.send("second").unwrap();
        });
        has_come.recv().unwrap();
        // Gives the second thread time to send, if it wrongly does not wait.
        (0..1000).for_each(|_| std::thread::yield_now());
        was_early = order.try_recv().is_ok();
        // Another inode does not wait.
        let other = block.look_up(2);
        let mut was_done = false;
        inodes.at_first_open(other, || was_done = true);
        assert!(was_done);
        end.send(()).unwrap();
    });
    assert!(!was_early);
    assert_eq!(order.iter().collect::<Vec<_>>(), ["first", "second"]);
}

#[test]
fn a_block_of_which_nothing_is_left_leaves_nothing() {
    let inodes = Inodes::new("root");
    let empty = inodes.memory();
    for key in 0..100 {
        let block = inodes.block(key, from(1000), || (10, Box::new(|_| "node")));
        assert_eq!(block.number(3), Ino(1003), "those before it are gone");
        if key % 2 == 0 {
            let ino = block.look_up(5);
            drop(block);
            inodes.forget(ino, 1);
        }
    }
    assert_eq!(inodes.memory(), empty);
}

#[test]
fn memory_follows_what_lives() {
    let inodes = Inodes::new(0_u64);
    let empty = inodes.memory();
    let block = inodes.block(u64::MAX, from(1 << 40), || (640, Box::new(u64::from)));
    (0..640).for_each(|place| {
        block.look_up(place);
    });
    let with_block = inodes.memory();
    assert!((640 * 8..640 * 16).contains(&(with_block - empty)), "{with_block}");
    for key in 0..1000 {
        inodes.look_up(key, from(2), || 0);
    }
    let full = inodes.memory();
    assert!((1000 * 64..1000 * 512).contains(&(full - with_block)), "{full}");
    (2..1002).for_each(|ino| inodes.forget(Ino(ino), 1));
    assert!(inodes.memory() < full - 1000 * 64);
}

#[test]
fn the_root_is_never_forgotten() {
    let inodes = Inodes::<(), _>::new("root");
    inodes.forget(Ino::ROOT, 7);
    assert!(inodes.get(Ino::ROOT).is_some());
}
