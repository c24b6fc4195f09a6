//! The answers of a call on their way to gRPC, with room kept for the last word: who takes nothing for long hears it all the same, once all
//! before it is taken.

use skerry_model::Fault;
use tokio::sync::mpsc::{self, OwnedPermit, Receiver, Sender};
use tonic::Status;

/// Answers that gRPC has not taken yet.
const ANSWERS_MAX: usize = 2;

/// Where answers go, where the last word goes, and where both come out.
pub(crate) type Channel<T> =
    (Sender<Result<T, Status>>, OwnedPermit<Result<T, Status>>, Receiver<Result<T, Status>>);

/// See the module.
pub(crate) fn channel<T>() -> Result<Channel<T>, Fault> {
    let (out, answers) = mpsc::channel(ANSWERS_MAX + 1);
    let last = out.clone().try_reserve_owned().map_err(|_| Fault::internal("a channel without room"))?;
    Ok((out, last, answers))
}
