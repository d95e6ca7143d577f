//! A directory for one test, and what it takes to look at the program from outside.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write as _},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long anything may take before a test gives up on it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Everything a test makes lies in here; what is mounted here goes away with it, and so do the
/// servers that were told of it.
pub struct Sandbox {
    directory: tempfile::TempDir,
}

impl Sandbox {
    /// None without root: then the test is not run, and says so on standard error itself, where
    /// the test harness does not capture it.
    pub fn new() -> Option<Self> {
        assert!(
            Path::new("/dev/fuse").exists(),
            "this test needs /dev/fuse: modprobe fuse, or give the container --device /dev/fuse"
        );
        if !is_root() {
            let thread = thread::current();
            let test = thread.name().unwrap_or("a test of tests/cli");
            writeln!(io::stderr(), "NOT RUN: {test} needs root, for mounts of root and of nobody")
                .expect("standard error is open");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("npzfs-cli-").tempdir().expect("tempdir");
        // nobody must get through.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let sandbox = Self { directory };
        sandbox.dir("src");
        fs::write(sandbox.path("src/notes.txt"), "notes\n").expect("write");
        sandbox.dir("mnt");
        Some(sandbox)
    }

    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn src(&self) -> PathBuf {
        self.path("src")
    }

    pub fn mnt(&self) -> PathBuf {
        self.path("mnt")
    }

    /// Makes a directory.
    pub fn dir(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).expect("mkdir");
        path
    }

    /// Makes a directory that belongs to nobody.
    pub fn nobodys_dir(&self, name: &str) -> PathBuf {
        let path = self.dir(name);
        std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).expect("chown");
        path
    }

    /// Makes this directory a mount that shares nothing. The kernel refuses `mount --move` below a
    /// shared mount, which `/` is under systemd.
    pub fn allow_moves(&self) {
        run(Command::new("mount").arg("--bind").args([self.root(), self.root()])).succeeds();
        run(Command::new("mount").arg("--make-private").arg(self.root())).succeeds();
    }

    /// The mounts in here, as (mount point, type, source), octal escapes and all.
    pub fn mounts(&self) -> Vec<(String, String, String)> {
        let below = format!("{}/", self.root().display());
        let text = fs::read("/proc/self/mountinfo").expect("/proc is mounted");
        String::from_utf8_lossy(&text)
            .lines()
            .filter_map(|line| {
                let (before, after) = line.split_once(" - ")?;
                let point = before.split(' ').nth(4)?;
                let mut after = after.split(' ');
                let entry = (point.to_string(), after.next()?.into(), after.next()?.into());
                point.starts_with(&below).then_some(entry)
            })
            .collect()
    }

    /// Processes whose command line speaks of this directory.
    pub fn servers(&self) -> Vec<u32> {
        let root = self.root().as_os_str().as_bytes();
        pids()
            .filter(|&pid| pid != std::process::id() && !is_zombie(pid))
            .filter(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.windows(root.len()).any(|window| window == root)
            })
            .collect()
    }

    /// The one server in the background.
    pub fn server(&self) -> u32 {
        let servers = self.servers();
        assert_eq!(servers.len(), 1, "one server is expected: {servers:?}");
        servers[0]
    }

    /// Waits until no server runs any more, and asserts that nothing is mounted.
    pub fn assert_all_gone(&self) {
        eventually("the server ends", || self.servers().is_empty());
        assert_eq!(self.mounts(), [], "something is still mounted");
    }

    /// Mounts `src` on `mnt` in the background.
    pub fn mount(&self) {
        run(npzfs().args([self.src(), self.mnt()])).succeeds();
    }

    /// Starts a server of `src` on `mnt` in the foreground, and waits until it is mounted.
    pub fn foreground(&self, options: &[&str]) -> Foreground {
        let mut command = npzfs();
        command.arg("-f").args(options).args([self.src(), self.mnt()]);
        let server = Foreground::start(command);
        server.until_mounted(self)
    }

    /// Leaves a dead mount of ours on `mnt`.
    pub fn dead_mount(&self) {
        self.mount();
        self.kill_server();
    }

    /// Kills the server of `mnt`, and waits until the mount is dead.
    pub fn kill_server(&self) {
        kill("KILL", self.server());
        // While the server is being taken apart, it is ECONNABORTED.
        eventually("the mount is dead", || {
            fs::read_dir(self.mnt()).is_err_and(|error| error.raw_os_error() == Some(107))
        });
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for (point, ..) in self.mounts().into_iter().rev() {
            let point = unescape(&point);
            let _ = Command::new("umount").arg("--lazy").arg(OsStr::from_bytes(&point)).status();
        }
        // The mount of [`Self::allow_moves`], where there is one.
        let _ = Command::new("umount").args(["--quiet", "--lazy"]).arg(self.root()).status();
        for pid in self.servers() {
            kill("KILL", pid);
        }
    }
}

