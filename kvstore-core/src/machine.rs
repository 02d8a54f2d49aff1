//! How much memory this process may have: what bounds on memory default to.
//!
//! Source: <https://docs.kernel.org/admin-guide/cgroup-v2.html> (`memory.max`), and for the older
//! hierarchy <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>.

use std::fs;
use std::path::Path;

/// Returns the memory of the machine, or of the control group of this process (a container, a
/// systemd service) if that may have less; `None` where neither can be read.
pub fn memory_bytes() -> Option<u64> {
    memory_bytes_at(Path::new("/"))
}

fn memory_bytes_at(root: &Path) -> Option<u64> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let (machine, groups) = (read("proc/meminfo"), read("proc/self/cgroup"));
    let machine = machine
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB"))
        .and_then(|kib| Some(kib.trim().parse::<u64>().ok()? * 1024));
    let groups = groups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        match controllers {
            "" => Some(("sys/fs/cgroup", "memory.max", path)),
            "memory" => Some(("sys/fs/cgroup/memory", "memory.limit_in_bytes", path)),
            _ => None,
        }
    });
    // A group has no more than those that it is in; one without a limit says `max`.
    let limits = groups.flat_map(|(mount, file, path)| {
        let above = Path::new(path.trim_start_matches('/')).ancestors();
        above.filter_map(move |group| {
            let limit = root.join(mount).join(group).join(file);
            fs::read_to_string(limit).ok()?.trim().parse().ok()
        })
    });
    limits.chain(machine).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        memory_bytes_at(root.path())
    }

    #[test]
    fn smallest_limit_of_the_groups_counts_and_without_one_the_machine() {
        let memory = ("proc/meminfo", "MemTotal:        2048 kB\nMemFree: 1 kB\n");
        let group = ("proc/self/cgroup", "0::/pod/container\n");
        let limit = |path, text| (path, text);
        assert_eq!(machine(&[]), None);
        assert_eq!(machine(&[memory]), Some(2 << 20));
        assert_eq!(machine(&[memory, group]), Some(2 << 20));
        let own = limit("sys/fs/cgroup/pod/container/memory.max", "max\n");
        let pod = limit("sys/fs/cgroup/pod/memory.max", "1048576\n");
        assert_eq!(machine(&[memory, group, own]), Some(2 << 20));
        assert_eq!(machine(&[memory, group, own, pod]), Some(1 << 20));
        // In a container its own group is the root.
        let inside = ("proc/self/cgroup", "0::/\n");
        let root = limit("sys/fs/cgroup/memory.max", "4096\n");
        assert_eq!(machine(&[memory, inside, root]), Some(4096));
        let older = ("proc/self/cgroup", "5:cpu:/a\n4:memory:/a\n");
        let a = limit("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "512\n");
        assert_eq!(machine(&[memory, older, a]), Some(512));
    }
}
