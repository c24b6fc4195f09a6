//! Whether a driver tells what processes use of a device. Where it does not, nobody can count a share of it. Pure.

use skerry_gpu_model::{Absent, Field, Sample};

/// What is known of that for one device. At first it is taken to be told.
#[derive(Debug)]
pub(super) struct Sight {
    /// For so long, in milliseconds, it must be otherwise than it was before that counts: one failed call is no reason, nor is one that succeeds.
    after_ms: i64,
    /// Whether anything was seen of it yet.
    is_known: bool,
    /// Why it is not told.
    untold: Option<Absent>,
    /// Since when, in milliseconds since 1970, it is otherwise than that says.
    otherwise_since: Option<i64>,
}

impl Sight {
    pub(super) fn new(after_ms: i64) -> Self {
        Self { after_ms, is_known: false, untold: None, otherwise_since: None }
    }

    /// The driver, or the device, began anew.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.after_ms);
    }

    /// Why it is not told; absent: it is, or nobody knows better.
    pub(super) fn untold(&self) -> Option<Absent> {
        self.untold
    }

    /// This is what a look at the processes of the device gave, or why it gave nothing. Answers whether that changes what is known.
    pub(super) fn saw(&mut self, sample: &Sample, now: i64) -> bool {
        let untold = match sample.get(Field::Processes) {
            // It was not asked; and what a device does not have at all is known of it anyway.
            Err(Absent::NotYet | Absent::Lost | Absent::NotSupported | Absent::NotInThisMode) => {
                return false;
            }
            Err(why) => Some(why),
            // Who they are is told, and of some not what they have.
            Ok(_) if sample.processes.iter().any(|process| process.memory_bytes.is_none()) => {
                Some(Absent::NotSupported)
            }
            // Where nobody is there, nothing shows that it would be told.
            Ok(_) if sample.processes.is_empty() && self.untold == Some(Absent::NotSupported) => {
                return false;
            }
            Ok(_) => None,
        };
        // What is denied at the first look is no moment's failure. An agent that restarts must not take such a device for one that is counted.
        let is_denied = matches!(untold, Some(Absent::NotSupported | Absent::NoPermission));
        let is_sure = !std::mem::replace(&mut self.is_known, true) && is_denied;
        if untold.is_some() == self.untold.is_some() {
            self.otherwise_since = None;
            return false;
        }
        let since = *self.otherwise_since.get_or_insert(now);
        if !is_sure && now.saturating_sub(since) < self.after_ms {
            return false;
        }
        (self.untold, self.otherwise_since) = (untold, None);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_gpu_model::Process;

    fn read(reading: Result<i64, Absent>, memory: &[Option<u64>]) -> Sample {
        let mut sample = Sample::new();
        sample.set(Field::Processes, reading);
        let process =
            |memory_bytes: &Option<u64>| Process { memory_bytes: *memory_bytes, ..Process::default() };
        sample.processes = memory.iter().map(process).collect();
        sample
    }

    #[test]
    fn one_failed_call_is_no_reason_and_one_that_succeeds_is_none_either() {
        let (told, denied) = (read(Ok(1), &[Some(7)]), read(Err(Absent::NoPermission), &[]));
        let mut sight = Sight::new(1_000);
        for now in 0..51 {
            let sample = if now % 2 == 0 { &told } else { &denied };
            assert!(!sight.saw(sample, now * 900), "{now}");
        }
        assert_eq!(sight.untold(), None);
        assert!(!sight.saw(&denied, 100_000) && sight.saw(&denied, 101_000));
        assert_eq!(sight.untold(), Some(Absent::NoPermission));
        for now in 0..50 {
            let sample = if now % 2 == 0 { &told } else { &denied };
            assert!(!sight.saw(sample, 200_000 + now * 900), "{now}");
        }
        assert_eq!(sight.untold(), Some(Absent::NoPermission));
        assert!(!sight.saw(&told, 300_000) && sight.saw(&told, 301_000));
        assert_eq!(sight.untold(), None);
    }

    #[test]
    fn a_device_without_processes_does_not_show_that_their_memory_would_be_told() {
        let (untold, nobody) = (read(Ok(2), &[Some(7), None]), read(Ok(0), &[]));
        let mut sight = Sight::new(1_000);
        assert!(!sight.saw(&nobody, 0));
        assert!(!sight.saw(&untold, 0) && sight.saw(&untold, 1_000));
        assert!(!sight.saw(&nobody, 2_000) && !sight.saw(&nobody, 9_000));
        assert_eq!(
            sight.untold(),
            Some(Absent::NotSupported),
            "or who was held for it would begin, and be blind again"
        );
        sight.forget();
        assert_eq!(sight.untold(), None, "the next driver may tell");
        // A list that was denied and is empty now is told.
        assert!(sight.saw(&read(Err(Absent::NoPermission), &[]), 0));
        assert!(!sight.saw(&nobody, 2_000) && sight.saw(&nobody, 3_000));
    }

    #[test]
    fn what_is_denied_at_the_first_look_counts_at_once_and_what_only_failed_does_not() {
        for (absent, at_once) in
            [(Absent::NoPermission, true), (Absent::TimedOut, false), (Absent::DriverError, false)]
        {
            let mut sight = Sight::new(1_000);
            assert_eq!(sight.saw(&read(Err(absent), &[]), 0), at_once, "{absent:?}");
        }
        let mut sight = Sight::new(1_000);
        assert!(sight.saw(&read(Ok(1), &[None]), 0), "an agent that restarts finds it so");
    }

    #[test]
    fn a_device_that_is_away_is_not_blamed_for_what_it_does_not_tell() {
        let mut sight = Sight::new(0);
        for absent in [Absent::NotYet, Absent::Lost, Absent::NotSupported, Absent::NotInThisMode] {
            assert!(!sight.saw(&read(Err(absent), &[]), 5));
        }
        assert!(sight.saw(&read(Err(Absent::TimedOut), &[]), 5));
    }
}
