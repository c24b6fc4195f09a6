//! The commands: each calls servers and writes what [`crate::render`] made of the answers.

pub(crate) mod access;
pub(crate) mod act;
pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod bundle;
pub(crate) mod channel;
pub(crate) mod cluster;
pub(crate) mod contexts;
pub(crate) mod convert;
pub(crate) mod copy;
pub(crate) mod cordon;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod diff;
pub(crate) mod drain;
pub(crate) mod edit;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod explain;
pub(crate) mod forward;
pub(crate) mod get;
mod gone;
pub(crate) mod grant;
pub(crate) mod label;
pub(crate) mod logs;
pub(crate) mod node;
pub(crate) mod plan;
mod prune;
pub(crate) mod restart;
pub(crate) mod rollout;
pub(crate) mod secret;
pub(crate) mod send;
pub(crate) mod status;
pub(crate) mod taint;
pub(crate) mod task;
pub(crate) mod token;
pub(crate) mod top;
pub(crate) mod version;
pub(crate) mod wait;

use crate::error::CliError;
use crate::print::complain;

/// Does several things one after the other, goes on after an error and remembers the first.
#[derive(Default)]
struct Several {
    first: Option<CliError>,
}

impl Several {
    /// Takes one outcome. `Err` when going on makes no sense: the server is away, or nobody reads.
    fn take(&mut self, outcome: Result<(), CliError>) -> Result<(), CliError> {
        match outcome {
            Ok(()) => Ok(()),
            Err(
                error @ (CliError::Unreachable { .. }
                | CliError::Untrusted(_)
                | CliError::BrokenPipe
                | CliError::Interrupted),
            ) => Err(error),
            Err(error) => {
                complain(&error);
                self.first.get_or_insert(error);
                Ok(())
            }
        }
    }

    /// Whether one of them has failed.
    fn failed(&self) -> bool {
        self.first.is_some()
    }

    fn finish(self) -> Result<(), CliError> {
        match self.first {
            None => Ok(()),
            Some(error) => Err(CliError::Said(Box::new(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Away;

    #[test]
    fn the_first_error_decides_and_the_rest_is_still_done() {
        let mut several = Several::default();
        assert!(several.take(Err(CliError::NotFound("a".into()))).is_ok());
        assert!(several.take(Err(CliError::Failed("b".into()))).is_ok());
        assert!(several.take(Ok(())).is_ok());
        let Err(CliError::Said(first)) = several.finish() else { panic!("an error") };
        assert!(matches!(*first, CliError::NotFound(_)));
        assert!(Several::default().finish().is_ok());
        let away = CliError::Unreachable { address: String::new(), how: Away::Absent, detail: String::new() };
        assert!(Several::default().take(Err(away)).is_err());
    }
}
