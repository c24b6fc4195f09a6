//! From two looks to what is used between them. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use skerry_model::InstanceName;
use skerry_proto::relay::v1 as pb;

use crate::runtime::Used;

/// What was counted at one time.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) machine: MachineLook,
    pub(super) copies: Vec<Copy>,
    pub(super) warnings: Vec<String>,
}

/// What a copy of an instance has used by a time.
#[derive(Debug)]
pub(super) struct Copy {
    /// The runtime's name.
    pub(super) kind: &'static str,
    pub(super) used: Used,
    pub(super) at: Instant,
}

/// The machine's processors, in clock ticks of all of them since it was started (proc_stat(5)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct MachineLook {
    busy: u64,
    all: u64,
    cores: i64,
}

impl MachineLook {
    /// Of `/proc/stat`. What a guest used is in what its host's user did already.
    pub(super) fn parse(stat: &str) -> Self {
        let mut look = Self::default();
        for line in stat.lines() {
            let Some((name, rest)) = line.split_once(' ') else { continue };
            if name == "cpu" {
                let ticks: Vec<u64> =
                    rest.split_whitespace().map_while(|ticks| ticks.parse().ok()).take(8).collect();
                look.all = ticks.iter().sum();
                // user, nice, system, idle, iowait, irq, softirq, steal
                look.busy = [0, 1, 2, 5, 6].iter().filter_map(|index| ticks.get(*index)).sum();
            } else if name.strip_prefix("cpu").is_some_and(|number| number.parse::<u32>().is_ok()) {
                look.cores += 1;
            }
        }
        look
    }

    pub(super) fn capacity_millis(&self) -> i64 {
        self.cores * 1000
    }

    /// What was used since `before`. Nothing: the kernel did not say.
    pub(super) fn cpu_millis(&self, before: &Self) -> Option<i64> {
        let all = self.all.checked_sub(before.all).filter(|all| *all > 0)?;
        // The kernel's counts may step back a little.
        let busy = self.busy.saturating_sub(before.busy).min(all);
        i64::try_from(u128::from(busy) * 1000 * u128::try_from(self.cores).ok()? / u128::from(all)).ok()
    }
}

/// Of each instance what its copies use, by name.
pub(super) fn instances(before: &[Copy], now: &[Copy]) -> Vec<pb::InstanceUsage> {
    let before: BTreeMap<(&InstanceName, &str), &Copy> =
        before.iter().map(|copy| ((&copy.used.instance, copy.used.runtime_id.as_str()), copy)).collect();
    let mut all: BTreeMap<&InstanceName, pb::InstanceUsage> = BTreeMap::new();
    for copy in now {
        let key = (&copy.used.instance, copy.used.runtime_id.as_str());
        let one = of_copy(before.get(&key).copied(), copy);
        match all.get_mut(&copy.used.instance) {
            Some(sum) => add(sum, &one),
            None => {
                all.insert(&copy.used.instance, one);
            }
        }
    }
    all.into_values().collect()
}

fn of_copy(before: Option<&Copy>, now: &Copy) -> pb::InstanceUsage {
    let counts = &now.used.counts;
    let window = before.map(|before| now.at.saturating_duration_since(before.at));
    let old = before.map(|before| &before.used.counts);
    let rate = |old: Option<u64>, new: Option<u64>, unit: u64| {
        per_second(window?, old?, new?, unit).and_then(|rate| i64::try_from(rate).ok())
    };
    let network = |side: fn((u64, u64)) -> u64| {
        let of = |counts: &crate::runtime::Counts| counts.network.map(side);
        rate(old.and_then(of), of(counts), 1)
    };
    pb::InstanceUsage {
        instance: now.used.instance.to_string(),
        runtime: now.kind.to_owned(),
        // Nanoseconds a second are millionths of what thousandths of a core are.
        cpu_millis: rate(old.and_then(|old| old.cpu_nanos), counts.cpu_nanos, 1_000_000),
        memory_bytes: counts.memory_bytes.and_then(|bytes| i64::try_from(bytes).ok()),
        memory_limit_bytes: counts.memory_limit_bytes.and_then(|bytes| i64::try_from(bytes).ok()),
        processes: counts.processes.and_then(|count| i64::try_from(count).ok()),
        received_bytes_per_second: network(|(received, _)| received),
        sent_bytes_per_second: network(|(_, sent)| sent),
    }
}

/// What of a count came each second, in units of `unit`. A count that went back was begun anew.
fn per_second(window: Duration, old: u64, new: u64, unit: u64) -> Option<u128> {
    let nanos = window.as_nanos();
    let more = new.checked_sub(old).unwrap_or(new);
    (nanos > 0).then(|| u128::from(more) * 1_000_000_000 / nanos / u128::from(unit))
}

