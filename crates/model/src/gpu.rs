//! What an instance has of its node's GPUs: bookings, as the scheduler makes them and agents go by.

use std::collections::BTreeSet;
use std::fmt;

use skerry_proto::gpu::v1 as pb;

/// Most bytes of the UUID of a GPU, or of a part of one.
const ID_BYTES_MAX: usize = 64;
/// Most bytes of the profile of a part.
const PROFILE_BYTES_MAX: usize = 32;

/// Most bookings that are read of what a node tells of one instance.
const TOLD_MAX: usize = 64;

/// UUID of a GPU or of a part of one, as its driver writes it: `GPU-` or `MIG-` and a UUID of an NVIDIA one. 1 to 64 bytes of `A-Za-z0-9`, `-` and `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuId(Box<str>);

/// Why a text names no GPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no UUID of a GPU: use 1 to 64 letters, digits, - and /, as GPU-5a8e6a6c-5c4f-4d8e-9d0f-0f1d2c3b4a59"
)]
pub struct InvalidGpuId(String);

impl GpuId {
    /// Parses one.
    ///
    /// # Errors
    ///
    /// It is empty, too long, or has other characters.
    pub fn parse(text: &str) -> Result<Self, InvalidGpuId> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'/';
        if (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(fine) {
            return Ok(Self(text.into()));
        }
        Err(InvalidGpuId(text.chars().take(80).collect()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Size of a part of a GPU that is divided in hardware, in its driver's words: `1g.10gb`; `1c.3g.40gb` of what shares its memory with others; `1g.10gb+me`,
/// `1g.24gb+me.all`, `1g.24gb+gfx` and `1g.24gb-me` of what has other units than is usual. At most 32 bytes; slices of two digits, gigabytes of four.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MigProfile(Box<str>);

/// Why a text is no profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no profile of a part of a GPU: write it as `nvidia-smi mig -lgip` does, for example 1g.10gb"
)]
pub struct InvalidMigProfile(String);

impl MigProfile {
    /// Parses one.
    ///
    /// # Errors
    ///
    /// It is too long, or not of this form.
    pub fn parse(text: &str) -> Result<Self, InvalidMigProfile> {
        if text.len() <= PROFILE_BYTES_MAX && is_profile(text) {
            return Ok(Self(text.into()));
        }
        Err(InvalidMigProfile(text.chars().take(40).collect()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `[<n>c.]<n>g.<n>gb`, and what it has more or less than usual: `+` or `-`, and words with points between.
fn is_profile(text: &str) -> bool {
    let (size, units) = match text.split_once(['+', '-']) {
        Some((size, units)) => (size, Some(units)),
        None => (text, None),
    };
    let is_number = |part: &str, unit: &str, digits: usize| {
        let number = part.strip_suffix(unit).unwrap_or_default();
        (1..=digits).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit())
    };
    let is_size = match *size.split('.').collect::<Vec<_>>() {
        [slices, memory] => is_number(slices, "g", 2) && is_number(memory, "gb", 4),
        [compute, slices, memory] => {
            is_number(compute, "c", 2) && is_number(slices, "g", 2) && is_number(memory, "gb", 4)
        }
        _ => false,
    };
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    is_size && units.is_none_or(|units| units.split('.').all(is_word))
}

impl fmt::Display for MigProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How well what uses a GPU is kept from others on it; the weakest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GpuIsolation {
    /// It sees the device, and nothing is counted.
    #[default]
    None,
    /// What it uses is counted, and using more than booked has consequences. Nothing prevents it.
    Accounted,
    /// The driver holds memory and compute to what is booked; a fault of one may still reach others.
    Mps,
    /// A part of its own in hardware.
    Mig,
    /// The device is its alone.
    Exclusive,
}

impl fmt::Display for GpuIsolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Accounted => "accounted",
            Self::Mps => "mps",
            Self::Mig => "mig",
            Self::Exclusive => "exclusive",
        })
    }
}

/// How much of one GPU an instance has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuShare {
    /// All of it, and nobody else has any.
    Whole,
    /// A share beside others.
    Part {
        /// Bytes of its memory that are kept. Absent: none.
        memory_bytes: Option<u64>,
        /// Of its compute, 1 to 100. Absent: none.
        compute_percent: Option<u32>,
    },
    /// A part in hardware.
    Mig {
        /// Its size.
        profile: MigProfile,
        /// Which part.
        device: GpuId,
    },
}

