//! EdgeX Foundry's own files, as they are: every service, port, name and volume of theirs.

mod support;

use std::collections::BTreeSet;

use skerry_proto::types::v1::dependency::Condition;
use support::World;

const HANOI: &str = include_str!("../../../examples/edgex/hanoi-no-secty.yml");
const HANOI_OVER: &str = include_str!("../../../examples/edgex/hanoi.skerry.yml");
const IRELAND: &str = include_str!("../../../examples/edgex/ireland-no-secty-with-ui.yml");
const IRELAND_OVER: &str = include_str!("../../../examples/edgex/ireland.skerry.yml");
const MODBUS: &str = include_str!("../../../examples/edgex/ireland.modbus.yml");

#[test]
fn each_of_the_files_is_one_app() {
    for (texts, services) in [
        (&[HANOI][..], 12),
        (&[IRELAND], 13),
        (&[HANOI, HANOI_OVER], 12),
        (&[IRELAND, IRELAND_OVER], 13),
        (&[IRELAND, IRELAND_OVER, MODBUS], 14),
    ] {
        let read = World::default().read(texts);
        assert_eq!(read.app.services.len(), services);
        assert!(read.configs.is_empty() && read.secrets.is_empty());
        for service in &read.app.services {
            let container = read.container(&service.name);
            assert!(
                !container.only_networks && container.networks.is_empty(),
                "one network, which is the app's"
            );
            assert!(
                container.network_aliases.iter().any(|alias| alias.starts_with("edgex-")),
                "{container:?}"
            );
            assert!(
                !container.ports.is_empty()
                    && container.ports.iter().all(|port| port.host_address == "127.0.0.1")
            );
        }
    }
}

#[test]
fn only_what_is_safe_is_left_out() {
    let read = World::default().read(&[IRELAND]);
    let fields: BTreeSet<&str> = read
        .warned()
        .iter()
        .map(|warning| {
            warning.split(": ").nth(1).and_then(|path| path.rsplit('.').next()).unwrap_or_default()
        })
        .collect();
    assert_eq!(fields, BTreeSet::from(["container_name", "version", "volumes[0]"]), "{:#?}", read.warnings);
}

#[test]
fn with_the_file_over_them_every_service_is_waited_for_until_it_works() {
    for texts in [[HANOI, HANOI_OVER], [IRELAND, IRELAND_OVER]] {
        let (plain, over) = (World::default().read(&texts[..1]), World::default().read(&texts));
        for service in &over.app.services {
            assert!(service.health_check.is_some(), "{}", service.name);
            let before: Vec<&str> =
                plain.service(&service.name).depends_on.iter().map(|on| on.service.as_str()).collect();
            let after: Vec<&str> = service.depends_on.iter().map(|on| on.service.as_str()).collect();
            assert_eq!(before, after, "{} waits for the same", service.name);
            assert!(
                service.depends_on.iter().all(|on| on.condition() == Condition::Healthy),
                "{}",
                service.name
            );
        }
    }
}
