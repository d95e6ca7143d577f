//! The real program, on real mounts: what it prints, how it ends, and what it leaves.
//!
//! These tests need root, /dev/fuse and fuse3. Without root they say that they are not run, and
//! without the others they fail and say so. What an ordinary user does is tried as nobody. Tests
//! run at the same time: each has its own directory, and changes what belongs to the machine
//! (/dev/fuse, /etc/fuse.conf) in a private mount namespace only.

mod background;
mod demo;
mod errors;
mod mounting;
mod support;
mod unmounting;
mod unprivileged;
