//! Secrets of services: as files, as variables, for images.

use skerry_proto::types::v1 as pb;

use super::super::{AppSpec, EnvSource, OnChange, Program, SecretEntries};
use crate::feature;

fn parsed(service: pb::ServiceSpec) -> Result<super::super::ServiceSpec, Vec<String>> {
    let spec = AppSpec::from_proto(&pb::AppSpec { services: vec![service], ..Default::default() });
    spec.map(|mut spec| spec.services.remove(0))
        .map_err(|fault| fault.violations.into_iter().map(|violation| violation.field).collect())
}

fn process() -> pb::ServiceSpec {
    let process = pb::Process { program: "x".to_owned(), ..Default::default() };
    let program = Some(pb::service_spec::Program::Process(process));
    pb::ServiceSpec { name: "a".to_owned(), program, ..Default::default() }
}

fn container(image_credentials: &str) -> pb::ServiceSpec {
    let image_credentials = image_credentials.to_owned();
    let container = pb::Container { image: "i:1".to_owned(), image_credentials, ..Default::default() };
    pb::ServiceSpec { program: Some(pb::service_spec::Program::Container(container)), ..process() }
}

fn mount(path: &str, key: &str) -> pb::SecretMount {
    pb::SecretMount {
        secret: "s".to_owned(),
        path: path.to_owned(),
        key: key.to_owned(),
        ..Default::default()
    }
}

#[test]
fn files_have_a_place_a_mode_and_an_owner() {
    let of_process = parsed(pb::ServiceSpec { secrets: vec![mount("", ""), mount("", "k")], ..process() });
    assert_eq!(of_process.unwrap_err(), ["spec.services[0].secrets[1].path"], "one lies in the other");
    let of_process = parsed(pb::ServiceSpec { secrets: vec![mount("", ""), mount("pw", "k")], ..process() });
    let mounts = of_process.unwrap().secrets;
    let shown: Vec<_> = mounts.iter().map(|mount| (mount.path.as_str(), mount.mode)).collect();
    assert_eq!(shown, [("secrets/s", 0o400), ("pw", 0o400)]);
    let owned = pb::SecretMount { mode: "0440".into(), owner: "7:8".into(), ..mount("/s", "") };
    let live = pb::SecretMount { on_change: pb::secret_mount::OnChange::Update.into(), ..mount("/t", "") };
    let service = parsed(pb::ServiceSpec { secrets: vec![owned, live], ..container("") }).unwrap();
    assert_eq!((service.secrets[0].mode, service.secrets[0].owner), (0o440, Some((7, Some(8)))));
    assert_eq!((service.secrets[1].mode, service.secrets[1].on_change), (0o444, OnChange::Update));
}

#[test]
fn what_cannot_be_mounted_is_named() {
    let refused = |base: pb::ServiceSpec, mount: pb::SecretMount| {
        parsed(pb::ServiceSpec { secrets: vec![mount], ..base }).unwrap_err().remove(0)
    };
    let at = |field: &str| format!("spec.services[0].secrets[0].{field}");
    let update = pb::secret_mount::OnChange::Update.into();
    assert_eq!(refused(container(""), mount("relative", "")), at("path"));
    assert_eq!(refused(container(""), mount("/", "")), at("path"));
    assert_eq!(refused(process(), mount("../up", "")), at("path"));
    assert_eq!(refused(container(""), mount("/s", "a/b")), at("key"));
    assert_eq!(
        refused(container(""), pb::SecretMount { on_change: update, ..mount("/s", "k") }),
        at("on_change")
    );
    for mode in ["1777", "8", "+7", "00400"] {
        assert_eq!(
            refused(container(""), pb::SecretMount { mode: mode.into(), ..mount("/s", "") }),
            at("mode")
        );
    }
    for owner in ["root", "1:", "-1", "4294967295"] {
        assert_eq!(
            refused(container(""), pb::SecretMount { owner: owner.into(), ..mount("/s", "") }),
            at("owner")
        );
    }
    let twice = vec![mount("/s", ""), mount("/s/.", "")];
    let twice = parsed(pb::ServiceSpec { secrets: twice, ..container("") }).unwrap_err();
    assert_eq!(twice, ["spec.services[0].secrets[1].path"]);
    let config = pb::ConfigMount { config: "c".into(), path: "secrets".into(), ..Default::default() };
    let over = pb::ServiceSpec { configs: vec![config], secrets: vec![mount("", "")], ..process() };
    assert_eq!(parsed(over).unwrap_err(), [at("path")]);
}

#[test]
fn variables_come_from_all_entries_a_file_or_one_value() {
    let source = |key: &str, variable: &str| pb::EnvSource {
        source: Some(pb::env_source::Source::Secret("s".to_owned())),
        key: key.to_owned(),
        variable: variable.to_owned(),
        ..Default::default()
    };
    let entries = |one: pb::EnvSource| {
        let service = parsed(pb::ServiceSpec { env_from: vec![one], ..process() })?;
        match service.env_from.into_iter().next() {
            Some(EnvSource::Secret { entries, .. }) => Ok(entries),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(entries(source("", "")), Ok(SecretEntries::All));
    assert_eq!(entries(source("k", "")), Ok(SecretEntries::File("k".into())));
    let value = SecretEntries::Value { key: "k".into(), variable: "V".into() };
    assert_eq!(entries(source("k", "V")), Ok(value));
    let at = |field: &str| vec![format!("spec.services[0].env_from[0].{field}")];
    assert_eq!(entries(source("", "V")), Err(at("key")));
    assert_eq!(entries(source("k", "1V")), Err(at("variable")));
    let config =
        pb::EnvSource { source: Some(pb::env_source::Source::Config("c".to_owned())), ..source("k", "V") };
    assert_eq!(entries(config), Err(at("variable")));
}

#[test]
fn an_agent_that_knows_no_secrets_is_not_given_what_uses_some() {
    let needs = |service: pb::ServiceSpec| {
        let spec = pb::AppSpec { services: vec![service], ..Default::default() };
        feature::of_app(&AppSpec::from_proto(&spec).unwrap()).contains(&feature::SEALED_SECRETS)
    };
    assert!(!needs(container("")));
    assert!(needs(container("registry")));
    assert!(needs(pb::ServiceSpec { secrets: vec![mount("/s", "")], ..container("") }));
    let Program::Container(parsed) = parsed(container("registry")).unwrap().program else {
        panic!("a container")
    };
    assert_eq!(parsed.image_credentials.unwrap().as_str(), "registry");
}
