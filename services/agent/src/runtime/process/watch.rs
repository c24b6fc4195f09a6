//! Waiting for an instance to end by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::select_all;
use skerry_model::InstanceName;
use tokio::sync::Notify;

use super::handle::ProcessHandle;
use crate::shim::procfs::ProcessId;

/// One process per instance whose end is waited for: its shim, or an orphaned program.
#[derive(Default)]
pub(super) struct Watch {
    watched: Mutex<BTreeMap<InstanceName, Arc<ProcessHandle>>>,
    /// Others are waited for than before.
    others: Notify,
    /// One had ended before it could be waited for.
    missed: Notify,
}

impl Watch {
    /// Waits for these and no others from now on. Of one that has ended already, its end is told.
    pub(super) fn set(&self, alive: Vec<(InstanceName, ProcessId)>) {
        let mut watched = self.lock();
        let old = std::mem::take(&mut *watched);
        for (name, id) in alive {
            match old.get(&name).filter(|handle| handle.id() == id) {
                Some(known) => drop(watched.insert(name, Arc::clone(known))),
                None => match ProcessHandle::open(id) {
                    Some(handle) => {
                        watched.insert(name, Arc::new(handle));
                        self.others.notify_one();
                    }
                    None => self.missed.notify_one(),
                },
            }
        }
    }

    /// Waits for one more.
    pub(super) fn add(&self, name: &InstanceName, id: ProcessId) {
        match ProcessHandle::open(id) {
            Some(handle) => {
                self.lock().insert(name.clone(), Arc::new(handle));
                self.others.notify_one();
            }
            None => self.missed.notify_one(),
        }
    }

    /// Returns when one of them has ended.
    pub(super) async fn any_gone(&self) {
        loop {
            tokio::select! {
                () = self.one_gone() => return,
                () = self.missed.notified() => return,
                () = self.others.notified() => {}
            }
        }
    }

    async fn one_gone(&self) {
        let handles: Vec<_> =
            self.lock().iter().map(|(name, handle)| (name.clone(), Arc::clone(handle))).collect();
        if handles.is_empty() {
            return std::future::pending().await;
        }
        let waits = handles.iter().map(|(_, handle)| Box::pin(handle.gone()));
        let ((), which, _) = select_all(waits).await;
        let (name, ended) = &handles[which];
        let mut watched = self.lock();
        if watched.get(name).is_some_and(|handle| Arc::ptr_eq(handle, ended)) {
            watched.remove(name);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<InstanceName, Arc<ProcessHandle>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
