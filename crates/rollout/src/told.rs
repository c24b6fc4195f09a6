//! How a rollout stands, in a sentence for people.

use skerry_model::app::RolloutStrategy;
use skerry_model::quantity::format_duration;

use crate::step::{Fleet, first_of};
use crate::{Cluster, Phase, Rollout};

/// What happens, or what is waited for.
pub fn told(strategy: &RolloutStrategy, rollout: &Rollout, clusters: &[Cluster]) -> String {
    let fleet = Fleet::of(strategy, rollout.target(), clusters);
    let open = fleet.open.len();
    match rollout.phase {
        Phase::Progressing if fleet.present == 0 && fleet.total > 0 => {
            "none of the clusters is connected".to_owned()
        }
        Phase::Progressing if !fleet.failing.is_empty() => {
            format!("batch {} waits for {}", rollout.batch, first_of(&fleet.failing))
        }
        Phase::Progressing if rollout.batch == 0 => "the first batch is about to begin".to_owned(),
        Phase::Progressing => {
            let window = format_duration(strategy.health_window);
            format!("batch {} is healthy, and has to stay so for {window}", rollout.batch)
        }
        Phase::RollingBack if open > 0 => {
            format!("{}; still to go back: {open}", rollout.message)
        }
        Phase::Done if open > 0 => {
            format!("not there yet: {open}, which get it once they are connected")
        }
        Phase::Paused | Phase::RollingBack | Phase::Done | Phase::RolledBack => rollout.message.clone(),
    }
}
