//! Faults of the disk under the real program: strace stands between it and the kernel, and answers
//! one system call in its place. It counts calls by thread. Every test looks into its log whether
//! the fault came, since one that did not proves nothing.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use kvstore_testing::{missing, tool};

const REMEDY: &str =
    "strace may not trace here: run ./check as root, in a container with --privileged";

/// How many calls of a thread find no room.
const FULL_CALLS: usize = 30;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails, once; the next one would succeed, which is what makes a failed sync so easy to
    /// miss.
    Broken,
    /// There is no room, for a while.
    Full,
    /// A write says that it has written nothing.
    Nothing,
    /// A signal came; it is to be tried again.
    Interrupted,
    /// A write says that it has written some bytes, and has not.
    Lie,
    /// The process is killed instead.
    Kill,
}

impl Fault {
    /// As strace says it, for a thread's call `number`, from 1.
    fn text(self, number: usize) -> String {
        match self {
            Self::Broken => format!("error=EIO:when={number}"),
            // It passes by itself: a call that is under way when strace goes would be answered in
            // no sensible way.
            Self::Full => format!("error=ENOSPC:when={number}..{}", number + FULL_CALLS),
            Self::Nothing => format!("retval=0:when={number}"),
            Self::Interrupted => format!("error=EINTR:when={number}"),
            Self::Lie => format!("retval=9:when={number}"),
            Self::Kill => format!("signal=KILL:when={number}"),
        }
    }
}

/// A fault, and where it comes.
#[derive(Clone, Debug)]
pub(crate) struct Injection {
    /// The name of a system call.
    pub(crate) call: &'static str,
    /// Which of a thread's calls, from 1.
    pub(crate) number: usize,
    pub(crate) fault: Fault,
    /// The only files whose calls count; all if there are none.
    pub(crate) paths: Vec<PathBuf>,
}

impl Injection {
    /// The words that make a program strace's child in all but parentage, so that its id and its
    /// end are its own.
    pub(crate) fn wrapper(&self, log: &Path) -> Vec<String> {
        let words = ["strace", "-D"].map(str::to_owned);
        words.into_iter().chain(self.words(log)).collect()
    }

    /// Begins with the process that runs as `id`, from its next call on.
    pub(crate) fn attach(&self, id: u32, log: &Path) -> Strace {
        // What an earlier one has left must not count.
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
        // Read on, so that the pipe does not break.
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

/// How many faults came, by the log of a strace.
pub(crate) fn count_injected(log: &Path) -> usize {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    log.matches("(INJECTED)").count()
}

/// An strace that is attached to a process.
#[derive(Debug)]
pub(crate) struct Strace {
    child: Child,
}

impl Strace {
    /// Lets the process go on without it, if it is still there.
    pub(crate) fn detach(mut self) {
        // It may be ending by itself.
        let _ = tool("kill")
            .args(["-s", "INT", &self.child.id().to_string()])
            .stderr(Stdio::null())
            .status();
        self.child.wait().expect("our own child");
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
