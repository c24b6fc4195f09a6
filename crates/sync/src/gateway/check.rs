//! Bounds on what an agent sends. How large a frame may be is the decoder's to hold.

use skerry_model::NodeRef;
use skerry_proto::gateway::v1 as pb;

use crate::limits;

/// Why a hello is not one that a session can be opened for.
pub(super) fn hello(hello: &pb::Hello) -> Result<(), String> {
    if hello.protocol_version != limits::PROTOCOL_VERSION {
        let (theirs, ours) = (hello.protocol_version, limits::PROTOCOL_VERSION);
        return Err(format!("protocol version {theirs} is not spoken here, {ours} is"));
    }
    NodeRef::parse(&hello.node).map_err(|error| error.to_string())?;
    if hello.boot_id.is_empty() {
        return Err("a hello without a boot id".to_owned());
    }
    count("features", hello.features.len(), limits::FEATURES_MAX)?;
    count("held resources", hello.held.len(), limits::RESOURCES_MAX)?;
    text("boot_id", &hello.boot_id, limits::REASON_BYTES_MAX)?;
    text("node_uid", &hello.node_uid, limits::REASON_BYTES_MAX)?;
    text("agent_version", &hello.agent_version, limits::MACHINE_TEXT_BYTES_MAX)?;
    count("bytes of report_digest", hello.report_digest.len(), limits::DIGEST_BYTES_MAX)?;
    count("bytes of roots_digest", hello.roots_digest.len(), limits::DIGEST_BYTES_MAX)?;
    for feature in &hello.features {
        text("feature", feature, limits::REASON_BYTES_MAX)?;
    }
    for held in &hello.held {
        text("name", &held.name, limits::NAME_BYTES_MAX)?;
        text("version", &held.version, limits::REASON_BYTES_MAX)?;
    }
    Ok(())
}

/// Why a report is too much.
pub(super) fn report(report: &pb::Report) -> Result<(), String> {
    count("instances", report.instances.len(), limits::INSTANCES_MAX)?;
    count("removed instances", report.removed_instances.len(), limits::RESOURCES_MAX)?;
    count("images", report.images.len(), limits::IMAGES_MAX)?;
    count("removed images", report.removed_images.len(), limits::RESOURCES_MAX)?;
    count("events", report.events.len(), limits::EVENTS_PER_REPORT_MAX)
}

/// Why a renewal is too much. What is in it is for who issues to judge.
pub(super) fn renewal(request: &pb::RenewalRequest) -> Result<(), String> {
    count("bytes of certificate_request", request.certificate_request.len(), limits::REQUEST_BYTES_MAX)?;
    count("bytes of sealing_key", request.sealing_key.len(), limits::DIGEST_BYTES_MAX)
}

fn count(what: &str, count: usize, most: usize) -> Result<(), String> {
    if count <= most { Ok(()) } else { Err(format!("{count} {what} are too many: at most {most}")) }
}

fn text(what: &str, text: &str, most: usize) -> Result<(), String> {
    if text.len() <= most {
        Ok(())
    } else {
        Err(format!("a {what} of {} bytes is too long: at most {most}", text.len()))
    }
}
