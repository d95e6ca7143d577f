//! Parses the command line.

use crate::data::KINDS;

/// The parsed command line.
#[derive(Debug)]
pub struct Options {
    /// Decoded bytes of each kind of data.
    pub size: usize,
    /// Timed runs of each decoder.
    pub runs: usize,
    /// The numbers of threads to run with, each at least 1, ascending.
    pub threads: Vec<usize>,
    kinds: Vec<String>,
}

impl Options {
    /// Reads the arguments that follow the name of the program.
    ///
    /// # Errors
    /// A message for the user, if an argument is unknown or has no valid value.
    pub fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        // The number that this process may run at once, not the number of the machine's cores.
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = [1, 2, all].into_iter().filter(|threads| *threads <= all).collect();
        let mut options = Self { size: 128 << 20, runs: 5, threads, kinds: Vec::new() };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} takes a value"));
            match argument.as_str() {
                // `cargo bench` adds this argument.
                "--bench" => (),
                "--size" => options.size = number(&value()?)? << 20,
                "--runs" => options.runs = number(&value()?)?,
                "--threads" => {
                    options.threads = value()?.split(',').map(number).collect::<Result<_, _>>()?;
                }
                kind if KINDS.iter().any(|(name, _)| *name == kind) => {
                    options.kinds.push(argument);
                }
                _ => {
                    let kinds = KINDS.map(|(name, _)| name).join(" ");
                    return Err(format!("{argument}: neither an option nor one of {kinds}"));
                }
            }
        }
        options.threads.sort_unstable();
        options.threads.dedup();
        Ok(options)
    }

    /// Whether a kind of data is wanted: all are, unless some were named.
    pub fn has(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|own| own == kind)
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or(format!("{text} is no positive number"))
}
