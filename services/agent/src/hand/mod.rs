//! What people ask of single instances: that they are started anew, stopped, started.
//!
//! A word about an instance counts once it is on disk, and then until it is done: `Stopped` until somebody starts it again, or nobody wants it here
//! any more. What is done about it says the plan (`plan::by_hand`); when it is done and what is answered, the reconciler (`reconcile::hand`).
//!
//! The file `hand`, written whole and synced, is: 8 bytes of magic; 32 bytes of BLAKE3 over the rest; then length-delimited messages, one for each
//! instance. One that does not read is told and forgotten: what was stopped by hand runs again.

use std::collections::BTreeMap;
use std::time::Duration;

use skerry_model::InstanceName;
use skerry_sync::MonoTime;
use skerry_sync::limits::INSTANCES_MAX;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::runtime::RuntimeError;
use crate::state::{Directory, Disk, messages, read_messages};

#[cfg(test)]
mod tests;

const MAGIC: &[u8; 8] = b"SKRYHND1";
const FILE: &str = "hand";
const TEMPORARY: &str = "hand.new";
/// Of 400 names of at most 200 bytes.
const FILE_BYTES_MAX: u64 = 128 * 1024;
/// Asks that wait until the reconciler takes them: each has a channel of its own, of which there are few.
pub(crate) const ASKS_MAX: usize = 16;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandAct {
    /// Stop it, and start it again.
    Restart,
    /// Stop it, and leave it so.
    Stop,
    /// Have it run.
    Start,
}

/// Somebody asks for something.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) instance: InstanceName,
    pub(crate) act: HandAct,
    /// How long the outcome is waited for.
    pub(crate) patience: Duration,
    /// Where the outcome goes.
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// The outcome: whether there was something to do, or why it is not as it was asked for.
pub(crate) type Answer = Result<Done, RuntimeError>;

/// It is as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// It was so already.
    Unchanged,
    /// It is so by now.
    Changed,
}

/// What counts of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hand {
    /// It shall not run.
    Stopped,
    /// It shall stop, to be started again.
    Halting,
    /// It shall run, also where its policy would leave it as it ended.
    Due,
}

impl Hand {
    /// Whether nothing of it shall run now.
    pub(crate) fn is_halt(self) -> bool {
        matches!(self, Self::Stopped | Self::Halting)
    }
}

/// What counts, by instance.
pub(crate) type Hands = BTreeMap<InstanceName, Hand>;

/// An ask whose outcome is not known yet.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) instance: InstanceName,
    pub(crate) act: HandAct,
    /// Which word is waited for.
    number: u64,
    pub(crate) until: MonoTime,
    /// The same counted already.
    pub(crate) is_again: bool,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// A word, and by which ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word {
    hand: Hand,
    number: u64,
}

/// Something for the reconciler.
#[derive(Debug)]
pub(crate) enum News {
    /// Somebody asks for something.
    Asked(Ask),
    /// What counts is another by now, or could not be written.
    Written,
}

/// All that was asked for, and is not done.
#[derive(Default)]
pub(crate) struct Desk {
    /// As it was asked for.
    words: BTreeMap<InstanceName, Word>,
    /// As it is on disk, and counts.
    kept: BTreeMap<InstanceName, Word>,
    hands: Hands,
    last: u64,
    pending: Vec<Pending>,
    asks: Option<mpsc::Receiver<Ask>>,
    /// Absent: nothing is kept, and all counts at once.
    disk: Option<Directory>,
    due: bool,
    /// At most one, of these words.
    writing: JoinSet<(BTreeMap<InstanceName, Word>, Result<(), String>)>,
    damage: Option<String>,
}

impl Desk {
    /// Goes on from what an earlier process of the agent kept.
    pub(crate) fn open(disk: Directory, asks: mpsc::Receiver<Ask>) -> Self {
        let (words, damage) = match read(&disk) {
            Ok(words) => (words, None),
            Err(why) => (BTreeMap::new(), Some(why)),
        };
        if let Some(damage) = &damage {
            tracing::error!(damage, "what was stopped by hand is not known any more");
        }
        let mut desk = Self {
            kept: words.clone(),
            words,
            asks: Some(asks),
            disk: Some(disk),
            damage,
            ..Self::default()
        };
        desk.show();
        desk
    }

    /// What counts.
    pub(crate) fn hands(&self) -> &Hands {
        &self.hands
    }

    /// What was wrong with the file, once.
    pub(crate) fn take_damage(&mut self) -> Option<String> {
        self.damage.take()
    }

