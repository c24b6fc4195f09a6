//! From the wire to `Gpu`: what a service needs of its machine's GPUs.

use std::fmt;

use skerry_proto::types::v1 as pb;
use skerry_proto::types::v1::gpu_request::{OnOveruse as WireOveruse, Policy, Spread as WireSpread};

use crate::Violations;
use crate::gpu::{GpuIsolation, MigProfile};
use crate::text::is_command;

use super::{Kind, Spread, UpdateOrder};

/// Most whole GPUs of one instance.
const COUNT_MAX: u32 = 16;
/// Most bytes of a model selector.
const SELECTOR_BYTES_MAX: usize = 256;

/// What a service needs of its machine's GPUs. Each of its instances has its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// How much.
    pub need: GpuNeed,
    /// Models that it may be on.
    pub models: ModelSelector,
    /// The weakest isolation that will do; never more than `need` can have at best.
    pub isolation_min: GpuIsolation,
    /// Which GPU is taken of those that have room. Absent: as the service's nodes are chosen; only of whole ones.
    pub spread: Option<Spread>,
    /// What is done when it uses more than is booked.
    pub on_overuse: OnOveruse,
}

/// What is done about one that uses more of a GPU than is booked for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnOveruse {
    /// It is told.
    Report,
    /// It is told; and for its memory it is stopped.
    #[default]
    Stop,
}

/// How much an instance needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuNeed {
    /// Whole GPUs of one machine, shared with nobody.
    Whole {
        /// 1 to 16.
        count: u32,
    },
    /// A share of one.
    Share {
        /// Bytes of its memory, at least 1. Absent: none are kept.
        memory_bytes: Option<u64>,
        /// Of its compute, 1 to 100. Absent: none is kept.
        compute_percent: Option<u32>,
    },
    /// A part of a divided one.
    Mig {
        /// Its size.
        profile: MigProfile,
    },
}

impl GpuNeed {
    /// How many GPUs it is of.
    pub fn count(&self) -> u32 {
        match self {
            Self::Whole { count } => *count,
            Self::Share { .. } | Self::Mig { .. } => 1,
        }
    }
}

/// Models of GPUs, by patterns of which one must match. Empty: any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelSelector(Vec<String>);

impl ModelSelector {
    /// Whether a model, as its driver names it, is meant. Upper and lower case are the same.
    pub fn matches(&self, model: &str) -> bool {
        let model = model.to_lowercase();
        self.0.is_empty() || self.0.iter().any(|pattern| matches(&pattern.to_lowercase(), &model))
    }
}

impl fmt::Display for ModelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// `*` stands for anything, all else for itself.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (between, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    // The first place that each piece is found at leaves most for those after it.
    for piece in between.split('*') {
        let Some((_, after)) = text.split_once(piece) else { return false };
        text = after;
    }
    text.ends_with(last)
}

/// `at` is the service's path.
pub(super) fn parse(at: &str, wire: &pb::GpuRequest, v: &mut Violations) -> Option<Gpu> {
    let at = format!("{at}.gpu");
    let models = parse_models(&format!("{at}.model_selector"), &wire.model_selector, v);
    let need = parse_need(&at, wire, v)?;
    let isolation_min = match pb::GpuIsolation::try_from(wire.isolation_min) {
        Ok(pb::GpuIsolation::Unspecified | pb::GpuIsolation::None) => GpuIsolation::None,
        Ok(pb::GpuIsolation::Accounted) => GpuIsolation::Accounted,
        Ok(pb::GpuIsolation::Mps) => GpuIsolation::Mps,
        Ok(pb::GpuIsolation::Mig) => GpuIsolation::Mig,
        Err(_) => {
            v.add(format!("{at}.isolation_min"), "use none, accounted, mps or mig");
            return None;
        }
    };
    if matches!(need, GpuNeed::Share { .. }) && isolation_min > GpuIsolation::Mps {
        v.add(
            format!("{at}.isolation_min"),
            "a share has at best mps: ask for a part of a GPU (migProfile) or a whole one (count) instead of memory and computePercent",
        );
    }
    let spread = match WireSpread::try_from(wire.spread) {
        Ok(WireSpread::Unspecified) => (!matches!(need, GpuNeed::Whole { .. })).then_some(Spread::Pack),
        Ok(WireSpread::Pack) => Some(Spread::Pack),
        Ok(WireSpread::Spread) => Some(Spread::Spread),
        Err(_) => {
            v.add(format!("{at}.spread"), "use pack or spread");
            None
        }
    };
    let on_overuse = match WireOveruse::try_from(wire.on_overuse) {
        Ok(WireOveruse::Unspecified | WireOveruse::Stop) => OnOveruse::Stop,
        Ok(WireOveruse::Report) => OnOveruse::Report,
        Err(_) => {
            v.add(format!("{at}.on_overuse"), "use report or stop");
            return None;
        }
    };
    Some(Gpu { need, models, isolation_min, spread, on_overuse })
}

