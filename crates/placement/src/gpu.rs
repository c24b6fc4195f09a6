//! GPUs of a node: which of them an instance gets, and why none will do.
//!
//! What is asked for is of one device, never of a node's sum; only whole ones may be several. What an instance has it keeps, on a device that is sick too: who
//! may leave it does so once there is another place (`cluster`).

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;

use skerry_model::app::{Gpu as Ask, GpuNeed, Spread};
use skerry_model::{GpuBooking, GpuId, GpuIsolation, GpuShare, GpuTaken, MigProfile};

use crate::reason::Reason;

/// A GPU of a node, as far as placement cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gpu {
    /// As its driver names it.
    pub model: String,
    /// All of its memory. Absent: it has none of its own, or that is not known; then none can be kept for anybody.
    pub memory_bytes: Option<u64>,
    /// Its parts, if it is divided in hardware: then it is had by its parts alone.
    pub parts: Option<BTreeMap<GpuId, MigProfile>>,
    /// Whether it takes anybody.
    pub standing: Standing,
    /// What who has a share of it is granted: [`GpuIsolation::Mps`] where a daemon of that serves it, else no more than [`GpuIsolation::Accounted`].
    pub sharing: GpuIsolation,
}

/// Whether a GPU takes anybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    #[default]
    Sound,
    /// Nobody new. Why, in words for programs.
    Closed(String),
    /// Nobody new, and who may leaves it. Why, likewise.
    Sick(String),
}

/// What an instance would get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// By GPU.
    pub(crate) bookings: Vec<GpuBooking>,
    /// How much would be left, of the device or, for whole ones, of the node. Of the same kind of need less is fuller.
    pub(crate) left: u64,
}

/// Why a device will not do. What comes later is nearer to doing: that is told of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    Model,
    Unhealthy(Reverse<GpuId>, String),
    Divided,
    NoSuchPart,
    Isolation(GpuIsolation),
    Taken,
    Compute(u32),
    Memory(u64),
}

/// What an instance gets of these GPUs, of which others have `booked`; or why nothing. Where it has its place already, on `before`, it stays on those devices if they
/// still do, though nobody new came to them.
pub(crate) fn choose<'a>(
    gpus: &BTreeMap<GpuId, Gpu>,
    booked: impl Iterator<Item = (&'a GpuId, Cow<'a, GpuShare>)>,
    ask: &Ask,
    before: &[GpuBooking],
) -> Result<Choice, Reason> {
    let mut taken: BTreeMap<&GpuId, GpuTaken> = BTreeMap::new();
    for (gpu, share) in booked {
        taken.entry(gpu).or_default().add(&share);
    }
    let (nothing, wanted) = (GpuTaken::default(), ask.need.count());
    let found = u32::try_from(gpus.len()).unwrap_or(u32::MAX);
    if found < wanted {
        return Err(Reason::GpuMissing { wanted, found });
    }
    let mut offers = Vec::new();
    let mut nearest = None;
    for (id, gpu) in gpus {
        let held = before.iter().find(|booking| booking.gpu == *id);
        match offer(id, gpu, taken.get(id).unwrap_or(&nothing), ask, held) {
            Ok(offer) => offers.push(offer),
            Err(refusal) => nearest = nearest.max(Some(refusal)),
        }
    }
    let fill = |offer: &Offer| match ask.spread {
        Some(Spread::Pack) => (offer.left, Reverse(offer.bookings)),
        Some(Spread::Spread) => (u64::MAX - offer.left, Reverse(usize::MAX - offer.bookings)),
        None => (0, Reverse(0)),
    };
    offers.sort_by_key(|offer| (!offer.is_held, fill(offer)));
    let free = u32::try_from(offers.len()).unwrap_or(u32::MAX);
    if free < wanted {
        return Err(match nearest {
            Some(refusal) if offers.is_empty() => reason(refusal, ask),
            _ => Reason::GpuTaken { wanted, free },
        });
    }
    let left = match ask.need {
        GpuNeed::Whole { .. } => u64::from(free - wanted),
        GpuNeed::Share { .. } | GpuNeed::Mig { .. } => offers.first().map_or(0, |offer| offer.left),
    };
    offers.truncate(wanted as usize);
    let mut bookings: Vec<GpuBooking> = offers.into_iter().map(|offer| offer.booking).collect();
    bookings.sort_by(|a, b| a.gpu.cmp(&b.gpu));
    Ok(Choice { bookings, left })
}

