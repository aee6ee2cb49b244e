//! What the machine lets the process have, as far as its settings must fit into it, and what it had better not take.
//!
//! *Why not the CPU quota too:* `std::thread::available_parallelism` obeys affinity and the quotas of both
//! versions of control groups, nested ones included.

use std::io;
use std::path::Path;

use tracing::warn;

/// Warns of a cache that the control group would kill the process for.
pub fn warn_of_memory(cache: u64) {
    if let Some(limit) = memory_limit().filter(|limit| cache >= *limit) {
        warn!(
            cache,
            limit, "cache.max_bytes is not below the memory this process may use; lower it"
        );
    }
}

/// Has memory that is touched for the first time come in pages of the usual size, here and in threads to come.
///
/// *Why:* the allocator asks for huge ones where the system gives them to who asks. They come cleared, 2 MiB at a time:
/// whoever touches one first waits for that, 0.5 to 10 ms on a virtual machine, and in a burst that is every request. The
/// usual ones cost the same in all, hits of a million keys no more, and 18 bytes less for each of 100,000 entries.
///
/// # Errors
/// The kernel refuses, or has no say in it.
pub fn refuse_huge_pages() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::thread::disable_transparent_huge_pages(true)?;
    Ok(())
}

/// Memory that the process may use by its control group (Linux): the least of its own group's limit and
/// those of the groups around it; `None` where there is none.
fn memory_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    memory_limit_of(&groups, |file| std::fs::read_to_string(file).ok())
}

/// The limit for a process with this text in `/proc/self/cgroup`.
fn memory_limit_of(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let limits = groups.lines().filter_map(memory_group).flat_map(|(root, path, file)| {
        // In a container the path may be the host's and not exist here: what encloses it still counts.
        let inside = Path::new(path.trim_start_matches('/'));
        inside.ancestors().map(|group| Path::new(root).join(group).join(file)).collect::<Vec<_>>()
    });
    limits.filter_map(|file| read(&file)?.trim().parse().ok()).min()
}

/// The mount, path and file of the group that limits memory, if this line of `/proc/self/cgroup`
/// (`number:controllers:path`) is about it.
fn memory_group(line: &str) -> Option<(&'static str, &str, &'static str)> {
    let (_number, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    if controllers.is_empty() {
        Some(("/sys/fs/cgroup", path, "memory.max"))
    } else if controllers.split(',').any(|controller| controller == "memory") {
        Some(("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn huge_pages_are_refused_for_the_whole_process() {
        refuse_huge_pages().unwrap();
        let elsewhere = std::thread::spawn(rustix::thread::transparent_huge_pages_are_disabled);
        assert!(elsewhere.join().unwrap().unwrap());
    }

    fn limit(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        let files: BTreeMap<&str, &str> = files.iter().copied().collect();
        memory_limit_of(groups, |file| {
            files.get(file.to_str().unwrap()).map(|text| (*text).to_owned())
        })
    }

    #[test]
    fn the_least_of_nested_groups_counts() {
        let groups = "0::/system.slice/unitgate.service\n";
        let own = ("/sys/fs/cgroup/system.slice/unitgate.service/memory.max", "300\n");
        let around = ("/sys/fs/cgroup/system.slice/memory.max", "200\n");
        let root = ("/sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(limit(groups, &[own, root]), Some(300));
        assert_eq!(limit(groups, &[own, around, root]), Some(200));
        assert_eq!(limit(groups, &[root]), None);
    }

    #[test]
    fn the_first_version_of_control_groups_is_read_too() {
        let groups = "5:cpu,cpuacct:/a\n4:hugetlb,memory:/docker/1f\n0::/\n";
        let files = [
            ("/sys/fs/cgroup/memory/docker/1f/memory.limit_in_bytes", "100"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712"),
        ];
        assert_eq!(limit(groups, &files), Some(100));
        assert_eq!(limit(groups, &files[1..]), Some(9_223_372_036_854_771_712));
    }

    #[test]
    fn in_a_container_whose_path_is_the_hosts_its_root_counts() {
        let root = ("/sys/fs/cgroup/memory.max", "64");
        assert_eq!(limit("0::/kubepods/pod1/abc\n", &[root]), Some(64));
        assert_eq!(limit("0::/\n", &[root]), Some(64));
        assert_eq!(limit("", &[root]), None);
        assert_eq!(limit("nonsense\n1:cpu:/x", &[root]), None);
    }
}
