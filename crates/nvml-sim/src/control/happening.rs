//! What goes wrong, what happens, and how long calls take.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ControlError;
use crate::code::Code;

/// A call that does not do what it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which call: its name in C, or a beginning and `*`.
    pub call: CallPattern,
    /// On which card; on any where nothing stands here. Calls that are not on a card have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<u32>,
    /// What becomes of it.
    pub answer: Outcome,
}

impl Fault {
    pub(crate) fn fits(&self, call: &str, device: Option<u32>) -> bool {
        self.call.fits(call) && (self.device.is_none() || self.device == device)
    }
}

/// A name of C, or a beginning of some with `*` behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CallPattern(String);

impl CallPattern {
    /// As in `nvmlDeviceGetPowerUsage` or `nvmlDeviceGet*`.
    ///
    /// # Errors
    /// No call fits.
    pub fn parse(text: &str) -> Result<Self, String> {
        let pattern = Self(text.to_owned());
        let known = crate::ffi::names().any(|name| pattern.fits(name));
        let fault =
            || format!("no call fits {text:?}: write one as nvmlDeviceGetPowerUsage, or nvmlDeviceGet*");
        known.then_some(pattern).ok_or_else(fault)
    }

    fn fits(&self, call: &str) -> bool {
        self.0.strip_suffix('*').map_or(self.0 == call, |beginning| call.starts_with(beginning))
    }
}

impl From<CallPattern> for String {
    fn from(pattern: CallPattern) -> Self {
        pattern.0
    }
}

impl TryFrom<String> for CallPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

/// What becomes of a call: `hang`, or the code that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Outcome {
    /// It does not return before the fault is taken out of the file; then it is as if it were called then.
    Hang,
    /// It answers this.
    Code(Code),
}

impl From<Outcome> for String {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Hang => "hang".to_owned(),
            Outcome::Code(code) => code.into(),
        }
    }
}

impl TryFrom<String> for Outcome {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "hang" { Ok(Self::Hang) } else { Code::try_from(text).map(Self::Code) }
    }
}

/// Something that happened on a card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Its own; what happens again has another.
    pub id: u64,
    /// Which card.
    pub device: u32,
    /// What.
    #[serde(default)]
    pub kind: EventKind,
    /// The number of the error, of an XID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xid: Option<u64>,
    /// In which instance, where the card is partitioned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<u32>,
}

impl Event {
    /// An XID.
    pub fn xid(id: u64, device: u32, xid: u64) -> Self {
        Self { id, device, kind: EventKind::Xid, xid: Some(xid), mig: None }
    }

    pub(super) fn check(&self, field: &str) -> Result<(), ControlError> {
        match (self.kind, self.xid) {
            (EventKind::Xid, None) => {
                Err(ControlError::value(format!("{field}.xid"), "is missing: write its number"))
            }
            (EventKind::Xid, Some(_)) | (_, None) => Ok(()),
            (_, Some(_)) => {
                Err(ControlError::value(format!("{field}.xid"), "only an event of kind \"xid\" has one"))
            }
        }
    }
}

/// What can happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A critical error, with its number.
    #[default]
    Xid,
    /// A corrected error of memory.
    SingleBitEcc,
    /// An uncorrected error of memory.
    DoubleBitEcc,
    /// The performance state changed.
    Pstate,
    /// A clock changed.
    Clock,
    /// Partitions changed.
    MigConfig,
}

impl EventKind {
    /// As in `nvmlEventType...`.
    pub(crate) fn bit(self) -> u64 {
        match self {
            Self::SingleBitEcc => 1,
            Self::DoubleBitEcc => 2,
            Self::Pstate => 4,
            Self::Xid => 8,
            Self::Clock => 16,
            Self::MigConfig => 256,
        }
    }
}

/// How long calls take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Latencies {
    /// `off`: no time.
    #[default]
    Off,
    /// `typical`: of a table of the magnitudes that are known, which was not recorded on a card.
    Typical,
    /// Any other text: a file, see [`LatencyTable`](crate::LatencyTable). A relative path is one beside the control file.
    File(PathBuf),
}

impl From<Latencies> for String {
    fn from(latencies: Latencies) -> Self {
        match latencies {
            Latencies::Off => "off".to_owned(),
            Latencies::Typical => "typical".to_owned(),
            Latencies::File(path) => path.to_string_lossy().into_owned(),
        }
    }
}

impl TryFrom<String> for Latencies {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "" => Err("says nothing: write off, typical, or the path of a file".to_owned()),
            "off" => Ok(Self::Off),
            "typical" => Ok(Self::Typical),
            _ => Ok(Self::File(text.into())),
        }
    }
}