impl GpuShare {
    /// What of it is beyond another share of the same GPU, as where one copy of an instance takes the place of another: what both have is had once. `None`: nothing.
    pub fn beyond(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (_, Self::Whole) => None,
            (
                Self::Part { memory_bytes, compute_percent },
                Self::Part { memory_bytes: memory, compute_percent: compute },
            ) => {
                let memory = memory_bytes.unwrap_or(0).saturating_sub(memory.unwrap_or(0));
                let compute = compute_percent.unwrap_or(0).saturating_sub(compute.unwrap_or(0));
                (memory > 0 || compute > 0).then_some(Self::Part {
                    memory_bytes: Some(memory).filter(|bytes| *bytes > 0),
                    compute_percent: Some(compute).filter(|percent| *percent > 0),
                })
            }
            (one, other) => (one != other).then(|| one.clone()),
        }
    }
}

/// What several have of one GPU together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuTaken {
    /// How many shares.
    pub shares: usize,
    /// Somebody has all of it.
    pub is_whole: bool,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Of its compute, in hundredths.
    pub compute_percent: u32,
    /// How many of the shares are parts in hardware. While one copy makes way for another on the same part, more than there are parts.
    pub part_shares: usize,
    /// Its parts.
    pub parts: BTreeSet<GpuId>,
}

impl GpuTaken {
    /// With one share more.
    pub fn add(&mut self, share: &GpuShare) {
        self.shares += 1;
        match share {
            GpuShare::Whole => self.is_whole = true,
            GpuShare::Part { memory_bytes, compute_percent } => {
                self.memory_bytes = self.memory_bytes.saturating_add(memory_bytes.unwrap_or(0));
                self.compute_percent = self.compute_percent.saturating_add(compute_percent.unwrap_or(0));
            }
            GpuShare::Mig { device, .. } => {
                self.part_shares += 1;
                self.parts.insert(device.clone());
            }
        }
    }

    /// Whether a share more can be had beside them, of a GPU of so many bytes. Absent: that is not known, and no bound.
    pub fn leaves(&self, share: &GpuShare, memory_bytes: Option<u64>) -> bool {
        let is_divided = !self.parts.is_empty();
        match share {
            GpuShare::Whole => self.shares == 0,
            GpuShare::Mig { device, .. } => self.shares == self.part_shares && !self.parts.contains(device),
            GpuShare::Part { memory_bytes: memory, compute_percent: compute } => {
                let memory = self.memory_bytes.saturating_add(memory.unwrap_or(0));
                let compute = self.compute_percent.saturating_add(compute.unwrap_or(0));
                !self.is_whole
                    && !is_divided
                    && compute <= 100
                    && memory_bytes.is_none_or(|bytes| memory <= bytes)
            }
        }
    }
}

/// What an instance has of one GPU of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuBooking {
    /// Which GPU.
    pub gpu: GpuId,
    /// How much of it.
    pub share: GpuShare,
    /// How well it is kept from others, as far as placement knows.
    pub isolation: GpuIsolation,
}

impl GpuBooking {
    /// Most bytes that it takes where it is stored, with room for the encoding.
    pub fn bytes(&self) -> usize {
        let part = match &self.share {
            GpuShare::Mig { profile, device } => profile.as_str().len() + device.as_str().len() + 4,
            GpuShare::Whole | GpuShare::Part { .. } => 0,
        };
        self.gpu.as_str().len() + part + 32
    }

    /// As it travels and is stored.
    pub fn to_proto(&self) -> pb::Booking {
        use pb::allocation::Isolation as Wire;
        let mut share = pb::GpuShare::default();
        let mut mig_device = String::new();
        match &self.share {
            GpuShare::Whole => share.whole = true,
            GpuShare::Part { memory_bytes, compute_percent } => {
                share.memory_bytes = memory_bytes.and_then(|bytes| i64::try_from(bytes).ok());
                share.compute_percent = *compute_percent;
            }
            GpuShare::Mig { profile, device } => {
                profile.as_str().clone_into(&mut share.mig_profile);
                device.as_str().clone_into(&mut mig_device);
            }
        }
        let isolation = match self.isolation {
            GpuIsolation::None => Wire::Unspecified,
            GpuIsolation::Accounted => Wire::Accounted,
            GpuIsolation::Mps => Wire::Mps,
            GpuIsolation::Mig => Wire::Mig,
            GpuIsolation::Exclusive => Wire::Exclusive,
        };
        pb::Booking { gpu: self.gpu.to_string(), mig_device, share: Some(share), isolation: isolation.into() }
    }

