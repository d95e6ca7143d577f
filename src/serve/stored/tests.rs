use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    archive::testing,
    serve::{
        Verify,
        pool::Pool,
        verify::{Alarm, Confirmed, Subject},
    },
};

const WAIT: Duration = Duration::from_secs(60);

/// A stored member of `size` bytes, with the right CRC-32 or a wrong one.
fn stored(pool: &Pool, size: u64, is_right: bool, alarm: Arc<Alarm>) -> Arc<Stored> {
    let data = vec![7; size as usize];
    let source = testing::source_of(&data);
    let subject =
        Subject { source: source.clone(), number: 0, is_stored: true, size, encoded_size: size };
    let verdict =
        Verdict::new(subject, Verify::Always, 0, Confirmed::new(1), Arc::default(), None, alarm);
    let crc32 = crc32fast::hash(&data) ^ u32::from(!is_right);
    Stored::new(source, 0, size, Some(crc32), verdict, pool.spawner())
}

#[test]
fn a_pass_goes_as_far_as_somebody_waits_for_and_ends() {
    let pool = Pool::new("test", 1).unwrap();
    let stored = stored(&pool, 3 * PIECE, true, Arc::default());
    for (target, passed) in [(1, PIECE), (2 * PIECE, 2 * PIECE), (3 * PIECE, 3 * PIECE)] {
        let (sender, receiver) = mpsc::channel();
        stored.pass_to(target, Box::new(move |result| sender.send(result.is_ok()).unwrap()));
        assert_eq!(receiver.recv_timeout(WAIT), Ok(true));
        let start = Instant::now();
        while stored.pass.lock().is_running {
            assert!(start.elapsed() < WAIT);
            std::thread::yield_now();
        }
        assert_eq!(stored.passed(), passed);
    }
    assert!(stored.verdict.is_confirmed());
}

#[test]
fn who_comes_while_it_is_compared_at_once_is_answered() {
    let pool = Pool::new("test", 1).unwrap();
    let alarm = Arc::new(Alarm::default());
    let stored = stored(&pool, 1000, false, alarm.clone());
    let (sender, receiver) = mpsc::channel();
    let another = Arc::downgrade(&stored);
    // The listener is called in the middle of the comparison. It requests another one.
    alarm.listen(Box::new(move |_, _| {
        let sender = sender.clone();
        let reply: Reply = Box::new(move |result| sender.send(result.is_err()).unwrap());
        another.upgrade().unwrap().pass_to(1000, reply);
    }));
    stored.verdict.watch(1);
    stored.compare_at_once();
    assert_eq!(receiver.recv_timeout(WAIT), Ok(true));
}
