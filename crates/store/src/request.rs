//! Request ids: a mutation remembers its answer in its own transaction, so that a retry does not act twice.
//!
//! All records of an hour share one lease of 25 hours, so each stays for at least a day and a process makes one lease an hour.

use std::sync::Mutex;
use std::time::Duration;

use skerry_model::{ContentHash, Fault, ProjectName};
use skerry_proto::store::v1 as pb;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::ReadError;
use crate::failure::Failure;
use crate::keys::{Key, RequestId, RequestName};
use crate::store::Store;

/// How long a request id is remembered, at least.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// How long one lease is given to new records.
const LEASE_USED: Duration = Duration::from_secs(3600);

/// What a mutation remembers of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestMark {
    /// The tenant.
    pub project: ProjectName,
    /// The caller's id of the request.
    pub id: RequestId,
    /// Full method name: an id of another method is another request.
    pub method: String,
    /// Hash of the request's bytes: the same id with another request is refused.
    pub hash: ContentHash,
    /// Full name of the resource that the mutation makes or changes.
    pub resource: String,
}

impl RequestMark {
    pub(crate) fn key(&self) -> Key<pb::RequestRecord> {
        Key::of(&RequestName { project: self.project.clone(), id: self.id.clone() })
    }

    pub(crate) fn record(&self) -> pb::RequestRecord {
        pb::RequestRecord {
            method: self.method.clone(),
            request_hash: self.hash.as_bytes().to_vec().into(),
            resource: self.resource.clone(),
            outcomes: Vec::new(),
        }
    }
}

/// What was answered, if `record` remembers the request that `mark` is of; `None`: it is of another one.
pub(crate) fn answer(mark: &RequestMark, record: &pb::RequestRecord) -> Option<String> {
    let same = record.method == mark.method && record.request_hash[..] == mark.hash.as_bytes()[..];
    same.then(|| record.resource.clone())
}

/// Why an earlier answer cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The id belongs to another request.
    #[error("the request id `{request_id}` was used for another request")]
    Reused {
        /// The id.
        request_id: String,
    },
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<RequestError> for Fault {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Reused { .. } => Fault::invalid_field("request_id", error),
            RequestError::Read(error) => error.into(),
        }
    }
}

impl Store {
    /// The resource with which the same request was answered before, if it was. `mark.resource` does not matter.
    pub async fn find_request(&self, mark: &RequestMark) -> Result<Option<String>, RequestError> {
        let Some(record) = self.get(&mark.key()).await? else {
            return Ok(None);
        };
        match answer(mark, &record.value) {
            Some(resource) => Ok(Some(resource)),
            None => Err(RequestError::Reused { request_id: mark.id.to_string() }),
        }
    }

    /// What became of each resource of the same request of several, if it was made before.
    pub async fn find_outcomes(&self, mark: &RequestMark) -> Result<Option<Vec<i32>>, RequestError> {
        let Some(record) = self.get(&mark.key()).await? else { return Ok(None) };
        match answer(mark, &record.value) {
            Some(_) => Ok(Some(record.value.outcomes)),
            None => Err(RequestError::Reused { request_id: mark.id.to_string() }),
        }
    }
}

/// The process's lease of request ids.
#[derive(Debug, Default)]
pub(crate) struct RequestLease {
    current: Mutex<Option<(i64, Instant)>>,
}

impl RequestLease {
    /// The lease of this hour.
    pub(crate) async fn id(&self, client: &Client) -> Result<i64, Failure> {
        if let Some((id, granted)) = *self.lock()
            && granted.elapsed() < LEASE_USED
        {
            return Ok(id);
        }
        // Two at a time make two leases; both are good.
        let granted = Instant::now();
        let (id, _) = client.grant(REMEMBERED + LEASE_USED).await?;
        *self.lock() = Some((id, granted));
        Ok(id)
    }

    /// The store does not know this lease: it was restored.
    pub(crate) fn forget(&self, id: i64) {
        self.lock().take_if(|(current, _)| *current == id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(i64, Instant)>> {
        self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