/// What a device would give.
struct Offer {
    booking: GpuBooking,
    left: u64,
    /// How many have some of it already.
    bookings: usize,
    is_held: bool,
}

fn offer(
    id: &GpuId,
    gpu: &Gpu,
    taken: &GpuTaken,
    ask: &Ask,
    held: Option<&GpuBooking>,
) -> Result<Offer, Refusal> {
    if !ask.models.matches(&gpu.model) {
        return Err(Refusal::Model);
    }
    match &gpu.standing {
        Standing::Sound => {}
        Standing::Closed(_) if held.is_some() => {}
        Standing::Closed(why) | Standing::Sick(why) => {
            return Err(Refusal::Unhealthy(Reverse(id.clone()), why.clone()));
        }
    }
    let isolation = match (&ask.need, &gpu.parts) {
        (GpuNeed::Mig { .. }, None) => return Err(Refusal::NoSuchPart),
        (GpuNeed::Whole { .. } | GpuNeed::Share { .. }, Some(_)) => return Err(Refusal::Divided),
        (GpuNeed::Mig { profile }, Some(parts)) if !parts.values().any(|one| one == profile) => {
            return Err(Refusal::NoSuchPart);
        }
        (GpuNeed::Mig { .. }, Some(_)) => GpuIsolation::Mig,
        (GpuNeed::Whole { .. }, None) => GpuIsolation::Exclusive,
        (GpuNeed::Share { .. }, None) => gpu.sharing,
    };
    if isolation < ask.isolation_min {
        return Err(Refusal::Isolation(isolation));
    }
    let is_taken = match ask.need {
        GpuNeed::Whole { .. } => taken.shares > 0,
        // Of one that was whole when somebody got it, or got some of it, nobody gets a part.
        GpuNeed::Mig { .. } => taken.shares > taken.part_shares,
        GpuNeed::Share { .. } => taken.is_whole || !taken.parts.is_empty(),
    };
    if is_taken {
        return Err(Refusal::Taken);
    }
    let (share, left) = match &ask.need {
        GpuNeed::Whole { .. } => (GpuShare::Whole, 0),
        GpuNeed::Share { memory_bytes, compute_percent } => {
            share(gpu, taken, *memory_bytes, *compute_percent)?
        }
        GpuNeed::Mig { profile } => part(gpu, taken, profile, held)?,
    };
    let booking = GpuBooking { gpu: id.clone(), share, isolation };
    Ok(Offer { booking, left, bookings: taken.shares, is_held: held.is_some() })
}

/// A share, and thousandths of memory and of compute that are left, added up.
fn share(
    gpu: &Gpu,
    taken: &GpuTaken,
    memory_bytes: Option<u64>,
    compute_percent: Option<u32>,
) -> Result<(GpuShare, u64), Refusal> {
    let compute = 100_u32.saturating_sub(taken.compute_percent);
    let Some(compute_left) = compute.checked_sub(compute_percent.unwrap_or(0)) else {
        return Err(Refusal::Compute(compute));
    };
    let all = gpu.memory_bytes.unwrap_or(0);
    let memory = all.saturating_sub(taken.memory_bytes);
    let Some(memory_left) = memory.checked_sub(memory_bytes.unwrap_or(0)) else {
        return Err(Refusal::Memory(memory));
    };
    let left = memory_left.saturating_mul(1000) / all.max(1) + u64::from(compute_left) * 10;
    Ok((GpuShare::Part { memory_bytes, compute_percent }, left))
}

