//! A machine in a cabinet: a network of its own behind a router that translates addresses, lets nobody in, and loses packets.
//!
//! Nothing of this machine's own network is touched but for one cable, whose address there is [`Cabinet::outside`]. Packets are lost by the kernel
//! (`iptables -m statistic`), in both directions, of all connections alike.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Result;

use crate::lan::{ip, run};

/// For documentation (RFC 5737): nobody has it. Each cabinet has four addresses of it.
const UPLINK: [u8; 3] = [203, 0, 113];
/// Behind the router; as behind many.
const INSIDE: [u8; 3] = [192, 168, 77];
const CABINETS_MAX: u8 = 60;

/// The cabinet. Dropping it takes its networks down; drop what runs in it before.
#[derive(Debug)]
pub struct Cabinet {
    router: String,
    machine: String,
    number: u8,
}

impl Cabinet {
    /// A machine whose link loses this part of all packets. `name` must be of this test alone on the whole machine, and short; `number` below 60 too.
    ///
    /// # Errors
    /// Where namespaces cannot be made: that takes root, `ip` and `iptables`.
    pub fn new(name: &str, number: u8, loss: f64) -> Result<Self> {
        anyhow::ensure!(number < CABINETS_MAX, "{number} is one cabinet too many");
        let (router, machine) = (format!("{name}-r"), format!("{name}-m"));
        ip(&["netns", "add", &router])?;
        let cabinet = Self { router, machine, number };
        let Self { router, machine, .. } = &cabinet;
        ip(&["netns", "add", machine])?;
        let cable = format!("sk-cab{number}");
        ip(&["link", "add", &cable, "type", "veth", "peer", "name", "up0", "netns", router])?;
        ip(&["-n", router, "link", "add", "in0", "type", "veth", "peer", "name", "eth0", "netns", machine])?;
        ip(&["addr", "add", &format!("{}/30", cabinet.outside()), "dev", &cable])?;
        ip(&["link", "set", &cable, "up"])?;
        ip(&["-n", router, "addr", "add", &format!("{}/30", cabinet.uplink()), "dev", "up0"])?;
        ip(&["-n", router, "addr", "add", &format!("{}/24", inside(1)), "dev", "in0"])?;
        ip(&["-n", machine, "addr", "add", &format!("{}/24", inside(2)), "dev", "eth0"])?;
        for (space, links) in [(router, ["lo", "up0", "in0"].as_slice()), (machine, &["lo", "eth0"])] {
            for link in links {
                ip(&["-n", space, "link", "set", link, "up"])?;
            }
        }
        ip(&["-n", machine, "route", "add", "default", "via", &inside(1).to_string()])?;
        cabinet.at_router(&["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])?;
        let statistic = format!("{loss}");
        let lose = ["-m", "statistic", "--mode", "random", "--probability", &statistic, "-j", "DROP"];
        cabinet.iptables(&[&["-A", "FORWARD"], &lose[..]].concat())?;
        cabinet.iptables(&["-A", "FORWARD", "-i", "in0", "-j", "ACCEPT"])?;
        let known = ["-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT"];
        cabinet.iptables(&[&["-A", "FORWARD"], &known[..]].concat())?;
        cabinet.iptables(&["-P", "FORWARD", "DROP"])?;
        cabinet.iptables(&["-t", "nat", "-A", "POSTROUTING", "-o", "up0", "-j", "MASQUERADE"])?;
        Ok(cabinet)
    }

    /// Where what it may dial has to listen: an address of this machine.
    #[must_use]
    pub fn outside(&self) -> Ipv4Addr {
        self.end(1)
    }

    /// The router's address: all that anybody out here sees of the cabinet.
    #[must_use]
    pub fn uplink(&self) -> Ipv4Addr {
        self.end(2)
    }

    /// The network that programs in the cabinet run in.
    #[must_use]
    pub fn network(&self) -> PathBuf {
        PathBuf::from(format!("/run/netns/{}", self.machine))
    }

    /// Loses all packets, until [`Self::join`].
    ///
    /// # Errors
    /// When the router cannot be told.
    pub fn cut(&self) -> Result<()> {
        self.iptables(&["-I", "FORWARD", "-j", "DROP"])
    }

    /// Loses no more packets than before.
    ///
    /// # Errors
    /// When the router cannot be told.
    pub fn join(&self) -> Result<()> {
        self.iptables(&["-D", "FORWARD", "-j", "DROP"])
    }

    fn end(&self, of: u8) -> Ipv4Addr {
        let [a, b, c] = UPLINK;
        Ipv4Addr::new(a, b, c, 4 * self.number + of)
    }

    fn iptables(&self, words: &[&str]) -> Result<()> {
        self.at_router(&[&["iptables", "-w"], words].concat())
    }

    fn at_router(&self, words: &[&str]) -> Result<()> {
        let network = format!("--net=/run/netns/{}", self.router);
        run("nsenter", &[&[network.as_str(), "--"], words].concat())
    }
}

impl Drop for Cabinet {
    fn drop(&mut self) {
        // Their cables go with them.
        for space in [&self.machine, &self.router] {
            if let Err(error) = ip(&["netns", "del", space]) {
                eprintln!("a network namespace stays: {error:#}");
            }
        }
    }
}

fn inside(host: u8) -> Ipv4Addr {
    let [a, b, c] = INSIDE;
    Ipv4Addr::new(a, b, c, host)
}
