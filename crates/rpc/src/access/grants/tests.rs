//! Who is let in by a grant, what ends with it, and what those are told who are not.

use prost::Message as _;
use skerry_identity::KeyId;
use skerry_model::GrantRef;
use skerry_proto::relay::v1 as relay;
use skerry_testing::Authority;

use super::super::judge::{Early, judge, judge_request};
use super::super::role::Role;
use super::super::table::{Rule, TABLE};
use super::*;

const KEY: KeyId = KeyId::from_bytes([7; 32]);
const EXEC: &str = "/skerry.relay.v1.RelayService/Exec";
const SHELL: &str = "/skerry.relay.v1.RelayService/ExecNode";

/// Ada of project `a`, a viewer there, with the grants that were sent last.
#[derive(Debug)]
struct Knows {
    grants: watch::Sender<Arc<[Grant]>>,
    changes: watch::Sender<u64>,
}

impl Knows {
    fn new(grants: Vec<Grant>) -> Arc<Self> {
        Arc::new(Self { grants: watch::Sender::new(grants.into()), changes: watch::Sender::new(0) })
    }

    fn set(&self, grants: Vec<Grant>) {
        self.grants.send_replace(grants.into());
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Authorizer for Knows {
    fn knows(&self, _: &UserRef, key: &KeyId) -> bool {
        *key == KEY
    }

    fn role(&self, _: &UserRef, project: &ProjectName) -> Option<Role> {
        (project.as_str() == "a").then_some(Role::Viewer)
    }

    fn roles(&self, _: &UserRef) -> Vec<(ProjectName, Role)> {
        Vec::new()
    }

    fn grants(&self, _: &UserRef) -> Arc<[Grant]> {
        self.grants.borrow().clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

fn ada() -> Arc<PeerCertificate> {
    let authority = Authority::new("example.org");
    let (issued, _) = authority.issue("spiffe://example.org/project/a/user/ada");
    let says = PeerCertificate::parse(&issued.chain[0], authority.bundle().domain()).expect("ours");
    Arc::new(PeerCertificate { key_id: KEY, ..says })
}

fn grant(verb: Verb, target: &str, left: Duration) -> Grant {
    Grant {
        name: GrantRef::parse("projects/a/grants/g").unwrap(),
        verbs: vec![verb],
        target: GrantTarget::parse(target).unwrap(),
        not_after: SystemTime::now() + left,
    }
}

fn first(app: &str, node: &str) -> Vec<u8> {
    let start = relay::ExecStart { app: app.to_owned(), node: node.to_owned(), ..Default::default() };
    relay::ExecRequest { body: Some(relay::exec_request::Body::Start(start)) }.encode_to_vec()
}

fn judged(method: &str, request: &[u8], knows: &Arc<Knows>) -> Result<By, Fault> {
    match judge(method, Some(&ada()), &**knows)? {
        Early::ByProject(claim) => judge_request(method, &claim, request, &**knows, SystemTime::now())
            .map(|by| by.expect("about a project")),
        other => panic!("{other:?}"),
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_grant_lets_its_verb_on_its_target_and_the_refusal_tells_of_one() {
    let knows = Knows::new(vec![grant(Verb::Exec, "projects/a/apps/x", HOUR)]);
    let by = judged(EXEC, &first("projects/a/apps/x", ""), &knows).unwrap();
    assert!(matches!(by, By::Grant(grant) if grant.name.grant.as_str() == "g"));
    let other = judged(EXEC, &first("projects/a/apps/y", ""), &knows).unwrap_err();
    assert_eq!(other.reason, "ROLE_NEEDED");
    assert!(
        other.message.ends_with(
            "an admin can grant it for a while: skerry -p a grant exec app/y --to user/ada --for 30m --reason \"...\""
        ),
        "{other}"
    );
    let shell = judged(SHELL, &first("", "projects/b/nodes/n"), &knows).unwrap_err();
    let told = "skerry -p b grant node-shell node/n --to projects/a/users/ada --for 30m";
    assert!(shell.message.contains(told), "{shell}");
    knows.set(vec![grant(Verb::Exec, "projects/a/apps/x", Duration::ZERO)]);
    assert!(judged(EXEC, &first("projects/a/apps/x", ""), &knows).is_err(), "it has expired");
}

#[test]
fn a_role_comes_before_a_grant() {
    let logs = "/skerry.relay.v1.RelayService/Logs";
    let knows = Knows::new(vec![grant(Verb::Logs, "projects/a", HOUR)]);
    let app = relay::LogsRequest { app: "projects/a/apps/x".to_owned(), ..Default::default() };
    assert!(matches!(judged(logs, &app.encode_to_vec(), &knows), Ok(By::Role(_))));
}

#[test]
fn each_verb_has_a_method_and_each_of_these_is_in_the_table_as_one_that_streams() {
    for verb in Verb::ALL {
        assert!(VERBS.iter().any(|(_, of)| *of == verb), "{verb}");
    }
    for (method, _) in VERBS {
        let found = TABLE.iter().find(|(path, _)| path == method).map(|(_, rule)| *rule);
        assert!(matches!(found, Some(Rule::Users(needs)) if needs.streams), "{method}");
    }
}

fn right(by: By, knows: &Arc<Knows>) -> Right {
    let Ok(Early::ByProject(claim)) = judge(EXEC, Some(&ada()), &**knows) else { panic!("a viewer") };
    let changes = knows.changes();
    Right::new((EXEC.to_owned(), ada()), Arc::clone(knows) as Arc<dyn Authorizer>, (claim, by), changes)
}

#[tokio::test]
async fn what_is_open_ends_when_the_grant_is_revoked_or_has_expired_and_no_sooner() {
    let held = grant(Verb::Exec, "projects/a/apps/x", HOUR);
    let knows = Knows::new(vec![held.clone()]);
    let open = right(By::Grant(held.clone()), &knows);
    assert_eq!(open.grant().as_deref(), Some("projects/a/grants/g"));
    assert!(open.check().is_ok());
    // Others come and go.
    knows.set(vec![grant(Verb::Copy, "projects/a", HOUR), held.clone()]);
    assert!(open.check().is_ok());
    // One of the same name that was made anew is another.
    knows.set(vec![Grant { not_after: held.not_after + HOUR, ..held }]);
    let fault = open.lost().await;
    assert_eq!(fault.reason, "GRANT_REVOKED");
    assert!(fault.message.starts_with("projects/a/grants/g was revoked"), "{fault}");

    let soon = grant(Verb::Exec, "projects/a/apps/x", Duration::from_millis(50));
    knows.set(vec![soon.clone()]);
    assert_eq!(right(By::Grant(soon), &knows).lost().await.reason, "GRANT_EXPIRED");
}

#[tokio::test]
async fn a_change_while_it_is_waited_is_seen_at_once() {
    let held = grant(Verb::Exec, "projects/a/apps/x", HOUR);
    let knows = Knows::new(vec![held.clone()]);
    let open = right(By::Grant(held), &knows);
    let later = async {
        tokio::task::yield_now().await;
        knows.set(Vec::new());
    };
    let (fault, ()) = tokio::join!(open.lost(), later);
    assert_eq!(fault.reason, "GRANT_REVOKED");
}

#[tokio::test]
async fn what_a_role_lets_in_ends_with_the_role() {
    let knows = Knows::new(vec![grant(Verb::Exec, "projects/a", HOUR)]);
    let fault = right(By::Role(ProjectName::parse("a").unwrap()), &knows).lost().await;
    assert_eq!(fault.reason, "ROLE_NEEDED", "a viewer runs nothing");
}
