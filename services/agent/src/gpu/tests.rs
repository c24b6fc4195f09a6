//! The collector over the simulator's library, loaded as the driver's is.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};

use prost::Message as _;
use skerry_gpu_model::decode::{Outcome as Came, Taken};
use skerry_gpu_model::{Absent, Decoder, Event, Field, Place, Process, Sample};
use skerry_model::InstanceName;
use skerry_nvml_sim::{
    CallPattern, Code, Control, DeviceControl, Fault, Load, MachineSpec, Mig, Outcome, Percent, Placed,
    Shape, built_library, place,
};
use skerry_proto::gateway::v1::GpuFeedback;
use skerry_proto::gpu::v1::health;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::shim::files::Started;
use crate::shim::procfs::ProcessId;

mod links;
mod sharing;

/// Far more than anything takes; a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(60);

/// A machine with simulated GPUs, and a collector that may run on it.
struct Machine {
    placed: Placed,
    control: Control,
    dir: TempDir,
    shared: Option<Arc<Shared>>,
    told: tokio::sync::watch::Receiver<Arc<Vec<Gpu>>>,
    link: Option<SampleLink>,
    mps: Sender<Mps>,
    sharing: Option<GpuLink>,
    booked: Vec<Booked>,
    containers: Arc<Sender<Arc<Containers>>>,
    running: JoinSet<()>,
    shutdown: CancellationToken,
}

impl Machine {
    fn new(control: Control) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let placed = place(&built_library().unwrap(), dir.path(), &control).unwrap();
        let containers = Arc::new(Sender::new(Arc::default()));
        let told = tokio::sync::watch::channel(Arc::default()).1;
        let (running, shutdown) = (JoinSet::new(), CancellationToken::new());
        let (mps, sharing) = (Sender::new(Mps::None), None);
        Self {
            placed,
            control,
            dir,
            shared: None,
            told,
            link: None,
            mps,
            sharing,
            booked: Vec::new(),
            containers,
            running,
            shutdown,
        }
    }

    /// A second is 20 ms; what takes longer than a fifth of a real one hangs.
    fn start(self) -> Self {
        self.start_at(Duration::from_millis(20))
    }

    fn start_at(mut self, second: Duration) -> Self {
        let pace = Pace {
            second,
            again: Duration::from_millis(10),
            hangs_after: Duration::from_millis(400),
            untold_after: Duration::from_millis(100),
            look_every: Duration::from_millis(50),
        };
        let driver = Arc::new(NvmlDriver::new(Some(self.placed.library.clone())));
        let (told_in, told) = tokio::sync::watch::channel(Arc::default());
        let (samples, link) = sample_stream("boot");
        let containers = Arc::clone(&self.containers);
        let (shares, sharing) = sharing(told.clone(), self.mps.subscribe());
        sharing.tell_booked(self.booked.clone());
        let collector =
            Collector::over(driver, pace, self.dir.path(), containers, told_in, (samples, shares));
        self.sharing = Some(sharing);
        self.link = Some(link);
        self.shared = Some(Arc::clone(&collector.shared));
        self.told = told;
        self.shutdown = CancellationToken::new();
        self.running.spawn(collector.run(self.shutdown.clone()));
        self
    }

    fn of(machine: &str) -> Self {
        Self::new(of(machine)).start()
    }

    async fn stop(&mut self) {
        self.shutdown.cancel();
        while self.running.join_next().await.is_some() {}
    }

    fn change(&mut self, change: impl FnOnce(&mut Control)) {
        change(&mut self.control);
        self.control.write(&self.placed.control).unwrap();
    }

    fn board<T>(&self, look: impl FnOnce(&Board) -> T) -> T {
        look(&lock(&self.shared.as_ref().unwrap().board))
    }

    fn sample(&self, place: Place) -> Sample {
        self.board(|board| board.sample(place).cloned().unwrap_or_default())
    }

    /// Waits until it is so.
    async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is(self) {
            assert!(began.elapsed() < LONG, "still not: {what}; {:?}", self.told.borrow());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until every field of a device was read.
    async fn read(&self, device: usize) -> Sample {
        let is_read = |machine: &Self| {
            let sample = machine.sample(whole(device));
            sample.iter().all(|(_, reading)| reading != Err(Absent::NotYet))
        };
        self.until("all is read", is_read).await;
        self.sample(whole(device))
    }

    fn reasons(&self, at: usize) -> Vec<String> {
        let told = self.told.borrow();
        let health = told.get(at).and_then(|gpu| gpu.health.as_ref());
        health
            .map(|health| health.reasons.iter().map(|reason| reason.reason.clone()).collect())
            .unwrap_or_default()
    }

    fn uuid(&self, device: usize) -> String {
        self.board(|board| board.devices().get(device).map(|device| device.uuid.clone()).unwrap_or_default())
    }
}

