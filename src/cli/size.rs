//! Parses sizes as users write them: `64M`, `1.5G`, `1048576`. Writes them for people.

/// Parses a number of bytes: a plain number, or a number in KiB, MiB, GiB or TiB.
///
/// # Errors
/// One line for the user, if `text` is not a size or does not fit into 64 bits.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size: give bytes, or a number with K, M, G or T");
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let number = |digits: &str| -> Result<u128, String> {
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.len() <= 20;
        if plain { Ok(digits.parse().unwrap_or(0)) } else { Err(wrong()) }
    };
    if whole.is_empty() || (digits.contains('.') && (fraction.is_empty() || shift == 0)) {
        return Err(wrong());
    }
    let bytes = (number(whole)? << shift)
        + (number(fraction)? << shift) / 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(20));
    u64::try_from(bytes).map_err(|_| format!("{text:?} is more than can be counted"))
}

/// A number of bytes in three digits or four: `512 B`, `1.5 KiB`, `64 MiB`.
pub(super) fn short(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].into_iter();
    let mut unit = units.next();
    while size >= 999.5
        && let Some(next) = units.next()
    {
        size /= 1024.0;
        unit = Some(next);
    }
    let digits = if size < 9.95 { 1 } else { 0 };
    format!("{size:.digits$} {}", unit.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{parse, short};

    #[test]
    fn sizes_are_written_with_few_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10 << 10, "10 KiB"),
            (1023 << 10, "1.0 MiB"),
            (64 << 20, "64 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(short(bytes), text);
        }
    }

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("4k", 4096),
            ("64M", 64 << 20),
            ("64MiB", 64 << 20),
            ("64mb", 64 << 20),
            ("1.5G", 3 << 29),
            ("0.25K", 256),
            ("2T", 2 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "M",
            "-1",
            "+1",
            "1X",
            "1.5",
            "1.M",
            ".5M",
            "1 M",
            "0x10",
            "1e3",
            "1.2.3M",
            "18446744073709551616",
            "99999999999T",
            "1M1",
            "123456789012345678901",
            "\u{665}M",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
