//! The control file: what is simulated, changed while programs run. It is typed, so that Rust code can write it, and read with errors that
//! say where.

mod device;
mod happening;

use std::{
    collections::HashSet,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use device::{
    ComputeMode, DeviceControl, EccErrors, Load, Mig, MigInstance, NvLinkControl, Percent, Process,
    ProcessKind, RemappedRows, RetiredPages, Shape,
};
pub use happening::{CallPattern, Event, EventKind, Fault, Latencies, Outcome};

use crate::spec::MachineSpec;

/// A hundred years: so far ahead all figures still fit.
const TIME_OFFSET_MS_MAX: u64 = 100 * 366 * 86_400_000;
/// A longer file is none of ours.
const BYTES_MAX: usize = 1 << 20;
/// No file has more of one kind of entry; what is remembered of events is bounded by it.
const ENTRIES_MAX: usize = 4096;

/// All that is simulated. `Control::default()` is one T4 with a lively load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// The cards. A change is a restart of the driver.
    pub machine: MachineSpec,
    /// What UUIDs, serial numbers and noise come of; the host's name where nothing stands here. A change is a restart of the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
    /// Added to the time; a test makes an hour pass with it. At most a hundred years. When it falls, time stands still until it has
    /// caught up.
    #[serde(skip_serializing_if = "is_default")]
    pub time_offset_ms: u64,
    /// How long calls take.
    #[serde(skip_serializing_if = "is_default")]
    pub latencies: Latencies,
    /// The driver.
    #[serde(skip_serializing_if = "is_default")]
    pub driver: DriverControl,
    /// What is particular to a card; one that is not named has a lively load and no fault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device: Vec<DeviceControl>,
    /// Calls that fail or hang; the first that fits counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fault: Vec<Fault>,
    /// What happened. Each id happens once: when the library first sees it. What stands in the file that it sees first has happened before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub event: Vec<Event>,
}

/// The driver, whatever its cards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DriverControl {
    /// Without a driver `nvmlInit` answers `DRIVER_NOT_LOADED`. When it goes, it is as after a restart.
    pub loaded: bool,
    /// Each change is a restart: handles and event sets of before are no more, and all answers are `UNINITIALIZED` until `nvmlInit`.
    pub generation: u32,
    /// As `nvidia-smi` shows it. From 580.82 on some fields have other numbers, which is simulated too.
    pub version: String,
    /// As `12.8`.
    pub cuda: CudaVersion,
}

impl Default for DriverControl {
    fn default() -> Self {
        Self {
            loaded: true,
            generation: 0,
            version: "570.133.20".to_owned(),
            cuda: CudaVersion { major: 12, minor: 8 },
        }
    }
}

/// Which CUDA the driver knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CudaVersion {
    /// At most 99.
    pub major: u8,
    /// At most 99.
    pub minor: u8,
}

impl CudaVersion {
    /// As NVML has it: 12080 for 12.8.
    pub(crate) fn number(self) -> i32 {
        i32::from(self.major) * 1000 + i32::from(self.minor) * 10
    }
}

impl From<CudaVersion> for String {
    fn from(version: CudaVersion) -> Self {
        format!("{}.{}", version.major, version.minor)
    }
}

impl TryFrom<String> for CudaVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let part = |text: &str| text.parse::<u8>().ok().filter(|number| *number < 100);
        let version = text.split_once('.').and_then(|(major, minor)| Some((part(major)?, part(minor)?)));
        let (major, minor) =
            version.ok_or_else(|| format!("{text:?} is no version of CUDA: write it as \"12.8\""))?;
        Ok(Self { major, minor })
    }
}

/// Why a control file is not taken.
#[derive(Debug, Error)]
pub enum ControlError {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no TOML, or a value is none; with line and column.
    #[error("{0}")]
    Syntax(Box<toml::de::Error>),
    /// Values that do not go together.
    #[error("{field}: {fault}")]
    Value {
        /// As `device[1].mig.instances[0].profile`.
        field: String,
        /// What is wrong, and how to mend it.
        fault: String,
    },
}

impl ControlError {
    fn value(field: impl fmt::Display, fault: impl Into<String>) -> Self {
        Self::Value { field: field.to_string(), fault: fault.into() }
    }
}

