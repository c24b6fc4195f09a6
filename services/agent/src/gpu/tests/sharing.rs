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

/// A machine with a card on which an instance's process uses some memory, and the instance.
struct Sharer {
    program: Real,
    instance: InstanceName,
}

impl Sharer {
    fn machine(memory_mib: u64) -> (Machine, Self) {
        let shared =
            Self { program: Real::new("read _"), instance: InstanceName::parse("infer/web/n1/0").unwrap() };
        let mut control = of("t4");
        control.device =
            vec![DeviceControl { process: vec![shared.uses(memory_mib)], ..DeviceControl::of(0) }];
        let machine = Machine::new(control);
        let dir =
            crate::runtime::process::instance_dir(&machine.dir.path().join("instances"), &shared.instance);
        std::fs::create_dir_all(&dir).unwrap();
        let id = ProcessId::of(shared.program.pid()).unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
        let since = std::time::SystemTime::now();
        let (fingerprint, revision) = ("f".into(), "r".into());
        Started { boot, fingerprint, revision, shim: id, program: Some(id), since }.write(&dir).unwrap();
        (machine, shared)
    }

    fn uses(&self, memory_mib: u64) -> skerry_nvml_sim::Process {
        let memory_mib = Some(memory_mib);
        skerry_nvml_sim::Process { pid: self.program.0.id(), memory_mib, ..Default::default() }
    }
}

#[tokio::test]
async fn who_uses_more_memory_than_is_booked_is_found_though_nobody_shares_the_card() {
    let (machine, shared) = Sharer::machine(100);
    let mut machine = machine.start();
    machine.read(0).await;
    let uuid = machine.uuid(0);
    let link = machine.sharing.take().unwrap();
    link.tell_booked(vec![share_of(&uuid, &shared.instance, 200 << 20)]);
    let looks =
        |machine: &Machine| machine.board(|board| board.usages().get(&uuid).map_or(0, |usage| usage.look));
    let first = looks(&machine);
    machine.until("it is looked at each second", |machine| looks(machine) > first + 20).await;
    assert!(link.overuse().is_empty(), "{:?}", link.overuse());
    machine.change(|control| control.device[0].process = vec![shared.uses(300)]);
    machine.until("it is found", |_| !link.overuse().is_empty()).await;
    let found = link.overuse();
    let expected = Above::Memory { used: 300 << 20, booked: 200 << 20 };
    assert_eq!(
        (found.len(), &found[0].instance, found[0].above, found[0].stop),
        (1, &shared.instance, expected, true)
    );
    machine.change(|control| control.device[0].process = vec![shared.uses(100)]);
    machine.until("and is well again", |_| link.overuse().is_empty()).await;
}

#[tokio::test]
async fn who_was_seen_above_is_looked_at_again_before_the_second_is_over() {
    // Which UUID it has is known of another machine that is the same.
    let (known, _) = Sharer::machine(300);
    let mut known = known.start();
    known.read(0).await;
    let uuid = known.uuid(0);
    known.stop().await;

    let (mut machine, shared) = Sharer::machine(300);
    machine.booked = vec![share_of(&uuid, &shared.instance, 200 << 20)];
    // A second is so long that no second look would ever be.
    let machine = machine.start_at(Duration::from_hours(1));
    let link = machine.sharing.as_ref().unwrap();
    machine.until("it is found", |_| !link.overuse().is_empty()).await;
    let usage = machine.board(|board| board.usages()[&uuid].clone());
    let used = usage.by_instance[&shared.instance.to_string()];
    assert_eq!((usage.look, used.memory_bytes), (2, Some(300 << 20)), "by the second look");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let later = machine.board(|board| board.usages()[&uuid].look);
    assert_eq!(later, 2, "once it is found no more looks than usual");
}

#[tokio::test]
async fn a_card_of_which_it_is_not_told_what_processes_use_is_not_counted_until_it_is() {
    let (mut machine, shared) = Sharer::machine(100);
    machine.change(|control| control.device[0].process[0].memory_mib = None);
    let mut machine = machine.start();
    machine.read(0).await;
    let (uuid, link) = (machine.uuid(0), machine.sharing.take().unwrap());
    link.tell_booked(vec![share_of(&uuid, &shared.instance, 200 << 20)]);
    let has = |machine: &Machine, reason: Option<Absent>| {
        let told = machine.told.borrow();
        let unsupported =
            told.iter().filter_map(|gpu| gpu.device.as_ref()).flat_map(|device| &device.unsupported);
        let mut lacking = unsupported.filter(|one| one.fields.contains(&pb::Field::Processes.into()));
        lacking.next().map(pb::AbsentFields::reason) == reason.map(Absent::to_wire)
    };
    machine.until("no memory is told", |machine| has(machine, Some(Absent::NotSupported))).await;
    machine.until("it is looked at", |machine| machine.board(|board| !board.usages().is_empty())).await;
    let used = machine.board(|board| board.usages()[&uuid].by_instance[&shared.instance.to_string()]);
    assert_eq!(used.memory_bytes, None, "that is not 0");
    machine.change(|control| control.device[0].process = vec![shared.uses(100)]);
    machine.until("it is told", |machine| has(machine, None)).await;
    let list = "nvmlDeviceGetComputeRunningProcesses*";
    machine.change(|control| control.fault = vec![fault(list, None, Outcome::Code(Code::NO_PERMISSION))]);
    machine.until("it is not permitted", |machine| has(machine, Some(Absent::NoPermission))).await;
    machine.change(|control| control.fault.clear());
    machine.until("it is permitted", |machine| has(machine, None)).await;
    machine.change(|control| control.fault = vec![fault(list, None, Outcome::Hang)]);
    machine.until("it hangs", |machine| has(machine, Some(Absent::TimedOut))).await;
    machine.change(|control| control.fault.clear());
    machine.until("it is answered", |machine| has(machine, None)).await;
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