    /// As it was stored. `None`: it does not parse, or says things that go not together.
    pub fn from_proto(wire: &pb::Booking) -> Option<Self> {
        use pb::allocation::Isolation as Wire;
        let share = wire.share.as_ref()?;
        let bounded = share.memory_bytes.is_some() || share.compute_percent.is_some();
        let is_mig = !share.mig_profile.is_empty() || !wire.mig_device.is_empty();
        let share = match (share.whole, is_mig, bounded) {
            (true, false, false) => GpuShare::Whole,
            (false, true, false) => GpuShare::Mig {
                profile: MigProfile::parse(&share.mig_profile).ok()?,
                device: GpuId::parse(&wire.mig_device).ok()?,
            },
            (false, false, _) => GpuShare::Part {
                memory_bytes: share.memory_bytes.map(u64::try_from).transpose().ok()?,
                compute_percent: share.compute_percent,
            },
            (true, ..) | (false, true, true) => return None,
        };
        let isolation = match Wire::try_from(wire.isolation).ok()? {
            Wire::Unspecified => GpuIsolation::None,
            Wire::Accounted => GpuIsolation::Accounted,
            Wire::Mps => GpuIsolation::Mps,
            Wire::Mig => GpuIsolation::Mig,
            Wire::Exclusive => GpuIsolation::Exclusive,
        };
        Some(Self { gpu: GpuId::parse(&wire.gpu).ok()?, share, isolation })
    }

    /// What a node tells of one instance: at most 64, of those that can be read.
    pub fn told(wire: &[pb::Booking]) -> Vec<Self> {
        wire.iter().take(TOLD_MAX).filter_map(Self::from_proto).collect()
    }
}

/// What an instance has of GPUs, seen from the control plane: if a copy of it runs, what its node tells (`told`), which may be of a revision before; else what is
/// booked. Where both say the same of a GPU, with the weaker isolation of the two.
pub fn granted(booked: &[GpuBooking], told: &[pb::Booking], runs: bool) -> Vec<GpuBooking> {
    let told = GpuBooking::told(told);
    let (is, other) = if runs && !told.is_empty() { (&*told, booked) } else { (booked, &*told) };
    let weaker = |one: &GpuBooking| {
        let same = other.iter().find(|other| other.gpu == one.gpu && other.share == one.share);
        let isolation = same.map_or(one.isolation, |same| same.isolation.min(one.isolation));
        GpuBooking { isolation, ..one.clone() }
    };
    is.iter().map(weaker).collect()
}

