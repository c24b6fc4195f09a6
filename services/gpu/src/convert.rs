//! Samples, events and times as the API has them.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;
pub(crate) use skerry_gpu_model::timestamp;
use skerry_gpu_model::{Absent, Event, Field, Process, Sample};
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::frame_event::Kind as Told;
use skerry_proto::gpu::v1::gpu_event::Kind;

/// A time in milliseconds since 1970. What is out of range is the nearest.
pub(crate) fn millis(time: &Timestamp) -> i64 {
    time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos / 1_000_000))
}

/// Milliseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// An event.
pub(crate) fn event(event: &Event) -> Kind {
    match event.to_wire() {
        Told::Xid(xid) => Kind::Xid(xid),
        Told::Ecc(ecc) => Kind::Ecc(ecc),
        Told::Lost(lost) => Kind::Lost(lost),
        Told::Reset(reset) => Kind::Reset(reset),
    }
}

/// Which fields are wanted, by number: of those that are known here, and of others.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    fields: Vec<Field>,
    /// Of newer clients.
    unknown: Vec<i32>,
}

impl Wanted {
    /// These; without any, all.
    pub(crate) fn of(numbers: &[i32]) -> Self {
        let mut wanted = Self { fields: Vec::new(), unknown: Vec::new() };
        for number in numbers {
            match u32::try_from(*number).ok().and_then(Field::from_number) {
                Some(field) if !wanted.fields.contains(&field) => wanted.fields.push(field),
                None if *number != 0 && !wanted.unknown.contains(number) => wanted.unknown.push(*number),
                _ => {}
            }
        }
        if numbers.is_empty() {
            wanted.fields = Field::ALL.to_vec();
        }
        wanted.fields.sort_by_key(|field| field.to_wire() as i32);
        wanted
    }
}

/// A sample of a GPU, or of a part of it.
pub(crate) fn sample(
    gpu: &str,
    part: &str,
    time: i64,
    sample: &Sample,
    wanted: &Wanted,
    processes: bool,
) -> pb::Sample {
    let mut values = Vec::new();
    let mut absent: BTreeMap<Absent, Vec<i32>> = BTreeMap::new();
    for field in &wanted.fields {
        match sample.get(*field) {
            Ok(value) => values.push(pb::FieldValue { field: field.to_wire().into(), value }),
            Err(reason) => absent.entry(reason).or_default().push(field.to_wire().into()),
        }
    }
    if !wanted.unknown.is_empty() {
        absent.entry(Absent::NotSupported).or_default().extend(&wanted.unknown);
    }
    let absent = absent
        .into_iter()
        .map(|(reason, fields)| pb::AbsentFields { reason: reason.to_wire().into(), fields });
    let processes = if processes { sample.processes.as_slice() } else { &[] };
    pb::Sample {
        gpu: gpu.to_owned(),
        time: Some(timestamp(time)),
        values,
        absent: absent.collect(),
        processes: processes.iter().map(process).collect(),
        mig_device: part.to_owned(),
    }
}

fn process(process: &Process) -> pb::Process {
    pb::Process {
        pid: process.pid,
        instance: process.instance.clone(),
        command: process.command.clone(),
        memory_bytes: process.memory_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        utilization_percent: process.utilization_percent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_the_same_back_also_before_1970() {
        for time in [0, 1, 999, 1_790_000_000_123, -1, -1_001] {
            let there = timestamp(time);
            assert!((0..1_000_000_000).contains(&there.nanos));
            assert_eq!(millis(&there), time);
        }
    }

    #[test]
    fn what_is_wanted_and_not_there_has_a_reason_also_what_nobody_here_knows() {
        let mut read = Sample::new();
        read.set(Field::Temperature, Ok(40));
        read.set(Field::FanSpeed, Err(Absent::NotSupported));
        let numbers = [Field::Temperature.to_wire() as i32, Field::FanSpeed.to_wire() as i32, 250];
        let told = sample("g", "", 5, &read, &Wanted::of(&numbers), false);
        assert_eq!(told.values.len(), 1);
        assert_eq!(told.absent.len(), 1);
        assert_eq!(told.absent[0].fields, [numbers[1], 250]);
        let all = sample("g", "", 5, &read, &Wanted::of(&[]), false);
        let absent: usize = all.absent.iter().map(|one| one.fields.len()).sum();
        assert_eq!(all.values.len() + absent, Field::ALL.len());
    }
}