/// A free part of this size, and how many parts of the device are left: the one that it has, or else the first.
fn part(
    gpu: &Gpu,
    taken: &GpuTaken,
    profile: &MigProfile,
    held: Option<&GpuBooking>,
) -> Result<(GpuShare, u64), Refusal> {
    let parts = gpu.parts.iter().flatten();
    let free: Vec<&GpuId> = parts.clone().map(|(id, _)| id).filter(|id| !taken.parts.contains(*id)).collect();
    let of_size = |id: &&&GpuId| parts.clone().any(|(one, size)| one == **id && size == profile);
    let is_held = |id: &&&GpuId| {
        held.is_some_and(|held| matches!(&held.share, GpuShare::Mig { device, .. } if device == **id))
    };
    let fitting = || free.iter().filter(of_size);
    let device = fitting().find(is_held).or_else(|| fitting().next()).ok_or(Refusal::Taken)?;
    let left = u64::try_from(free.len() - 1).unwrap_or(u64::MAX);
    Ok((GpuShare::Mig { profile: profile.clone(), device: (*device).clone() }, left))
}

fn reason(refusal: Refusal, ask: &Ask) -> Reason {
    let wanted = ask.need.count();
    match (refusal, &ask.need) {
        (Refusal::Model, _) => Reason::GpuModel { models: ask.models.clone() },
        (Refusal::Unhealthy(gpu, why), _) => Reason::GpuUnhealthy { gpu: gpu.0, why },
        (Refusal::NoSuchPart, GpuNeed::Mig { profile }) => Reason::GpuProfile { profile: profile.clone() },
        (Refusal::Divided | Refusal::NoSuchPart, _) => Reason::GpuDivided,
        (Refusal::Isolation(granted), _) => Reason::GpuIsolation { wanted: ask.isolation_min, granted },
        (Refusal::Compute(free), GpuNeed::Share { compute_percent: Some(wanted), .. }) => {
            Reason::GpuCompute { wanted: *wanted, free }
        }
        (Refusal::Memory(free), GpuNeed::Share { memory_bytes: Some(wanted), .. }) => {
            Reason::GpuMemory { wanted: *wanted, free }
        }
        (Refusal::Taken | Refusal::Compute(_) | Refusal::Memory(_), _) => {
            Reason::GpuTaken { wanted, free: 0 }
        }
    }
}

/// Whether bookings are what is asked for, on whichever devices.
pub(crate) fn is_met(ask: Option<&Ask>, bookings: &[GpuBooking]) -> bool {
    let Some(ask) = ask else { return bookings.is_empty() };
    let fits = |booking: &GpuBooking| match (&ask.need, &booking.share) {
        (GpuNeed::Whole { .. }, GpuShare::Whole) => true,
        (
            GpuNeed::Share { memory_bytes, compute_percent },
            GpuShare::Part { memory_bytes: memory, compute_percent: compute },
        ) => memory == memory_bytes && compute == compute_percent,
        (GpuNeed::Mig { profile }, GpuShare::Mig { profile: found, .. }) => found == profile,
        _ => false,
    };
    bookings.len() == ask.need.count() as usize
        && bookings.is_sorted_by(|a, b| a.gpu < b.gpu)
        && bookings.iter().all(|booking| booking.isolation >= ask.isolation_min && fits(booking))
}

/// Whether any of these bookings is of a device that who may leaves: a sick one, or one that is not there any more. A node that tells of none at all may only just have
/// started, and drives nobody out.
pub(crate) fn is_sick(gpus: &BTreeMap<GpuId, Gpu>, bookings: &[GpuBooking]) -> bool {
    let is_bad = |booking: &GpuBooking| {
        let Some(gpu) = gpus.get(&booking.gpu) else { return !gpus.is_empty() };
        let is_gone = match (&booking.share, &gpu.parts) {
            (GpuShare::Mig { device, .. }, Some(parts)) => !parts.contains_key(device),
            (GpuShare::Mig { .. }, None) | (GpuShare::Whole | GpuShare::Part { .. }, Some(_)) => true,
            (GpuShare::Whole | GpuShare::Part { .. }, None) => false,
        };
        is_gone || matches!(gpu.standing, Standing::Sick(_))
    };
    bookings.iter().any(is_bad)
}
