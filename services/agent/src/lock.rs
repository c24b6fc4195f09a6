//! Locks of the standard library, held for a few lines and never across an await.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the lock, also after a thread that held it panicked: what it guards is never left half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
