//! Events, and samples of activity ratios.

use std::{
    ffi::{c_uint, c_ulonglong},
    time::Duration,
};

use nvml_wrapper_sys::bindings::{
    NVML_GPM_METRICS_GET_VERSION, NVML_GPM_SUPPORT_VERSION, nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t,
    nvmlGpmMetric_t, nvmlGpmMetric_t__bindgen_ty_1, nvmlGpmMetricsGet_t, nvmlGpmSample_t, nvmlGpmSupport_t,
    nvmlReturn_t,
};

use super::{
    exports,
    pointers::{Enter, Place},
    system::pointer,
};
use crate::{
    code::{Answer, Code},
    control::EventKind,
    model::{
        driver::{Driver, Target},
        events::Happened,
        view::View,
    },
    sim,
};

/// Functions of this module that are not made by the macro.
pub(super) const OTHERS: &[&str] = &[
    "nvmlDeviceRegisterEvents",
    "nvmlEventSetWait_v2",
    "nvmlEventSetFree",
    "nvmlGpmSampleFree",
    "nvmlGpmSampleGet",
    "nvmlGpmMigSampleGet",
];

exports! {
    device nvmlDeviceGetSupportedEventTypes(types: *mut c_ulonglong) |view| {
        types.put(view.card.profile.event_mask())
    };
    system nvmlEventSetCreate(set: *mut nvmlEventSet_t) |driver| set.put(pointer(driver.make_set()?));
    device nvmlGpmQueryDeviceSupport(support: *mut nvmlGpmSupport_t) |view| {
        let version = support.get()?.version;
        if version != NVML_GPM_SUPPORT_VERSION {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        support.put(nvmlGpmSupport_t { version, isSupportedDevice: u32::from(view.card.profile.gpm) })
    };
    system nvmlGpmSampleAlloc(sample: *mut nvmlGpmSample_t) |driver| {
        sample.put(pointer(driver.make_sample()?))
    };
    system nvmlGpmMetricsGet(request: *mut nvmlGpmMetricsGet_t) |driver| metrics(driver, &request);
}

fn metrics(driver: &Driver, request: &Place<'_, nvmlGpmMetricsGet_t>) -> Answer<()> {
    let mut asked = request.get()?;
    if asked.version != NVML_GPM_METRICS_GET_VERSION {
        return Err(Code::ARGUMENT_VERSION_MISMATCH);
    }
    let (earlier, later) = (driver.taken(asked.sample1.addr())?, driver.taken(asked.sample2.addr())?);
    let count = usize::try_from(asked.numMetrics).unwrap_or(usize::MAX);
    for metric in asked.metrics.get_mut(..count).ok_or(Code::INVALID_ARGUMENT)? {
        *metric = match later.metric(earlier, metric.metricId) {
            Ok(is) => nvmlGpmMetric_t {
                nvmlReturn: 0,
                value: is.value,
                // What C must not write to, though its type says that it may.
                metricInfo: nvmlGpmMetric_t__bindgen_ty_1 {
                    shortName: is.short.as_ptr().cast_mut().cast(),
                    longName: is.long.as_ptr().cast_mut().cast(),
                    unit: is.unit.as_ptr().cast_mut().cast(),
                },
                ..*metric
            },
            Err(code) => nvmlGpmMetric_t { nvmlReturn: code.number(), ..*metric },
        };
    }
    request.put(asked)
}

/// Handles stand where C has pointers: they are numbers, and nobody reads there.
#[allow(unsafe_code, reason = "called by C")]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nvmlDeviceRegisterEvents(
    device: nvmlDevice_t,
    types: c_ulonglong,
    set: nvmlEventSet_t,
) -> nvmlReturn_t {
    let device = device.addr();
    sim::with_device("nvmlDeviceRegisterEvents", device, |driver| driver.register(device, types, set.addr()))
}

#[allow(unsafe_code, reason = "called by C")]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nvmlEventSetFree(set: nvmlEventSet_t) -> nvmlReturn_t {
    sim::on_system("nvmlEventSetFree", |driver| driver.free_set(set.addr()))
}

#[allow(unsafe_code, reason = "called by C")]
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn nvmlEventSetWait_v2(
    set: nvmlEventSet_t,
    data: *mut nvmlEventData_t,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    // SAFETY: as NVML asks of its callers, null or room for one.
    let data = unsafe { Enter::enter(data) };
    let timeout = Duration::from_millis(timeout_ms.into());
    sim::wait("nvmlEventSetWait_v2", set.addr(), timeout, |driver, event| data.put(told(driver, event)))
}

fn told(driver: &Driver, event: Happened) -> nvmlEventData_t {
    let instance = event.mig.and_then(|mig| usize::try_from(mig).ok()).map(View::instance_id);
    nvmlEventData_t {
        device: pointer(driver.handle(Target { card: event.card, mig: None })),
        eventType: event.kind.bit(),
        eventData: if event.kind == EventKind::Xid { event.data } else { 0 },
        gpuInstanceId: instance.unwrap_or(u32::MAX),
        computeInstanceId: instance.map_or(u32::MAX, |_| 0),
    }
}

#[allow(unsafe_code, reason = "called by C")]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nvmlGpmSampleFree(sample: nvmlGpmSample_t) -> nvmlReturn_t {
    sim::on_system("nvmlGpmSampleFree", |driver| driver.free_sample(sample.addr()))
}

#[allow(unsafe_code, reason = "called by C")]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nvmlGpmSampleGet(device: nvmlDevice_t, sample: nvmlGpmSample_t) -> nvmlReturn_t {
    const NAME: &str = "nvmlGpmSampleGet";
    let device = device.addr();
    sim::with_device(NAME, device, |driver| driver.sample(NAME, device, None, sample.addr()))
}

#[allow(unsafe_code, reason = "called by C")]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nvmlGpmMigSampleGet(
    device: nvmlDevice_t,
    instance: c_uint,
    sample: nvmlGpmSample_t,
) -> nvmlReturn_t {
    const NAME: &str = "nvmlGpmMigSampleGet";
    let device = device.addr();
    sim::with_device(NAME, device, |driver| driver.sample(NAME, device, Some(instance), sample.addr()))
}
