//! Errors of NVIDIA's driver by their numbers, as far as they mean different things for the device.
//!
//! Numbers and what is to be done about each are those of NVIDIA's catalogue of Xid errors ("Analyzing Xid Errors with the Xid Catalog",
//! docs.nvidia.com/deploy/xid-errors, for Ampere and later); where it says to restart the application alone, the device is not to blame. Those that it
//! marks as unused on these chips are [`Class::Unknown`].

/// What an error means for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Something is told; nothing follows from it.
    Notice,
    /// A program did what it must not: the program ends, and the device goes on.
    Application,
    /// Not in the catalogue, or not used there.
    Unknown,
    /// Memory errors that the device deals with by itself. It goes on; a reset is due at some time.
    Memory,
    /// A link to other devices fails.
    Link,
    /// The device or its firmware has failed: it must be reset, and what ran on it is lost.
    Hardware,
    /// The device is not reached any more, or lacks power.
    Bus,
}

impl Class {
    /// The class of an error.
    pub const fn of(code: u32) -> Self {
        match code {
            37 | 38 | 66 | 67 | 93 | 106..=107 | 121 | 137 | 141 | 152..=154 | 160..=165 => Self::Notice,
            8
            | 11
            | 13
            | 25
            | 31
            | 32
            | 39..=41
            | 43..=45
            | 60
            | 68..=72
            | 75..=77
            | 80
            | 82..=86
            | 88
            | 89
            | 96..=105
            | 126..=135
            | 139
            | 159 => Self::Application,
            63 | 92 | 94 | 156 | 157 | 168 => Self::Memory,
            74 | 136 | 144..=150 | 155 | 166 | 170 => Self::Link,
            46 | 48 | 62 | 64 | 95 | 109 | 110 | 119 | 120 | 140 | 143 | 151 | 158 | 169 | 171 | 172 => {
                Self::Hardware
            }
            54 | 79 | 167 => Self::Bus,
            _ => Self::Unknown,
        }
    }
}

/// What an error is, in a few words. `None`: not known here.
pub const fn title(code: u32) -> Option<&'static str> {
    Some(match code {
        8 | 46 => "the GPU stopped processing",
        13 => "exception of the graphics engine",
        31 => "access to memory that is not mapped",
        11 | 25 | 32 => "invalid commands",
        39..=41 | 70..=72 | 75..=77 | 85 | 126..=135 => "exception of a copy engine",
        43 => "the channel of an application stopped",
        44 => "fault at a context switch",
        45 => "channels removed after an earlier error",
        48 => "uncorrectable memory error",
        54 => "auxiliary power is not connected",
        60 => "exception of a video processor",
        62 | 169 => "a micro-controller halted",
        63 => "a memory page or row is retired",
        64 => "a memory page or row could not be retired",
        68 | 83 | 84 | 88 | 89 | 96..=98 => "exception of a video decoder",
        69 => "error of the graphics engine's class",
        74 | 144..=150 | 155 => "NVLink error",
        79 => "the GPU has fallen off the bus",
        80 => "corrupted commands",
        82 | 99..=105 => "exception of a JPEG decoder",
        86 | 139 => "exception of the optical flow engine",
        92 => "many corrected memory errors",
        94 => "memory error, contained in its application",
        95 => "memory error that was not contained",
        109 => "a context switch timed out",
        110 => "security fault",
        119 => "the GPU's system processor does not answer",
        120 => "the GPU's system processor failed",
        121 => "error of the link to the CPU",
        136 => "training of a link failed",
        140 => "memory errors that were not recovered",
        143 => "the GPU could not be initialised",
        151 => "keys could not be changed",
        154 => "the recovery action has changed",
        156 => "a resource was retired",
        157 => "a resource could not be retired",
        158 => "a fatal timeout",
        167 => "fatal timeout of PCIe",
        168 => "memory is reduced after errors",
        171 => "uncorrectable error of DRAM",
        172 => "uncorrectable error of SRAM",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_from_devices() {
        for code in [13, 31, 43, 45, 68, 69] {
            assert_eq!(Class::of(code), Class::Application, "{code}");
        }
        for code in [48, 62, 64, 95, 119, 120, 140] {
            assert_eq!(Class::of(code), Class::Hardware, "{code}");
        }
        for code in [63, 92, 94] {
            assert_eq!(Class::of(code), Class::Memory, "{code}");
        }
        assert_eq!((Class::of(74), Class::of(79)), (Class::Link, Class::Bus));
        assert_eq!((Class::of(0), Class::of(9_999)), (Class::Unknown, Class::Unknown));
    }

    #[test]
    fn what_takes_a_device_away_is_told_in_words() {
        for code in 0..200 {
            let bad = matches!(Class::of(code), Class::Hardware | Class::Bus | Class::Memory);
            assert!(!bad || title(code).is_some(), "{code}");
        }
    }
}
