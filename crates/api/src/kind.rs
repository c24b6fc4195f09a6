//! What is a kind's own in the ways that all kinds of resources share. Its [`Rules`] say how it is named, stored and merged, over the store alone:
//! whoever has them can plan a change of it. A [`Kind`] is that in the service that serves it: with what is observed, and what goes with it.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::LazyLock;

use skerry_model::{
    AppRef, ClusterRef, ConfigRef, Fault, GrantRef, GroupRef, InvalidName, NodeRef, ProjectName, ProjectRef,
    RoleBindingRef, SecretRef, Selector, TaskRef, UserRef,
};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_rpc::Peer;
use skerry_store::keys::KeyName;
use skerry_store::{Mirror, Record, Store, Txn};

use crate::change::Caused;
use crate::hub::Resource;
use crate::mask::Mask;
use crate::tenancy::Takes;

/// The full name of a resource of a project, as `projects/p/apps/web`.
pub trait ResourceName: KeyName + Clone + fmt::Display + Send + Sync + 'static {
    /// Parses the full name.
    fn parse(text: &str) -> Result<Self, InvalidName>;

    /// Parses the full name, or just its last part within `project`.
    fn parse_in(project: &ProjectName, text: &str) -> Result<Self, InvalidName>;

    /// The tenant.
    fn project(&self) -> &ProjectName;

    /// Where it is remembered what was asked about it.
    fn remembered_in(&self) -> &ProjectName {
        self.project()
    }
}

macro_rules! resource_names {
    ($($name:ty),*) => {
        $(impl ResourceName for $name {
            fn parse(text: &str) -> Result<Self, InvalidName> {
                Self::parse(text)
            }
            fn parse_in(project: &ProjectName, text: &str) -> Result<Self, InvalidName> {
                Self::parse_in(project, text)
            }
            fn project(&self) -> &ProjectName {
                &self.project
            }
        })*
    };
}

impl ResourceName for ProjectRef {
    fn parse(text: &str) -> Result<Self, InvalidName> {
        Self::parse(text)
    }
    fn parse_in(_: &ProjectName, text: &str) -> Result<Self, InvalidName> {
        Self::parse_short(text)
    }
    fn project(&self) -> &ProjectName {
        &self.project
    }
    /// That it was deleted is remembered longer than it is there.
    fn remembered_in(&self) -> &ProjectName {
        static SYSTEM: LazyLock<ProjectName> = LazyLock::new(ProjectName::system);
        &SYSTEM
    }
}

resource_names!(
    NodeRef,
    ClusterRef,
    AppRef,
    ConfigRef,
    SecretRef,
    UserRef,
    GroupRef,
    RoleBindingRef,
    GrantRef,
    TaskRef
);

/// What a kind of resource means and how it is stored, as [`create`](crate::create), [`update`](crate::update) and [`Several`](crate::Several)
/// need it. What is the same for every kind (names, masks, etags, request ids, retries) is theirs and not repeated here.
pub trait Rules: Send + Sync {
    /// How it is stored.
    type Record: Record<Name: ResourceName> + Send + Sync;
    /// What users wish of it.
    type Spec: Clone + PartialEq + Send + Sync;
    /// How clients see it.
    type Resource: Resource<Selector = Selector>;

    /// What requests call it: the field that holds it, as `app`.
    const FIELD: &'static str;
    /// What an update may name beside labels and annotations.
    const SPEC_PATHS: &'static [&'static str];

    /// Whether it is a project itself, and so in none that must be there.
    const IS_PROJECT: bool = false;
    /// Of several that are changed together, others refer to it: it is planned before them.
    const IS_NAMED: bool = false;

    /// What a record takes of its project's quota.
    fn takes(_: &Self::Record) -> Takes {
        Takes::default()
    }

    /// Where it is stored.
    fn store(&self) -> &Store;

    /// The common part of a record.
    fn meta(record: &mut Self::Record) -> &mut Option<stored::Meta>;

    /// The spec that a record stands for. May read what the record refers to.
    fn spec(
        &self,
        name: &RecordName<Self>,
        record: &Self::Record,
    ) -> impl Future<Output = Result<Self::Spec, Fault>> + Send;

    /// Whether this caller may change it so, beyond what its role says.
    fn permits(_: &Peer, _: &RecordName<Self>, _: &Self::Resource, _: &Mask) -> Result<(), Fault> {
        Ok(())
    }

    /// The stored spec with what the mask names taken from what was sent, and checked. There is no stored spec where it is created.
    fn merge(stored: Option<&Self::Spec>, sent: &Self::Resource, mask: &Mask) -> Result<Self::Spec, Fault>;

    /// Brings a record to a spec that it did not stand for, and adds to `txn` what the record then refers to and what tells of the change.
    /// The record itself, its metadata and the compare with what was read are not this function's.
    fn write(
        &self,
        name: &RecordName<Self>,
        record: &mut Self::Record,
        spec: &Self::Spec,
        txn: Txn,
    ) -> impl Future<Output = Result<Txn, Fault>> + Send;

    /// Adds to the transaction of a change what the resource's labels refer to, or says why they cannot be as they would be. `before`: as they
    /// are. What `txn` makes already counts as there.
    fn labelled(
        &self,
        _name: &RecordName<Self>,
        _before: Option<&BTreeMap<String, String>>,
        _after: &BTreeMap<String, String>,
        txn: Txn,
    ) -> impl Future<Output = Result<Txn, Fault>> + Send {
        async { Ok(txn) }
    }

    /// A few words for the audit log of what was made, where that stays longer than the resource. Empty: the name says enough.
    fn noted(_: &Self::Resource) -> String {
        String::new()
    }

    /// The resource as it is stored: without what is observed of it.
    fn resource(metadata: Metadata, spec: Self::Spec) -> Self::Resource;
}

/// One kind of resource in the service that serves it, as [`create`](crate::create), [`read`](crate::read), [`update`](crate::update) and
/// [`delete`](crate::delete) need it.
pub trait Kind: Send + Sync {
    /// What it means and how it is stored.
    type Rules: Rules;

    /// The same.
    fn rules(&self) -> &Self::Rules;

    /// What follows the store: an answer waits until it shows the change.
    fn mirror(&self) -> &Mirror;

    /// Waits until what is listed here, and what [`remove`](Self::remove) looks at, shows what the mirror shows: a caller that has its answer
    /// finds its change in all that it asks next. At once, where nothing stands between. UNAVAILABLE if that takes too long.
    fn caught_up(&self) -> impl Future<Output = Result<(), Fault>> + Send {
        std::future::ready(Ok(()))
    }

    /// Adds to the transaction that deletes the record what goes with it, or says why it must stay. What else changes for it is `caused` by the
    /// same call, and has a record of its own in the audit log.
    fn remove(&self, name: &NameOf<Self>, txn: Txn, caused: &Caused) -> Result<Txn, Fault>;

    /// The resource as clients see it: with what is observed of it, as this replica knows it.
    fn observed(&self, _name: &NameOf<Self>, resource: ResourceOf<Self>) -> ResourceOf<Self> {
        resource
    }
}

/// What names a resource that has these rules.
pub type RecordName<R> = <<R as Rules>::Record as Record>::Name;
/// How a kind is stored.
pub type RecordOf<K> = <<K as Kind>::Rules as Rules>::Record;
/// What names a resource of a kind.
pub type NameOf<K> = RecordName<<K as Kind>::Rules>;
/// How clients see a kind.
pub type ResourceOf<K> = <<K as Kind>::Rules as Rules>::Resource;
