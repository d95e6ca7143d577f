//! What can be done with archives without a mount: finding them, listing, checking and indexing
//! members.
//!
//! For `npzfs ls`, `npzfs verify` and `npzfs index`. Prints nothing.
#![forbid(unsafe_code)]

mod find;
mod index;
mod list;
mod members;
mod parallel;
mod verify;

pub(crate) use find::{Archives, Found, Missing};
pub(crate) use index::{Failure, index};
pub(crate) use list::{MemberRow, Saved, list};
pub(crate) use members::{Progress, Totals};
pub(crate) use verify::{Damage, verify};
