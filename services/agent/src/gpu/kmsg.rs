//! Xid errors from the kernel's log, of devices of which the driver tells no events.
//!
//! NVIDIA's module writes them as `NVRM: Xid (PCI:0000:3b:00): 31, pid=4711, name=python3, <what happened>` ("Working with Xid Errors",
//! docs.nvidia.com/deploy/xid-errors); older ones leave `PCI:` or the process out. Only what is written from now on is read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use skerry_gpu_model::Event;

/// Where the kernel's log is read (Documentation/ABI/testing/dev-kmsg): each read is one record, in one piece.
pub(super) const PATH: &str = "/dev/kmsg";
/// No record is longer.
const RECORD_BYTES_MAX: usize = 8 * 1024;
/// Most of what the driver wrote that is kept.
const MESSAGE_BYTES_MAX: usize = 256;

/// The log, from where it was when it was opened.
pub(super) struct Kmsg {
    file: File,
    record: Vec<u8>,
}

/// An error of the driver's, as the log has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Logged {
    /// `0000:3b:00`: domain, bus and device.
    pub(super) pci: String,
    /// What happened.
    pub(super) event: Event,
}

impl Kmsg {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = rustix::fs::OFlags::NONBLOCK.bits();
        let mut file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file, record: vec![0; RECORD_BYTES_MAX] })
    }

    /// The next error, if there is one within `timeout`.
    pub(super) fn wait(&mut self, timeout: Duration) -> io::Result<Option<Logged>> {
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut polled = [PollFd::new(&self.file, PollFlags::IN)];
        if poll(&mut polled, Some(&timeout))? == 0 {
            return Ok(None);
        }
        loop {
            match self.file.read(&mut self.record) {
                Ok(0) => return Ok(None),
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&self.record[..bytes]);
                    if let Some(logged) = parse(&text) {
                        return Ok(Some(logged));
                    }
                }
                // What was not read in time was written over; the next read is of the oldest that is left.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The error that a record tells of: `6,1234,5678,-;NVRM: Xid (PCI:0000:3b:00): 79, ...`.
fn parse(record: &str) -> Option<Logged> {
    let line = record.split_once(';')?.1.lines().next()?;
    let rest = line.trim_start().strip_prefix("NVRM: Xid (")?;
    let (place, rest) = rest.split_once("): ")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let code = rest[..digits].parse().ok()?;
    let mut message = rest[digits..].trim_start_matches(',').trim();
    let mut pid = 0;
    // The pid may be quoted, and `<unknown>` where there is none.
    while let Some((key, after)) = message.split_once('=').filter(|(key, _)| matches!(*key, "pid" | "name")) {
        let (value, after) = after.split_once(',').unwrap_or((after, ""));
        if key == "pid" {
            pid = value.trim_matches('\'').parse().unwrap_or(0);
        }
        message = after.trim();
    }
    let message = message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned();
    let pci = place.strip_prefix("PCI:").unwrap_or(place).to_ascii_lowercase();
    Some(Logged { pci, event: Event::Xid { code, pid, instance: String::new(), message } })
}

/// Whether a device of this PCI address (`0000:3b:00.0`) is meant.
pub(super) fn is_of(pci: &str, address: &str) -> bool {
    let device = address.rsplit_once('.').map_or(address, |(device, _)| device);
    !device.is_empty() && (device == pci || pci.rsplit_once('.').is_some_and(|(pci, _)| pci == device))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn xid(code: u32, pid: u32, message: &str) -> Event {
        Event::Xid { code, pid, instance: String::new(), message: message.to_owned() }
    }

    #[test]
    fn errors_are_read_as_drivers_write_them() {
        let read = |line: &str| parse(&format!("4,1190,83648520,-;{line}\n SUBSYSTEM=pci\n"));
        for (line, event) in [
            (
                "NVRM: Xid (PCI:0000:3B:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
                xid(79, 0, "GPU has fallen off the bus."),
            ),
            (
                "NVRM: Xid (PCI:0000:3b:00): 13, pid=4711, name=python3, Graphics Exception: ESR 0x1",
                xid(13, 4711, "Graphics Exception: ESR 0x1"),
            ),
            (
                "NVRM: Xid (0000:3b:00): 31, Ch 00000010, engmask 00000101",
                xid(31, 0, "Ch 00000010, engmask 00000101"),
            ),
            ("NVRM: Xid (PCI:0000:3b:00): 43, pid='17'", xid(43, 17, "")),
        ] {
            assert_eq!(read(line), Some(Logged { pci: "0000:3b:00".to_owned(), event }), "{line}");
        }
        for other in [
            "NVRM: loading NVIDIA UNIX Kernel Module",
            "NVRM: Xid (PCI:0000:3b:00): x",
            "usb 1-1: new device",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_device_is_told_by_its_address() {
        assert!(is_of("0000:3b:00", "0000:3b:00.0") && is_of("0000:3b:00.0", "0000:3b:00.0"));
        assert!(!is_of("0000:3b:00", "0000:3c:00.0") && !is_of("", ""), "what is not on PCI is none of them");
    }

    proptest! {
        #[test]
        fn any_record_is_read_or_passed_over(text in ".{0,200}") {
            let record = format!("6,1,1,-;NVRM: Xid (PCI:0000:01:00): {text}");
            if let Some(logged) = parse(&record) {
                let Event::Xid { message, .. } = logged.event else { panic!("an Xid") };
                prop_assert!(message.len() <= MESSAGE_BYTES_MAX);
            }
        }
    }
}
