//! Several resources, of whichever kinds, changed together: planned one after the other into one transaction, which happens as a whole or not
//! at all.
//!
//! Each is planned as if it came alone, knowing what the transaction makes already: a project that is made with what is in it, a cluster with
//! the nodes that are put in it. What they take of a project's quota is summed before it is compared and written. Those that stay as they are
//! are compared too, so that of two that change overlapping sets at once one whole set is the result.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;

use prost::Message;
use skerry_model::{Code, Fault, ProjectName};
use skerry_proto::registry::v1::ChangeOutcome;
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_rpc::Peer;
use skerry_store::{Mirror, RequestMark, Store, Txn, TxnError};

use super::plan::{Wanted, audited, plan};
use super::{Call, Caused, Update, stored};
use crate::kind::{ResourceName as _, Rules};
use crate::tenancy::{self, Charge};
use crate::tries::Tries;

/// Most resources of one request. A transaction compares each of them, and etcd takes 128 compares.
const RESOURCES_MAX: usize = 128;

type Answering<'s, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 's>>;

/// What came of one of several resources.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed<A> {
    /// Its full name.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
    /// As it is stored then. Nothing where it was deleted since.
    pub resource: Option<A>,
}

/// Resources that are changed together. `A` is what holds one of any kind.
pub struct Several<'a, A> {
    peer: &'a Peer,
    parts: Vec<Box<dyn Part<A> + 'a>>,
}

impl<A> fmt::Debug for Several<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.parts.iter().map(|part| part.name())).finish()
    }
}

/// One of them.
trait Part<A>: Send + Sync {
    fn name(&self) -> String;
    fn field(&self) -> &'static str;
    /// Those that others refer to come first.
    fn rank(&self) -> (bool, bool);
    fn project(&self) -> &ProjectName;
    fn remembered_in(&self) -> &ProjectName;
    fn plan(&self, txn: Txn) -> Answering<'_, Step<A>>;
    fn read(&self) -> Answering<'_, Option<A>>;
    fn audit(&self, caused: &Caused, outcome: Outcome, txn: Txn) -> Txn;
}

/// A part and what it comes to.
struct Step<A> {
    txn: Txn,
    outcome: Outcome,
    resource: A,
    /// What it takes of the quota of its project; nothing where it is a project itself.
    charges: Option<Vec<Charge>>,
}

struct One<'a, R: Rules, A> {
    rules: &'a R,
    wanted: Wanted<'a, R>,
    of: fn(R::Resource) -> A,
}

impl<R: Rules, A: Send> Part<A> for One<'_, R, A> {
    fn name(&self) -> String {
        self.wanted.name.to_string()
    }

    fn field(&self) -> &'static str {
        R::FIELD
    }

    fn rank(&self) -> (bool, bool) {
        (!R::IS_PROJECT, !R::IS_NAMED)
    }

    fn project(&self) -> &ProjectName {
        self.wanted.name.project()
    }

    fn remembered_in(&self) -> &ProjectName {
        self.wanted.name.remembered_in()
    }

    fn plan(&self, txn: Txn) -> Answering<'_, Step<A>> {
        Box::pin(async move {
            let planned = plan(self.rules, &self.wanted, txn).await?;
            let charges = (!R::IS_PROJECT).then_some(planned.charges);
            let resource = (self.of)(planned.resource);
            Ok(Step { txn: planned.txn, outcome: planned.outcome, resource, charges })
        })
    }

    fn read(&self) -> Answering<'_, Option<A>> {
        Box::pin(async move { Ok(stored(self.rules, &self.wanted.name).await?.map(self.of)) })
    }

    fn audit(&self, caused: &Caused, outcome: Outcome, txn: Txn) -> Txn {
        txn.audit(caused.of(&self.wanted.name, audited(outcome)))
    }
}

/// What those of one project take of its quota.
#[derive(Default)]
struct Taken {
    /// Whether one of them is new.
    makes: bool,
    /// The first that is, or the first of all.
    first: usize,
    charges: Vec<Charge>,
}

/// All of them, planned.
struct Plan<A> {
    txn: Txn,
    /// In the order of the request.
    steps: Vec<(Outcome, A)>,
}

impl<'a, A: Send> Several<'a, A> {
    /// None yet.
    pub fn new(peer: &'a Peer) -> Self {
        Self { peer, parts: Vec::new() }
    }

