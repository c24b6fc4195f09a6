//! What people see of how busy GPUs are, line by line.

use prost_types::Timestamp;
use skerry_proto::gpu::v1::health::State;
use skerry_proto::gpu::v1::stream_samples_response::Body;

use super::*;

const STYLE: Style = Style { sort: TopGpuSort::Name, width: None, headers: true, live: false };

fn name(node: &str, index: u32) -> String {
    format!("projects/p/nodes/{node}/gpus/GPU-{index}")
}

fn gpu(node: &str, index: u32) -> pb::Gpu {
    let device = pb::Device {
        uuid: format!("GPU-{index}"),
        index,
        model: "NVIDIA A10".into(),
        memory_bytes: 24 << 30,
        ..Default::default()
    };
    let allocation = pb::Allocation {
        instance: format!("web/s/{node}/0"),
        share: Some(pb::GpuShare { memory_bytes: Some(8 << 30), ..Default::default() }),
        ..Default::default()
    };
    let health = pb::Health { state: State::Ok.into(), reasons: vec![] };
    let status = pb::GpuStatus { health: Some(health), allocations: vec![allocation] };
    pb::Gpu { name: name(node, index), device: Some(device), status: Some(status) }
}

fn sample(node: &str, index: u32, percent: i64, used: i64) -> pb::Sample {
    let values = [
        (Field::GpuUtilizationPercent, percent),
        (Field::MemoryUsedBytes, used << 30),
        (Field::TemperatureCelsius, 63),
        (Field::PowerMilliwatts, 120_000),
        (Field::PowerEnforcedLimitMilliwatts, 150_000),
    ];
    let process = |pid, instance: &str, percent| pb::Process {
        pid,
        instance: instance.into(),
        command: if instance.is_empty() { "python3".into() } else { String::new() },
        memory_bytes: Some(1 << 30),
        utilization_percent: Some(percent),
    };
    pb::Sample {
        gpu: name(node, index),
        time: Some(Timestamp { seconds: 1000, nanos: 0 }),
        values: values.map(|(field, value)| pb::FieldValue { field: field.into(), value }).to_vec(),
        processes: vec![
            process(7, &format!("web/s/{node}/0"), 20),
            process(8, &format!("web/s/{node}/0"), 10),
            process(9, "", 5),
        ],
        ..Default::default()
    }
}

fn told(cards: &mut Cards, body: Body) -> Option<String> {
    take(cards, pb::StreamSamplesResponse { body: Some(body), skipped: 0 })
}

fn three() -> Cards {
    let all = [("n1", 0), ("n1", 1), ("n2", 0)];
    let mut cards: Cards =
        all.into_iter().map(|(node, index)| (name(node, index), Card::new(gpu(node, index)))).collect();
    told(&mut cards, Body::Sample(sample("n1", 0, 30, 3)));
    told(&mut cards, Body::Sample(sample("n1", 1, 90, 2)));
    cards
}

#[test]
fn a_gpu_is_told_with_who_uses_it_and_what_is_not_known_is_a_dash() {
    let mut cards = three();
    cards.remove(&name("n1", 1));
    assert_eq!(
        table(&cards, STYLE),
        "\
GPU               MODEL   GPU%   MEMORY         TEMP    POWER       HEALTH
n1/0              A10     30%    3.0/24.0 GiB   63 °C   120/150 W   OK
  pid 9 python3           5%     1.0 GiB
  web/s/n1/0              30%    2.0/8.0 GiB
n2/0              A10     -      -              -       -           OK
  web/s/n2/0              -      -/8.0 GiB
"
    );
    assert_eq!(super::told(&cards), (1, 2));
}

