//! Who is found to use more than is booked, and which devices an MPS daemon serves.

use super::*;

/// What is booked of the first device, for the process of the instance.
fn share_of(uuid: &str, instance: &InstanceName, memory_bytes: u64) -> Booked {
    Booked {
        instance: instance.clone(),
        booking: skerry_model::GpuBooking {
            gpu: skerry_model::GpuId::parse(uuid).unwrap(),
            share: skerry_model::GpuShare::Part { memory_bytes: Some(memory_bytes), compute_percent: None },
            isolation: skerry_model::GpuIsolation::Accounted,
        },
        policy: skerry_model::app::OnOveruse::Stop,
    }
}

#[tokio::test]
async fn who_uses_more_memory_than_is_booked_is_found_though_nobody_shares_the_card() {
    let program = Real::new("read _");
    let mut control = of("t4");
    let process = |memory_mib| skerry_nvml_sim::Process {
        pid: program.0.id(),
        memory_mib: Some(memory_mib),
        ..Default::default()
    };
    control.device = vec![DeviceControl { process: vec![process(100)], ..DeviceControl::of(0) }];
    let machine = Machine::new(control);
    let instance = InstanceName::parse("infer/web/n1/0").unwrap();
    let dir = crate::runtime::process::instance_dir(&machine.dir.path().join("instances"), &instance);
    std::fs::create_dir_all(&dir).unwrap();
    let id = ProcessId::of(program.pid()).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
    let since = std::time::SystemTime::now();
    let (fingerprint, revision) = ("f".into(), "r".into());
    Started { boot, fingerprint, revision, shim: id, program: Some(id), since }.write(&dir).unwrap();
    let mut machine = machine.start();
    machine.read(0).await;
    let uuid = machine.uuid(0);
    let link = machine.sharing.take().unwrap();
    link.tell_booked(vec![share_of(&uuid, &instance, 200 << 20)]);
    let looks =
        |machine: &Machine| machine.board(|board| board.usages().get(&uuid).map_or(0, |usage| usage.look));
    let first = looks(&machine);
    machine.until("it is looked at each second", |machine| looks(machine) > first + 20).await;
    assert!(link.overuse().is_empty(), "{:?}", link.overuse());
    machine.change(|control| control.device[0].process = vec![process(300)]);
    machine.until("it is found", |_| !link.overuse().is_empty()).await;
    let found = link.overuse();
    let expected = Above::Memory { used: 300 << 20, booked: 200 << 20 };
    assert_eq!(
        (found.len(), &found[0].instance, found[0].above, found[0].stop),
        (1, &instance, expected, true)
    );
    machine.change(|control| control.device[0].process = vec![process(100)]);
    machine.until("and is well again", |_| link.overuse().is_empty()).await;
}

#[tokio::test]
async fn an_mps_daemon_serves_whole_cards_that_can_have_limits() {
    let mut control = of("t4+a100");
    control.device = vec![DeviceControl { mig: Some(Mig::of(&["3g.40gb"])), ..DeviceControl::of(1) }];
    let machine = Machine::new(control).start();
    machine.until("both are told", |machine| machine.told.borrow().len() == 2).await;
    let (whole, divided) = (machine.uuid(0), machine.uuid(1));
    let served = |machine: &Machine| -> BTreeSet<String> {
        let told = machine.told.borrow();
        let served = told.iter().filter(|gpu| gpu.mps);
        served.filter_map(|gpu| Some(gpu.device.as_ref()?.uuid.clone())).collect()
    };
    assert!(served(&machine).is_empty());
    machine.mps.send_replace(Mps::Serves("/pipe".into()));
    machine.until("one is served", |machine| served(machine) == [whole.clone()].into()).await;
    assert_ne!(whole, divided);
    machine.mps.send_replace(Mps::Fails("gone".to_owned()));
    machine.until("none is", |machine| served(machine).is_empty()).await;
}