    /// Adds one: `asked`'s `validate_only` does not matter. `of` makes of it what holds one of any kind.
    pub fn add<R: Rules>(
        &mut self,
        rules: &'a R,
        asked: &Update<'a, R::Resource>,
        of: fn(R::Resource) -> A,
    ) -> Result<(), Fault>
    where
        A: 'a,
    {
        let index = self.parts.len();
        if index == RESOURCES_MAX {
            return Err(too_many(&format!("more than {RESOURCES_MAX} resources")));
        }
        let name = asked.resource.and_then(crate::Resource::metadata);
        let name = name.map_or("", |metadata| metadata.name.as_str());
        let wanted = Wanted::update(self.peer, asked);
        let wanted = wanted.map_err(|fault| of_part(fault, index, R::FIELD, name))?;
        self.parts.push(Box::new(One { rules, wanted, of }));
        Ok(())
    }

    /// Changes all of them, or none. The answer comes when each of `mirrors` shows the change, as far as it follows it.
    pub async fn change(
        &self,
        store: &Store,
        mirrors: &[Mirror],
        call: Call<'_, impl Message>,
        validate_only: bool,
    ) -> Result<Vec<Changed<A>>, Fault> {
        self.refuse_twice()?;
        let Some(first) = self.parts.first() else {
            return Err(Fault::invalid_field("resources", "name at least one resource"));
        };
        let mark = call.mark_in(first.remembered_in(), first.name())?;
        if let Some(answer) = self.repeated(store, mark.as_ref()).await? {
            return Ok(answer);
        }
        let (caused, mut tries) = (call.act(), Tries::default());
        loop {
            let Plan { txn, steps } = self.plan(store).await?;
            let changes = steps.iter().any(|(outcome, _)| *outcome != Outcome::Unchanged);
            let outcomes: Vec<Outcome> = steps.iter().map(|(outcome, _)| *outcome).collect();
            let mut txn = txn;
            for (part, outcome) in self.parts.iter().zip(&outcomes).filter(|(_, o)| **o != Outcome::Unchanged)
            {
                txn = part.audit(&caused, *outcome, txn);
            }
            if let Some(mark) = &mark {
                let told = outcomes.iter().map(|outcome| told(*outcome).into()).collect();
                txn = txn.request_of_several(mark.clone(), told);
            }
            if changes {
                store.admit(&txn).map_err(|error| self.refused(error))?;
            }
            if validate_only || !changes {
                return Ok(
                    self.answer(steps.into_iter().map(|(outcome, resource)| (outcome, Some(resource))))
                );
            }
            match store.commit(txn).await {
                Ok(committed) => {
                    for mirror in mirrors {
                        let shown = mirror.wait_for(&committed).await;
                        shown.map_err(|error| Fault::unavailable(error.to_string()))?;
                    }
                    return self.stored(outcomes).await;
                }
                Err(TxnError::Conflict(_)) => tries.again(&self.names()).await?,
                Err(TxnError::Repeated { .. }) => {
                    let answer = self.repeated(store, mark.as_ref()).await?;
                    return answer.ok_or_else(|| Fault::contended(self.names()));
                }
                Err(error) => return Err(self.refused(error)),
            }
        }
    }

    /// Plans each into one transaction, then what they take of the quotas together.
    async fn plan(&self, store: &Store) -> Result<Plan<A>, Fault> {
        let mut order: Vec<usize> = (0..self.parts.len()).collect();
        order.sort_by_key(|index| self.parts[*index].rank());
        let mut steps: BTreeMap<usize, (Outcome, A)> = BTreeMap::new();
        let mut taken: BTreeMap<&ProjectName, Taken> = BTreeMap::new();
        let mut txn = Txn::new();
        for index in order {
            let part = &self.parts[index];
            let step = part.plan(txn).await;
            let step = step.map_err(|fault| of_part(fault, index, part.field(), &part.name()))?;
            txn = step.txn;
            if let Some(charges) = step.charges.filter(|_| step.outcome != Outcome::Unchanged) {
                let makes = step.outcome == Outcome::Created;
                let of = taken.entry(part.project()).or_insert(Taken { first: index, ..Taken::default() });
                if makes && !of.makes {
                    (of.makes, of.first) = (true, index);
                }
                of.charges.extend(charges);
            }
            steps.insert(index, (step.outcome, step.resource));
        }
        for (project, Taken { makes, first, charges }) in taken {
            let settled = tenancy::settle(store, project, makes, &tenancy::sum_of(charges), txn).await;
            let part = &self.parts[first];
            txn = settled.map_err(|fault| match fault.code {
                // Of all of them.
                Code::ResourceExhausted => fault,
                _ => of_part(fault, first, part.field(), &part.name()),
            })?;
        }
        Ok(Plan { txn, steps: steps.into_values().collect() })
    }

