//! Errors on NVLinks, of whose counters each generation has others.

use skerry_nvml_sim::NvLinkControl;

use super::*;

#[tokio::test]
async fn errors_on_links_are_counted_whatever_the_generation() {
    let mut control = of("a100+h100+t4");
    let nvlink = NvLinkControl { replays: 6, recoveries: 2, crc_flits: 5, crc_data: 3, ..Default::default() };
    let device = |index| DeviceControl { nvlink: nvlink.clone(), ..DeviceControl::of(index) };
    control.device = vec![device(0), device(1)];
    let machine = Machine::new(control).start();
    machine.until("three GPUs are told", |machine| machine.told.borrow().len() == 3).await;
    let fields = [
        Field::NvlinkReplayErrors,
        Field::NvlinkRecoveryErrors,
        Field::NvlinkCrcFlitErrors,
        Field::NvlinkCrcDataErrors,
    ];
    for device in 0..2 {
        let sample = machine.read(device).await;
        assert_eq!(fields.map(|field| sample.get(field)), [Ok(6), Ok(2), Ok(5), Ok(3)], "device {device}");
    }
    let sample = machine.read(2).await;
    assert_eq!(fields.map(|field| sample.get(field)), [Err(Absent::NotSupported); 4]);
}
