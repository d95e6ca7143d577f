//! Formats the results as a table of text, and as JSON.

use std::fmt::Write;

use crate::cases::Outcome;

/// The title of a row, and the text of a cell. `None` if the row does not apply to the outcome.
type Row = (String, fn(&Outcome) -> Option<String>);

/// A table with a column for each kind of data, and rows for each case and number of threads.
pub fn text(outcomes: &[Outcome]) -> String {
    let mut kinds: Vec<_> = outcomes.iter().map(|outcome| outcome.data).collect();
    kinds.dedup();
    let mut cases = Vec::new();
    for outcome in outcomes {
        let case = (outcome.case, outcome.threads);
        if !cases.contains(&case) {
            cases.push(case);
        }
    }

    let heading = kinds.iter().map(|kind| (*kind).to_owned()).collect();
    let mut lines: Vec<(String, Vec<String>)> = vec![("speed / libdeflate's".into(), heading)];
    for case in cases {
        for (name, cell) in rows(case) {
            let cells = kinds.iter().map(|kind| {
                let own = |outcome: &&Outcome| {
                    outcome.data == *kind && (outcome.case, outcome.threads) == case
                };
                outcomes.iter().find(own).and_then(cell)
            });
            let cells: Vec<_> = cells.collect();
            if cells.iter().any(Option::is_some) {
                lines.push((name, cells.into_iter().map(Option::unwrap_or_default).collect()));
            }
        }
    }

    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, cells) in lines {
        write!(text, "{name:<width$}").expect("a string takes all");
        for cell in cells {
            write!(text, "  {cell:>10}").expect("a string takes all");
        }
        text.push('\n');
    }
    text
}

fn rows((case, threads): (&str, usize)) -> Vec<Row> {
    let s = if threads == 1 { "" } else { "s" };
    let rate: Row = if matches!(case, "libdeflate" | "saving the index") {
        (format!("{case}: MB/s"), |outcome| outcome.mb_per_s.map(|rate| format!("{rate:.0}")))
    } else {
        (format!("{case}, {threads} thread{s}"), |outcome| {
            outcome.ratio_to_libdeflate.map(|ratio| format!("{ratio:.2}"))
        })
    };
    let latency: Row = (format!("{case}: median, p99 us"), |outcome| {
        Some(format!("{:.0}, {:.0}", outcome.p50_us?, outcome.p99_us?))
    });
    let index: Row = (format!("{case}: index, % of decoded"), |outcome| {
        // Only for the outcomes of random reads, so that each index appears once.
        outcome.p50_us?;
        let share = outcome.index_bytes? as f64 / outcome.decoded_bytes as f64;
        Some(format!("{:.2}", share * 100.0))
    });
    vec![rate, latency, index]
}

/// A list of JSON objects, one for each outcome. A field that does not apply is `null`.
pub fn json(outcomes: &[Outcome]) -> String {
    let objects = outcomes.iter().map(|outcome| {
        let Outcome { data, case, threads, decoded_bytes, .. } = outcome;
        format!(
            "  {{\"data\": \"{data}\", \"case\": \"{case}\", \"threads\": {threads}, \
             \"mb_per_s\": {}, \"ratio_to_libdeflate\": {}, \"p50_us\": {}, \"p99_us\": {}, \
             \"index_bytes\": {}, \"decoded_bytes\": {decoded_bytes}}}",
            number(outcome.mb_per_s, 1),
            number(outcome.ratio_to_libdeflate, 3),
            number(outcome.p50_us, 1),
            number(outcome.p99_us, 1),
            number(outcome.index_bytes.map(|bytes| bytes as f64), 0),
        )
    });
    format!("[\n{}\n]\n", objects.collect::<Vec<_>>().join(",\n"))
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("null".into(), |value| format!("{value:.digits$}"))
}