impl fmt::Display for GpuBooking {
    /// `all of GPU-1`, `8192Mi and 25 % of GPU-1 (accounted)`, `1g.10gb of GPU-1 (MIG-1)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gpu, share, isolation } = self;
        match share {
            GpuShare::Whole => write!(f, "all of {gpu}"),
            GpuShare::Mig { profile, device } => write!(f, "{profile} of {gpu} ({device})"),
            GpuShare::Part { memory_bytes, compute_percent } => {
                let memory = memory_bytes.map(|bytes| format!("{}Mi", bytes >> 20));
                let compute = compute_percent.map(|percent| format!("{percent} %"));
                let said: Vec<String> = memory.into_iter().chain(compute).collect();
                let said = if said.is_empty() { "a share".to_owned() } else { said.join(" and ") };
                write!(f, "{said} of {gpu} ({isolation})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bookings() -> impl Strategy<Value = GpuBooking> {
        let id = || "[A-Za-z0-9/-]{1,64}".prop_map(|text| GpuId::parse(&text).unwrap());
        let profile = "[1-7]g\\.[0-9]{1,3}gb".prop_map(|text| MigProfile::parse(&text).unwrap());
        let amounts = (proptest::option::of(1_u64..1 << 50), proptest::option::of(1_u32..=100));
        let share = prop_oneof![
            Just(GpuShare::Whole),
            amounts
                .prop_map(|(memory_bytes, compute_percent)| GpuShare::Part { memory_bytes, compute_percent }),
            (profile, id()).prop_map(|(profile, device)| GpuShare::Mig { profile, device }),
        ];
        let isolation = prop_oneof![
            Just(GpuIsolation::None),
            Just(GpuIsolation::Accounted),
            Just(GpuIsolation::Mps),
            Just(GpuIsolation::Mig),
            Just(GpuIsolation::Exclusive),
        ];
        (id(), share, isolation).prop_map(|(gpu, share, isolation)| GpuBooking { gpu, share, isolation })
    }

    proptest! {
        #[test]
        fn what_is_stored_is_read_back_and_no_larger_than_was_reckoned(booking in bookings()) {
            let wire = booking.to_proto();
            prop_assert!(prost::Message::encoded_len(&wire) <= booking.bytes(), "{booking}");
            prop_assert_eq!(GpuBooking::from_proto(&wire), Some(booking));
        }
    }

    /// Of one small device, so that they meet.
    fn shares() -> impl Strategy<Value = GpuShare> {
        let part = |n: u8| GpuShare::Mig {
            profile: MigProfile::parse("1g.10gb").unwrap(),
            device: GpuId::parse(&format!("MIG-{n}")).unwrap(),
        };
        let amounts = (proptest::option::of(1_u64..8), proptest::option::of(1_u32..=100));
        prop_oneof![
            Just(GpuShare::Whole),
            amounts
                .prop_map(|(memory_bytes, compute_percent)| GpuShare::Part { memory_bytes, compute_percent }),
            (0_u8..3).prop_map(part),
        ]
    }

    fn taken<'a>(shares: impl IntoIterator<Item = &'a GpuShare>) -> GpuTaken {
        let mut taken = GpuTaken::default();
        for share in shares {
            taken.add(share);
        }
        taken
    }

    #[test]
    fn two_copies_on_one_part_leave_the_other_parts() {
        let part = |device: &str| GpuShare::Mig {
            profile: MigProfile::parse("1g.10gb").unwrap(),
            device: GpuId::parse(device).unwrap(),
        };
        // One of them makes way for the other.
        let both = taken([&part("MIG-1"), &part("MIG-1")]);
        assert!(both.leaves(&part("MIG-2"), None) && !both.leaves(&part("MIG-1"), None));
        let share = GpuShare::Part { memory_bytes: None, compute_percent: None };
        assert!(!taken([&part("MIG-1"), &share]).leaves(&part("MIG-2"), None));
        assert!(!taken([&GpuShare::Whole]).leaves(&part("MIG-2"), None));
    }

    proptest! {
        #[test]
        fn whoever_comes_one_by_one_where_there_is_room_never_takes_more_than_there_is(
            coming in proptest::collection::vec(shares(), 0..12)
        ) {
            let mut had: Vec<GpuShare> = Vec::new();
            for share in coming {
                if taken(&had).leaves(&share, Some(10)) {
                    had.push(share);
                }
            }
            let all = taken(&had);
            prop_assert!(all.memory_bytes <= 10 && all.compute_percent <= 100);
            prop_assert!(!all.is_whole || had.len() == 1);
            prop_assert!(all.parts.is_empty() || all.parts.len() == had.len(), "each part once, and no share beside");
        }

        #[test]
        fn what_two_copies_have_is_had_once(old in shares(), new in shares()) {
            prop_assert_eq!(old.beyond(&old), None);
            let beyond = old.beyond(&new);
            let both = taken([&new].into_iter().chain(&beyond));
            for share in [&old, &new] {
                let alone = taken([share]);
                prop_assert!(both.is_whole >= alone.is_whole && both.parts.is_superset(&alone.parts) || both.is_whole);
                prop_assert!(both.is_whole || both.memory_bytes >= alone.memory_bytes);
                prop_assert!(both.is_whole || both.compute_percent >= alone.compute_percent);
            }
            if let (GpuShare::Part { .. }, GpuShare::Part { .. }) = (&old, &new) {
                let most = taken([&old]).memory_bytes.max(taken([&new]).memory_bytes);
                prop_assert_eq!(both.memory_bytes, most, "and no more");
            }
        }
    }

    #[test]
    fn of_a_copy_that_runs_its_node_tells_and_of_others_the_booking_does() {
        use GpuIsolation::{Accounted, Exclusive, Mps};
        let booking = |gpu: &str, bytes, isolation| GpuBooking {
            gpu: GpuId::parse(gpu).unwrap(),
            share: GpuShare::Part { memory_bytes: Some(bytes), compute_percent: None },
            isolation,
        };
        let booked = [booking("GPU-1", 1, Mps)];
        for (told, runs, expected) in [
            (booking("GPU-1", 1, Accounted), false, booking("GPU-1", 1, Accounted)),
            (booking("GPU-1", 1, Accounted), true, booking("GPU-1", 1, Accounted)),
            (booking("GPU-1", 1, Exclusive), true, booking("GPU-1", 1, Mps)),
            (booking("GPU-1", 8, Accounted), true, booking("GPU-1", 8, Accounted)),
            (booking("GPU-1", 8, Accounted), false, booking("GPU-1", 1, Mps)),
            (booking("GPU-2", 1, Accounted), true, booking("GPU-2", 1, Accounted)),
            (booking("GPU-2", 1, Accounted), false, booking("GPU-1", 1, Mps)),
        ] {
            assert_eq!(granted(&booked, &[told.to_proto()], runs), [expected], "{told}, {runs}");
        }
        let nonsense = pb::Booking { isolation: -1, ..booked[0].to_proto() };
        assert_eq!(granted(&booked, &[nonsense], true), booked);
        let left = booking("GPU-1", 8, Mps).to_proto();
        assert_eq!(granted(&[], std::slice::from_ref(&left), true).len(), 1, "nobody wants it, and it runs");
        assert_eq!(granted(&[], &[left], false), []);
    }

    #[test]
    fn what_goes_not_together_is_no_booking() {
        let whole = GpuBooking {
            gpu: GpuId::parse("GPU-1").unwrap(),
            share: GpuShare::Whole,
            isolation: GpuIsolation::Exclusive,
        };
        let wrong = |change: fn(&mut pb::Booking)| {
            let mut wire = whole.to_proto();
            change(&mut wire);
            GpuBooking::from_proto(&wire)
        };
        assert_eq!(wrong(|_| ()), Some(whole.clone()));
        assert_eq!(wrong(|wire| wire.gpu = String::new()), None);
        assert_eq!(wrong(|wire| wire.share = None), None);
        assert_eq!(wrong(|wire| wire.isolation = 99), None);
        assert_eq!(wrong(|wire| wire.mig_device = "MIG-1".to_owned()), None, "whole and a part");
        let part = |wire: &mut pb::Booking, memory_bytes| {
            wire.share =
                Some(pb::GpuShare { memory_bytes, mig_profile: "1g.5gb".to_owned(), ..Default::default() });
        };
        let mut wire = whole.to_proto();
        part(&mut wire, None);
        assert_eq!(GpuBooking::from_proto(&wire), None, "no part is named");
        wire.mig_device = "MIG-1".to_owned();
        assert!(GpuBooking::from_proto(&wire).is_some());
        part(&mut wire, Some(1));
        assert_eq!(GpuBooking::from_proto(&wire), None, "a part, and a share");
    }

    #[test]
    fn a_profile_is_what_drivers_write() {
        let fine =
            "1g.10gb 7g.80gb 4g.47gb 99g.9999gb 1c.3g.40gb 1g.10gb+me 1g.20gb+gfx 1g.24gb+me.all 1g.24gb-me";
        for fine in fine.split(' ') {
            assert!(MigProfile::parse(fine).is_ok(), "{fine}");
        }
        let bad = "g 10gb 1G.10GB all 1g 1g.gb .1g.10gb 100g.10gb 1g.10000gb 1g.10gb+ 1g.10gb+me. 1g.10gb+ME 1g.10gb.1g 3g.1c.40gb +1g.10gb 7g.80gb1";
        let long = format!("1g.10gb+{}", "m".repeat(PROFILE_BYTES_MAX));
        for bad in bad.split(' ').chain(["", "1g 10gb", "1g.10gb\n", &long]) {
            assert!(MigProfile::parse(bad).is_err(), "{bad}");
        }
    }
}
