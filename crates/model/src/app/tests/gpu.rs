//! Rules on what a service asks of GPUs: a table of refusals, each by the field that it names, and what the words mean.

use skerry_proto::types::v1::gpu_request::{Policy, Spread as WireSpread};

use super::*;
use crate::feature;
use crate::gpu::{GpuIsolation, MigProfile};

fn asked(change: impl FnOnce(&mut pb::GpuRequest)) -> pb::ServiceSpec {
    let mut gpu = pb::GpuRequest::default();
    change(&mut gpu);
    pb::ServiceSpec { gpu: Some(gpu), ..container("a") }
}

fn parsed(change: impl FnOnce(&mut pb::GpuRequest)) -> Gpu {
    let spec = AppSpec::from_proto(&app(vec![asked(change)])).unwrap();
    spec.services[0].gpu.clone().unwrap()
}

#[test]
fn what_cannot_be_had_is_refused_by_its_field() {
    type Row = (fn(&mut pb::GpuRequest), &'static str);
    let rows: Vec<Row> = vec![
        (|g| g.count = Some(0), "count"),
        (|g| g.count = Some(17), "count"),
        (|g| g.memory_bytes = Some(0), "memory_bytes"),
        (|g| g.memory_bytes = Some(-1), "memory_bytes"),
        (|g| g.compute_percent = Some(0), "compute_percent"),
        (|g| g.compute_percent = Some(101), "compute_percent"),
        (|g| g.mig_profile = "10gb".into(), "mig_profile"),
        (|g| g.policy = Policy::Mig.into(), "mig_profile"),
        (|g| g.policy = 9, "policy"),
        (|g| g.spread = 9, "spread"),
        (|g| g.isolation_min = 9, "isolation_min"),
        (|g| g.on_overuse = 9, "on_overuse"),
        (|g| (g.count, g.memory_bytes) = (Some(1), Some(1)), "count"),
        (|g| (g.mig_profile, g.memory_bytes) = ("1g.5gb".into(), Some(1)), "mig_profile"),
        (|g| (g.policy, g.compute_percent) = (Policy::Exclusive.into(), Some(5)), "compute_percent"),
        (|g| (g.policy, g.count) = (Policy::Shared.into(), Some(1)), "count"),
        (|g| (g.memory_bytes, g.isolation_min) = (Some(1), pb::GpuIsolation::Mig.into()), "isolation_min"),
        (|g| g.model_selector = "A100,,T4".into(), "model_selector"),
        (|g| g.model_selector = "x".repeat(257), "model_selector"),
        (|g| g.model_selector = "A100\u{202e}".into(), "model_selector"),
        (|g| g.model_selector = "\u{2067}T4".into(), "model_selector"),
        (|g| g.model_selector = "T\u{200f}4".into(), "model_selector"),
    ];
    for (n, (change, field)) in rows.into_iter().enumerate() {
        let found = refused(&app(vec![asked(change)]));
        assert_eq!(found, [format!("spec.services[0].gpu.{field}")], "row {n}");
    }
}

#[test]
fn what_is_said_says_the_policy() {
    let share = |memory_bytes, compute_percent| GpuNeed::Share { memory_bytes, compute_percent };
    assert_eq!(parsed(|_| ()).need, GpuNeed::Whole { count: 1 });
    assert_eq!(parsed(|g| g.count = Some(4)).need, GpuNeed::Whole { count: 4 });
    assert_eq!(parsed(|g| g.compute_percent = Some(25)).need, share(None, Some(25)));
    assert_eq!(parsed(|g| g.memory_bytes = Some(8 << 30)).need, share(Some(8 << 30), None));
    assert_eq!(parsed(|g| g.policy = Policy::Shared.into()).need, share(None, None));
    let part = parsed(|g| g.mig_profile = "1g.10gb".into());
    assert_eq!(part.need, GpuNeed::Mig { profile: MigProfile::parse("1g.10gb").unwrap() });
    // Shares are packed, and whole ones go as nodes do.
    assert_eq!(parsed(|_| ()).spread, None);
    assert_eq!(part.spread, Some(Spread::Pack));
    assert_eq!(parsed(|g| g.spread = WireSpread::Spread.into()).spread, Some(Spread::Spread));
    let mps = pb::GpuIsolation::Mps.into();
    let held = parsed(|g| (g.memory_bytes, g.isolation_min) = (Some(1), mps));
    assert_eq!(held.isolation_min, GpuIsolation::Mps);
    assert_eq!(parsed(|_| ()).isolation_min, GpuIsolation::None);
    assert_eq!(parsed(|_| ()).on_overuse, OnOveruse::Stop);
    assert_eq!(
        parsed(|g| g.on_overuse = pb::gpu_request::OnOveruse::Report.into()).on_overuse,
        OnOveruse::Report
    );
}

#[test]
fn an_instance_keeps_its_gpu_so_that_nothing_runs_twice_with_it_or_after_another() {
    let job = |completions, parallelism| pb::ServiceSpec {
        kind: Some(pb::service_spec::Kind::Job(pb::Job {
            completions: Some(completions),
            parallelism: Some(parallelism),
            ..Default::default()
        })),
        ..asked(|_| ())
    };
    assert_eq!(refused(&app(vec![job(3, 3)])), Vec::<String>::new());
    assert_eq!(refused(&app(vec![job(3, 2)])), ["spec.services[0].job.parallelism"]);
    let order = pb::update_policy::Order::StartFirst.into();
    let start_first =
        pb::ServiceSpec { update: Some(pb::UpdatePolicy { order }), ..asked(|g| g.memory_bytes = Some(1)) };
    assert_eq!(refused(&app(vec![start_first])), ["spec.services[0].update.order"]);
}

#[test]
fn an_agent_that_knows_no_gpus_is_not_given_what_needs_one() {
    let spec = AppSpec::from_proto(&app(vec![container("b"), asked(|_| ())])).unwrap();
    assert_eq!(feature::of_app(&spec), [feature::GPU]);
}
