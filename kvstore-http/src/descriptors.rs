//! File descriptors: each connection takes one, and a process usually starts with fewer than it may
//! have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors besides connections of clients: files of the store, connections to a queue, the log.
const OTHERS: u64 = 100;

/// Raises the limit of open files to its maximum, and warns if `connections` need more.
pub(crate) fn raise(connections: usize) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let needed = connections as u64 + OTHERS;
    if let Some(limit) = getrlimit(Resource::Nofile)
        .current
        .filter(|limit| *limit < needed)
    {
        tracing::warn!(
            limit,
            needed,
            "too few open files are allowed for so many connections: raise the limit (ulimit -Hn), or set --connections-max lower"
        );
    }
}
