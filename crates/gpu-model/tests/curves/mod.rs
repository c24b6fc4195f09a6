//! Noisy curves of a busy device, as its driver would tell them: a load that wanders, and what follows from it.

use skerry_gpu_model::field::Cadence;
use skerry_gpu_model::{Absent, Field, Process, Sample};

const MIB: i64 = 1 << 20;

/// Numbers that look random and are the same each time (xorshift64*).
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// From 0 to below `bound`.
    pub(crate) fn below(&mut self, bound: i64) -> i64 {
        (self.next() >> 33).cast_signed() % bound
    }

    /// Around 0, mostly near it.
    pub(crate) fn around(&mut self, spread: i64) -> i64 {
        self.below(2 * spread + 1) / 2 + self.below(2 * spread + 1) / 2 - spread
    }
}

/// What a device is built like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Chip {
    /// A large one with all that there is.
    H100,
    /// A small one without activity ratios, NVLinks and a memory sensor.
    T4,
}

/// A device under load, a second at a time.
pub(crate) struct Curve {
    chip: Chip,
    noise: Noise,
    second: i64,
    load: i64,
    memory_mib: i64,
    heat: i64,
    energy: i64,
    sample: Sample,
}

impl Curve {
    pub(crate) fn new(chip: Chip, seed: u64) -> Self {
        let noise = Noise::new(seed);
        Self {
            chip,
            noise,
            second: 0,
            load: 700,
            memory_mib: 40_000,
            heat: 60_000,
            energy: 0,
            sample: Sample::new(),
        }
    }

    /// The sample of the next second. What is read less often has the value of its last reading.
    pub(crate) fn next(&mut self) -> Sample {
        let noise = &mut self.noise;
        // A load that wanders, with a pause now and then as between batches.
        self.load = (self.load + noise.around(120)).clamp(50, 1000);
        let load = if noise.below(20) == 0 { self.load / 4 } else { self.load };
        if noise.below(40) == 0 {
            self.memory_mib = (self.memory_mib + noise.around(900)).clamp(2_000, 78_000);
        }
        let watts = match self.chip {
            Chip::H100 => 90 + 610 * load / 1000 + noise.around(12),
            Chip::T4 => 20 + 50 * load / 1000 + noise.around(3),
        };
        self.heat += ((35_000 + 50 * load) - self.heat) / 20 + noise.around(400);
        self.energy += watts * 1000;
        let second = self.second;
        self.second += 1;
        for field in Field::ALL {
            if second % i64::from(field.spec().cadence.seconds()) == 0 {
                let reading = self.read(field, load, watts);
                self.sample.set(field, reading);
            }
        }
        if second % 10 == 0 {
            self.sample.processes = self.processes();
        }
        self.sample.clone()
    }

    fn read(&mut self, field: Field, load: i64, watts: i64) -> Result<i64, Absent> {
        let large = matches!(self.chip, Chip::H100);
        let noise = &mut self.noise;
        let ratio = |of: i64, noise: &mut Noise| Ok((load * of / 1000 + noise.around(25)).clamp(0, 1000));
        let only_large = |value: i64| if large { Ok(value) } else { Err(Absent::NotSupported) };
        Ok(match field {
            Field::GpuUtilization => (load / 10 + noise.around(4)).clamp(0, 100),
            Field::MemoryUtilization => (load / 16 + noise.around(3)).clamp(0, 100),
            Field::MemoryUsed => self.memory_mib * MIB,
            Field::MemoryFree => (81_000 - self.memory_mib) * MIB,
            Field::Temperature => self.heat / 1000,
            Field::MemoryTemperature => only_large(self.heat / 1000 + 8)?,
            Field::Power => watts * 1000 + noise.around(900),
            Field::SmClock => 1980 - load / 5 + noise.around(20),
            Field::MemoryClock => 2619,
            Field::ThrottleReasons => i64::from(load > 950) * 4,
            Field::FanSpeed if large => return Err(Absent::NotSupported),
            Field::FanSpeed => (self.heat / 1500).clamp(0, 100),
            Field::GraphicsActivity if large => return ratio(950, noise),
            Field::SmActivity if large => return ratio(800, noise),
            Field::SmOccupancy if large => return ratio(300, noise),
            Field::TensorActivity if large => return ratio(450, noise),
            Field::DramActivity if large => return ratio(500, noise),
            Field::Fp32Activity if large => return ratio(100, noise),
            Field::Fp16Activity if large => return ratio(60, noise),
            Field::Fp64Activity => only_large(0)?,
            Field::Processes => 2,
            Field::Energy => self.energy,
            Field::PcieTransmit => load * 900_000 + noise.below(90_000_000),
            Field::PcieReceive => load * 2_000_000 + noise.below(200_000_000),
            Field::NvlinkTransmit | Field::NvlinkReceive => only_large(load * 50_000_000)?,
            Field::ThrottlePower => self.second * 40,
            Field::MemoryReserved => 600 * MIB,
            Field::GraphicsClock => 1980 - load / 5,
            Field::GraphicsActivity
            | Field::SmActivity
            | Field::SmOccupancy
            | Field::TensorActivity
            | Field::DramActivity
            | Field::Fp32Activity
            | Field::Fp16Activity => return Err(Absent::NotSupported),
            _ if field.spec().cadence == Cadence::Minute => 3,
            _ => 0,
        })
    }

    fn processes(&mut self) -> Vec<Process> {
        [4_711, 4_820]
            .map(|pid| Process {
                pid,
                instance: format!("vision/detector/oslo-1/{}", pid % 10),
                memory_bytes: Some((self.memory_mib / 2 * MIB).unsigned_abs()),
                utilization_percent: Some(u32::try_from(self.load / 20).unwrap_or(0)),
                ..Process::default()
            })
            .to_vec()
    }
}