fn unescape(field: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'\\' && tail.len() >= 3 {
            let code = std::str::from_utf8(&tail[..3]).expect("three digits");
            bytes.push(u8::from_str_radix(code, 8).expect("octal"));
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    bytes
}

/// A server in the foreground. It is killed when the test is done with it.
pub struct Foreground {
    child: Child,
}

impl Foreground {
    pub fn start(mut command: Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        Self { child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until something is mounted in the sandbox.
    pub fn until_mounted(mut self, sandbox: &Sandbox) -> Self {
        let mut ended = false;
        eventually("the mount appears", || {
            ended = self.child.try_wait().expect("wait").is_some();
            ended || !sandbox.mounts().is_empty()
        });
        if ended {
            panic!("the server has ended: {:?}", self.end());
        }
        self
    }

    /// Waits for its end: the exit code, if it was not killed, and what it wrote.
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut status = None;
        eventually("the server in the foreground ends", || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        let mut text = String::new();
        let mut stderr = self.child.stderr.take().expect("piped");
        std::io::Read::read_to_string(&mut stderr, &mut text).expect("read");
        (status.expect("it has ended").code(), text)
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that uses the mount, until the test is done with it.
pub struct User(Child);

impl User {
    pub fn new(child: Child) -> Self {
        Self(child)
    }

    /// One that sits in the mount.
    pub fn of(sandbox: &Sandbox) -> Self {
        let mut command = Command::new("sleep");
        Self(command.arg("1000").current_dir(sandbox.mnt()).spawn().expect("sleep"))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How a program ended.
pub struct Ended {
    command: String,
    output: Output,
}

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// It succeeded, and had nothing to say.
    #[track_caller]
    pub fn succeeds(&self) {
        assert_eq!((self.code(), self.stderr().as_str()), (Some(0), ""), "{}", self.command);
    }

    /// It failed with this code and one line, which holds all of `parts`.
    #[track_caller]
    pub fn fails(&self, code: i32, parts: &[&str]) {
        let said = self.stderr();
        assert_eq!(self.code(), Some(code), "{}: {said}", self.command);
        assert!(said.starts_with("npzfs: "), "{}: {said:?}", self.command);
        assert!(said.ends_with('\n') && said.lines().count() == 1, "one line only: {said:?}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is missing from: {said}");
        }
    }
}

/// Runs a program to its end, if that comes in time.
pub fn run(command: &mut Command) -> Ended {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    let pid = child.id();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let worker = thread::spawn(move || {
        let rest = thread::spawn(move || slurp(stderr.expect("piped")));
        (slurp(stdout.expect("piped")), rest.join().expect("no panic"), child.wait())
    });
    let end = Instant::now() + DEADLINE;
    while !worker.is_finished() {
        if Instant::now() > end {
            kill("KILL", pid);
            panic!("{shown} does not end, or something holds its output open");
        }
        thread::sleep(Duration::from_millis(2));
    }
    let (stdout, stderr, status) = worker.join().expect("no panic");
    let status = status.expect("wait");
    Ended { command: shown, output: Output { status, stdout, stderr } }
}

fn slurp(mut from: impl std::io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).expect("read");
    bytes
}

/// The program under test.
pub fn npzfs() -> Command {
    Command::new(env!("CARGO_BIN_EXE_npzfs"))
}

/// nobody, who owns nothing.
pub const NOBODY: u32 = 65534;

/// A command as nobody. The program under test is copied to where nobody can reach it.
pub fn as_nobody(sandbox: &Sandbox) -> Command {
    let copy = sandbox.path("npzfs");
    if !copy.exists() {
        fs::copy(env!("CARGO_BIN_EXE_npzfs"), &copy).expect("copy");
    }
    open_dev_fuse();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(copy);
    command
}

/// Workstations have /dev/fuse at mode 0666; some containers do not.
fn open_dev_fuse() {
    let mode = fs::metadata("/dev/fuse").expect("stat /dev/fuse").permissions().mode();
    if mode & 0o666 != 0o666 {
        fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o666)).expect("chmod");
    }
}

/// A shell script in a mount namespace of its own, with `$1`, `$2`, ... from `arguments`.
pub fn in_namespace(script: &str, arguments: &[&OsStr]) -> Command {
    // The mounts of other tests come along, and would keep their servers from ending.
    let script = format!("umount --lazy --all --types fuse.npzfs 2>/dev/null || true; {script}");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--", "sh", "-e", "-c", &script, "sh"])
        .args(arguments);
    command
}

pub fn kill(signal: &str, pid: u32) {
    let _ = Command::new("kill").args(["-s", signal, &pid.to_string()]).status();
}

/// Polls until `done`, and fails when that takes too long.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < end, "this did not happen in time: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").expect("/proc is mounted").uid() == 0
}

fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Whether a process has ended, and its parent has not asked how.
fn is_zombie(pid: u32) -> bool {
    state(&format!("/proc/{pid}")) == Some('Z')
}

/// The state of a process or thread, by its directory in /proc.
fn state(directory: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("{directory}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Stops a process, and waits until all its threads stand still.
pub fn stop(pid: u32) {
    kill("STOP", pid);
    eventually("the process stops", || {
        fs::read_dir(format!("/proc/{pid}/task"))
            .expect("it lives")
            .flatten()
            .all(|task| state(task.path().to_str().expect("ASCII")) == Some('T'))
    });
}

/// Makes a filesystem of type fuse.other on `mountpoint` that nobody serves, and returns the
/// process that holds its /dev/fuse. While that lives, the mount hangs; then it is dead.
pub fn foreign_fuse(mountpoint: &Path) -> Child {
    let script = "exec 7<>/dev/fuse; \
                  mount -i -t fuse.other -o fd=7,rootmode=40000,user_id=0,group_id=0 other \"$1\"; \
                  exec sleep 1000";
    let child = Command::new("bash")
        .args(["-e", "-c", script, "bash"])
        .arg(mountpoint)
        .spawn()
        .expect("bash");
    eventually("the foreign mount appears", || {
        let text = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        text.contains(&format!(" {} ", mountpoint.display()))
    });
    child
}
