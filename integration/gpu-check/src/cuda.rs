//! Memory of a GPU, and work on it: the few calls of CUDA's driver that a process needs to be seen by NVML. The library is loaded at run time.
//!
//! Names and signatures are those of NVIDIA's "CUDA Driver API".
#![allow(unsafe_code, reason = "CUDA's driver is a library in C")]

use std::ffi::{CString, c_char, c_int, c_uchar, c_uint, c_void};
use std::ptr;

use anyhow::{Context as _, Result, bail};
use libloading::Library;

/// The driver's library.
pub(crate) const LIBRARY: &str = "libcuda.so.1";

type Context = *mut c_void;
type Init = unsafe extern "C" fn(c_uint) -> c_int;
type ByPci = unsafe extern "C" fn(*mut c_int, *const c_char) -> c_int;
type Retain = unsafe extern "C" fn(*mut Context, c_int) -> c_int;
type SetCurrent = unsafe extern "C" fn(Context) -> c_int;
type Allocate = unsafe extern "C" fn(*mut u64, usize) -> c_int;
type Fill = unsafe extern "C" fn(u64, c_uchar, usize) -> c_int;
type Synchronize = unsafe extern "C" fn() -> c_int;

/// A context with memory. All of it goes when the process ends.
pub(crate) struct Held {
    library: Library,
    memory: u64,
    bytes: usize,
}

/// The library; `None`: it is not on this machine.
pub(crate) fn library() -> Option<Library> {
    // SAFETY: it is NVIDIA's own library, whose constructors ask for nothing of who loads it.
    unsafe { Library::new(LIBRARY) }.ok()
}

impl Held {
    /// Makes a context on the device with this PCI address, and takes that much memory of it.
    pub(crate) fn new(library: Library, pci: &str, bytes: usize) -> Result<Self> {
        let address = CString::new(pci).context("a PCI address has no zero byte")?;
        let (mut device, mut context, mut memory) = (0, ptr::null_mut(), 0);
        // SAFETY: each symbol has the type that NVIDIA's documentation gives it; what is pointed to outlives each call; the context is made current
        // in this thread before memory is asked for, and no call is made without the one before it having succeeded.
        unsafe {
            answer("cuInit", (*library.get::<Init>(b"cuInit\0")?)(0))?;
            let by_pci = library.get::<ByPci>(b"cuDeviceGetByPCIBusId\0")?;
            answer("cuDeviceGetByPCIBusId", by_pci(&raw mut device, address.as_ptr()))?;
            let retain = library.get::<Retain>(b"cuDevicePrimaryCtxRetain\0")?;
            answer("cuDevicePrimaryCtxRetain", retain(&raw mut context, device))?;
            answer("cuCtxSetCurrent", (*library.get::<SetCurrent>(b"cuCtxSetCurrent\0")?)(context))?;
            let allocate = library.get::<Allocate>(b"cuMemAlloc_v2\0")?;
            answer("cuMemAlloc", allocate(&raw mut memory, bytes))?;
        }
        Ok(Self { library, memory, bytes })
    }

    /// Fills the memory once, which keeps the device busy for a moment.
    pub(crate) fn work(&self) -> Result<()> {
        // SAFETY: `memory` has `bytes` bytes and lives as long as the process; the context is current in the thread that made it, the only one here
        // that calls this: `Held` is made and used by `hold` alone.
        unsafe {
            let fill = self.library.get::<Fill>(b"cuMemsetD8_v2\0")?;
            answer("cuMemsetD8", fill(self.memory, 0x5a, self.bytes))?;
            answer("cuCtxSynchronize", (*self.library.get::<Synchronize>(b"cuCtxSynchronize\0")?)())
        }
    }
}

fn answer(call: &str, code: c_int) -> Result<()> {
    if code != 0 {
        bail!("{call} answers {code} (see CUresult in CUDA's documentation)");
    }
    Ok(())
}
