use std::sync::atomic::Ordering;

use super::*;
use crate::{archive::testing::RawMember, serve::testing::*};

#[test]
fn a_decoder_that_panics_fails_its_readers_and_ends_its_turn() {
    let server = server(2, 8 << 20);
    // Of zstd, and so many bytes that one is decoded at a time. Neither is good.
    let members = ["a", "b"].map(|name| RawMember {
        size: SMALL_DICTIONARY + 1,
        ..RawMember::encoded(name, 93, &[0; 1000], &[])
    });
    let (open, contents) = serve(&members, &server);
    let panics = &open.archive().source().panics;
    panics.store(true, Ordering::Relaxed);
    for reply in [read(&contents[0], 0), read(&contents[0], 0)] {
        let failed = reply.recv_timeout(WAIT).unwrap();
        assert!(matches!(failed, Err(Error::Damaged(_))), "{failed:?}");
    }
    panics.store(false, Ordering::Relaxed);
    assert!(read(&contents[1], 0).recv_timeout(WAIT).unwrap().is_err(), "its turn comes");
}
