//! An agent's word for why a channel ended, as users are told it.

use skerry_model::{Code, Fault, NodeRef};
use skerry_proto::relay::v1 as pb;

/// What is the caller's to mend, or the node's owner's.
const DENIED: [&str; 1] = ["ForbiddenByNode"];
/// What passes.
const PASSING: [&str; 3] = ["AgentStops", "SessionLost", "RuntimeUnavailable"];

/// Where details of an error have the agent's own reason. (`reason` is the error's own, in faults that were read from a status.)
const AGENT_REASON: &str = "agent_reason";

/// The fault that an agent's last word is; nothing, where all was as it should be.
pub(crate) fn fault_of_end(node: &NodeRef, end: &pb::ChannelEnd) -> Option<Fault> {
    let pb::ChannelEnd { reason, message } = end;
    let code = match reason.as_str() {
        "" => return None,
        word if DENIED.contains(&word) => Code::PermissionDenied,
        word if PASSING.contains(&word) => Code::Unavailable,
        _ => Code::FailedPrecondition,
    };
    Some(Fault::new(code, "AGENT_REFUSED", format!("{node}: {message}")).with(AGENT_REASON, upper(reason)))
}

/// The stream to an agent broke.
pub(crate) fn link_lost(node: &NodeRef) -> Fault {
    Fault::new(Code::Unavailable, "LINK_LOST", format!("the link to the agent of {node} was lost"))
}

/// Somebody cut the channel.
pub(crate) fn was_cut() -> Fault {
    Fault::new(Code::Aborted, "CHANNEL_CUT", "somebody who may has cut this channel")
}

/// `NotHere` as `NOT_HERE`.
pub(crate) fn upper(word: &str) -> String {
    let mut out = String::new();
    for (index, letter) in word.chars().enumerate() {
        if index > 0 && letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_uppercase());
    }
    out
}

/// A word of a caller's as it is, where it is but one; else in quotes, so that no part of it passes for another.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-:@+".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) { word.to_owned() } else { format!("{word:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_word_is_written_as_reasons_are() {
        assert_eq!(upper("NotHere"), "NOT_HERE");
        assert_eq!(upper("Gone"), "GONE");
    }

    #[test]
    fn what_the_node_forbids_is_denied_and_what_passes_may_be_tried_again() {
        let node = NodeRef::parse("projects/p/nodes/n").unwrap();
        let end = |reason: &str| pb::ChannelEnd { reason: reason.to_owned(), message: "so".to_owned() };
        let code = |reason: &str| fault_of_end(&node, &end(reason)).map(|fault| fault.code);
        assert_eq!(code(""), None);
        assert_eq!(code("ForbiddenByNode"), Some(Code::PermissionDenied));
        assert_eq!(code("AgentStops"), Some(Code::Unavailable));
        let other = fault_of_end(&node, &end("NotHere")).unwrap();
        assert_eq!(
            (other.code, other.metadata[AGENT_REASON].as_str()),
            (Code::FailedPrecondition, "NOT_HERE")
        );
        assert_eq!(other.message, "projects/p/nodes/n: so");
    }
}
