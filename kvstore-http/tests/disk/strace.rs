//! Disk faults under the real program: strace answers one system call instead of the kernel. It
//! counts calls by thread. Every test checks strace's log for the fault, since a fault that did not
//! occur proves nothing.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use kvstore_testing::{missing, tool};

const REMEDY: &str =
    "strace may not trace here: run ./check as root, in a container with --privileged";

/// Number of calls of a thread that find no room.
const FULL_CALLS: usize = 30;

/// The fault of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails once; the next call would succeed, which is why a failed sync is so easy to miss.
    Broken,
    /// There is no room for a while.
    Full,
    /// A write reports that it wrote zero bytes.
    Nothing,
    /// A signal interrupted it; it must be retried.
    Interrupted,
    /// A write falsely reports that it wrote some bytes.
    Lie,
    /// The process is killed instead.
    Kill,
}

impl Fault {
    /// Returns strace's syntax for the fault at a thread's call `number`, counted from 1.
    fn text(self, number: usize) -> String {
        match self {
            Self::Broken => format!("error=EIO:when={number}"),
            // It ends by itself: a call in progress when strace detaches would get a meaningless
            // result.
            Self::Full => format!("error=ENOSPC:when={number}..{}", number + FULL_CALLS),
            Self::Nothing => format!("retval=0:when={number}"),
            Self::Interrupted => format!("error=EINTR:when={number}"),
            Self::Lie => format!("retval=9:when={number}"),
            Self::Kill => format!("signal=KILL:when={number}"),
        }
    }
}

/// A fault and its place.
#[derive(Clone, Debug)]
pub(crate) struct Injection {
    /// The name of a system call.
    pub(crate) call: &'static str,
    /// The number of the call within its thread, from 1.
    pub(crate) number: usize,
    pub(crate) fault: Fault,
    /// The only files whose calls count; all files if empty.
    pub(crate) paths: Vec<PathBuf>,
}

impl Injection {
    /// Returns a command that runs a program under strace, but with a process id and exit status of
    /// its own.
    pub(crate) fn wrapper(&self, log: &Path) -> Vec<String> {
        let words = ["strace", "-D"].map(str::to_owned);
        words.into_iter().chain(self.words(log)).collect()
    }

    /// Attaches to the process `id`, from its next call on.
    pub(crate) fn attach(&self, id: u32, log: &Path) -> Strace {
        // The log of an earlier injection must not count.
        let _ = std::fs::remove_file(log);
        let mut child = tool("strace")
            .args(["-p", &id.to_string()])
            .args(self.words(log))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let said = lines.next().and_then(Result::ok).unwrap_or_default();
        if !said.contains(" attached") {
            missing(&format!("{REMEDY} ({said})"));
        }
        // Reads on, so that the pipe does not break.
        std::thread::spawn(move || lines.for_each(drop));
        Strace { child }
    }

    fn words(&self, log: &Path) -> Vec<String> {
        let (call, fault) = (self.call, self.fault.text(self.number));
        let mut words = vec!["-f".to_owned(), "-o".to_owned(), log.display().to_string()];
        for path in &self.paths {
            words.extend(["-P".to_owned(), path.display().to_string()]);
        }
        for filter in [
            format!("trace={call}"),
            "signal=none".to_owned(),
            format!("inject={call}:{fault}"),
        ] {
            words.extend(["-e".to_owned(), filter]);
        }
        words
    }
}

/// Counts the injected faults in strace's log.
pub(crate) fn count_injected(log: &Path) -> usize {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    log.matches("(INJECTED)").count()
}

/// An strace attached to a process.
#[derive(Debug)]
pub(crate) struct Strace {
    child: Child,
}

impl Strace {
    /// Detaches strace, and lets the process continue if it still exists.
    pub(crate) fn detach(mut self) {
        // It may be ending already.
        let _ = tool("kill")
            .args(["-s", "INT", &self.child.id().to_string()])
            .stderr(Stdio::null())
            .status();
        self.child.wait().expect("strace is our child");
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
