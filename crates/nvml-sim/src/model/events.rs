//! Sets of events: what happened since a set asked for it, each once.

use std::collections::{BTreeMap, VecDeque};

use crate::control::EventKind;

/// What a set holds that nobody has waited for; then the oldest goes.
const QUEUE_MAX: usize = 4096;

/// Something that happened on a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Happened {
    pub(crate) card: u32,
    pub(crate) kind: EventKind,
    /// Of an XID its number, else 0.
    pub(crate) data: u64,
    /// The instance it happened in.
    pub(crate) mig: Option<u32>,
}

/// A set that somebody made.
#[derive(Debug, Default)]
pub(crate) struct EventSet {
    /// Which kinds of which card, as a mask.
    wanted: BTreeMap<u32, u64>,
    queue: VecDeque<Happened>,
}

impl EventSet {
    pub(crate) fn register(&mut self, card: u32, mask: u64) {
        *self.wanted.entry(card).or_default() |= mask;
    }

    /// The cards that it asked for.
    pub(crate) fn cards(&self) -> impl Iterator<Item = u32> + '_ {
        self.wanted.keys().copied()
    }

    pub(crate) fn happened(&mut self, event: Happened) {
        let wanted = self.wanted.get(&event.card).copied().unwrap_or(0);
        if wanted & event.kind.bit() == 0 {
            return;
        }
        if self.queue.len() == QUEUE_MAX {
            self.queue.pop_front();
        }
        self.queue.push_back(event);
    }

    pub(crate) fn take(&mut self) -> Option<Happened> {
        self.queue.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_tells_what_it_asked_for_once_and_in_order() {
        let xid = |card, data| Happened { card, kind: EventKind::Xid, data, mig: None };
        let mut set = EventSet::default();
        set.happened(xid(0, 13));
        set.register(0, EventKind::Xid.bit());
        for event in
            [xid(0, 31), xid(0, 31), xid(1, 79), Happened { kind: EventKind::Clock, ..xid(0, 0) }, xid(0, 43)]
        {
            set.happened(event);
        }
        let told: Vec<_> = std::iter::from_fn(|| set.take()).collect();
        assert_eq!(told, [xid(0, 31), xid(0, 31), xid(0, 43)]);
    }

    #[test]
    fn what_nobody_waits_for_is_bounded() {
        let mut set = EventSet::default();
        set.register(0, EventKind::Xid.bit());
        for data in 0..=QUEUE_MAX as u64 {
            set.happened(Happened { card: 0, kind: EventKind::Xid, data, mig: None });
        }
        assert_eq!(set.take().map(|event| event.data), Some(1));
    }
}