impl Control {
    /// Of a machine, all else as it is by default.
    pub fn of(machine: MachineSpec) -> Self {
        Self { machine, ..Self::default() }
    }

    /// What is said of a card, to be changed; of one of which nothing is said, what is so by default.
    pub fn device_mut(&mut self, index: u32) -> &mut DeviceControl {
        let at = self.device.iter().position(|device| device.index == index).unwrap_or_else(|| {
            self.device.push(DeviceControl::of(index));
            self.device.len() - 1
        });
        &mut self.device[at]
    }

    /// Reads the text of a control file.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn parse(text: &str) -> Result<Self, ControlError> {
        if text.len() > BYTES_MAX {
            return Err(ControlError::value("file", format!("has more than {BYTES_MAX} bytes")));
        }
        let control: Self = toml::from_str(text).map_err(|error| ControlError::Syntax(Box::new(error)))?;
        control.check()?;
        Ok(control)
    }

    /// Reads a control file.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn read(path: &Path) -> Result<Self, ControlError> {
        let source = |source| ControlError::File { path: path.to_owned(), source };
        Self::parse(&fs::read_to_string(path).map_err(source)?)
    }

    /// As the text of a control file.
    ///
    /// # Errors
    /// The values do not go together.
    pub fn to_toml(&self) -> Result<String, ControlError> {
        self.check()?;
        toml::to_string(self).map_err(|error| ControlError::value("file", error.to_string()))
    }

    /// Writes it, at once: who reads sees the file of before or this one. The library follows within 50 ms of a call.
    ///
    /// # Errors
    /// The values do not go together, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ControlError> {
        let text = self.to_toml()?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}.new", std::process::id()));
        let beside = PathBuf::from(beside);
        let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, path));
        written.map_err(|source| ControlError::File { path: path.to_owned(), source })
    }

    /// What the file says of a card.
    pub(crate) fn device(&self, index: u32) -> Option<&DeviceControl> {
        self.device.iter().find(|device| device.index == index)
    }

    /// Whether the values go together; each alone is good, or it would not be there.
    fn check(&self) -> Result<(), ControlError> {
        let lengths =
            [("device", self.device.len()), ("fault", self.fault.len()), ("event", self.event.len())];
        for (field, length) in lengths {
            if length > ENTRIES_MAX {
                return Err(ControlError::value(
                    field,
                    format!("has {length} entries, more than {ENTRIES_MAX}"),
                ));
            }
        }
        if self.time_offset_ms > TIME_OFFSET_MS_MAX {
            let fault = format!("is more than a hundred years: at most {TIME_OFFSET_MS_MAX}");
            return Err(ControlError::value("time_offset_ms", fault));
        }
        let plain = |text: &str, most| text.len() <= most && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain(&self.driver.version, 79) || self.driver.version.is_empty() {
            return Err(ControlError::value("driver.version", "is no version: write it as \"570.133.20\""));
        }
        let mut seen = HashSet::new();
        for (at, device) in self.device.iter().enumerate() {
            let field = format!("device[{at}]");
            let profile = self.card(&field, "index", device.index)?;
            if !seen.insert(device.index) {
                let fault = format!("card {} is described above already: put both together", device.index);
                return Err(ControlError::value(format!("{field}.index"), fault));
            }
            device.check(&field, profile)?;
        }
        for (at, fault) in self.fault.iter().enumerate() {
            if let Some(device) = fault.device {
                self.card(&format!("fault[{at}]"), "device", device)?;
            }
        }
        let mut ids = HashSet::new();
        for (at, event) in self.event.iter().enumerate() {
            let field = format!("event[{at}]");
            self.card(&field, "device", event.device)?;
            event.check(&field)?;
            if !ids.insert(event.id) {
                let fault =
                    format!("event {} is there already: what happens again has an id of its own", event.id);
                return Err(ControlError::value(format!("{field}.id"), fault));
            }
        }
        Ok(())
    }

    fn card(
        &self,
        entry: &str,
        key: &str,
        index: u32,
    ) -> Result<&'static crate::profile::Profile, ControlError> {
        self.machine.profile(index).ok_or_else(|| {
            let last = self.machine.cards().len() - 1;
            let fault = format!("there is no card {index}: the machine {} has 0 to {last}", self.machine);
            ControlError::value(format!("{entry}.{key}"), fault)
        })
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::control as tests_control;
