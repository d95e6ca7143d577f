//! What can be done with archives without a mount: finding them, listing and checking members.
//!
//! For `npzfs ls` and `npzfs verify`. Prints nothing.
#![forbid(unsafe_code)]

mod find;
mod list;
mod parallel;
mod verify;

pub(crate) use find::{Archives, Found, Missing};
pub(crate) use list::{MemberRow, Saved, list};
pub(crate) use verify::{Damage, Progress, Totals, verify};
