//! A separate file system for the real program. It is mounted in a namespace held by a child
//! process: no other process sees it, and it disappears with the test, however that ends.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use kvstore_testing::{missing, tool};

const REMEDY: &str =
    "a file system cannot be mounted here: run ./check as root, in a container with --privileged";

/// Size of the image, which occupies space only for written blocks.
const EXT4_BYTES: u64 = 64 << 20;

/// How a file system loses its power.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// It keeps exactly what its journal had on the disk.
    AtOnce,
    /// Its journal is written first, so that names exist without contents: the result of a rename
    /// without a sync.
    AfterItsJournal,
}

pub(crate) struct Mounted {
    /// Runs as long as its input is open.
    holder: Child,
    /// Holds the mount point and the image.
    folder: tempfile::TempDir,
}

impl Mounted {
    /// Mounts an ext4 on an image of its own.
    pub(crate) fn ext4() -> Self {
        let mounted = Self::empty();
        let image = std::fs::File::create(mounted.image()).unwrap();
        image.set_len(EXT4_BYTES).unwrap();
        let image = mounted.image().display().to_string();
        mounted.run(&["mkfs.ext4", "-q", "-F", &image]);
        mounted.mount_image();
        mounted
    }

    /// Mounts a file system in memory with `bytes` bytes.
    pub(crate) fn tmpfs(bytes: u64) -> Self {
        let mounted = Self::empty();
        let (size, point) = (format!("size={bytes}"), mounted.point());
        mounted.run(&["mount", "-t", "tmpfs", "-o", &size, "none", &point]);
        mounted
    }

    fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("mounted")).unwrap();
        let mut holder = tool("unshare")
            .args(["--mount", "--propagation", "private"])
            .args(["sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(holder.stdout.take().expect("it is piped"));
        output.read_line(&mut said).unwrap();
        if said != "ready\n" {
            missing(REMEDY);
        }
        Self { holder, folder }
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// Returns the mount point, for programs inside the namespace.
    fn point(&self) -> String {
        self.inside().display().to_string()
    }

    pub(crate) fn inside(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// Returns the same place as seen by this process.
    pub(crate) fn outside(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        let inside = self.inside();
        root.join(inside.strip_prefix("/").expect("an absolute path"))
    }

    /// Returns the words that start a program inside the namespace; it takes over the process id of
    /// its caller.
    pub(crate) fn wrapper(&self) -> Vec<String> {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.holder.id());
        ["nsenter", &namespace, "--"].map(str::to_owned).to_vec()
    }

    fn run(&self, words: &[&str]) {
        let wrapper = self.wrapper();
        tool(words[0]);
        let output = tool(&wrapper[0])
            .args(&wrapper[1..])
            .args(words)
            .output()
            .unwrap();
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            missing(&format!("{REMEDY} ({words:?}: {})", error.trim()));
        }
    }

    fn mount_image(&self) {
        let image = self.image().display().to_string();
        self.run(&["mount", "-o", "loop", &image, &self.point()]);
    }

    /// Cuts the power of the file system: from here on it can be neither read nor written.
    pub(crate) fn cut_power(&self, cut: Cut) {
        // FS_IOC_SHUTDOWN, with EXT4_GOING_FLAGS_NOLOGFLUSH or EXT4_GOING_FLAGS_LOGFLUSH.
        let flags = match cut {
            Cut::AtOnce => 2,
            Cut::AfterItsJournal => 1,
        };
        let shut_down = format!(
            "import fcntl, os, struct, sys; \
             fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', {flags}))"
        );
        self.run(&["python3", "-c", &shut_down, &self.point()]);
    }

    /// Remounts the file system from its disk. No process may have a file of it open.
    pub(crate) fn restart(&self) {
        self.run(&["umount", &self.point()]);
        self.mount_image();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Returns true if `path` is writable.
pub(crate) fn is_writable(path: &Path) -> bool {
    std::fs::write(path, "").is_ok()
}
