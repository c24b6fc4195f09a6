//! What is counted of the process itself, under the names that every Prometheus client uses. Read when somebody asks.

use std::fs;

use opentelemetry::global::meter;

/// Ticks of a processor's time in a second: what Linux tells programs on every architecture that it runs on.
const TICKS_PER_SECOND: f64 = 100.0;

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
            if let Some(bytes) = resident_bytes() {
                out.observe(bytes, &[]);
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

/// In pages where it is read, which are not of one size: the usual kernel of a Raspberry Pi 5 has 16 KiB.
fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
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
        assert!(stat(11).is_some() && resident_bytes().is_some());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let started = boot_time().expect("a boot time") + stat(19).expect("a start") / TICKS_PER_SECOND;
        assert!(started > 0.0 && started < now.as_secs_f64() + 1.0, "{started}");
    }

    #[test]
    fn resident_memory_is_what_the_kernel_tells_in_kibibytes() {
        let status = fs::read_to_string("/proc/self/status").expect("there");
        let told = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        let told: u64 = told.expect("told").trim().parse().expect("a number");
        let counted = resident_bytes().expect("counted") / 1024;
        // It grows meanwhile; a page of another size would be a factor of four.
        assert!(counted >= told / 2 && counted <= told * 2, "{counted} KiB, {told} KiB");
    }
}
