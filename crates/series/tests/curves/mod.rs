//! Curves as a busy GPU makes them, with noise, made up from a seed: for what is said of bytes and of time.

#![allow(clippy::cast_possible_truncation, reason = "what is made up is far below its bounds")]

use skerry_series::Field;

/// A sample: the fields that changed.
pub(crate) type Sample = Vec<(Field, Option<i64>)>;

/// What samples are called, and how they are taken.
pub(crate) type Kind = (&'static str, fn(&mut Gpu) -> Sample);

/// Both kinds of them.
pub(crate) const KINDS: [Kind; 2] =
    [("changes by threshold", Gpu::changes), ("all 15 fields each second", Gpu::all)];

/// What is sampled, by number: from how large a change on it is told, in its unit.
pub(crate) const FIELDS: [(u32, i64); 15] = [
    (1, 2),           // utilisation, percent
    (2, 2),           // of the memory controller, percent
    (3, 2),           // of the encoder, percent
    (4, 2),           // of the decoder, percent
    (10, 2 << 20),    // memory used, bytes
    (11, 2 << 20),    // memory free, bytes
    (20, 1_000),      // temperature, millidegrees
    (21, 1_000),      // of the memory, millidegrees
    (30, 1_000),      // power, milliwatts
    (31, 100_000),    // energy, millijoules
    (40, 15_000_000), // clock, hertz
    (41, 15_000_000), // of the memory, hertz
    (50, 2),          // fan, percent
    (60, 1_000_000),  // PCIe sent, bytes a second
    (61, 1_000_000),  // PCIe received, bytes a second
];

const MEMORY_BYTES: i64 = 80 << 30;

/// One GPU that has work now and then.
pub(crate) struct Gpu {
    state: u64,
    load: f64,
    wanted: f64,
    heat: f64,
    memory: i64,
    energy_mj: i64,
    told: [Option<i64>; FIELDS.len()],
}

impl Gpu {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1),
            load: 0.3,
            wanted: 0.6,
            heat: 45.0,
            memory: 12 << 30,
            energy_mj: 1_000_000_000,
            told: [None; FIELDS.len()],
        }
    }

    /// From 0 to 1, evenly (splitmix64).
    fn even(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ word >> 31) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Noise about 0 of this deviation.
    fn noise(&mut self, deviation: f64) -> f64 {
        let sum: f64 = (0..6).map(|_| self.even() - 0.5).sum();
        sum * deviation * 2.0_f64.sqrt()
    }

    /// Milliseconds until the next sample: about a second.
    pub(crate) fn interval(&mut self) -> i64 {
        1_000 + self.noise(2.0) as i64
    }

    /// What all fields are a second later.
    pub(crate) fn values(&mut self) -> [i64; FIELDS.len()] {
        if self.even() < 0.01 {
            self.wanted = if self.even() < 0.3 { 0.0 } else { self.even() };
        }
        if self.even() < 0.02 {
            let blocks = (self.noise(800.0) as i64) << 21;
            self.memory = (self.memory + blocks).clamp(1 << 30, MEMORY_BYTES - (1 << 30));
        }
        self.load += (self.wanted - self.load) * 0.2 + self.noise(0.04);
        self.load = self.load.clamp(0.0, 1.0);
        let load = self.load;
        self.heat += (35.0 + 45.0 * load - self.heat) * 0.02 + self.noise(0.1);
        let percent = |value: f64| (value.clamp(0.0, 1.0) * 100.0).round() as i64;
        let power = (60_000.0 + 260_000.0 * load + self.noise(4_000.0)).max(50_000.0) as i64;
        self.energy_mj += power;
        let used = self.memory + ((self.even() * 4.0) as i64) * (2 << 20);
        let step = (load * 40.0 + self.noise(1.0)).clamp(0.0, 40.0) as i64;
        let memory_load = load * 0.5 + self.noise(0.03);
        let traffic = |noise: f64| ((load * 4e9 * noise) as i64).max(0) / 1024 * 1024;
        let (sent, received) = (self.noise(0.2) + 1.0, self.noise(0.2) + 1.0);
        [
            percent(load + self.noise(0.02)),
            percent(memory_load),
            0,
            if self.even() < 0.02 { 7 } else { 0 },
            used,
            MEMORY_BYTES - used,
            (self.heat + self.noise(0.3)).round() as i64 * 1_000,
            (self.heat * 1.1 + self.noise(0.3)).round() as i64 * 1_000,
            power,
            self.energy_mj,
            (1_200 + 15 * step) * 1_000_000,
            2_619_000_000,
            percent(self.heat / 120.0),
            traffic(sent),
            traffic(received),
        ]
    }

    /// The next sample: what is at least by its threshold away from what was told last.
    pub(crate) fn changes(&mut self) -> Sample {
        let mut sample = Sample::new();
        for ((value, told), (field, threshold)) in self.values().into_iter().zip(&mut self.told).zip(FIELDS) {
            if told.is_none_or(|told| value.abs_diff(told) >= threshold.unsigned_abs()) {
                *told = Some(value);
                sample.push((Field(field), Some(value)));
            }
        }
        sample
    }

    /// The next sample: all there is.
    pub(crate) fn all(&mut self) -> Sample {
        let values = self.values();
        FIELDS.into_iter().zip(values).map(|((field, _), value)| (Field(field), Some(value))).collect()
    }
}
