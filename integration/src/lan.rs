//! Machines on one network, each with a network of its own: namespaces, joined by a bridge in another one. Nothing of the machine's own network is touched.
//!
//! A [`Dockerd`](crate::Dockerd) runs in each, whose containers reach the other machines at their addresses, and these reach what it publishes.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use skerry_testing::find_program;

/// For documentation (RFC 5737): nobody has it.
const NETWORK: [u8; 3] = [203, 0, 113];
/// Another one, of which each machine has a part for its containers.
const CONTAINERS: [u8; 3] = [198, 51, 100];
/// As many as the parts.
const MACHINES_MAX: u8 = 4;

/// The network. Dropping it takes it down; drop what runs in it before.
#[derive(Debug)]
pub struct Lan {
    name: String,
    machines: Vec<Machine>,
}

/// One machine.
#[derive(Debug, Clone)]
pub struct Machine {
    space: String,
    number: u8,
}

impl Lan {
    /// Machines 1 to `count`. `name` must be of this test alone on the whole machine, and short.
    ///
    /// # Errors
    /// Where namespaces cannot be made: that takes root and `ip`.
    pub fn new(name: &str, count: u8) -> Result<Self> {
        ensure!((1..=MACHINES_MAX).contains(&count), "1 to {MACHINES_MAX} machines");
        let machine = |number| Machine { space: format!("{name}-{number}"), number };
        let mut lan = Self { name: name.to_owned(), machines: Vec::new() };
        ip(&["netns", "add", name])?;
        ip(&["-n", name, "link", "add", "lan", "type", "bridge"])?;
        ip(&["-n", name, "link", "set", "lan", "up"])?;
        for machine in (1..=count).map(machine) {
            ip(&["netns", "add", &machine.space])?;
            lan.machines.push(machine);
        }
        for machine in &lan.machines {
            machine.join(name)?;
            for other in lan.machines.iter().filter(|other| other.number != machine.number) {
                let way = [other.pool(), "via".to_owned(), other.address().to_string()];
                ip(&["-n", &machine.space, "route", "add", &way[0], &way[1], &way[2]])?;
            }
        }
        Ok(lan)
    }

    /// One of the machines, from 1 on.
    pub fn machine(&self, number: usize) -> &Machine {
        &self.machines[number - 1]
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for space in self.machines.iter().map(|machine| &machine.space).chain([&self.name]) {
            if let Err(error) = ip(&["netns", "del", space]) {
                eprintln!("a network namespace stays: {error:#}");
            }
        }
    }
}

impl Machine {
    /// Its address on the network.
    pub fn address(&self) -> Ipv4Addr {
        let [a, b, c] = NETWORK;
        Ipv4Addr::new(a, b, c, 10 + self.number)
    }

    /// Another one that it has there.
    pub fn other_address(&self) -> Ipv4Addr {
        let [a, b, c] = NETWORK;
        Ipv4Addr::new(a, b, c, 20 + self.number)
    }

    /// Where its network namespace is.
    pub(crate) fn network(&self) -> String {
        format!("/run/netns/{}", self.space)
    }

    /// The addresses that its containers have.
    pub(crate) fn pool(&self) -> String {
        let [a, b, c] = CONTAINERS;
        format!("{a}.{b}.{c}.{}/26", 64 * (self.number - 1))
    }

    fn join(&self, lan: &str) -> Result<()> {
        let (space, cable) = (self.space.as_str(), format!("m{}", self.number));
        ip(&["-n", lan, "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", space])?;
        ip(&["-n", lan, "link", "set", &cable, "master", "lan", "up"])?;
        for address in [self.address(), self.other_address()] {
            ip(&["-n", space, "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
        }
        ip(&["-n", space, "link", "set", "lo", "up"])?;
        ip(&["-n", space, "link", "set", "eth0", "up"])?;
        // Between its containers and the network.
        let network = format!("--net={}", self.network());
        let forward = ["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"];
        run("nsenter", &[&[network.as_str(), "--"], forward.as_slice()].concat())
    }
}

pub(crate) fn ip(words: &[&str]) -> Result<()> {
    run("ip", words)
}

pub(crate) fn run(name: &str, words: &[&str]) -> Result<()> {
    let program = find_program(name)
        .with_context(|| format!("{name} is not installed: apt-get install iproute2 util-linux"))?;
    let output = Command::new(program).args(words).output().with_context(|| format!("running {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{name} {}: {} (machines on a network of their own take root)",
        words.join(" "),
        said.trim()
    );
    Ok(())
}
