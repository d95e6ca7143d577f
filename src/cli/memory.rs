//! Computes the memory limit and the cache size from `--memory-limit` and `--cache-size`.

/// Memory that the program needs in addition to the cache: threads, buffers, open files. Bytes.
const BESIDE: u64 = 40 << 20;

/// The smallest `--memory-limit` that is accepted, in bytes.
const LEAST_LIMIT: u64 = BESIDE + (8 << 20);

/// The memory limit and the cache size if neither option is given. Bytes.
const DEFAULT_LIMIT: u64 = 256 << 20;
const DEFAULT_CACHE: u64 = 64 << 20;

/// Returns the memory limit, and the size of the cache within it, both in bytes.
///
/// If only a large cache size is given, the limit grows with it: the program then keeps the 192 MiB
/// that it has in addition to the cache by default.
///
/// # Errors
/// One line for the user, if the limit leaves too little memory in addition to the cache.
pub(super) fn divide(limit: Option<u64>, cache: Option<u64>) -> Result<(u64, u64), String> {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match (limit, cache) {
        (None, cache) => {
            let cache = cache.unwrap_or(DEFAULT_CACHE);
            Ok((DEFAULT_LIMIT.max(cache.saturating_add(DEFAULT_LIMIT - DEFAULT_CACHE)), cache))
        }
        (Some(limit), _) if limit < LEAST_LIMIT => Err(format!(
            "--memory-limit of {limit} bytes is too small: give {} MiB or more",
            mib(LEAST_LIMIT)
        )),
        (Some(limit), None) => Ok((limit, DEFAULT_CACHE.min(limit / 4).min(limit - BESIDE))),
        (Some(limit), Some(cache)) if cache > limit - BESIDE => Err(format!(
            "--cache-size of {} MiB does not fit into --memory-limit: it must be at least {} \
             MiB less",
            mib(cache),
            mib(BESIDE)
        )),
        (Some(limit), Some(cache)) => Ok((limit, cache)),
    }
}

#[cfg(test)]
mod tests {
    use super::divide;

    const M: u64 = 1 << 20;

    #[test]
    fn the_limit_covers_the_cache() {
        for (limit, cache, divided) in [
            (None, None, (256 * M, 64 * M)),
            (None, Some(0), (256 * M, 0)),
            (None, Some(1024 * M), (1216 * M, 1024 * M)),
            (None, Some(u64::MAX), (u64::MAX, u64::MAX)),
            (Some(128 * M), None, (128 * M, 32 * M)),
            (Some(48 * M), None, (48 * M, 8 * M)),
            (Some(50 * M), Some(0), (50 * M, 0)),
            (Some(4096 * M), None, (4096 * M, 64 * M)),
            (Some(4096 * M), Some(4000 * M), (4096 * M, 4000 * M)),
        ] {
            assert_eq!(divide(limit, cache), Ok(divided), "{limit:?} {cache:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        for (limit, cache, named) in [
            (47 * M, None, "48 MiB"),
            (0, Some(0), "48 MiB"),
            (256 * M, Some(217 * M), "40 MiB less"),
        ] {
            let error = divide(Some(limit), cache).expect_err("does not fit");
            assert!(error.contains(named), "{error}");
        }
    }
}
