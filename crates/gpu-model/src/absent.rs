//! Why a value is not there.

use std::fmt;

use skerry_proto::gpu::v1::AbsentReason as Wire;

/// Why a value is not there. See `AbsentReason` in `proto/skerry/gpu/v1/field.proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Absent {
    /// It was not read yet.
    #[default]
    NotYet,
    /// The device or its driver does not have it.
    NotSupported,
    /// The agent may not read it.
    NoPermission,
    /// The device does not answer any more.
    Lost,
    /// The driver failed.
    DriverError,
    /// The driver did not answer in time.
    TimedOut,
    /// What the driver answered cannot be.
    Implausible,
    /// It is measured only in another state of the device.
    NotInThisMode,
}

impl Absent {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::NotYet,
        Self::NotSupported,
        Self::NoPermission,
        Self::Lost,
        Self::DriverError,
        Self::TimedOut,
        Self::Implausible,
        Self::NotInThisMode,
    ];

    /// As it is on the wire.
    pub const fn to_wire(self) -> Wire {
        match self {
            Self::NotYet => Wire::NotYet,
            Self::NotSupported => Wire::NotSupported,
            Self::NoPermission => Wire::NoPermission,
            Self::Lost => Wire::Lost,
            Self::DriverError => Wire::DriverError,
            Self::TimedOut => Wire::TimedOut,
            Self::Implausible => Wire::Implausible,
            Self::NotInThisMode => Wire::NotInThisMode,
        }
    }

    /// From the wire. A reason that is not known here, of a newer agent, is [`Self::DriverError`]: there is no value, and that is what counts.
    pub fn from_wire(reason: i32) -> Self {
        Self::ALL.into_iter().find(|known| known.to_wire() as i32 == reason).unwrap_or(Self::DriverError)
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotYet => "not read yet",
            Self::NotSupported => "not supported",
            Self::NoPermission => "no permission",
            Self::Lost => "device lost",
            Self::DriverError => "driver error",
            Self::TimedOut => "driver timed out",
            Self::Implausible => "implausible",
            Self::NotInThisMode => "not in this mode",
        })
    }
}
