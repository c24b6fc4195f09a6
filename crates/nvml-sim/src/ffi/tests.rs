//! What can be said of the functions without loading the library.

use std::collections::HashSet;

use nvml_wrapper_sys::bindings::NvmlLib;

use super::{events, inventory, is_call, memory, names, partitions, processes, sensors, system};

#[test]
fn signatures_are_those_of_the_driver() {
    // That this compiles is what is tested: a function of another signature cannot take the place of the driver's.
    let all: [fn(&mut NvmlLib); 8] = [
        system::take_the_place,
        inventory::take_the_place,
        sensors::take_the_place,
        memory::take_the_place,
        processes::take_the_place,
        partitions::take_the_place,
        events::take_the_place,
        |driver| {
            driver.nvmlErrorString = Ok(system::nvmlErrorString);
            driver.nvmlDeviceRegisterEvents = Ok(events::nvmlDeviceRegisterEvents);
            driver.nvmlEventSetWait_v2 = Ok(events::nvmlEventSetWait_v2);
            driver.nvmlEventSetFree = Ok(events::nvmlEventSetFree);
            driver.nvmlGpmSampleGet = Ok(events::nvmlGpmSampleGet);
            driver.nvmlGpmMigSampleGet = Ok(events::nvmlGpmMigSampleGet);
            driver.nvmlGpmSampleFree = Ok(events::nvmlGpmSampleFree);
        },
    ];
    assert_eq!(all.len(), 8);
}

#[test]
fn each_function_has_one_name() {
    let all: Vec<_> = names().collect();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    assert!(all.len() > 250 && is_call("nvmlDeviceGetPowerUsage") && !is_call("nvmlDeviceGetLuck"));
}
