//! The real program, on real mounts: what it prints, how it ends, and what it leaves.
//!
//! These tests need root, /dev/fuse and fuse3: without them they fail and say so. What an
//! ordinary user does is tried as nobody. They run beside each other: each in a directory of its
//! own, and what is the machine's (/dev/fuse, /etc/fuse.conf) is only changed inside a private
//! mount namespace.

mod background;
mod demo;
mod errors;
mod mounting;
mod support;
mod unmounting;
mod unprivileged;
