//! Answers FUSE_LOOKUP. If an archive of many members must be opened first, another thread answers.

use std::{ffi::OsString, sync::Arc};

use fuser::{Generation, INodeNo, ReplyEntry};

use super::{INTERRUPTED, attributes::file_attr, fail, requests::Ticket};
use crate::tree::{Attr, FsError, Ino, Tree};

/// Looks `name` up in `parent` and answers. Opening an archive of many members takes a millisecond
/// to a second, and may wait for other archives. A thread that receives requests never does that: a
/// thread of the pool for archives answers instead.
pub(super) fn look_up(
    tree: &Arc<Tree>,
    parent: INodeNo,
    name: OsString,
    ticket: Ticket,
    reply: ReplyEntry,
) {
    match tree.lookup_now(Ino(parent.0), &name, false) {
        Err(FsError::Heavy(weight)) => {
            let waiting = tree.clone();
            tree.spawn_heavy(weight, move || {
                let found = waiting.lookup(Ino(parent.0), &name);
                answer(&waiting, parent, found, ticket, reply);
            });
        }
        found => answer(tree, parent, found, ticket, reply),
    }
}

fn answer(
    tree: &Tree,
    parent: INodeNo,
    found: Result<(Ino, Attr), FsError>,
    ticket: Ticket,
    reply: ReplyEntry,
) {
    match found {
        // The request was interrupted: the kernel does not know this reference and will not forget it.
        Ok((ino, _)) if !ticket.take() => {
            tree.forget(ino, 1);
            reply.error(INTERRUPTED);
        }
        // Inode numbers are never reused, so one generation number is enough.
        Ok((ino, attr)) => {
            reply.entry(&tree.settings().ttl, &file_attr(ino, &attr), Generation(0));
        }
        Err(error) => reply.error(fail(tree, "lookup in", parent, None, &error)),
    }
}
