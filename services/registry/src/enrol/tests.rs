//! The laws of letting machines in, held against many machines and tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use skerry_identity::csr::Request;
use skerry_identity::hpke::{HpkeKeyPair, OpeningKey as _};
use skerry_identity::token::Token;
use skerry_identity::{KeyId, KeyPair, SigningKey as _};
use skerry_model::{Code, NodeRef, time};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::store::v1 as stored;

use super::asked::{Asked, Machine, to_label};
use super::decide::{
    By, Grant, Keys, Refusal, Refused, Struck, admit, authenticate, has_key, labels_of, settle, strike_out,
};
use super::renew::{Renewal, renewed};
use super::template::Template;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn machine(serial: &str) -> Machine {
    Machine { serial: serial.to_owned(), ..Machine::default() }
}

fn token_record(uses_max: u32, once_per_machine: bool) -> stored::TokenRecord {
    let expire_time = Some(time::to_timestamp(now() + Duration::from_secs(60)));
    stored::TokenRecord { uses_max, once_per_machine, expire_time, ..stored::TokenRecord::default() }
}

#[test]
fn a_node_gets_labels_of_its_token_for_its_cluster_and_each_system_app() {
    let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let record = stored::TokenRecord {
        node_labels: pairs(&[("site", "oslo"), ("system.skerry.dev/broker", "blue")]),
        cluster: "plant".to_owned(),
        system_apps: vec!["broker".to_owned(), "probe".to_owned()],
        ..token_record(1, false)
    };
    let expected = pairs(&[
        ("site", "oslo"),
        ("skerry.dev/cluster", "plant"),
        ("system.skerry.dev/broker", "blue"),
        ("system.skerry.dev/probe", ""),
    ]);
    assert_eq!(labels_of(&record), expected);
}

fn node() -> NodeRef {
    NodeRef::parse("projects/p/nodes/n1").unwrap()
}

fn keys(byte: u8) -> Keys {
    Keys { key_id: KeyId::from_bytes([byte; 32]), sealing_key: [byte; 32] }
}

fn settled(before: Option<&stored::NodeRecord>, by: By, key: u8) -> Result<stored::NodeRecord, Refused> {
    let labels = BTreeMap::from([("site".to_owned(), "oslo".to_owned())]);
    let grant = Grant { labels: &labels, annotations: BTreeMap::new(), by };
    settle(&node(), before, &keys(key), &grant, now(), || "uid-1".to_owned())
}

fn by_token() -> By {
    By::Token { made: now() }
}