fn of(machine: &str) -> Control {
    Control { seed: Some("test".to_owned()), ..Control::of(MachineSpec::parse(machine).unwrap()) }
}

fn whole(device: usize) -> Place {
    Place { device, part: None }
}

fn fault(call: &str, device: Option<u32>, answer: Outcome) -> Fault {
    Fault { call: CallPattern::parse(call).unwrap(), device, answer }
}

fn absent(sample: &Sample, reason: Absent) -> BTreeSet<&'static str> {
    sample.iter().filter(|(_, reading)| *reading == Err(reason)).map(|(field, _)| field.name()).collect()
}

#[tokio::test]
async fn of_each_card_all_is_read_that_it_has_and_no_sentinel() {
    let machine = Machine::of("t4+a10+a4000+a100+h100+h200");
    machine.until("six GPUs are told", |machine| machine.told.borrow().len() == 6).await;
    for (device, (model, arch, gpm, links, ecc)) in [
        ("Tesla T4", "Turing", false, false, true),
        ("NVIDIA A10", "Ampere", false, false, true),
        ("NVIDIA RTX A4000", "Ampere", false, false, false),
        ("NVIDIA A100-SXM4-80GB", "Ampere", false, true, true),
        ("NVIDIA H100 80GB HBM3", "Hopper", true, true, true),
        ("NVIDIA H200", "Hopper", true, true, true),
    ]
    .into_iter()
    .enumerate()
    {
        let sample = machine.read(device).await;
        let described = machine.board(|board| board.devices()[device].clone());
        assert_eq!((described.model.as_str(), described.architecture.as_str()), (model, arch));
        assert_eq!(described.index as usize, device);
        assert_eq!(
            (described.driver_version.as_str(), described.cuda_version.as_str()),
            ("570.133.20", "12.8")
        );
        assert!(described.uuid.starts_with("GPU-") && described.pci_address.ends_with(":00.0"));
        let lacks = absent(&sample, Absent::NotSupported);
        assert_eq!(lacks.contains("sm_activity_permille"), !gpm, "{model}");
        assert_eq!(lacks.contains("nvlink_crc_flit_errors"), !links, "{model}");
        assert_eq!(lacks.contains("ecc_corrected"), !ecc, "{model}");
        assert_eq!(sample.get(Field::RecoveryAction), Ok(0), "{model}");
        for (field, reading) in sample.iter() {
            let is_right = reading.is_ok() || reading == Err(Absent::NotSupported);
            assert!(is_right, "{model} {field}: {reading:?}");
        }
        let all = [Field::MemoryUsed, Field::MemoryFree, Field::MemoryReserved]
            .map(|field| sample.value(field).unwrap());
        let slack = 1 << 30;
        assert!(
            (all.iter().sum::<i64>() - described.memory_bytes).abs() < slack,
            "read at two times: {all:?}"
        );
        assert!(sample.value(Field::Power).unwrap() > 5_000 && sample.value(Field::Energy).unwrap() > 0);
    }
    machine
        .until("what is lacking is told", |machine| {
            machine
                .told
                .borrow()
                .iter()
                .all(|gpu| gpu.device.as_ref().is_some_and(|device| !device.unsupported.is_empty()))
        })
        .await;
    let told = Arc::clone(&machine.told.borrow());
    assert!(told.is_sorted_by_key(|gpu| gpu.device.as_ref().map(|device| device.uuid.clone())));
    assert!(
        told.iter().all(|gpu| gpu.health.as_ref().is_some_and(|health| health.state() == health::State::Ok)),
        "{told:?}"
    );
    // Nothing moves in what is told, though samples do.
    let mut news = machine.told.clone();
    news.borrow_and_update();
    let power = machine.sample(whole(0)).value(Field::Power);
    machine.until("samples move", |machine| machine.sample(whole(0)).value(Field::Power) != power).await;
    assert!(!news.has_changed().unwrap());
}