#[test]
fn the_busiest_or_the_fullest_may_come_first_and_who_tells_nothing_is_last() {
    let places = |sort| {
        let text = table(&three(), Style { sort, ..STYLE });
        let devices = text.lines().skip(1).filter(|line| !line.starts_with(' '));
        devices.map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(places(TopGpuSort::Name), ["n1/0", "n1/1", "n2/0"]);
    assert_eq!(places(TopGpuSort::Utilization), ["n1/1", "n1/0", "n2/0"]);
    assert_eq!(places(TopGpuSort::Memory), ["n1/0", "n1/1", "n2/0"]);
}

#[test]
fn live_it_has_the_last_minute_and_fits_the_terminal() {
    for width in [80, 94, 120, 160, 240] {
        let text = table(&three(), Style { width: Some(width), live: true, ..STYLE });
        assert!(text.lines().all(|line| line.trim_end().chars().count() <= width), "{width}:\n{text}");
        let busy = text.lines().find(|line| line.starts_with("n1/1")).unwrap();
        assert!(busy.contains('█') && busy.ends_with("OK"), "{busy}");
        assert_eq!((busy.contains('░'), busy.contains("A10")), (width > 94, width > 80), "{busy}");
        assert!(text.contains("  web/s/n1/0 "), "whole names:\n{text}");
        let away = text.lines().find(|line| line.starts_with("n2/0")).unwrap();
        assert!(!away.contains('░'), "{away}");
    }
    let wide = table(&three(), Style { width: Some(240), live: true, ..STYLE });
    let busy = wide.lines().find(|line| line.starts_with("n1/1")).unwrap();
    assert!(busy.contains(&format!("{}█   █░░░░░░░", " ".repeat(59))), "{busy}");
}

#[test]
fn on_a_narrow_terminal_health_stays() {
    for (width, has_temperature) in [(64, true), (50, false)] {
        let text = table(&three(), Style { width: Some(width), live: true, ..STYLE });
        assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
        let head = text.lines().next().unwrap();
        assert!(head.ends_with("HEALTH") && !head.contains("LAST MINUTE"), "{text}");
        assert_eq!(head.contains("TEMP"), has_temperature, "{width}:\n{text}");
    }
}

#[test]
fn of_whom_nothing_is_heard_nothing_old_is_shown() {
    let mut cards = three();
    let gap = pb::Gap { start_time: Some(Timestamp { seconds: 60, nanos: 0 }), end_time: None, cause: 1 };
    told(&mut cards, Body::Gap(pb::SampleGap { gpu: name("n1", 0), gap: Some(gap) }));
    assert_eq!(troubles(&cards), ["n1/0: nothing is heard since 1970-01-01T00:01:00Z: the node has no link"]);
    assert!(table(&cards, STYLE).lines().nth(1).unwrap().contains("A10     -      -"));
    // One that is over is none.
    let over = pb::Gap { end_time: Some(Timestamp::default()), ..gap };
    told(&mut cards, Body::Gap(pb::SampleGap { gpu: name("n1", 1), gap: Some(over) }));
    told(&mut cards, Body::Sample(sample("n1", 0, 30, 3)));
    assert!(troubles(&cards).is_empty());
}

#[test]
fn what_happens_is_a_sentence() {
    let mut cards = three();
    let mut event = |kind| {
        let event = pb::GpuEvent {
            uuid: "GPU-1".into(),
            time: Some(Timestamp { seconds: 0, nanos: 0 }),
            kind: Some(kind),
            ..Default::default()
        };
        told(
            &mut cards,
            Body::Event(pb::SampleEvent { node: "projects/p/nodes/n1".into(), event: Some(event) }),
        )
    };
    let xid = pb::XidEvent { code: 79, instance: "web/s/n1/0".into(), ..Default::default() };
    let text = event(pb::gpu_event::Kind::Xid(xid)).unwrap();
    assert!(text.starts_with("1970-01-01T00:00:00Z n1/1: Xid 79 ("), "{text}");
    assert!(text.ends_with(") by web/s/n1/0"), "{text}");
    assert_eq!(event(pb::gpu_event::Kind::Ecc(pb::EccEvent { corrected: true, count: 1 })), None);
}

#[test]
fn parts_have_lines_of_their_own_with_who_is_on_them() {
    let mut divided = gpu("n1", 0);
    let part = pb::MigDevice {
        uuid: "MIG-1".into(),
        profile: "1g.6gb".into(),
        memory_bytes: 6 << 30,
        ..Default::default()
    };
    divided.device.as_mut().unwrap().mig_devices = vec![part];
    divided.status.as_mut().unwrap().allocations[0].mig_device = "MIG-1".into();
    let mut card = Card::new(divided);
    card.take(sample("n1", 0, 30, 3));
    assert!(!card.is_complete(), "its part has told nothing");
    let mut of_part = sample("n1", 0, 30, 3);
    of_part.mig_device = "MIG-1".into();
    of_part.values.push(pb::FieldValue { field: Field::GraphicsActivityPermille.into(), value: 123 });
    of_part.processes.truncate(2);
    card.take(of_part);
    assert!(card.is_complete());
    let text = table(&Cards::from([(name("n1", 0), card)]), STYLE);
    let below: Vec<&str> = text.lines().skip(2).collect();
    assert_eq!(
        below,
        [
            "  pid 9 python3            5%     1.0 GiB",
            "  part 0          1g.6gb   12%    3.0/6.0 GiB",
            "    web/s/n1/0             30%    2.0/6.0 GiB",
        ]
    );
}
