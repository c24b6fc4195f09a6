//! Networks: the app's own, further ones, the machine's, none; and one that vanished.

use std::collections::BTreeMap;

use skerry_agent::runtime::{Runtime as _, Wanted};
use skerry_model::NetworkName;
use skerry_model::app::{Container, Network, NetworkMode, Port, Protocol};
use skerry_testing::{eventually, free_port, http_get};

use super::world::{IDLE, SOON, World, idle, is_running, shell, spec};

#[tokio::test]
async fn services_of_an_app_find_each_other_by_name_and_ports_answer() {
    let Some(world) = World::new("dns") else { return };
    let port = free_port();
    let page = "mkdir -p /tmp/www && echo hello > /tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www";
    let published =
        Port { container_port: 8080, host_port: port, protocol: Protocol::Tcp, host_address: None };
    let server = spec("server", Container { ports: vec![published], ..shell(page) }, |_| ());
    let client = idle("client");
    // Together: they race for the network.
    let (a, b) = tokio::join!(world.ensure(&server), world.ensure(&client));
    a.and(b).expect("both run");
    let script = "test \"$(wget -q -O - http://server:8080/)\" = hello";
    eventually("the server is found by name", SOON, async || match world.exec(&client, script).await {
        0 => Ok(()),
        code => Err(format!("exit code {code}")),
    })
    .await;
    let answer = http_get(&format!("127.0.0.1:{port}"), "/").await.expect("it answers");
    assert_eq!((answer.status, answer.text().trim()), (200, "hello"));
    assert_eq!(world.listed("networks").len(), 1);
}

#[tokio::test]
async fn services_reach_each_other_only_in_the_networks_that_they_share() {
    let Some(world) = World::new("networks") else { return };
    let back = NetworkName::parse("back").unwrap();
    let joined = |service: &str, aliases: &[&str]| {
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        let network = Network { further: BTreeMap::from([(back.clone(), aliases)]), ..Network::default() };
        spec(service, Container { network, ..shell(IDLE) }, |_| ())
    };
    let (inner, outer, stranger) = (joined("inner", &["store"]), joined("outer", &[]), idle("stranger"));
    for one in [&inner, &outer, &stranger] {
        world.ensure(one).await.expect("it runs");
    }
    assert_eq!(world.listed("networks").len(), 2);
    assert_eq!(world.exec(&outer, "nslookup store").await, 0, "by its alias");
    assert_ne!(world.exec(&stranger, "nslookup store").await, 0, "not from outside that network");

    // Created and not started is where a kill may leave it: not yet in its second network.
    world.runtime.remove(&inner.name).await.expect("it is removed");
    let name = world.runtime.container_name(&inner.name);
    world.ensure(&inner).await.expect("it runs again");
    world.post(&format!("/containers/{name}/stop"));
    let second = world.runtime.network_name(&inner.name.app, Some(&back));
    let body = serde_json::json!({"Container": name, "Force": true});
    world.post_json(&format!("/networks/{second}/disconnect"), &body);
    world.ensure(&inner).await.expect("it is connected and started");
    assert_eq!(world.exec(&outer, "nslookup store").await, 0);

    for one in [&inner, &outer] {
        world.runtime.remove(&one.name).await.expect("it is removed");
    }
    let wanted = Wanted { apps: [inner.name.app.clone()].into(), ..Wanted::default() };
    world.runtime.sweep(&wanted).await.expect("swept");
    assert_eq!(
        world.listed("networks").len(),
        1,
        "the app's own network stays, the one that nobody names goes"
    );
}

#[tokio::test]
async fn who_is_only_in_further_networks_is_reached_in_those_alone() {
    let Some(world) = World::new("only-networks") else { return };
    let back = NetworkName::parse("back").unwrap();
    let joined = |service: &str, only: bool| {
        let network = Network {
            further: BTreeMap::from([(back.clone(), Vec::new())]),
            only_further: only,
            ..Network::default()
        };
        spec(service, Container { network, ..shell(IDLE) }, |_| ())
    };
    let (inner, both, outer) = (joined("inner", true), joined("both", false), idle("outer"));
    for one in [&inner, &both, &outer] {
        world.ensure(one).await.expect("it runs");
    }
    assert_eq!(world.exec(&both, "nslookup inner").await, 0);
    assert_ne!(world.exec(&outer, "nslookup inner").await, 0, "not in the app's own network");
    assert_ne!(world.exec(&inner, "nslookup outer").await, 0);
}

#[tokio::test]
async fn the_machines_network_is_the_machines() {
    let Some(world) = World::new("host-network") else { return };
    let web = spec(
        "web",
        Container { network: Network { mode: NetworkMode::Host, ..Network::default() }, ..shell(IDLE) },
        |_| (),
    );
    world.ensure(&web).await.expect("it runs");
    assert_eq!(world.inspect(&web)["HostConfig"]["NetworkMode"], "host");
    assert_eq!(world.listed("networks").len(), 0);
    assert_eq!(world.observe(&web).await.unwrap().address, Some("127.0.0.1".parse().unwrap()));
}

#[tokio::test]
async fn without_a_network_there_is_only_loopback() {
    let Some(world) = World::new("no-network") else { return };
    let network = Network { mode: NetworkMode::None, ..Network::default() };
    let web = spec("web", Container { network, ..shell(IDLE) }, |_| ());
    world.ensure(&web).await.expect("it runs");
    assert_eq!(world.exec(&web, "test \"$(ls /sys/class/net)\" = lo").await, 0);
    assert_eq!((world.listed("networks").len(), world.observe(&web).await.unwrap().address), (0, None));
}

#[tokio::test]
async fn a_network_that_vanished_is_made_again() {
    let Some(world) = World::new("network") else { return };
    let web = idle("web");
    world.ensure(&web).await.expect("it runs");
    world.post(&format!("/containers/{}/stop", world.runtime.container_name(&web.name)));
    for network in world.listed("networks") {
        let answer =
            world.docker.request("DELETE", &format!("/networks/{}", network["Id"].as_str().unwrap()), &[]);
        assert_eq!(answer.unwrap().status, 204);
    }
    world.ensure(&web).await.expect("it runs again");
    assert!(is_running(world.observe(&web).await.as_ref()));
    assert_eq!((world.containers().len(), world.listed("networks").len()), (1, 1));
}