#[tokio::test]
async fn what_a_card_does_not_have_is_told_and_not_asked_again() {
    let mut machine = Machine::of("orin");
    machine.until("it is told", |machine| machine.told.borrow().len() == 1).await;
    let sample = machine.read(0).await;
    let lacks = absent(&sample, Absent::NotSupported);
    assert!(
        lacks.contains("power_milliwatts") && lacks.contains("processes") && lacks.len() > 50,
        "{lacks:?}"
    );
    // Were it asked, it would answer otherwise now.
    machine.change(|control| {
        control.fault = vec![
            fault("nvmlDeviceGetPowerUsage", None, Outcome::Code(Code::NO_PERMISSION)),
            fault("nvmlDeviceGetHandleByUUID", None, Outcome::Code(Code::NO_PERMISSION)),
        ];
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(machine.sample(whole(0)).get(Field::Power), Err(Absent::NotSupported));
}

#[tokio::test]
async fn each_error_counts_though_it_repeats() {
    let mut machine = Machine::of("a10x2");
    machine.read(1).await;
    let uuid = machine.uuid(1);
    let event = |id, xid| skerry_nvml_sim::Event::xid(id, 1, xid);
    machine.change(|control| control.event = (1..=5).map(|id| event(id, 31)).chain([event(6, 13)]).collect());
    machine
        .until("five and one", |machine| {
            machine.board(|board| board.xids(&uuid)) == [(13, 1), (31, 5)].into()
        })
        .await;
    let other = machine.uuid(0);
    assert!(machine.board(|board| board.xids(&other)).is_empty(), "nobody else's");
    machine.change(|control| control.event.push(event(7, 31)));
    machine.until("six", |machine| machine.board(|board| board.xids(&uuid)).get(&31) == Some(&6)).await;
    // An error of the card's own is remembered by the next process.
    machine.change(|control| control.event.push(event(8, 48)));
    let sick = |machine: &Machine| (0..2).any(|at| machine.reasons(at) == ["XidHardware"]);
    machine.until("it is sick", sick).await;
    machine.stop().await;
    let machine = Machine { running: JoinSet::new(), ..machine }.start();
    machine.until("it is still sick", sick).await;
    assert!(machine.board(|board| board.xids(&uuid)).is_empty(), "and nothing new was heard");
}

#[tokio::test]
async fn a_call_that_hangs_holds_up_no_other_device_and_is_forgotten_when_it_returns() {
    let mut machine = Machine::of("t4x2");
    for device in 0..2 {
        machine.read(device).await;
    }
    machine.change(|control| {
        control.fault = vec![fault("nvmlDeviceGet*", Some(0), Outcome::Hang)];
    });
    machine
        .until("what hangs timed out", |machine| {
            let sample = machine.sample(whole(0));
            sample.get(Field::Power) == Err(Absent::TimedOut)
                && sample.get(Field::Energy) == Err(Absent::TimedOut)
        })
        .await;
    assert_eq!(machine.sample(whole(0)).get(Field::FanSpeed), Err(Absent::NotSupported), "that stays so");
    let power = machine.sample(whole(1)).value(Field::Power);
    assert!(power.is_some());
    machine.until("the other goes on", |machine| machine.sample(whole(1)).value(Field::Power) != power).await;
    machine.change(|control| control.fault.clear());
    machine
        .until("it is read again", |machine| {
            let sample = machine.sample(whole(0));
            sample.value(Field::Power).is_some() && sample.value(Field::Energy).is_some()
        })
        .await;
}

#[tokio::test]
async fn a_driver_that_hangs_as_it_is_loaded_is_waited_for_by_one_thread() {
    let mut control = of("t4");
    control.fault = vec![fault("nvmlInit_v2", None, Outcome::Hang)];
    let mut machine = Machine::new(control).start();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(machine.told.borrow().is_empty());
    machine.change(|control| control.fault.clear());
    machine.until("it is there", |machine| machine.told.borrow().len() == 1).await;
}

#[tokio::test]
async fn a_card_that_falls_off_the_bus_is_told_with_its_last_error_and_may_come_back() {
    let mut machine = Machine::of("a10x2");
    for device in 0..2 {
        machine.read(device).await;
    }
    let uuid = machine.uuid(0);
    let at = usize::from(uuid > machine.uuid(1));
    machine.change(|control| control.device_mut(0).lost = true);
    machine
        .until("it is lost", |machine| {
            machine.sample(whole(0)).get(Field::Power) == Err(Absent::Lost)
                && machine.reasons(at) == ["XidBus", "FallenOffBus"]
        })
        .await;
    assert_eq!(machine.board(|board| board.xids(&uuid)), [(79, 1)].into());
    assert_eq!(machine.told.borrow().len(), 2, "it is still told of");
    assert!(machine.sample(whole(1)).value(Field::Power).is_some() && machine.reasons(1 - at).is_empty());
    machine.change(|control| control.device_mut(0).lost = false);
    machine
        .until("it is back", |machine| {
            machine.sample(whole(0)).value(Field::Power).is_some() && machine.reasons(at).is_empty()
        })
        .await;
}

#[tokio::test]
async fn after_a_restart_of_the_driver_all_goes_on() {
    let mut machine = Machine::of("t4");
    machine.read(0).await;
    let uuid = machine.uuid(0);
    machine.change(|control| control.driver.loaded = false);
    machine
        .until("nothing is read", |machine| {
            machine.sample(whole(0)).get(Field::Power) == Err(Absent::DriverError)
        })
        .await;
    machine
        .change(|control| (control.driver.loaded, control.driver.version) = (true, "580.95.05".to_owned()));
    machine.until("it is read again", |machine| machine.sample(whole(0)).value(Field::Power).is_some()).await;
    machine.read(0).await;
    assert_eq!(machine.uuid(0), uuid);
    machine
        .until("the driver is told", |machine| {
            machine
                .told
                .borrow()
                .iter()
                .any(|gpu| gpu.device.as_ref().is_some_and(|device| device.driver_version == "580.95.05"))
        })
        .await;
    // Events are heard of the new driver.
    machine.change(|control| control.event = vec![skerry_nvml_sim::Event::xid(1, 0, 31)]);
    machine.until("an error", |machine| machine.board(|board| board.xids(&uuid)) == [(31, 1)].into()).await;
}

#[tokio::test]
async fn cards_come_and_go() {
    let mut machine = Machine::of("t4");
    machine.read(0).await;
    machine.change(|control| control.machine = MachineSpec::parse("t4+a10").unwrap());
    machine.until("two", |machine| machine.told.borrow().len() == 2).await;
    machine.change(|control| control.machine = MachineSpec::parse("t4").unwrap());
    machine.until("one", |machine| machine.told.borrow().len() == 1).await;
    machine.read(0).await;
}

#[tokio::test]
async fn parts_of_a_divided_card_are_told_and_read() {
    let mut control = of("a100");
    let process = skerry_nvml_sim::Process {
        pid: std::process::id(),
        memory_mib: Some(512),
        mig: Some(1),
        ..Default::default()
    };
    let mig = Some(Mig::of(&["3g.40gb", "1g.10gb"]));
    control.device = vec![DeviceControl { mig, process: vec![process], ..DeviceControl::of(0) }];
    let mut machine = Machine::new(control).start();
    let sample = machine.read(0).await;
    let in_mode = absent(&sample, Absent::NotInThisMode);
    assert!(in_mode.contains("gpu_utilization_percent") && in_mode.len() <= 4, "{in_mode:?}");
    assert!(sample.value(Field::Power).is_some());
    let device = machine.board(|board| board.devices()[0].clone());
    let parts: Vec<(&str, u32)> =
        device.mig_devices.iter().map(|part| (part.profile.as_str(), part.compute_slices)).collect();
    assert_eq!(parts, [("3g.40gb", 3), ("1g.10gb", 1)]);
    let instances: Vec<(u32, u32)> =
        device.mig_devices.iter().map(|part| (part.gpu_instance, part.compute_instance)).collect();
    assert_eq!(instances, [(1, 0), (2, 0)]);
    let part = |part| Place { device: 0, part: Some(part) };
    machine
        .until("the parts are read", |machine| {
            machine.sample(part(0)).value(Field::Processes) == Some(0)
                && machine.sample(part(1)).value(Field::Processes) == Some(1)
        })
        .await;
    let of_part = machine.sample(part(1));
    assert!(of_part.value(Field::MemoryFree).unwrap() < device.mig_devices[1].memory_bytes);
    assert_eq!(of_part.get(Field::Power), Err(Absent::NotSupported));
    assert_eq!(of_part.processes[0].memory_bytes, Some(512 << 20));
    machine.change(|control| control.device.clear());
    machine
        .until("it is whole", |machine| {
            machine.told.borrow()[0].device.as_ref().is_some_and(|device| device.mig_devices.is_empty())
        })
        .await;
    machine
        .until("what it measures then is read", |machine| {
            machine.sample(whole(0)).value(Field::GpuUtilization).is_some()
        })
        .await;
}

/// A process of this machine; it ends with the test.
struct Real(Child);

impl Real {
    /// Its children end with it: their input does.
    fn new(script: &str) -> Self {
        Self(
            Command::new("sh")
                .args(["-c", script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    /// The number that it writes.
    fn line(&mut self) -> u32 {
        use std::io::BufRead as _;
        let mut line = String::new();
        std::io::BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn processes_are_their_instances() {
    // Of two instances, one with a child below its program; and one that is nobody's.
    let mut one = Real::new("sleep 600 <&0 & echo $!; read _; kill $!");
    let (two, other) = (Real::new("read _"), Real::new("read _"));
    let below = one.line();
    let mut control = of("t4");
    let process = |pid: u32| skerry_nvml_sim::Process {
        pid,
        memory_mib: Some(100),
        sm_percent: Some(Percent::saturating(20)),
        ..Default::default()
    };
    let pids = [below, two.0.id(), other.0.id()];
    let load = Some(Load { shape: Shape::Steady, ..Load::default() });
    let mut all = pids.map(process).to_vec();
    // The driver tells clients of MPS apart from others.
    all[1].kind = skerry_nvml_sim::ProcessKind::Mps;
    control.device = vec![DeviceControl { process: all, load, ..DeviceControl::of(0) }];
    let machine = Machine::new(control);
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
    let names = ["infer/web/n1/0", "infer/batch/n1/0"].map(|name| InstanceName::parse(name).unwrap());
    for (name, shim) in names.iter().zip([&one, &two]) {
        let root = machine.dir.path().join("instances");
        let dir = crate::runtime::process::instance_dir(&root, name);
        std::fs::create_dir_all(&dir).unwrap();
        let id = ProcessId::of(shim.pid()).unwrap();
        let started = Started {
            boot: boot.clone(),
            fingerprint: "f".into(),
            revision: "r".into(),
            shim: id,
            program: Some(id),
            since: std::time::SystemTime::now(),
        };
        started.write(&dir).unwrap();
    }
    let machine = machine.start();
    machine.until("all three use it", |machine| machine.sample(whole(0)).processes.len() == 3).await;
    let sample = machine.sample(whole(0));
    let find = |pid: u32| sample.processes.iter().find(|process| process.pid == pid).cloned().unwrap();
    let whose = |pid| (find(pid).instance, find(pid).command);
    assert_eq!(whose(below), (names[0].to_string(), String::new()), "by descent");
    assert_eq!(whose(two.0.id()), (names[1].to_string(), String::new()));
    assert_eq!(whose(other.0.id()), (String::new(), "sh".to_owned()));
    assert_eq!(find(below).memory_bytes, Some(100 << 20));
    machine
        .until("how busy they are is told", |machine| {
            let sample = machine.sample(whole(0));
            let told = |process: &Process| process.utilization_percent.is_some_and(|percent| percent <= 100);
            sample.processes.len() == 3 && sample.processes.iter().all(told)
        })
        .await;
}

#[tokio::test]
async fn without_a_driver_there_is_no_thread_and_nothing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (told_in, told) = tokio::sync::watch::channel(Arc::default());
    let driver = Arc::new(NvmlDriver::new(Some(dir.path().join("libnvidia-ml.so.1"))));
    let containers = Arc::new(Sender::new(Arc::default()));
    let mut collector = Collector::over(
        driver,
        Pace::default(),
        dir.path(),
        Arc::clone(&containers),
        told_in,
        (sample_stream("boot").0, sharing(told.clone(), Sender::new(Mps::None).subscribe()).0),
    );
    let wait = collector.pass();
    assert!(wait > Duration::from_secs(25), "{wait:?}");
    assert!(matches!(collector.state, State::Closed { .. }) && collector.left.is_empty());
    assert!(!told.has_changed().unwrap() && containers.receiver_count() == 0);
}

/// The next frame that comes to the gpu service, taken by a decoder.
async fn receive(link: &mut SampleLink, decoder: &mut Decoder) -> Taken {
    let frame = tokio::time::timeout(LONG, link.next()).await.unwrap();
    decoder.take(&pb::Frame::decode(frame).unwrap())
}

#[tokio::test]
async fn samples_travel_once_they_are_wanted_and_each_event_until_it_is_acknowledged() {
    let mut machine = Machine::of("a100");
    machine.until("it is told", |machine| machine.told.borrow().len() == 1).await;
    let mut link = machine.link.take().unwrap();
    let mut decoder = Decoder::new();
    link.said(&GpuFeedback { wanted: true, ..GpuFeedback::default() });
    assert_eq!(receive(&mut link, &mut decoder).await.outcome, Came::Begun);
    assert_eq!(decoder.devices().len(), 1);
    while decoder.places()[0].sample().value(Field::Temperature).is_none() {
        receive(&mut link, &mut decoder).await;
    }
    machine.change(|control| control.event = vec![skerry_nvml_sim::Event::xid(1, 0, 31)]);
    let events = loop {
        let events = receive(&mut link, &mut decoder).await.events;
        if !events.is_empty() {
            break events;
        }
    };
    assert!(matches!(events[0].event, Event::Xid { code: 31, .. }), "{events:?}");
    // The service was lost before it had written that down; so the next one hears of it too, and once it has said so nobody any more.
    link.unlinked();
    link.said(&GpuFeedback { wanted: true, ..GpuFeedback::default() });
    let mut other = Decoder::new();
    let again = loop {
        let taken = receive(&mut link, &mut other).await;
        if taken.outcome == Came::Begun {
            break taken;
        }
    };
    assert_eq!(again.events.len(), 1);
    let (stream, sequence) = (other.stream().unwrap(), other.events().unwrap().sequence);
    let said = pb::Feedback { stream, keyframe: true, events_through: sequence };
    link.said(&GpuFeedback { wanted: true, feedback: said.encode_to_vec().into() });
    let mut third = Decoder::new();
    loop {
        let taken = receive(&mut link, &mut third).await;
        if taken.outcome == Came::Begun {
            assert!(taken.events.is_empty(), "{taken:?}");
            break;
        }
    }
    machine.stop().await;
}
