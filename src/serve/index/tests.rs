use super::*;
use crate::{archive::testing, serve::pool::Pool};

/// The saved indexes of an archive. The saver never runs a task.
fn indexes(place: &tempfile::TempDir) -> Arc<ArchiveIndex> {
    let store = Arc::new(Indexes::open(place.path(), u64::MAX).unwrap());
    let saver = Pool::new("test", 1).unwrap().spawner();
    let identity = Identity { hash: [7; 32], fraction: 0 };
    ArchiveIndex::new(store, saver, testing::source_of(b"bytes"), Box::new(move || Ok(identity)))
}

#[test]
fn a_pass_is_saved_at_its_end_and_each_gib_but_not_before_a_quarter_is_new() {
    let place = tempfile::tempdir().unwrap();
    for (saved, unsaved, bytes, ended, is_saved) in [
        (0, 0, 100, true, true),
        (0, 0, STEP - 1, false, false),
        (0, 0, STEP, false, true),
        (0, STEP - 1, 1, false, true),
        (0, STEP - 2, 1, false, false),
        (STEP - 1, 0, 100, true, true),
        (STEP, 0, STEP / 4, true, true),
        (STEP, 0, STEP / 4 - 1, true, false),
        (4 * STEP, STEP - 1, 1, false, true),
        (8 * STEP, STEP, STEP - 1, false, false),
        (8 * STEP, STEP, STEP - 1, true, false),
        (8 * STEP, STEP, STEP, false, true),
    ] {
        let index = indexes(&place);
        index.saved.store(saved, Ordering::Relaxed);
        index.unsaved.store(unsaved, Ordering::Relaxed);
        index.progress(bytes, ended);
        let is_queued = index.queued.load(Ordering::Relaxed);
        assert_eq!(is_queued, is_saved, "{saved} saved, {unsaved} not, {bytes} more, {ended}");
        assert_eq!(index.unsaved.load(Ordering::Relaxed), unsaved + bytes);
    }
}