    /// The next thing that happens. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> News {
        let asked = async {
            match &mut self.asks {
                Some(asks) => asks.recv().await,
                None => None,
            }
        };
        tokio::select! {
            Some(ask) = asked => News::Asked(ask),
            Some(written) = self.writing.join_next() => {
                if let Ok((words, result)) = written {
                    self.take_written(words, result);
                }
                News::Written
            }
            else => std::future::pending().await,
        }
    }

    /// Takes a word, which counts once it is on disk.
    pub(crate) fn put(&mut self, ask: Ask, hand: Hand, until: MonoTime) {
        let Ask { instance, act, answer, .. } = ask;
        if self.words.len() >= INSTANCES_MAX && !self.words.contains_key(&instance) {
            let message = "this agent has as many words about instances as it keeps".to_owned();
            let _ = answer.send(Err(failed("TooMany", message)));
            return;
        }
        self.last += 1;
        let number = self.last;
        for older in self.take_pending(|one| one.instance == instance) {
            let message = "somebody asked for something else meanwhile".to_owned();
            let _ = older.answer.send(Err(failed("Superseded", message)));
        }
        let is_again = self
            .words
            .insert(instance.clone(), Word { hand, number })
            .is_some_and(|before| before.hand == hand);
        self.pending.push(Pending { instance, act, number, until, is_again, answer });
        self.changed();
    }

    /// What was halted does not run any more: it is due.
    pub(crate) fn halted(&mut self, name: &InstanceName) {
        for words in [&mut self.words, &mut self.kept] {
            if let Some(word) = words.get_mut(name).filter(|word| word.hand == Hand::Halting) {
                word.hand = Hand::Due;
            }
        }
        self.show();
    }

    /// What was due has been started.
    pub(crate) fn started(&mut self, name: &InstanceName) {
        if self.hands.get(name) != Some(&Hand::Due) {
            return;
        }
        let counts = self.kept.remove(name);
        // Unless it was asked for something else meanwhile.
        if self.words.get(name).map(|word| word.number) == counts.map(|word| word.number) {
            self.words.remove(name);
        }
        self.changed();
    }

    /// Forgets words about those that nobody wants here any more.
    pub(crate) fn retain(&mut self, keep: impl Fn(&InstanceName) -> bool) {
        let before = self.words.len() + self.kept.len();
        self.words.retain(|name, _| keep(name));
        self.kept.retain(|name, _| keep(name));
        if self.words.len() + self.kept.len() < before {
            self.changed();
        }
    }

    /// Takes out what is waited for and fits.
    pub(crate) fn take_pending(&mut self, is: impl Fn(&Pending) -> bool) -> Vec<Pending> {
        self.pending.extract_if(.., |one| is(one)).collect()
    }

    /// Those that wait for an outcome.
    pub(crate) fn pending(&self) -> &[Pending] {
        &self.pending
    }

    /// Whether the word of an ask counts, or did and is done.
    pub(crate) fn is_heard(&self, pending: &Pending) -> bool {
        let of = |words: &BTreeMap<InstanceName, Word>| words.get(&pending.instance).map(|word| word.number);
        of(&self.kept) == Some(pending.number) || of(&self.words) != Some(pending.number)
    }

    /// Writes what is not written yet.
    pub(crate) async fn finish(&mut self) {
        while let Some(written) = self.writing.join_next().await {
            if let Ok((words, result)) = written {
                self.take_written(words, result);
            }
        }
        while self.writing.join_next().await.is_some() {}
    }

    fn changed(&mut self) {
        if self.disk.is_none() {
            self.kept.clone_from(&self.words);
        }
        self.due = true;
        self.show();
        self.write();
    }

    fn show(&mut self) {
        self.hands = self.kept.iter().map(|(name, word)| (name.clone(), word.hand)).collect();
    }

    fn write(&mut self) {
        let Some(disk) = self.disk.clone().filter(|_| self.due && self.writing.is_empty()) else { return };
        self.due = false;
        let words = self.words.clone();
        self.writing.spawn_blocking(move || {
            let bytes = messages(*MAGIC, encode(&words).iter());
            let written = disk.write(TEMPORARY, &bytes).and_then(|()| disk.rename(TEMPORARY, FILE));
            let written = written.and_then(|()| disk.sync_directory());
            (words, written.map_err(|error| error.to_string()))
        });
    }

    fn take_written(&mut self, written: BTreeMap<InstanceName, Word>, result: Result<(), String>) {
        match result {
            Ok(()) => {
                for (name, word) in written {
                    if let Some(now) = self.words.get(&name).filter(|now| now.number == word.number) {
                        self.kept.insert(name, *now);
                    }
                }
            }
            Err(why) => {
                tracing::warn!(why, "what is asked for by hand cannot be written; it is not done");
                for (name, lost) in written {
                    let before = self.kept.get(&name).copied();
                    let is_new = before.is_none_or(|before| before.number != lost.number);
                    if !is_new || self.words.get(&name).is_none_or(|word| word.number != lost.number) {
                        continue;
                    }
                    match before {
                        Some(before) => self.words.insert(name.clone(), before),
                        None => self.words.remove(&name),
                    };
                    for pending in self.take_pending(|one| one.number == lost.number) {
                        let message = format!("it cannot be kept on the node's disk: {why}");
                        let _ = pending.answer.send(Err(failed("NotKept", message)));
                    }
                }
            }
        }
        self.show();
        self.write();
    }
}

/// One word on disk.
#[derive(Clone, PartialEq, prost::Message)]
struct Line {
    #[prost(string, tag = "1")]
    instance: String,
    /// It is to be started; else it is stopped.
    #[prost(bool, tag = "2")]
    due: bool,
}

fn encode(words: &BTreeMap<InstanceName, Word>) -> Vec<Line> {
    let line = |(name, word): (&InstanceName, &Word)| Line {
        instance: name.to_string(),
        // Between the two halves of a restart the second one is what is left to do.
        due: word.hand != Hand::Stopped,
    };
    words.iter().map(line).collect()
}

fn read(disk: &impl Disk) -> Result<BTreeMap<InstanceName, Word>, String> {
    let lines = read_messages::<Line>(disk, FILE, FILE_BYTES_MAX, *MAGIC)?;
    let word = |line: Line| {
        let hand = if line.due { Hand::Due } else { Hand::Stopped };
        Some((InstanceName::parse(&line.instance).ok()?, Word { hand, number: 0 }))
    };
    Ok(lines.into_iter().filter_map(word).collect())
}

pub(crate) fn failed(reason: &'static str, message: String) -> RuntimeError {
    RuntimeError { reason, message, transient: false }
}
