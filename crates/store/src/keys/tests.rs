//! Keys give their names back, and nothing else is a key.

use proptest::prelude::*;
use skerry_model::{AppRef, ContentHash, NodeRef, RevisionRef};

use super::*;

fn round_trips<R: Record>(name: &R::Name)
where
    R::Name: PartialEq + fmt::Debug,
{
    let key = Key::<R>::of(name);
    assert_eq!(Key::<R>::parse(key.as_str()).as_ref(), Ok(&key));
    assert_eq!(&key.name(), name);
    assert!(Prefix::<R>::all().contains(key.as_str()));
    assert_eq!(Family::of_key(key.as_str()), Some(R::FAMILY));
}

const LABEL: &str = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";

proptest! {
    #[test]
    fn a_key_gives_back_its_name(project in LABEL, name in LABEL, id in "[A-Za-z0-9._:-]{1,128}", content in any::<Vec<u8>>()) {
        let node = NodeRef::parse(&format!("projects/{project}/nodes/{name}")).unwrap();
        let app = AppRef::parse(&format!("projects/{project}/apps/{name}")).unwrap();
        let config = skerry_model::ConfigRef::parse(&format!("projects/{project}/configs/{name}")).unwrap();
        let hash = ContentHash::of(&content);
        let request = RequestName { project: node.project.clone(), id: RequestId::parse(&id).unwrap() };
        round_trips::<pb::StoreMeta>(&TheStore);
        round_trips::<pb::NodeRecord>(&node);
        let of = ProjectName::parse(&project).unwrap();
        round_trips::<pb::ProjectRecord>(&skerry_model::ProjectRef { project: of.clone() });
        for counted in Counted::ALL {
            round_trips::<pb::UsageRecord>(&UsageName { project: of.clone(), counted });
        }
        round_trips::<pb::AppRecord>(&app);
        round_trips::<pb::RevisionRecord>(&RevisionRef { app: app.clone(), hash });
        round_trips::<pb::RolloutRecord>(&app);
        let number = content.len() as u64;
        round_trips::<pb::RolloutMoveRecord>(&RolloutMoveName { app: app.clone(), number });
        round_trips::<pb::ConfigRecord>(&config);
        round_trips::<pb::ConfigRevisionRecord>(&ConfigRevisionRef { config, hash });
        let secret = skerry_model::SecretRef::parse(&format!("projects/{project}/secrets/{name}")).unwrap();
        let version = skerry_model::SecretVersion::from_bytes(hash.as_bytes()[..16].try_into().unwrap());
        round_trips::<pb::SecretRecord>(&secret);
        round_trips::<pb::SecretRevisionRecord>(&SecretRevisionRef { secret: secret.clone(), version });
        round_trips::<pb::SealedSecretRecord>(&SealedSecretRef { node: node.clone(), secret: secret.secret, version });
        round_trips::<pb::AssignmentRecord>(&node);
        round_trips::<pb::SessionRecord>(&node);
        round_trips::<pb::StatusRecord>(&node);
        round_trips::<pb::EventsRecord>(&EventSource::Node(node));
        round_trips::<pb::EventsRecord>(&EventSource::App(app));
        let token = TokenName { project: request.project.clone(), id: TokenId::parse(&name).unwrap() };
        round_trips::<pb::TokenRecord>(&token);
        round_trips::<pb::EventsRecord>(&EventSource::Token(token));
        let of = |collection: &str| format!("projects/{project}/{collection}/{name}");
        round_trips::<pb::UserRecord>(&skerry_model::UserRef::parse(&of("users")).unwrap());
        round_trips::<pb::ClusterRecord>(&skerry_model::ClusterRef::parse(&of("clusters")).unwrap());
        round_trips::<pb::GroupRecord>(&skerry_model::GroupRef::parse(&of("groups")).unwrap());
        let binding = skerry_model::RoleBindingRef::parse(&of("roleBindings")).unwrap();
        round_trips::<pb::RoleBindingRecord>(&binding);
        round_trips::<pb::GrantRecord>(&skerry_model::GrantRef::parse(&of("grants")).unwrap());
        let task = skerry_model::TaskRef::parse(&of("tasks")).unwrap();
        round_trips::<pb::TaskRecord>(&task);
        round_trips::<pb::TaskProgressRecord>(&task);
        round_trips::<pb::TaskClaimRecord>(&task);
        round_trips::<pb::PrefetchRecord>(&task);
        let chain = ChainId::parse(&name).unwrap();
        round_trips::<pb::AuditRecord>(&AuditName { chain: chain.clone(), sequence: content.len() as u64 });
        round_trips::<pb::AuditHead>(&chain);
        round_trips::<pb::GatewayRecord>(&GatewayId::parse(&name).unwrap());
        round_trips::<pb::LeaderRecord>(&LeaderName::parse(&name).unwrap());
        round_trips::<pb::RequestRecord>(&request);
    }

    #[test]
    fn any_text_is_either_a_key_that_round_trips_or_refused(path in "[a-zA-Z0-9/._ -]{0,40}") {
        let text = format!("{}{path}", Family::Nodes.prefix());
        if let Ok(key) = Key::<pb::NodeRecord>::parse(text.as_str()) {
            prop_assert_eq!(Key::<pb::NodeRecord>::of(&key.name()), key);
        }
    }
}

#[test]
fn no_family_begins_with_another() {
    for a in Family::ALL {
        assert!(a.prefix().starts_with(ROOT));
        assert_eq!(
            Family::ALL.into_iter().filter(|b| b.prefix().starts_with(a.prefix())).count(),
            1,
            "{a:?}"
        );
    }
}

#[test]
fn a_project_s_prefix_leaves_out_a_longer_project() {
    let project = ProjectName::parse("a").unwrap();
    let prefix = Prefix::<pb::NodeRecord>::project(&project);
    assert!(prefix.contains("/skerry/v1/nodes/a/n1"));
    assert!(!prefix.contains("/skerry/v1/nodes/ab/n1"));
    assert_eq!(range_end(prefix.as_str()), b"/skerry/v1/nodes/a0");
}

#[test]
fn a_request_id_is_short_and_plain() {
    for bad in ["", "a/b", "a b", "é", "a\n", &"a".repeat(129)] {
        assert!(RequestId::parse(bad).is_err(), "{bad:?}");
    }
}