    /// What came of the same request, if it was made before.
    async fn repeated(
        &self,
        store: &Store,
        mark: Option<&RequestMark>,
    ) -> Result<Option<Vec<Changed<A>>>, Fault> {
        let Some(mark) = mark else { return Ok(None) };
        let Some(outcomes) = store.find_outcomes(mark).await? else { return Ok(None) };
        let outcome = |code| match ChangeOutcome::try_from(code).unwrap_or_default() {
            ChangeOutcome::Created => Outcome::Created,
            ChangeOutcome::Updated => Outcome::Updated,
            ChangeOutcome::Unchanged | ChangeOutcome::Unspecified => Outcome::Unchanged,
        };
        self.stored(outcomes.into_iter().map(outcome).collect()).await.map(Some)
    }

    /// All of them as they are stored now.
    async fn stored(&self, outcomes: Vec<Outcome>) -> Result<Vec<Changed<A>>, Fault> {
        let mut stored = Vec::with_capacity(self.parts.len());
        for (part, outcome) in self.parts.iter().zip(outcomes) {
            stored.push((outcome, part.read().await?));
        }
        Ok(self.answer(stored))
    }

    fn answer(&self, came: impl IntoIterator<Item = (Outcome, Option<A>)>) -> Vec<Changed<A>> {
        let parts = self.parts.iter().map(|part| part.name());
        let changed = |(name, (outcome, resource))| Changed { name, outcome, resource };
        parts.zip(came).map(changed).collect()
    }

    /// What is changed twice has no one state that it should be in.
    fn refuse_twice(&self) -> Result<(), Fault> {
        let mut seen = BTreeSet::new();
        for (index, part) in self.parts.iter().enumerate() {
            let name = part.name();
            if !seen.insert(name.clone()) {
                let field = format!("{}.metadata.name", part.field());
                let fault = Fault::invalid_field(field, format!("{name} is given twice"));
                return Err(of_part(fault, index, part.field(), &name));
            }
        }
        Ok(())
    }

    /// What the store says of the whole.
    fn refused(&self, error: TxnError) -> Fault {
        match error {
            TxnError::TooManyOperations { operations, operations_max } => too_many(&format!(
                "{} resources take {operations} operations of the store, of {operations_max} that one transaction has",
                self.parts.len()
            )),
            TxnError::TooManyBytes { bytes, bytes_max } => too_many(&format!(
                "{} resources take {bytes} bytes, of {bytes_max} that one transaction of the store has",
                self.parts.len()
            )),
            error => error.into(),
        }
    }

    fn names(&self) -> String {
        let first = self.parts.first().map(|part| part.name()).unwrap_or_default();
        match self.parts.len() {
            0 | 1 => first,
            count => format!("{first} and {} more", count - 1),
        }
    }
}

fn told(outcome: Outcome) -> ChangeOutcome {
    match outcome {
        Outcome::Created => ChangeOutcome::Created,
        Outcome::Updated => ChangeOutcome::Updated,
        Outcome::Unchanged => ChangeOutcome::Unchanged,
        Outcome::Unspecified => ChangeOutcome::Unspecified,
    }
}

fn too_many(what: &str) -> Fault {
    let message = format!(
        "{what}: too much to happen at once; apply fewer together, or one by one (skerry apply --one-by-one)"
    );
    Fault::new(Code::InvalidArgument, "TOO_MANY_AT_ONCE", message)
}

/// A fault of one of several: says which one, and its fields below it.
fn of_part(mut fault: Fault, index: usize, field: &str, name: &str) -> Fault {
    for violation in &mut fault.violations {
        violation.field = format!("resources[{index}].{}", violation.field);
    }
    if !name.is_empty() && !fault.message.contains(name) {
        fault.message = format!("{name}: {}", fault.message);
    }
    fault.with("index", index).with("kind", camel(field)).with("name", name)
}

/// A field's name as manifests name the kind: `role_binding` is `RoleBinding`.
fn camel(field: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    field.split('_').map(word).collect()
}

#[cfg(test)]
mod tests;
