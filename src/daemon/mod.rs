//! Mounting, readiness, signals, unmounting.
