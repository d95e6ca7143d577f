//! How bytes get out fast: decode pool, shared readers, read-ahead.
