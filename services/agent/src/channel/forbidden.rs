//! What this machine lets nobody do on it, whatever roles they have: its owner's word, given at its start.

use std::collections::BTreeSet;

use clap::ValueEnum as _;

/// What can be forbidden. As verbs of channels are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Verb {
    /// Commands in instances, and in containers beside them.
    Exec,
    /// A shell on the machine itself.
    NodeShell,
    /// Connections to ports of instances.
    PortForward,
    /// Files into instances and out of them.
    Copy,
    /// Starting instances anew, stopping and starting them by hand.
    Act,
    /// Support archives.
    Bundle,
}

impl Verb {
    /// As offers name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::NodeShell => "node-shell",
            Self::PortForward => "port-forward",
            Self::Copy => "copy",
            Self::Act => "act",
            Self::Bundle => "bundle",
        }
    }
}

/// What others may do on this machine. For `skerry up` too.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ForbidArgs {
    /// Let nobody do this on this machine, whatever roles they have; repeated, or separated by commas
    #[arg(long, env = "SKERRY_FORBID", value_name = "VERB", value_delimiter = ',', value_enum)]
    pub forbid: Vec<Verb>,

    /// Let those who may (`exec node/...`) have a shell on this machine itself, as the agent's user
    #[arg(long, env = "SKERRY_ALLOW_NODE_SHELL")]
    pub allow_node_shell: bool,
}

impl ForbidArgs {
    /// What follows from them.
    pub fn parse(&self) -> Forbidden {
        Forbidden { verbs: self.forbid.iter().copied().collect(), has_node_shell: self.allow_node_shell }
    }

    /// As `--forbid` and its variable take them. Empty: nothing is forbidden.
    pub fn text(&self) -> String {
        self.forbid.iter().map(|verb| verb.as_str()).collect::<Vec<_>>().join(",")
    }
}

/// What is forbidden. By default a shell on the node alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forbidden {
    verbs: BTreeSet<Verb>,
    has_node_shell: bool,
}

impl Forbidden {
    /// Why a verb is forbidden here: a sentence for people, which goes with [`REASON`]. Nothing: it is not.
    pub(crate) fn why(&self, verb: &str) -> Option<String> {
        let verb = Verb::from_str(verb, false).ok()?;
        let word = verb.as_str();
        if self.verbs.contains(&verb) {
            return Some(format!("this node forbids `{word}`: its agent was started with --forbid {word}"));
        }
        let is_unasked = verb == Verb::NodeShell && !self.has_node_shell;
        is_unasked.then(|| {
            "this node gives no shell on the machine itself: its agent was started without --allow-node-shell"
                .to_owned()
        })
    }
}

/// Why a channel is refused, or ends, for what is forbidden here.
pub(crate) const REASON: &str = "ForbiddenByNode";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_a_shell_on_the_node_is_allowed_unless_it_is_forbidden() {
        let nothing = Forbidden::default();
        for verb in ["logs", "exec", "port-forward", "copy"] {
            assert_eq!(nothing.why(verb), None, "{verb}");
        }
        assert!(nothing.why("node-shell").unwrap().contains("--allow-node-shell"));
        let args = ForbidArgs { forbid: vec![Verb::Exec, Verb::Copy], allow_node_shell: true };
        let some = args.parse();
        assert!(some.why("exec").unwrap().contains("--forbid exec"));
        assert!(some.why("copy").is_some());
        assert_eq!(some.why("node-shell"), None);
        assert_eq!(args.text(), "exec,copy");
    }

    #[test]
    fn what_is_forbidden_is_not_allowed_by_anything_else() {
        let args = ForbidArgs { forbid: vec![Verb::NodeShell], allow_node_shell: true };
        assert!(args.parse().why("node-shell").unwrap().contains("--forbid node-shell"));
    }

    #[test]
    fn verbs_are_written_as_offers_name_them() {
        for verb in Verb::value_variants() {
            assert_eq!(Verb::from_str(verb.as_str(), false), Ok(*verb));
        }
    }
}
