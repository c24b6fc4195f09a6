//! Which cards there are to simulate: `profiles/*.toml`, read once.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;

use crate::control::EventKind;

/// The files, by the name that a machine's description uses.
const FILES: &[(&str, &str)] = &[
    ("t4", include_str!("../profiles/t4.toml")),
    ("a10", include_str!("../profiles/a10.toml")),
    ("a4000", include_str!("../profiles/a4000.toml")),
    ("a100", include_str!("../profiles/a100.toml")),
    ("h100", include_str!("../profiles/h100.toml")),
    ("h200", include_str!("../profiles/h200.toml")),
    ("orin", include_str!("../profiles/orin.toml")),
    ("lost", include_str!("../profiles/lost.toml")),
];

static PROFILES: LazyLock<BTreeMap<&'static str, Profile>> = LazyLock::new(|| {
    let read = |(name, text): &(&'static str, &str)| {
        let table = with_base(text).expect("a profile is TOML: a test reads each");
        (*name, table.try_into().expect("a profile has the fields of `Profile`: a test reads each"))
    };
    FILES.iter().map(read).collect()
});

/// What is particular to a model of card. The figures are those that its maker names or that its tools show.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each says whether a card can do a thing")]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) architecture: Architecture,
    pub(crate) brand: Brand,
    /// Major and minor.
    pub(crate) compute_capability: [i32; 2],
    pub(crate) cores: u32,
    pub(crate) bus_width_bits: u32,
    pub(crate) pci_device_id: u16,
    pub(crate) pci_subsystem_id: u16,
    pub(crate) vbios: String,
    pub(crate) part_number: String,
    pub(crate) memory: Memory,
    pub(crate) power: Power,
    pub(crate) clocks: Clocks,
    pub(crate) temperature: Temperature,
    pub(crate) pcie: Pcie,
    /// Nothing: the card has no ECC. Otherwise whether it is on.
    pub(crate) ecc: Option<bool>,
    /// Whether faulty pages of memory are retired (up to Turing).
    #[serde(default)]
    pub(crate) retired_pages: bool,
    /// Whether faulty rows of memory are remapped (from Ampere on).
    #[serde(default)]
    pub(crate) remapped_rows: bool,
    /// Whether there is a sensor in the memory.
    #[serde(default)]
    pub(crate) memory_temperature: bool,
    #[serde(default)]
    pub(crate) fans: u32,
    /// Whether ratios of activity can be had.
    #[serde(default)]
    pub(crate) gpm: bool,
    pub(crate) nvlink: Option<NvLink>,
    /// What sets of events may register for; none: the card does not support events.
    pub(crate) events: Vec<EventKind>,
    #[serde(default)]
    pub(crate) mig: Vec<MigProfile>,
    /// Of the calls on a device only these; all where nothing stands here.
    pub(crate) supported_only: Option<Vec<String>>,
    /// So many seconds after the driver was loaded the card is lost.
    pub(crate) lost_after_s: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Architecture {
    Turing = 6,
    Ampere = 7,
    Hopper = 9,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Brand {
    NvidiaRtx = 13,
    Nvidia = 14,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Memory {
    pub(crate) total_mib: u64,
    pub(crate) reserved_mib: u64,
    pub(crate) bar1_mib: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Power {
    pub(crate) idle_w: u32,
    /// What it would draw at full load, if it were let.
    pub(crate) full_w: u32,
    pub(crate) limit_w: u32,
    pub(crate) limit_min_w: u32,
    pub(crate) limit_max_w: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Clocks {
    pub(crate) idle_sm_mhz: u32,
    pub(crate) max_sm_mhz: u32,
    pub(crate) idle_memory_mhz: u32,
    pub(crate) memory_mhz: u32,
    pub(crate) max_video_mhz: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Temperature {
    /// Where it comes to rest at the default power limit with 25 degrees around it.
    pub(crate) full_c: u32,
    pub(crate) max_operating_c: u32,
    pub(crate) slowdown_c: u32,
    pub(crate) shutdown_c: u32,
    pub(crate) memory_max_c: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pcie {
    pub(crate) generation: u32,
    pub(crate) width: u32,
    /// To save power while idle.
    pub(crate) idle_generation: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NvLink {
    pub(crate) links: u32,
    pub(crate) version: u32,
    /// Megabytes a second of one link in one direction.
    pub(crate) speed_mbps: u32,
}

/// A size of GPU instance.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MigProfile {
    pub(crate) name: String,
    /// `NVML_GPU_INSTANCE_PROFILE_...`
    pub(crate) number: u32,
    /// What `nvidia-smi mig` shows, and what an instance is made by.
    pub(crate) id: u32,
    /// At most so many of them on one card.
    pub(crate) instances: u32,
    /// Of seven.
    pub(crate) slices: u32,
    /// Of eight.
    pub(crate) memory_slices: u32,
    pub(crate) memory_mib: u64,
    pub(crate) multiprocessors: u32,
    pub(crate) copy_engines: u32,
    #[serde(default)]
    pub(crate) decoders: u32,
    #[serde(default)]
    pub(crate) jpegs: u32,
    #[serde(default)]
    pub(crate) ofas: u32,
}

/// The profile of that name.
pub(crate) fn find(name: &str) -> Option<&'static Profile> {
    PROFILES.get(name)
}

/// Names of all profiles, for messages.
pub(crate) fn names() -> Vec<&'static str> {
    FILES.iter().map(|(name, _)| *name).collect()
}

impl Profile {
    pub(crate) fn mig(&self, name: &str) -> Option<&MigProfile> {
        self.mig.iter().find(|profile| profile.name == name)
    }

    /// Whether the card answers this call on a device at all.
    pub(crate) fn supports(&self, call: &str) -> bool {
        self.supported_only.as_ref().is_none_or(|only| only.iter().any(|known| known == call))
    }

    /// Whether it tells power as a mean over a second, beside that of now: Ampere but for GA100 (compute capability 8.0), and what is newer.
    pub(crate) fn averages_power(&self) -> bool {
        self.compute_capability > [8, 0]
    }

    /// Mask of the events that it supports.
    pub(crate) fn event_mask(&self) -> u64 {
        self.events.iter().fold(0, |mask, kind| mask | kind.bit())
    }
}

/// A profile's table, laid over that of the profile which it is `like`.
fn with_base(text: &str) -> Result<toml::Table, toml::de::Error> {
    let mut table: toml::Table = toml::from_str(text)?;
    let Some(base) = table.remove("like") else { return Ok(table) };
    let base = FILES.iter().find(|(name, _)| base.as_str() == Some(name));
    let mut whole: toml::Table = toml::from_str(base.map_or("", |(_, text)| text))?;
    whole.extend(table);
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_profile_can_be_read_and_is_plausible() {
        for name in names() {
            let profile = find(name).expect(name);
            let Power { idle_w, full_w, limit_w, limit_min_w, limit_max_w } = profile.power;
            assert!(idle_w < limit_min_w && limit_min_w <= limit_w && limit_w <= limit_max_w, "{name}");
            assert!(full_w >= limit_w, "{name}: it comes to its limit");
            let Temperature { full_c, max_operating_c, slowdown_c, shutdown_c, .. } = profile.temperature;
            assert!(
                full_c < max_operating_c && max_operating_c < slowdown_c && slowdown_c < shutdown_c,
                "{name}"
            );
            assert!(profile.memory.reserved_mib < profile.memory.total_mib / 10, "{name}");
            assert!(profile.clocks.idle_sm_mhz < profile.clocks.max_sm_mhz, "{name}");
            for mig in &profile.mig {
                assert!(
                    mig.memory_mib * u64::from(mig.instances) <= profile.memory.total_mib,
                    "{name} {}",
                    mig.name
                );
                assert!(
                    mig.slices * mig.instances <= 7 && mig.memory_slices * mig.instances <= 8,
                    "{name} {}",
                    mig.name
                );
                assert!(mig.multiprocessors <= profile.cores / 64, "{name} {}", mig.name);
            }
        }
    }

    #[test]
    fn one_profile_may_be_like_another() {
        let (lost, a10) = (find("lost").expect("there"), find("a10").expect("there"));
        assert_eq!(lost.name, a10.name);
        assert_eq!((lost.lost_after_s, a10.lost_after_s), (Some(30), None));
    }

    #[test]
    fn what_a_profile_names_are_calls() {
        for name in names() {
            for call in find(name).expect(name).supported_only.iter().flatten() {
                assert!(crate::ffi::is_call(call), "{name}: {call}");
            }
        }
    }
}