fn parse_need(at: &str, wire: &pb::GpuRequest, v: &mut Violations) -> Option<GpuNeed> {
    let is_share = wire.memory_bytes.is_some() || wire.compute_percent.is_some();
    let policy = match Policy::try_from(wire.policy) {
        Ok(Policy::Unspecified) if is_share => Policy::Shared,
        Ok(Policy::Unspecified) if !wire.mig_profile.is_empty() => Policy::Mig,
        Ok(Policy::Unspecified) => Policy::Exclusive,
        Ok(policy) => policy,
        Err(_) => {
            v.add(format!("{at}.policy"), "use exclusive, shared or mig");
            return None;
        }
    };
    let said = [
        ("count", wire.count.is_some(), Policy::Exclusive),
        ("memory_bytes", wire.memory_bytes.is_some(), Policy::Shared),
        ("compute_percent", wire.compute_percent.is_some(), Policy::Shared),
        ("mig_profile", !wire.mig_profile.is_empty(), Policy::Mig),
    ];
    for (field, _, of) in said.iter().filter(|(_, said, of)| *said && *of != policy) {
        let (of, policy) = (of.as_str_name().to_lowercase(), policy.as_str_name().to_lowercase());
        v.add(
            format!("{at}.{field}"),
            format!("it belongs to policy {of}, and this is {policy}: leave it out, or ask for one thing only of count, memory and migProfile"),
        );
    }
    match policy {
        Policy::Unspecified | Policy::Exclusive => {
            let count = wire.count.unwrap_or(1);
            if !(1..=COUNT_MAX).contains(&count) {
                v.add(format!("{at}.count"), format!("{count} is out of range: 1 to {COUNT_MAX}"));
            }
            Some(GpuNeed::Whole { count })
        }
        Policy::Shared => {
            let memory = wire.memory_bytes;
            if memory.is_some_and(|bytes| !(1..=1 << 50).contains(&bytes)) {
                v.add(format!("{at}.memory_bytes"), "out of range: 1 byte to 1Pi, for example 8Gi");
            }
            let percent = wire.compute_percent;
            if percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
                v.add(format!("{at}.compute_percent"), "out of range: 1 to 100, of one GPU");
            }
            let memory_bytes = memory.and_then(|bytes| u64::try_from(bytes).ok());
            Some(GpuNeed::Share { memory_bytes, compute_percent: percent })
        }
        Policy::Mig if wire.mig_profile.is_empty() => {
            v.add(format!("{at}.mig_profile"), "name the size of the part, for example 1g.10gb");
            None
        }
        Policy::Mig => {
            let profile = v.check(format!("{at}.mig_profile"), MigProfile::parse(&wire.mig_profile))?;
            Some(GpuNeed::Mig { profile })
        }
    }
}

fn parse_models(at: &str, text: &str, v: &mut Violations) -> ModelSelector {
    if text.len() > SELECTOR_BYTES_MAX {
        v.add(at, format!("{} bytes are too many: at most {SELECTOR_BYTES_MAX}", text.len()));
    }
    let patterns: Vec<String> = match text {
        "" => Vec::new(),
        text => text.split(',').map(|pattern| pattern.trim().to_owned()).collect(),
    };
    if patterns.iter().any(|pattern| pattern.is_empty() || pattern.chars().any(is_command)) {
        v.add(
            at,
            "write models parted by commas, with * for what may stand there, as *A100*,*H100*, and no marks that turn the direction of text",
        );
    }
    ModelSelector(patterns)
}

/// What a service with a GPU cannot be.
pub(super) fn check(at: &str, kind: &Kind, update: UpdateOrder, v: &mut Violations) {
    let job = match kind {
        Kind::Deployment { .. } | Kind::DaemonSet => None,
        Kind::Job(job) => Some(("job", job)),
        Kind::CronJob(cron) => Some(("cron_job.job", &cron.job)),
    };
    if let Some((field, job)) = job
        && job.completions > job.at_once()
    {
        v.add(
            format!("{at}.{field}.parallelism"),
            format!(
                "each instance of a job keeps its GPU from the beginning, so that all {} must be able to run at once: say as much as completions, or take fewer of those",
                job.completions
            ),
        );
    }
    if update == UpdateOrder::StartFirst {
        v.add(
            format!("{at}.update.order"),
            "with start-first two copies run at once, and what is kept of the GPU is for one: use stop-first",
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_model_is_meant_whatever_its_case_and_a_star_is_anything() {
        let meant = |pattern: &str, model: &str| {
            let mut v = Violations::new();
            let selector = parse_models("m", pattern, &mut v);
            assert!(v.is_empty(), "{pattern}");
            selector.matches(model)
        };
        let a100 = "NVIDIA A100-SXM4-80GB";
        for pattern in [
            "",
            "*",
            "*A100*",
            "nvidia a100-sxm4-80gb",
            "Tesla T4, *a100*80GB",
            "NVIDIA*",
            "*80GB",
            "N*A*-*-*B",
        ] {
            assert!(meant(pattern, a100), "{pattern}");
        }
        for pattern in ["A100", "*A100", "T4,A10*", "NVIDIA A100-SXM4-80GB*x", "*80GB*80GB", "**x"] {
            assert!(!meant(pattern, a100), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_it_is_filled_to(
            pieces in proptest::collection::vec("[ab]{0,2}", 1..5),
            fills in proptest::collection::vec("[ab]{0,3}", 5),
        ) {
            let mut text = String::new();
            for (n, piece) in pieces.iter().enumerate() {
                text += piece;
                if n + 1 < pieces.len() {
                    text += &fills[n];
                }
            }
            prop_assert!(matches(&pieces.join("*"), &text), "{} {text}", pieces.join("*"));
        }
    }
}
