//! The time zones of this machine: read from where machines have them, and again now and then.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use skerry_model::cron::{Zone, ZoneName};
use skerry_sync::MonoTime;

/// Where machines have them.
const DIRECTORIES: [&str; 3] = ["/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/etc/zoneinfo"];
/// Larger files are no zones: those of today have less than 4 KiB.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Rules change, and so do files.
const FRESH: Duration = Duration::from_secs(60 * 60);
/// One that is missing may be installed.
const RETRY: Duration = Duration::from_secs(60);

/// Those that cron jobs here name.
#[derive(Default)]
pub(super) struct Zones(BTreeMap<ZoneName, (Result<Zone, String>, MonoTime)>);

impl Zones {
    /// The zone, or what is wrong.
    pub(super) fn get(&mut self, name: &ZoneName, now: MonoTime) -> Result<Zone, String> {
        if name.is_utc() {
            return Ok(Zone::utc());
        }
        let kept = self
            .0
            .get(name)
            .filter(|(zone, read)| now.saturating_since(*read) < if zone.is_ok() { FRESH } else { RETRY });
        if let Some((zone, _)) = kept {
            return zone.clone();
        }
        let zone = read(&DIRECTORIES, name);
        self.0.insert(name.clone(), (zone.clone(), now));
        zone
    }

    /// Forgets those that nothing names.
    pub(super) fn retain(&mut self, named: impl Fn(&ZoneName) -> bool) {
        self.0.retain(|name, _| named(name));
    }
}

fn read(directories: &[&str], name: &ZoneName) -> Result<Zone, String> {
    for directory in directories {
        let Ok(file) = std::fs::File::open(Path::new(directory).join(name.as_str())) else { continue };
        let mut bytes = Vec::new();
        let read = file.take(FILE_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|error| format!("reading time zone {name}: {error}"))?;
        return Zone::from_tzif(name, &bytes).map_err(|error| format!("time zone {name}: {error}"));
    }
    Err(format!(
        "this machine does not know the time zone {name}: install tzdata, or check the name ({} has none)",
        directories.first().unwrap_or(&"")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_that_the_machine_lacks_is_told_and_looked_for_again() {
        let mut zones = Zones::default();
        let name = ZoneName::parse("Nowhere/Atlantis").unwrap();
        let error = zones.get(&name, MonoTime::default()).unwrap_err();
        assert!(error.contains("Nowhere/Atlantis") && error.contains("install tzdata"), "{error}");
        let utc = ZoneName::default();
        assert_eq!(zones.get(&utc, MonoTime::default()), Ok(Zone::utc()));
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("Nowhere")).unwrap();
        std::fs::write(directory.path().join("Nowhere/Atlantis"), b"no zone").unwrap();
        let error = read(&[directory.path().to_str().unwrap()], &name).unwrap_err();
        assert!(error.starts_with("time zone Nowhere/Atlantis: "), "{error}");
    }
}
