//! Memory of a GPU, and work on it: the few calls of CUDA's driver that a process needs to be seen by NVML. The library is loaded at run time.
//!
//! Names, signatures and numbers are those of NVIDIA's "CUDA Driver API".
#![allow(unsafe_code, reason = "CUDA's driver is a library in C")]

use std::ffi::{CString, c_char, c_int, c_uchar, c_uint, c_void};
use std::ptr;

use anyhow::{Context as _, Result, bail};
use libloading::Library;

/// The driver's library.
pub(crate) const LIBRARY: &str = "libcuda.so.1";
/// `CUDA_ERROR_OUT_OF_MEMORY`
pub(crate) const OUT_OF_MEMORY: i32 = 2;

/// What a device is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Attribute {
    /// `CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT`: of a client of MPS the share that it has.
    Multiprocessors = 16,
    /// `CU_DEVICE_ATTRIBUTE_MPS_ENABLED`: whether contexts are made through MPS; since CUDA 12.1.
    Mps = 133,
}

type RawContext = *mut c_void;
type Init = unsafe extern "C" fn(c_uint) -> c_int;
type ByPci = unsafe extern "C" fn(*mut c_int, *const c_char) -> c_int;
type ByOrdinal = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
type GetAttribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
type Retain = unsafe extern "C" fn(*mut RawContext, c_int) -> c_int;
type SetCurrent = unsafe extern "C" fn(RawContext) -> c_int;
type Allocate = unsafe extern "C" fn(*mut u64, usize) -> c_int;
type Free = unsafe extern "C" fn(u64) -> c_int;
type Fill = unsafe extern "C" fn(u64, c_uchar, usize) -> c_int;
type Synchronize = unsafe extern "C" fn() -> c_int;

/// A context in the thread that made it. It goes when the process ends, and all its memory with it.
pub(crate) struct Context {
    library: Library,
    device: c_int,
}

/// Memory of the context that gave it.
pub(crate) struct Memory {
    address: u64,
    bytes: usize,
}

/// The library; `None`: it is not on this machine.
pub(crate) fn library() -> Option<Library> {
    // SAFETY: it is NVIDIA's own library, whose constructors ask for nothing of who loads it.
    unsafe { Library::new(LIBRARY) }.ok()
}

impl Context {
    /// On the device with this PCI address; `None`: on the first that CUDA shows.
    pub(crate) fn new(pci: Option<&str>) -> Result<Self> {
        let library = library().with_context(|| format!("{LIBRARY} is not there"))?;
        let address = pci.map(CString::new).transpose().context("a PCI address has no zero byte")?;
        let (mut device, mut context) = (0, ptr::null_mut());
        // SAFETY: each symbol has the type that NVIDIA's documentation gives it; what is pointed to outlives each call; no call is made without the one
        // before it having succeeded.
        unsafe {
            answer("cuInit", (*library.get::<Init>(b"cuInit\0")?)(0))?;
            if let Some(address) = &address {
                let by_pci = library.get::<ByPci>(b"cuDeviceGetByPCIBusId\0")?;
                answer("cuDeviceGetByPCIBusId", by_pci(&raw mut device, address.as_ptr()))?;
            } else {
                let by_ordinal = library.get::<ByOrdinal>(b"cuDeviceGet\0")?;
                answer("cuDeviceGet", by_ordinal(&raw mut device, 0))?;
            }
            let retain = library.get::<Retain>(b"cuDevicePrimaryCtxRetain\0")?;
            answer("cuDevicePrimaryCtxRetain", retain(&raw mut context, device))?;
            answer("cuCtxSetCurrent", (*library.get::<SetCurrent>(b"cuCtxSetCurrent\0")?)(context))?;
        }
        Ok(Self { library, device })
    }

    /// What the device answers; `None`: this driver does not know the question.
    pub(crate) fn attribute(&self, attribute: Attribute) -> Result<Option<i32>> {
        let mut value = 0;
        // SAFETY: the symbol has the type that NVIDIA's documentation gives it, and `value` outlives the call.
        let code = unsafe {
            let get = self.library.get::<GetAttribute>(b"cuDeviceGetAttribute\0")?;
            get(&raw mut value, attribute as c_int, self.device)
        };
        Ok((code == 0).then_some(value))
    }

    /// Takes so much memory of the device. The inner error is CUDA's code.
    pub(crate) fn take(&self, bytes: usize) -> Result<Result<Memory, i32>> {
        let mut address = 0;
        // SAFETY: the symbol has the type that NVIDIA's documentation gives it, `address` outlives the call, and the context is current in this thread,
        // the only one that has it: it holds a library, and is handed to none.
        let code = unsafe {
            let allocate = self.library.get::<Allocate>(b"cuMemAlloc_v2\0")?;
            allocate(&raw mut address, bytes)
        };
        Ok(if code == 0 { Ok(Memory { address, bytes }) } else { Err(code) })
    }

    /// Gives it back.
    pub(crate) fn give(&self, memory: &Memory) -> Result<()> {
        // SAFETY: it is memory that this context gave, as `take` is all that makes it, and nobody uses it any more: each call of `work` waits for its end.
        unsafe { answer("cuMemFree", (*self.library.get::<Free>(b"cuMemFree_v2\0")?)(memory.address)) }
    }

    /// Fills the memory once, which keeps the device busy for a moment.
    pub(crate) fn work(&self, memory: &Memory) -> Result<()> {
        // SAFETY: `address` has `bytes` bytes, and the context is current in this thread.
        unsafe {
            let fill = self.library.get::<Fill>(b"cuMemsetD8_v2\0")?;
            answer("cuMemsetD8", fill(memory.address, 0x5a, memory.bytes))?;
            answer("cuCtxSynchronize", (*self.library.get::<Synchronize>(b"cuCtxSynchronize\0")?)())
        }
    }
}

/// What a code means that went wrong.
pub(crate) fn refused(call: &str, code: i32) -> String {
    format!("{call} answers {code} (see CUresult in CUDA's documentation)")
}

fn answer(call: &str, code: c_int) -> Result<()> {
    if code != 0 {
        bail!("{}", refused(call, code));
    }
    Ok(())
}
