//! Ratios of activity between two samples, on cards that have them (`nvmlGpm...`).

use super::card::{Card, Work};
use crate::code::{Answer, Code};

/// What a sample holds: the card's sums when it was taken.
#[derive(Clone, Debug)]
pub(crate) struct GpmSample {
    card: u32,
    /// Which instance, where it is of one.
    mig: Option<usize>,
    work: Work,
}

/// A metric: its name in short and in full, and its unit. All end in NUL, since C reads them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Metric {
    pub(crate) value: f64,
    pub(crate) short: &'static str,
    pub(crate) long: &'static str,
    pub(crate) unit: &'static str,
}

impl GpmSample {
    pub(crate) fn of(index: u32, card: &Card, mig: Option<usize>) -> Self {
        Self { card: index, mig, work: card.work.clone() }
    }

    /// A metric from `earlier` to this one.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`: they are not of the same. `NO_DATA`: no time lies between. `NOT_SUPPORTED`: it is not simulated.
    pub(crate) fn metric(&self, earlier: &Self, id: u32) -> Answer<Metric> {
        if (self.card, self.mig) != (earlier.card, earlier.mig) {
            return Err(Code::INVALID_ARGUMENT);
        }
        let seconds = self.work.seconds - earlier.work.seconds;
        if seconds <= 0.0 {
            return Err(Code::NO_DATA);
        }
        let rate = |sum: fn(&Work) -> f64| ((sum(&self.work) - sum(&earlier.work)) / seconds).max(0.0);
        let gpu = self.mig.map_or_else(
            || rate(|work| work.gpu),
            |mig| {
                let of = |work: &Work| work.instances.get(mig).copied().unwrap_or(0.0);
                ((of(&self.work) - of(&earlier.work)) / seconds).max(0.0)
            },
        );
        // How work is spread over units differs by program; these are the proportions of one that multiplies matrices.
        let percent = |part: f64| (100.0 * part).clamp(0.0, 100.0);
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let metric = |value, short, long, unit| Ok(Metric { value, short, long, unit });
        match id {
            1 => metric(percent(gpu), "Graphics Util\0", "Time during which any engine was active\0", "%\0"),
            2 => metric(percent(gpu * 0.92), "SM Util\0", "Multiprocessors with a warp\0", "%\0"),
            3 => {
                metric(percent(gpu * 0.45), "SM Occupancy\0", "Warps against the most there can be\0", "%\0")
            }
            4 => metric(percent(gpu * 0.18), "Integer Util\0", "Integer pipe\0", "%\0"),
            5 => metric(percent(gpu * 0.55), "Any Tensor Util\0", "Any tensor pipe\0", "%\0"),
            6 => metric(percent(gpu * 0.01), "DFMA Tensor Util\0", "Double precision tensor pipe\0", "%\0"),
            7 => metric(percent(gpu * 0.53), "HMMA Tensor Util\0", "Half precision tensor pipe\0", "%\0"),
            9 => metric(percent(gpu * 0.01), "IMMA Tensor Util\0", "Integer tensor pipe\0", "%\0"),
            10 => metric(percent(rate(|work| work.memory)), "DRAM BW Util\0", "Bandwidth of memory\0", "%\0"),
            11 => metric(percent(gpu * 0.005), "FP64 Util\0", "Double precision pipe\0", "%\0"),
            12 => metric(percent(gpu * 0.14), "FP32 Util\0", "Single precision pipe\0", "%\0"),
            13 => metric(percent(gpu * 0.09), "FP16 Util\0", "Half precision pipe\0", "%\0"),
            20 => metric(mib(rate(|work| work.pcie_tx_bytes)), "PCIe TX\0", "Sent over PCIe\0", "MiB/sec\0"),
            21 => {
                metric(mib(rate(|work| work.pcie_rx_bytes)), "PCIe RX\0", "Received over PCIe\0", "MiB/sec\0")
            }
            30..=37 => metric(percent(rate(|work| work.decoder)), "NVDEC Util\0", "One decoder\0", "%\0"),
            60 => metric(
                mib(rate(|work| work.nvlink_rx_bytes)),
                "NVLink RX\0",
                "Received over all links\0",
                "MiB/sec\0",
            ),
            61 => metric(
                mib(rate(|work| work.nvlink_tx_bytes)),
                "NVLink TX\0",
                "Sent over all links\0",
                "MiB/sec\0",
            ),
            _ => Err(Code::NOT_SUPPORTED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::{DeviceControl, Load, Percent, Process, Shape},
        profile,
    };

    const START_MS: u64 = 1_700_000_000_000;

    fn two(control: &DeviceControl, mig: Option<usize>) -> (GpmSample, GpmSample) {
        let mut card = Card::new(profile::find("h100").expect("there"), 5, START_MS);
        card.advance(START_MS, Some(control));
        let earlier = GpmSample::of(0, &card, mig);
        card.advance(START_MS + 10_000, Some(control));
        (earlier, GpmSample::of(0, &card, mig))
    }

    #[test]
    fn a_ratio_is_that_of_the_time_between() {
        let load =
            Load { shape: Shape::Steady, gpu_percent: Some(Percent::saturating(60)), ..Load::default() };
        let (earlier, later) = two(&DeviceControl { load: Some(load), ..DeviceControl::of(0) }, None);
        let graphics = later.metric(&earlier, 1).expect("there").value;
        assert!((54.0..66.0).contains(&graphics), "{graphics}");
        for id in (0..256).filter(|id| ![20, 21, 60, 61].contains(id)) {
            if let Ok(metric) = later.metric(&earlier, id) {
                assert!((0.0..=100.0).contains(&metric.value), "{id}: {metric:?}");
                assert!([metric.short, metric.long, metric.unit].iter().all(|text| text.ends_with('\0')));
            }
        }
        assert!(later.metric(&earlier, 20).expect("there").value > 1.0);
        assert_eq!(later.metric(&later, 1), Err(Code::NO_DATA));
        assert_eq!(later.metric(&earlier, 99), Err(Code::NOT_SUPPORTED));
    }

    #[test]
    fn an_instance_has_ratios_of_its_own() {
        let process =
            Process { pid: 1, mig: Some(1), sm_percent: Some(Percent::saturating(40)), ..Process::default() };
        let control = DeviceControl { process: vec![process], ..DeviceControl::of(0) };
        let (earlier, later) = two(&control, Some(1));
        assert!((later.metric(&earlier, 1).expect("there").value - 40.0).abs() < 1e-6);
        let (idle, still) = two(&control, Some(0));
        assert!(still.metric(&idle, 1).expect("there").value.abs() < 1e-6);
        assert_eq!(later.metric(&still, 1), Err(Code::INVALID_ARGUMENT));
    }
}
