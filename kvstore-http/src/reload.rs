//! Reads a file again when it changes, and on SIGHUP.
//!
//! A file mounted from a Secret is replaced without a signal, so it is also checked every few
//! seconds.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

/// How often a file is checked.
const INTERVAL: Duration = Duration::from_secs(2);

/// Calls `read` whenever the file at `path` has changed, and on SIGHUP.
pub(crate) async fn watch(path: PathBuf, read: impl Fn(&Path)) {
    let (sender, mut hangups) = mpsc::channel(1);
    let hangup = kvstore_process::on_hangup(move || {
        // A pending signal covers this one, too.
        let _ = sender.try_send(());
    });
    if let Err(error) = hangup {
        tracing::warn!(%error, "cannot listen for SIGHUP: files are read again only when they change");
    }
    let mut known = ReloadState::of(&path).ok();
    loop {
        let is_asked = tokio::select! {
            Some(()) = hangups.recv() => true,
            () = tokio::time::sleep(INTERVAL) => false,
        };
        // A missing file counts as unchanged.
        let now = ReloadState::of(&path).ok().or(known);
        if is_asked || now != known {
            known = now;
            read(&path);
        }
    }
}

/// The metadata that distinguishes two versions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReloadState {
    modified: SystemTime,
    bytes: u64,
    #[cfg(unix)]
    inode: u64,
}

impl ReloadState {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self {
            modified: metadata.modified()?,
            bytes: metadata.len(),
            #[cfg(unix)]
            inode: std::os::unix::fs::MetadataExt::ino(&metadata),
        })
    }
}
