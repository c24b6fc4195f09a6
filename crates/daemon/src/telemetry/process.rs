//! What is counted of the process itself, under the names that every Prometheus client uses. Read when somebody asks.

use std::fs;

use opentelemetry::global::meter;

/// Ticks of a processor's time in a second: what Linux tells programs on every architecture that it runs on.
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes of a page where Skerry runs.
const PAGE_BYTES: u64 = 4096;

/// Has the process looked at when metrics are.
pub(super) fn register() {
    let meter = meter("skerry");
    let _ = meter
        .f64_observable_counter("process.cpu")
        .with_unit("s")
        .with_description("Processor time of the process")
        .with_callback(|out| {
            if let Some(seconds) =
                stat(11).zip(stat(12)).map(|(user, system)| (user + system) / TICKS_PER_SECOND)
            {
                out.observe(seconds, &[]);
            }
        })
        .build();
    let _ = meter
        .u64_observable_gauge("process.resident_memory")
        .with_unit("By")
        .with_description("Resident memory of the process")
        .with_callback(|out| {
            if let Some(pages) = resident_pages() {
                out.observe(pages * PAGE_BYTES, &[]);
            }
        })
        .build();
    let _ = meter
        .u64_observable_gauge("process.open_fds")
        .with_description("Files that the process has open")
        .with_callback(|out| {
            if let Ok(files) = fs::read_dir("/proc/self/fd") {
                out.observe(files.count() as u64, &[]);
            }
        })
        .build();
    let _ = meter
        .f64_observable_gauge("process.start_time")
        .with_unit("s")
        .with_description("When the process started, since 1970")
        .with_callback(|out| {
            if let Some(start) =
                stat(19).zip(boot_time()).map(|(ticks, boot)| boot + ticks / TICKS_PER_SECOND)
            {
                out.observe(start, &[]);
            }
        })
        .build();
}

/// A field of `/proc/self/stat`, counted from 0 after the name, which may have blanks.
fn stat(field: usize) -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    stat.rsplit_once(") ")?.1.split_whitespace().nth(field)?.parse().ok()
}

fn resident_pages() -> Option<u64> {
    fs::read_to_string("/proc/self/statm").ok()?.split_whitespace().nth(1)?.parse().ok()
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_can_be_read() {
        assert!(stat(11).is_some() && resident_pages().is_some_and(|pages| pages > 0));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let started = boot_time().expect("a boot time") + stat(19).expect("a start") / TICKS_PER_SECOND;
        assert!(started > 0.0 && started < now.as_secs_f64() + 1.0, "{started}");
    }
}
