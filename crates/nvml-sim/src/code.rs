//! What NVML answers: the codes, their names and their sentences.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a call of NVML answers when it does not succeed, as in `nvmlReturn_t`.
///
/// In files a code is its name without `NVML_ERROR_`: `NOT_SUPPORTED`, `GPU_IS_LOST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Code(u32);

/// A result with the code of what went wrong.
pub(crate) type Answer<T> = Result<T, Code>;

/// Number, name, and what `nvmlErrorString` says. The strings end in NUL, since C reads them.
const CODES: &[(u32, &str, &str)] = &[
    (0, "SUCCESS", "Success\0"),
    (1, "UNINITIALIZED", "Uninitialized\0"),
    (2, "INVALID_ARGUMENT", "Invalid Argument\0"),
    (3, "NOT_SUPPORTED", "Not Supported\0"),
    (4, "NO_PERMISSION", "Insufficient Permissions\0"),
    (5, "ALREADY_INITIALIZED", "Already Initialized\0"),
    (6, "NOT_FOUND", "Not Found\0"),
    (7, "INSUFFICIENT_SIZE", "Insufficient Size\0"),
    (8, "INSUFFICIENT_POWER", "Insufficient External Power\0"),
    (9, "DRIVER_NOT_LOADED", "Driver Not Loaded\0"),
    (10, "TIMEOUT", "Timeout\0"),
    (11, "IRQ_ISSUE", "Interrupt Request Issue\0"),
    (12, "LIBRARY_NOT_FOUND", "NVML Shared Library Not Found\0"),
    (13, "FUNCTION_NOT_FOUND", "Function Not Found\0"),
    (14, "CORRUPTED_INFOROM", "Corrupted infoROM\0"),
    (15, "GPU_IS_LOST", "GPU is lost\0"),
    (16, "RESET_REQUIRED", "GPU requires reset\0"),
    (17, "OPERATING_SYSTEM", "GPU access blocked by the operating system\0"),
    (18, "LIB_RM_VERSION_MISMATCH", "Driver/library version mismatch\0"),
    (19, "IN_USE", "In use by another client\0"),
    (20, "MEMORY", "Insufficient Memory\0"),
    (21, "NO_DATA", "No data\0"),
    (22, "VGPU_ECC_NOT_SUPPORTED", "vGPU with ECC not supported\0"),
    (23, "INSUFFICIENT_RESOURCES", "Insufficient Resources\0"),
    (24, "FREQ_NOT_SUPPORTED", "Requested frequency not supported\0"),
    (25, "ARGUMENT_VERSION_MISMATCH", "Argument version mismatch\0"),
    (26, "DEPRECATED", "Requested functionality has been deprecated\0"),
    (27, "NOT_READY", "System is not ready\0"),
    (28, "GPU_NOT_FOUND", "No GPUs were found\0"),
    (29, "INVALID_STATE", "Resource not in correct state\0"),
    (30, "RESET_TYPE_NOT_SUPPORTED", "Reset not supported\0"),
    (999, "UNKNOWN", "Unknown Error\0"),
];

impl Code {
    /// `nvmlInit` was not called, or the driver went since.
    pub const UNINITIALIZED: Self = Self(1);
    /// A handle that is none, a null pointer, an index out of range.
    pub const INVALID_ARGUMENT: Self = Self(2);
    /// The card or the simulator cannot do it.
    pub const NOT_SUPPORTED: Self = Self(3);
    /// Not for this user.
    pub const NO_PERMISSION: Self = Self(4);
    /// Nothing has that name.
    pub const NOT_FOUND: Self = Self(6);
    /// The buffer is too small.
    pub const INSUFFICIENT_SIZE: Self = Self(7);
    /// No driver.
    pub const DRIVER_NOT_LOADED: Self = Self(9);
    /// Nothing happened in that time.
    pub const TIMEOUT: Self = Self(10);
    /// The card has fallen off the bus.
    pub const GPU_IS_LOST: Self = Self(15);
    /// There is nothing to tell yet.
    pub const NO_DATA: Self = Self(21);
    /// The version in a structure is none that is known.
    pub const ARGUMENT_VERSION_MISMATCH: Self = Self(25);
    /// Whatever else.
    pub const UNKNOWN: Self = Self(999);

    /// As C has it; never 0.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Without `NVML_ERROR_`.
    pub fn name(self) -> &'static str {
        entry(self.0).map_or("UNKNOWN", |(_, name, _)| name)
    }
}

/// What `nvmlErrorString` answers: ends in NUL.
pub(crate) fn sentence(number: u32) -> &'static str {
    entry(number).map_or("Unknown Error\0", |(_, _, sentence)| sentence)
}

fn entry(number: u32) -> Option<&'static (u32, &'static str, &'static str)> {
    CODES.iter().find(|(known, ..)| *known == number)
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Code> for String {
    fn from(code: Code) -> Self {
        code.name().to_owned()
    }
}

impl TryFrom<String> for Code {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let name = text.strip_prefix("NVML_ERROR_").unwrap_or(&text);
        let found = CODES.iter().find(|(number, known, _)| *number != 0 && *known == name);
        found.map(|(number, ..)| Self(*number)).ok_or_else(|| {
            format!("{text:?} is no error of NVML: write for example NOT_SUPPORTED, GPU_IS_LOST or TIMEOUT")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (number, name, sentence) in CODES.iter().filter(|(number, ..)| *number != 0) {
            let code = Code::try_from((*name).to_owned()).expect("known");
            assert_eq!((code.number(), code.name()), (*number, *name));
            assert!(sentence.ends_with('\0'));
        }
        assert_eq!(Code::try_from("NVML_ERROR_GPU_IS_LOST".to_owned()), Ok(Code::GPU_IS_LOST));
        assert!(Code::try_from("SUCCESS".to_owned()).is_err());
    }
}
