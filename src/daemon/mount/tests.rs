//! What helps a mount, without one.

use std::sync::mpsc;

use super::*;

#[test]
fn no_more_than_64_threads_answer() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let source = crate::tree::Source::open(directory.path()).expect("it is there");
    let tree = Tree::new(source, Default::default()).expect("it is a directory");
    let device = || std::fs::File::open("/dev/null").expect("it is there").into();
    let (events, _listener) = mpsc::channel();
    let mut more = More {
        filesystem: Watched::new(Npzfs::new(Arc::new(tree), device())),
        device: device(),
        acl: SessionACL::Owner,
        ended: Arc::default(),
        events,
        is_refused: false,
    };
    for threads in [64, 65, 1000] {
        assert_eq!(more.answer(threads), 0, "{threads}");
    }
}
