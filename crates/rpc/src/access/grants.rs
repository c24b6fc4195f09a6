//! Verbs that a grant lets somebody use, and the right by which a call goes on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skerry_identity::PeerCertificate;
use skerry_model::{Code, Fault, Grant, GrantTarget, ProjectName, UserRef, Verb};
use tokio::sync::watch;

use super::judge::{Claim, check_role, known};
use super::role::Authorizer;

/// How long a clock that is set may go unnoticed by what is open by a grant.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// For how long the command lets somebody that a refusal tells of.
const TOLD_FOR: &str = "30m";

/// Which method is of which verb. What is not here takes a role, whatever was granted.
const VERBS: &[(&str, Verb)] = &[
    ("/skerry.relay.v1.RelayService/Logs", Verb::Logs),
    ("/skerry.relay.v1.RelayService/Exec", Verb::Exec),
    ("/skerry.relay.v1.RelayService/ExecNode", Verb::NodeShell),
    ("/skerry.relay.v1.RelayService/PortForward", Verb::PortForward),
    ("/skerry.relay.v1.RelayService/CopyTo", Verb::Copy),
    ("/skerry.relay.v1.RelayService/CopyFrom", Verb::Copy),
];

/// The verb that the method at `path` is of.
pub(super) fn verb(path: &str) -> Option<Verb> {
    VERBS.iter().find(|(method, _)| *method == path).map(|(_, verb)| *verb)
}

/// The grant by which `user` may call `method` about what the request names.
pub(super) fn granted(
    method: &str,
    user: &UserRef,
    named: &str,
    authorizer: &dyn Authorizer,
    now: SystemTime,
) -> Option<Grant> {
    Grant::longest(&authorizer.grants(user), verb(method)?, named, now).cloned()
}

/// What a user who is refused can have an admin do; nothing, where no grant helps.
pub(super) fn hint(method: &str, user: &UserRef, named: &str) -> Option<String> {
    let verb = verb(method)?;
    let target = GrantTarget::parse(named).ok().filter(|target| verb.is_of(target))?;
    let short = match &target {
        GrantTarget::Project(project) => format!("project/{project}"),
        GrantTarget::App(app) => format!("app/{}", app.app),
        GrantTarget::Node(node) => format!("node/{}", node.node),
    };
    let project = target.project();
    let to = if user.project == *project { format!("user/{}", user.user) } else { user.to_string() };
    Some(format!("skerry -p {project} grant {verb} {short} --to {to} --for {TOLD_FOR} --reason \"...\""))
}

/// By what a call was let in.
#[derive(Debug)]
pub(super) enum By {
    /// A role in this project.
    Role(ProjectName),
    /// This grant. What is open by it ends with it, whatever else there is by then: so each record of it in the audit log says the whole truth.
    Grant(Grant),
}

/// The right by which a call was let in, among the extensions of its request: for handlers whose work goes on while nobody takes their answers.
#[derive(Debug, Clone)]
pub struct Right {
    held: Arc<Held>,
    changes: watch::Receiver<u64>,
}

#[derive(Debug)]
struct Held {
    method: String,
    peer: Arc<PeerCertificate>,
    authorizer: Arc<dyn Authorizer>,
    claim: Claim,
    by: By,
}

impl Right {
    /// `changes` were asked for before the call was judged: no change since is missed.
    pub(super) fn new(
        (method, peer): (String, Arc<PeerCertificate>),
        authorizer: Arc<dyn Authorizer>,
        (claim, by): (Claim, By),
        changes: watch::Receiver<u64>,
    ) -> Self {
        Self { held: Arc::new(Held { method, peer, authorizer, claim, by }), changes }
    }

    /// The grant that lets the caller in: its full name.
    pub fn grant(&self) -> Option<String> {
        match &self.held.by {
            By::Role(_) => None,
            By::Grant(grant) => Some(grant.name.to_string()),
        }
    }

    /// Says why the caller has it no more.
    pub fn check(&self) -> Result<(), Fault> {
        self.held.check(SystemTime::now())
    }

    /// Waits until the caller has it no more, and says why.
    pub async fn lost(&self) -> Fault {
        let mut changes = self.changes.clone();
        let mut is_told = true;
        loop {
            let now = SystemTime::now();
            if let Err(fault) = self.held.check(now) {
                return fault;
            }
            tokio::select! {
                // Nobody says any more who may what: the service is stopping.
                changed = changes.changed(), if is_told => is_told = changed.is_ok(),
                () = tokio::time::sleep(self.held.look_after(now)) => {}
            }
        }
    }
}

impl Held {
    fn check(&self, now: SystemTime) -> Result<(), Fault> {
        let user = known(&self.peer, &*self.authorizer)?;
        if now >= self.peer.not_after {
            let message = format!("the certificate of {} has expired", self.peer.identity);
            return Err(Fault::new(Code::Unauthenticated, "CERTIFICATE_EXPIRED", message));
        }
        match &self.by {
            By::Role(project) => check_role(&self.method, &self.claim, project, &*self.authorizer),
            By::Grant(grant) => still_granted(grant, &user, &*self.authorizer, now),
        }
    }

    /// How long nothing can end by itself.
    fn look_after(&self, now: SystemTime) -> Duration {
        let left = |end: SystemTime| end.duration_since(now).unwrap_or_default();
        match &self.by {
            By::Role(_) => left(self.peer.not_after),
            By::Grant(grant) => left(self.peer.not_after.min(grant.not_after)).min(LOOK_PERIOD),
        }
    }
}

fn still_granted(
    grant: &Grant,
    user: &UserRef,
    authorizer: &dyn Authorizer,
    now: SystemTime,
) -> Result<(), Fault> {
    let ended = |reason, why: &str| {
        let message = format!("{} {why}: what was open by it has ended", grant.name);
        Err(Fault::new(Code::PermissionDenied, reason, message).with("grant", &grant.name))
    };
    if !grant.holds(now) {
        return ended("GRANT_EXPIRED", "has expired");
    }
    // As a whole: one that was deleted and made anew is another.
    if !authorizer.grants(user).contains(grant) {
        return ended("GRANT_REVOKED", &format!("was revoked, or is {user}'s no more"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