fn quietly<T: std::fmt::Debug>(result: Result<T, Refused>) -> Refusal {
    match result {
        Err(Refused::Quietly(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

fn request() -> pb::EnrollRequest {
    let key = KeyPair::generate().unwrap();
    pb::EnrollRequest {
        certificate_request: Request::make(&key).unwrap().to_vec().into(),
        sealing_key: HpkeKeyPair::generate().unwrap().public_key().as_bytes().to_vec().into(),
        parent: "projects/p".to_owned(),
        ..pb::EnrollRequest::default()
    }
}

fn refused_fields(request: &pb::EnrollRequest) -> Vec<String> {
    let fault = Asked::parse(request, "10.0.0.1").unwrap_err();
    assert_eq!(fault.code, Code::InvalidArgument);
    fault.violations.into_iter().map(|violation| violation.field).collect()
}

#[test]
fn what_a_machine_asks_wrongly_is_refused_by_the_name_of_the_field() {
    assert!(Asked::parse(&request(), "10.0.0.1").is_ok());
    let long = "x".repeat(254);
    let host = pb::MachineFingerprint { host_name: long, ..pb::MachineFingerprint::default() };
    let serial = pb::MachineFingerprint { serial: "a\nb".into(), ..pb::MachineFingerprint::default() };
    for (wrong, field) in [
        (pb::EnrollRequest { certificate_request: vec![0; 5000].into(), ..request() }, "certificate_request"),
        (pb::EnrollRequest { certificate_request: b"x".to_vec().into(), ..request() }, "certificate_request"),
        (pb::EnrollRequest { sealing_key: vec![1; 31].into(), ..request() }, "sealing_key"),
        (pb::EnrollRequest { token: "skt1_abc".into(), ..request() }, "token"),
        (pb::EnrollRequest { parent: "p".into(), ..request() }, "parent"),
        (pb::EnrollRequest { parent: String::new(), ..request() }, "parent"),
        (pb::EnrollRequest { node: "Not A Label".into(), ..request() }, "node"),
        (pb::EnrollRequest { machine: Some(host), ..request() }, "machine.host_name"),
        (pb::EnrollRequest { machine: Some(serial), ..request() }, "machine.serial"),
        (pb::EnrollRequest { agent_version: "1".repeat(65), ..request() }, "agent_version"),
    ] {
        assert_eq!(refused_fields(&wrong), [field]);
    }
}

#[test]
fn only_the_secret_that_the_record_is_of_is_the_token() {
    let token = Token::generate(KeyId::from_bytes([1; 32])).unwrap();
    let hash = token.hash().as_bytes().to_vec().into();
    let record = stored::TokenRecord { hash, ..token_record(1, false) };
    assert!(authenticate(&token, Some(&record)).is_ok());
    let other = Token::generate(KeyId::from_bytes([1; 32])).unwrap();
    for record in [None, Some(&record), Some(&token_record(1, false))] {
        assert_eq!(authenticate(&other, record), Err(Refusal::Unknown));
    }
}

#[test]
fn a_token_is_good_until_its_time_and_not_in_that_second() {
    let record = token_record(1, false);
    assert!(admit(&record, &machine("a"), now() + Duration::from_secs(59)).is_ok());
    for late in [60, 61] {
        let late = admit(&record, &machine("a"), now() + Duration::from_secs(late));
        assert_eq!(quietly(late), Refusal::Expired);
    }
    let timeless = stored::TokenRecord { expire_time: None, ..record };
    assert_eq!(quietly(admit(&timeless, &machine("a"), now())), Refusal::Expired);
}

#[test]
fn a_token_that_takes_each_machine_once_wants_to_know_which_it_is() {
    let fault = admit(&token_record(0, true), &Machine::default(), now());
    assert!(matches!(fault, Err(Refused::Openly(fault)) if fault.violations[0].field == "machine"));
    let by_id = Machine { id: "m".into(), ..Machine::default() };
    let used = admit(&token_record(0, true), &by_id, now()).unwrap();
    assert_eq!(quietly(admit(&used, &by_id, now())), Refusal::MachineUsed);
    // A serial number that reads like another machine's id is another machine.
    assert!(admit(&used, &machine("m"), now()).is_ok());
}

#[test]
fn a_node_s_place_is_taken_by_nobody_but_who_an_operator_puts_there() {
    let first = settled(None, by_token(), 1).unwrap();
    let meta = first.meta.clone().unwrap();
    assert_eq!((meta.uid.as_str(), meta.labels["site"].as_str()), ("uid-1", "oslo"));
    assert!(has_key(&first, &keys(1).key_id));
    for by in [by_token(), By::Operator { replace: false }] {
        match settled(Some(&first), by, 2) {
            Err(Refused::Openly(fault)) => {
                assert_eq!(fault.code, Code::AlreadyExists);
                assert!(fault.message.contains("--replace"), "{fault}");
            }
            other => panic!("{other:?}"),
        }
        // The same machine is itself.
        assert!(settled(Some(&first), by, 1).is_ok());
    }
    let replaced = settled(Some(&first), By::Operator { replace: true }, 2).unwrap();
    assert!(has_key(&replaced, &keys(2).key_id) && !has_key(&replaced, &keys(1).key_id));
    assert_eq!(replaced.meta.unwrap().uid, "uid-1");
}

#[test]
fn a_revoked_node_comes_back_only_by_what_was_made_after() {
    let mut record = settled(None, by_token(), 1).unwrap();
    assert_eq!(strike_out(&mut record, now()), Struck::Keys);
    assert_eq!(strike_out(&mut record, now() + Duration::from_secs(9)), Struck::Before);
    assert!(!has_key(&record, &keys(1).key_id));
    assert_eq!(quietly(settled(Some(&record), by_token(), 1)), Refusal::Revoked);
    let later = By::Token { made: now() + Duration::from_nanos(1) };
    let again = settled(Some(&record), later, 1).unwrap();
    assert!(has_key(&again, &keys(1).key_id));
    assert!(again.meta.unwrap().annotations.is_empty());
    assert!(settled(Some(&record), By::Operator { replace: true }, 3).is_ok());
}

#[test]
fn of_a_node_that_never_enrolled_it_is_not_said_that_its_key_was_struck_out() {
    let mut record = stored::NodeRecord::default();
    assert_eq!(strike_out(&mut record, now()), Struck::Nothing);
    assert_eq!(record, stored::NodeRecord::default());
}

#[test]
fn an_empty_key_is_nobody_s() {
    let record = stored::NodeRecord::default();
    assert!(!has_key(&record, &KeyId::from_bytes([0; 32])));
}

fn renewal(proved: u8, wanted: &KeyPair, uid: &str) -> Renewal {
    Renewal {
        node: node(),
        uid: uid.to_owned(),
        proved: KeyId::from_bytes([proved; 32]),
        wanted: wanted.public_key().clone(),
        sealing_key: None,
    }
}

#[test]
fn a_renewal_keeps_the_old_key_until_the_new_one_is_proved() {
    let record = settled(None, by_token(), 1).unwrap();
    let (second, third) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (second_id, third_id) = (second.public_key().id(), third.public_key().id());
    let once = renewed(&record, &renewal(1, &second, "uid-1")).unwrap();
    assert!(has_key(&once, &keys(1).key_id) && has_key(&once, &second_id));
    // The answer was lost: the old key asks again, for yet another one.
    let twice = renewed(&once, &renewal(1, &third, "uid-1")).unwrap();
    assert!(has_key(&twice, &keys(1).key_id) && has_key(&twice, &third_id) && !has_key(&twice, &second_id));
    // Who comes with the new key has done with the old one.
    let proved = Renewal { proved: third_id, ..renewal(0, &third, "uid-1") };
    let after = renewed(&twice, &proved).unwrap();
    assert!(has_key(&after, &third_id) && !has_key(&after, &keys(1).key_id));
    assert!(after.next_key_id.is_empty());

    assert!(renewed(&record, &renewal(2, &second, "uid-1")).is_none());
    assert!(renewed(&record, &renewal(1, &second, "uid-0")).is_none());
    let mut revoked = record.clone();
    strike_out(&mut revoked, now());
    assert!(renewed(&revoked, &renewal(1, &second, "uid-1")).is_none());
}

#[test]
fn what_is_no_template_is_told_and_what_is_one_makes_names() {
    for (bad, why) in [
        ("cam-{serial", "without"),
        ("{uuid}", "not known"),
        ("Cam-{n}", "`C`"),
        ("-{n}", "makes no name"),
        ("{n}-", "makes no name"),
        ("a}b", "without"),
    ] {
        let error = Template::parse(bad).unwrap_err().to_string();
        assert!(error.contains(why), "{bad}: {error}");
    }
    let name = |template: &str, machine: &Machine| {
        Template::parse(template).unwrap().render(machine, 7).map(|name| name.to_string())
    };
    let cam = Machine { id: "ab12".into(), serial: "SN_0042/A".into(), host_name: "Cam4.example.org".into() };
    assert_eq!(name("line-4-{n}", &cam).unwrap(), "line-4-7");
    assert_eq!(name("cam-{serial}", &cam).unwrap(), "cam-sn-0042-a");
    assert_eq!(name("{host}-{machine_id}", &cam).unwrap(), "cam4-ab12");
    let silent = name("cam-{serial}", &Machine::default()).unwrap_err();
    assert_eq!(silent.violations[0].field, "machine.serial");
    assert!(Template::parse("{n}").unwrap().varies() && !Template::parse("one").unwrap().varies());
}

proptest! {
    #[test]
    fn a_name_from_a_template_is_a_dns_label_or_a_refusal_that_names_a_field(
        template in "[a-z{}_0-9-]{0,24}|(cam-|x)?\\{(serial|machine_id|host|n)\\}[a-z-]{0,3}",
        serial in any::<String>(), machine_id in any::<String>(), host_name in any::<String>(), n in any::<u32>(),
    ) {
        let Ok(template) = Template::parse(&template) else { return Ok(()) };
        match template.render(&Machine { id: machine_id, serial, host_name }, n) {
            Ok(name) => prop_assert!(skerry_model::NodeName::parse(name.as_str()).is_ok()),
            Err(fault) => {
                prop_assert_eq!(fault.code, Code::InvalidArgument);
                prop_assert!(!fault.violations.is_empty());
            }
        }
    }

    #[test]
    fn any_text_makes_a_label_or_nothing(text in any::<String>()) {
        let label = to_label(&text);
        prop_assert!(label.is_empty() || label.len() > 63 || skerry_model::NodeName::parse(&label).is_ok());
    }

    #[test]
    fn a_token_lets_in_no_more_than_it_may_and_no_machine_twice(
        uses_max in 0u32..6, once in any::<bool>(), serials in proptest::collection::vec("[a-d]", 0..24),
    ) {
        let mut record = token_record(uses_max, once);
        let (mut admitted, mut machines) = (0, BTreeSet::new());
        for serial in &serials {
            match admit(&record, &machine(serial), now()) {
                Ok(used) => {
                    admitted += 1;
                    prop_assert!(machines.insert(serial) || !once);
                    record = used;
                }
                Err(Refused::Quietly(Refusal::UsedUp)) => prop_assert!(uses_max != 0 && admitted == uses_max),
                Err(Refused::Quietly(Refusal::MachineUsed)) => prop_assert!(once && machines.contains(serial)),
                other => prop_assert!(false, "{:?}", other),
            }
            prop_assert_eq!(record.uses, admitted);
        }
        prop_assert!(uses_max == 0 || admitted <= uses_max);
    }
}
