//! What this process may use and has used: memory limits of the container, peak memory, CPU time. Linux first; elsewhere cautious defaults.

use std::fs;

/// Bytes of memory that this process may use: the container's limit, or the machine's memory.
pub fn memory_limit() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()))
        .map_or(4 << 30, |kb| kb * 1024);
    // cgroup v2, then v1; "max" or a huge number mean no limit
    let container = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
        .unwrap_or(u64::MAX);
    machine.min(container)
}

/// The memory pool when `--memory` is not given: half of what the container has, since buffers of readers, the allocator and
/// the Parquet encoders live beside the pool.
pub fn default_pool() -> u64 {
    memory_limit() / 2
}

/// Highest resident memory of this process so far, in bytes.
pub fn peak_memory() -> u64 {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()))
        .map_or(0, |kb| kb * 1024)
}

/// User and system CPU seconds of this process so far.
pub fn cpu_seconds() -> f64 {
    // fields 14 and 15 of /proc/self/stat, in clock ticks, counted after the parenthesised name
    let ticks = fs::read_to_string("/proc/self/stat").ok().and_then(|text| {
        let rest = text.rsplit_once(')')?.1.split_ascii_whitespace().collect::<Vec<_>>();
        Some(rest.get(11)?.parse::<u64>().ok()? + rest.get(12)?.parse::<u64>().ok()?)
    });
    ticks.map_or(0.0, |t| t as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Turns transparent huge pages off for this process. The allocator asks for them, and in a process that lives for seconds
/// most of its time would go into clearing 2 MB pages of which little is used: on the customers job (3 M rows, 2 cores) 4 of 6.6 s.
pub fn small_pages() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the call takes plain numbers and changes nothing but a flag of this process.
        let failed = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } != 0;
        if failed {
            tracing::debug!("huge pages stay on");
        }
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
