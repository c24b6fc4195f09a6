//! All that is known of a device at a time.

use std::fmt;

use crate::field::FIELDS;
use crate::{Absent, Field};

/// A value in its field's unit, or why there is none.
pub type Reading = Result<i64, Absent>;

/// A reading of every field, and the processes. A new one has [`Absent::NotYet`] everywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Sample {
    readings: Box<[Reading; FIELDS]>,
    /// Who has a context on the device, by pid, each once. Means something only where [`Field::Processes`] has a value.
    pub processes: Vec<Process>,
}

impl Sample {
    /// Nothing was read yet.
    pub fn new() -> Self {
        Self { readings: Box::new([Err(Absent::NotYet); FIELDS]), processes: Vec::new() }
    }

    /// Nothing can be read, for one and the same reason.
    pub fn absent(reason: Absent) -> Self {
        Self { readings: Box::new([Err(reason); FIELDS]), processes: Vec::new() }
    }

    /// What was read of a field.
    pub fn get(&self, field: Field) -> Reading {
        self.readings[field.index()]
    }

    /// The value of a field, if it has one.
    pub fn value(&self, field: Field) -> Option<i64> {
        self.get(field).ok()
    }

    /// Notes what was read of a field.
    pub fn set(&mut self, field: Field, reading: Reading) {
        self.readings[field.index()] = reading;
    }

    /// Every field with what was read of it, by number.
    pub fn iter(&self) -> impl Iterator<Item = (Field, Reading)> + '_ {
        Field::ALL.into_iter().map(|field| (field, self.get(field)))
    }
}

impl Default for Sample {
    fn default() -> Self {
        Self::new()
    }
}

impl FromIterator<(Field, Reading)> for Sample {
    fn from_iter<I: IntoIterator<Item = (Field, Reading)>>(readings: I) -> Self {
        let mut sample = Self::new();
        for (field, reading) in readings {
            sample.set(field, reading);
        }
        sample
    }
}

/// Only fields that were read: there are many.
impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = self.iter().filter(|(_, reading)| *reading != Err(Absent::NotYet));
        f.debug_map()
            .entries(read.map(|(field, reading)| (field.name(), reading)))
            .entry(&"processes", &self.processes)
            .finish()
    }
}

/// A process that has a context on a device, or on a part of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Its number on the machine.
    pub pid: u32,
    /// `<app>/<service>/<cluster>/<ordinal>`. Empty: of none, or not known.
    pub instance: String,
    /// Its command, where it is of no instance. Cut to 64 bytes when it is sent.
    pub command: String,
    /// Memory of the device that it has.
    pub memory_bytes: Option<u64>,
    /// Of the multiprocessors' time, what it had: 0 to 100.
    pub utilization_percent: Option<u32>,
}
