//! What the loop knows, in words for who looks for a fault: names, states and reasons, never what is in a spec.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tokio::sync::oneshot;

use super::Reconciler;
use crate::channel::{BundleFile, line};
use crate::plan::{Inputs, plan};
use crate::world::kind_of;

impl Reconciler {
    /// Tells who asked.
    pub(super) fn report(&self, answer: oneshot::Sender<Vec<BundleFile>>) {
        let file = |name: &str, text: String| BundleFile { name: name.to_owned(), text };
        // Nobody may be there any more.
        let _ = answer.send(vec![
            file("plan.txt", self.shown_plan()),
            file("wanted.txt", self.shown_wanted()),
            file("observed.txt", self.shown_world()),
            file("statuses.txt", format!("{:#?}\n", self.told)),
        ]);
    }

    fn shown_plan(&self) -> String {
        let now = self.clock.mono();
        let gpus = self.gpus.link.grants.memories();
        let plan = plan(Inputs {
            desired: &self.desired,
            world: &self.world,
            memories: &self.memories,
            hands: self.desk.hands(),
            gates: self.jobs.gates(),
            health: &self.health,
            beside_health: &self.beside_health,
            gpus: &gpus,
            now,
        });
        let mut text = String::new();
        for action in &plan.actions {
            let _ = writeln!(text, "action {action:?}");
        }
        for (name, hold) in &plan.holds {
            let _ = writeln!(text, "hold {name} {hold:?}");
        }
        for (name, hand) in self.desk.hands() {
            let _ = writeln!(text, "by hand {name} {hand:?}");
        }
        for (name, memory) in &self.memories {
            let _ = writeln!(
                text,
                "memory {name} busy={:?} fetches={} restarts={} ended={:?} error={:?}",
                memory.busy,
                memory.fetch.is_some(),
                memory.restarts,
                memory.ended,
                self.desired.instances.get(name).and_then(|spec| memory.error(Some(&spec.fingerprint)))
            );
        }
        text
    }

    fn shown_wanted(&self) -> String {
        let mut text = format!(
            "known to be the newest: {}\nlink: {}\n",
            self.desired.authoritative,
            *self.links.link.borrow()
        );
        for (name, spec) in &self.desired.instances {
            let (revision, kind) = (spec.revision, kind_of(spec).as_str());
            let _ = writeln!(text, "{name} {kind} revision={revision}");
        }
        for (name, blocked) in &self.desired.blocked {
            let _ = writeln!(text, "{name} blocked {}: {}", blocked.reason, blocked.message);
        }
        for (app, taken_back) in &self.desired.taken_back {
            let _ = writeln!(text, "{app} taken back: {}", taken_back.message);
        }
        text
    }

    fn shown_world(&self) -> String {
        let mut text = String::new();
        for (kind, view) in &self.world {
            let error: BTreeMap<_, _> =
                view.error.iter().map(|error| (error.reason, &error.message)).collect();
            let _ =
                writeln!(text, "{} {} available={} {error:?}", kind.as_str(), view.version, view.available);
            view.instances.values().chain(view.beside.values()).for_each(|one| text.push_str(&line(one)));
        }
        for (name, health) in &self.health {
            let _ = writeln!(text, "health {name} {health:?}");
        }
        text
    }
}