fn add(sum: &mut pb::InstanceUsage, more: &pb::InstanceUsage) {
    for (sum, more) in [
        (&mut sum.cpu_millis, more.cpu_millis),
        (&mut sum.memory_bytes, more.memory_bytes),
        (&mut sum.memory_limit_bytes, more.memory_limit_bytes),
        (&mut sum.processes, more.processes),
        (&mut sum.received_bytes_per_second, more.received_bytes_per_second),
        (&mut sum.sent_bytes_per_second, more.sent_bytes_per_second),
    ] {
        *sum = match (*sum, more) {
            (Some(one), Some(other)) => Some(one.saturating_add(other)),
            (one, other) => one.or(other),
        };
    }
}

/// Of `/proc/loadavg`, the average of one minute.
pub(super) fn load_millis(text: &str) -> Option<i64> {
    let (whole, part) = text.split_whitespace().next()?.split_once('.')?;
    let part: i64 = format!("{part:0<3}").get(..3)?.parse().ok()?;
    whole.parse::<i64>().ok()?.checked_mul(1000)?.checked_add(part)
}

/// Of `/proc/uptime`.
pub(super) fn uptime(text: &str) -> Option<Duration> {
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Counts;

    fn copy(at: Instant, id: &str, cpu_nanos: u64, received: u64) -> Copy {
        let counts = Counts {
            cpu_nanos: Some(cpu_nanos),
            memory_bytes: Some(100),
            network: Some((received, 0)),
            ..Counts::default()
        };
        let instance = InstanceName::parse("a/s/n/0").unwrap();
        Copy { kind: "docker", used: Used { instance, runtime_id: id.to_owned(), counts }, at }
    }

    #[test]
    fn a_rate_is_what_came_in_the_time_between() {
        let (then, now) = (Instant::now(), Instant::now() + Duration::from_secs(2));
        let now = now.max(then + Duration::from_secs(2));
        let seen = instances(
            &[copy(then, "c1", 5, 10)],
            &[copy(then + Duration::from_secs(2), "c1", 3_000_000_005, 4010)],
        );
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].cpu_millis, seen[0].received_bytes_per_second), (Some(1500), Some(2000)));
        let new = instances(&[], &[copy(now, "c1", 1, 1)]);
        assert_eq!((new[0].cpu_millis, new[0].memory_bytes), (None, Some(100)), "nothing to compare it to");
        let anew = instances(
            &[copy(then, "c1", 9_000_000_000, 0)],
            &[copy(then + Duration::from_secs(1), "c1", 500_000_000, 0)],
        );
        assert_eq!(anew[0].cpu_millis, Some(500), "started anew between");
    }

    #[test]
    fn of_two_copies_the_sum_is_told() {
        let then = Instant::now();
        let later = then + Duration::from_secs(1);
        let before = [copy(then, "c1", 0, 0), copy(then, "c2", 0, 0)];
        let seen =
            instances(&before, &[copy(later, "c1", 1_000_000_000, 5), copy(later, "c2", 500_000_000, 6)]);
        assert_eq!(seen.len(), 1);
        assert_eq!(
            (seen[0].cpu_millis, seen[0].memory_bytes, seen[0].received_bytes_per_second),
            (Some(1500), Some(200), Some(11))
        );
        assert_eq!(seen[0].processes, None);
    }

    #[test]
    fn a_machine_is_busy_with_what_is_neither_idle_nor_waiting() {
        let before = MachineLook::parse("cpu  10 0 10 100 5 0 0 0 3 0\ncpu0 1\ncpu1 2\nintr 7\n");
        let now = MachineLook::parse("cpu  40 10 20 145 10 2 3 5 9 0\ncpu0 1\ncpu1 2\ncpufreq 1\n");
        // 55 of 110 ticks, on two cores.
        assert_eq!((now.cpu_millis(&before), now.capacity_millis()), (Some(1000), 2000));
        assert_eq!(now.cpu_millis(&now), None);
        assert_eq!(MachineLook::parse("").cpu_millis(&before), None);
    }

    #[test]
    fn what_the_kernel_writes_is_read() {
        assert_eq!(load_millis("0.52 0.58 0.59 1/389 12345\n"), Some(520));
        assert_eq!(load_millis("12.05 1 1"), Some(12050));
        assert_eq!(load_millis(""), None);
        assert_eq!(uptime("350735.47 234388.90\n"), Some(Duration::from_millis(350_735_470)));
        assert_eq!(uptime("?"), None);
    }
}
