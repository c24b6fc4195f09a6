//! `port-forward`: ports of an instance at ports of this machine.

use std::net::IpAddr;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::app_targets;
use crate::complete;

/// `port-forward`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Listens on this machine and carries each connection to a port of an instance, as the instance itself
would reach it at 127.0.0.1: also what listens nowhere else. Of several instances the first one that
runs is taken; SERVICE and the flags narrow them down. Takes the role operator.

8080:80 listens on 8080 for port 80, 80 on the same port, :80 on any free one. Goes on until Ctrl-C:
where the link is lost, connections that are open are reset, and new ones wait until it is back.

Examples:
  skerry port-forward app/hello web 8080:80
  skerry port-forward app/hello --node n1 :5432 9090
  skerry port-forward app/hello --instance hello/web/n1/0 8080:80 --address 0.0.0.0")]
pub struct PortForwardArgs {
    /// The app
    #[arg(value_name = "app/NAME", add = app_targets())]
    pub app: String,

    /// The service of it, where it has several, and the ports
    #[arg(value_name = "[SERVICE] [LOCAL:]REMOTE", required = true, num_args = 1..)]
    pub words: Vec<String>,

    /// An instance on this node
    #[arg(long, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
    pub node: Option<String>,

    /// An instance of this cluster, or of a node that is in none
    #[arg(long, value_name = "CLUSTER")]
    pub cluster: Option<String>,

    /// This instance: APP/SERVICE/CLUSTER/NUMBER, as get instances shows it
    #[arg(long, value_name = "INSTANCE")]
    pub instance: Option<String>,

    /// Where to listen on this machine
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub address: IpAddr,
}

/// One port of an instance, and where it is to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// On this machine; 0: any that is free.
    pub local: u16,
    /// Of the instance.
    pub remote: u16,
}

impl Ports {
    /// Whether a word is meant to be one.
    pub fn is_meant(word: &str) -> bool {
        word.contains(':') || word.bytes().all(|byte| byte.is_ascii_digit())
    }

    /// `8080:80`, `80` or `:80`.
    pub fn parse(word: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!(
                "`{word}`: {what}: write LOCAL:REMOTE, as 8080:80; 80 for the same port; :80 for any free one"
            )
        };
        let port = |text: &str| text.parse::<u16>().map_err(|_| wrong(&format!("`{text}` is no port")));
        let (local, remote) = match word.split_once(':') {
            None => (port(word)?, port(word)?),
            Some(("", remote)) => (0, port(remote)?),
            Some((local, remote)) => (port(local)?, port(remote)?),
        };
        if remote == 0 {
            return Err(wrong("an instance has ports 1 to 65535"));
        }
        Ok(Self { local, remote })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_kubectl_reads_them() {
        let ports = |local, remote| Ok(Ports { local, remote });
        assert_eq!(Ports::parse("8080:80"), ports(8080, 80));
        assert_eq!(Ports::parse("80"), ports(80, 80));
        assert_eq!(Ports::parse(":80"), ports(0, 80));
        for wrong in ["", "0", ":0", "80:", "8080:80:1", "a:80", "80:web", "70000", "-1", "8080: 80"] {
            assert!(Ports::parse(wrong).is_err_and(|error| error.contains("8080:80")), "{wrong}");
        }
        assert!(Ports::is_meant("80") && Ports::is_meant("a:80") && !Ports::is_meant("web2"));
    }
}
