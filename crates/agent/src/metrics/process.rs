//! The standard metrics of a process, from `/proc`. What can't be read is left out.

use super::text::{Kind, Page};

/// Everything that starts with `process_`, and who this is.
pub(crate) fn write(page: &mut Page) {
    page.family("holdfast_build_info", Kind::Gauge, "The version that runs; always 1.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    if let Some(stat) = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) {
        stat.write(page);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        page.family("process_open_fds", Kind::Gauge, "Number of open file descriptors.").sample(&[], entries.count());
    }
    let limits = std::fs::read_to_string("/proc/self/limits").ok();
    if let Some(most) = limits.as_deref().and_then(open_files) {
        page.family("process_max_fds", Kind::Gauge, "Maximum number of open file descriptors.").sample(&[], most);
    }
}

/// Fields of `/proc/self/stat`, in the kernel's units.
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The name in parentheses may hold anything; after the last one, fields are counted from the third.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Stat {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }

    fn write(&self, page: &mut Page) {
        let (hz, page_bytes) = (sysconf(libc::_SC_CLK_TCK), sysconf(libc::_SC_PAGESIZE));
        page.family("process_cpu_seconds_total", Kind::Counter, "Total user and system CPU time spent in seconds.")
            .sample(&[], Hundredths(self.cpu_ticks * 100 / hz));
        page.family("process_threads", Kind::Gauge, "Number of threads.").sample(&[], self.threads);
        page.family("process_virtual_memory_bytes", Kind::Gauge, "Virtual memory size in bytes.")
            .sample(&[], self.virtual_bytes);
        page.family("process_resident_memory_bytes", Kind::Gauge, "Resident memory size in bytes.")
            .sample(&[], self.resident_pages * page_bytes);
        if let Some(booted) = std::fs::read_to_string("/proc/stat").ok().as_deref().and_then(boot_time) {
            page.family(
                "process_start_time_seconds",
                Kind::Gauge,
                "Start time of the process since unix epoch in seconds.",
            )
            .sample(&[], Hundredths(booted * 100 + self.start_ticks * 100 / hz));
        }
    }
}

fn boot_time(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The soft limit; `None` also if there is none.
fn open_files(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

fn sysconf(name: libc::c_int) -> u64 {
    // SAFETY: sysconf reads a number of the system and touches no memory of ours.
    let value = unsafe { libc::sysconf(name) };
    u64::try_from(value).ok().filter(|value| *value > 0).expect("Linux has a tick and a page size")
}

/// Hundredths of a second, as seconds.
struct Hundredths(u64);

impl std::fmt::Display for Hundredths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let text = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 11 22 0 0 20 0 5 0 333 4444 55 18446744073709551615";
        let stat = Stat::parse(text).expect("it has all fields");
        assert_eq!((stat.cpu_ticks, stat.threads, stat.start_ticks), (33, 5, 333));
        assert_eq!((stat.virtual_bytes, stat.resident_pages), (4444, 55));
        assert!(Stat::parse("7 (a) S 1").is_none() && Stat::parse("").is_none());
        assert_eq!(open_files("Max open files            1024                 524288               files"), Some(1024));
        assert_eq!(boot_time("cpu 1\nbtime 1700000000\n"), Some(1_700_000_000));
    }

    #[test]
    fn this_process_has_all_of_them() {
        let mut page = Page::default();
        write(&mut page);
        let text = page.finish();
        for name in
            ["cpu_seconds_total", "resident_memory_bytes", "start_time_seconds", "open_fds", "max_fds", "threads"]
        {
            assert!(text.contains(&format!("\nprocess_{name} ")), "{name} in\n{text}");
        }
    }
}
