//! The symbols that C calls: pointers come in here and become safe things at once; what is answered is in `model`.
//!
//! The types of arguments and structures are those of `nvml-wrapper-sys`, and a test assigns each function to the field in which that
//! crate keeps the driver's, so that signatures are right by construction. `unsafe` is in `pointers`,
//! in the macro here, and where functions that it does not make are exported; outside of this directory there is none.
#![allow(non_snake_case, reason = "the names are those of C")]

mod events;
mod inventory;
mod memory;
mod partitions;
mod pointers;
mod processes;
mod sensors;
mod system;
mod unsupported;

/// Makes the functions of a module. Before the name stands what a call is on:
///
/// | word | the last argument gets |
/// |---|---|
/// | `device` | the `View` of the device that is the first argument in C |
/// | `system` | the driver |
/// | `anytime` | the driver, also before `nvmlInit` |
macro_rules! exports {
    ($( $on:ident $name:ident ( $( $arg:ident : $type:ty ),* ) $run:expr; )*) => {
        /// Names of the functions of this module.
        pub(super) const NAMES: &[&str] = &[ $( stringify!($name) ),* ];

        /// Compiles only where each has the signature of the driver's.
        #[cfg(test)]
        pub(super) fn take_the_place(driver: &mut nvml_wrapper_sys::bindings::NvmlLib) {
            $( driver.$name = Ok($name); )*
        }

        $( $crate::ffi::export! { $on $name ( $( $arg: $type ),* ) $run } )*
    };
}

macro_rules! export {
    (device $name:ident ( $( $arg:ident : $type:ty ),* ) $run:expr) => {
        #[allow(unsafe_code, reason = "called by C")]
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn $name(device: nvmlDevice_t, $( $arg: $type ),*) -> nvmlReturn_t {
            $(
                // SAFETY: as NVML asks of its callers, a pointer is null or one to what its type says, for as long as the call takes.
                let $arg = unsafe { $crate::ffi::pointers::Enter::enter($arg) };
            )*
            $crate::sim::on_device(stringify!($name), device.addr(), $run)
        }
    };
    (system $name:ident ( $( $arg:ident : $type:ty ),* ) $run:expr) => {
        #[allow(unsafe_code, reason = "called by C")]
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn $name($( $arg: $type ),*) -> nvmlReturn_t {
            $(
                // SAFETY: as above.
                let $arg = unsafe { $crate::ffi::pointers::Enter::enter($arg) };
            )*
            $crate::sim::on_system(stringify!($name), $run)
        }
    };
    (anytime $name:ident ( $( $arg:ident : $type:ty ),* ) $run:expr) => {
        #[allow(unsafe_code, reason = "called by C")]
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn $name($( $arg: $type ),*) -> nvmlReturn_t {
            $(
                // SAFETY: as above.
                let $arg = unsafe { $crate::ffi::pointers::Enter::enter($arg) };
            )*
            $crate::sim::anytime(stringify!($name), $run)
        }
    };
}

use {export, exports};

/// Names of all functions that there are.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let modules = [
        system::NAMES,
        system::OTHERS,
        inventory::NAMES,
        sensors::NAMES,
        memory::NAMES,
        processes::NAMES,
        partitions::NAMES,
        events::NAMES,
        events::OTHERS,
        unsupported::NAMES,
    ];
    modules.into_iter().flatten().copied()
}

/// Whether there is a function of that name.
#[cfg(test)]
pub(crate) fn is_call(name: &str) -> bool {
    names().any(|known| known == name)
}

#[cfg(test)]
mod tests;
