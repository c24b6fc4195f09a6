//! How large a request of each method may be. Most name a resource or two, and no caller shall make the server hold megabytes before it is
//! known who it is.

/// What fits nearly all: names, masks, selectors; a node's labels and annotations are at most 90 KiB.
const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Apps have at most 256 KiB, configs and secrets 512, beside labels and annotations. Twice the largest: who is a little over shall be
/// told which field is too large.
const RESOURCE_BYTES_MAX: usize = 1024 * 1024;

/// Methods that carry a resource that may be large.
const LARGE: [&str; 6] = [
    "/skerry.scheduler.v1.AppService/CreateApp",
    "/skerry.scheduler.v1.AppService/UpdateApp",
    "/skerry.scheduler.v1.ConfigService/CreateConfig",
    "/skerry.scheduler.v1.ConfigService/UpdateConfig",
    "/skerry.scheduler.v1.SecretService/CreateSecret",
    "/skerry.scheduler.v1.SecretService/UpdateSecret",
];
/// Several resources at once have what a transaction of the store takes together, and half a megabyte more: who is a little over shall be told
/// how much they take.
const SEVERAL_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The method that carries them.
const SEVERAL: &str = "/skerry.scheduler.v1.ApplyService/Apply";
/// Streams of requests, which have no end: each message is bounded by the handler's decoder.
const STREAMS: [&str; 8] = [
    "/skerry.gateway.v1.SyncService/Sync",
    "/skerry.gpu.v1.IngestService/Ingest",
    "/skerry.relay.v1.ChannelService/Open",
    "/skerry.relay.v1.PeerService/Forward",
    "/skerry.relay.v1.RelayService/Exec",
    "/skerry.relay.v1.RelayService/ExecNode",
    "/skerry.relay.v1.RelayService/PortForward",
    "/skerry.relay.v1.RelayService/CopyTo",
];

/// Most bytes of the request of the method at `path`, with what gRPC puts around it. `None`: it has no end.
pub(crate) fn request_bytes_max(path: &str) -> Option<usize> {
    if STREAMS.contains(&path) {
        return None;
    }
    Some(match path {
        SEVERAL => SEVERAL_BYTES_MAX,
        path if LARGE.contains(&path) => RESOURCE_BYTES_MAX,
        _ => REQUEST_BYTES_MAX,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_stream_of_requests_of_the_contract_is_known_as_one() {
        let set = FileDescriptorSet::decode(skerry_proto::FILE_DESCRIPTOR_SET).expect("the build made it");
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    assert_eq!(request_bytes_max(&path).is_none(), method.client_streaming(), "{path}");
                }
            }
        }
    }

    #[test]
    fn a_resource_that_is_a_little_too_large_is_refused_by_its_rules_and_not_by_the_transport() {
        let largest = skerry_model::app::SPEC_BYTES_MAX.max(skerry_model::config::CONFIG_BYTES_MAX);
        let metadata = 2 * skerry_model::meta::ANNOTATIONS_BYTES_MAX;
        assert!(RESOURCE_BYTES_MAX > largest + largest / 2 + metadata);
        assert!(REQUEST_BYTES_MAX > metadata);
    }
}
