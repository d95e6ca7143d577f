//! The thread that sent a request, and whether this thread still runs.

use std::{fs, io};

/// The thread that sent a request; may be unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Asker(Option<u32>);

impl Asker {
    /// The thread with the number `id` in our PID namespace. The kernel gives 0 for a thread of
    /// another namespace, which is unknown here.
    pub(crate) fn thread(id: u32) -> Self {
        Self((id != 0).then_some(id))
    }

    /// An unknown thread, which counts as running.
    pub(crate) fn unknown() -> Self {
        Self(None)
    }

    /// Whether the thread still runs. An unknown thread counts as running.
    pub(crate) fn is_there(self) -> bool {
        let Some(id) = self.0 else { return true };
        match fs::read(format!("/proc/{id}/stat")) {
            Ok(stat) => is_running(&stat),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}

/// Whether the thread of this /proc/PID/stat runs. By proc_pid_stat(5) the state follows the name,
/// which is in parentheses and may contain parentheses itself. A zombie (Z) does not run: it is
/// dead, and its parent has not waited for it yet.
fn is_running(stat: &[u8]) -> bool {
    let name_end = stat.iter().rposition(|&byte| byte == b')');
    let state = name_end.and_then(|end| stat.get(end + 2));
    !matches!(state, Some(b'Z' | b'X' | b'x'))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_there_until_it_is_dead() {
        assert!(Asker::thread(std::process::id()).is_there());
        assert!(Asker::unknown().is_there() && Asker::thread(0).is_there());
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let asker = Asker::thread(child.id());
        assert!(asker.is_there());
        child.kill().unwrap();
        // The child is a zombie until `wait`.
        while asker.is_there() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!asker.is_there());
    }

    #[test]
    fn the_state_follows_the_name_whatever_that_is() {
        assert!(is_running(b"1 (Z) S 2"));
        assert!(!is_running(b"1 (a) S) Z 2"));
        assert!(!is_running(b"1 (cat) X"));
        assert!(is_running(b"1 (cat"));
    }
}
