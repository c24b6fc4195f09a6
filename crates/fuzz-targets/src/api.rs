//! What callers of the API send beside messages: the header of a proxy, the name that a request is about, page tokens and versions.

use prost::Message as _;
use skerry_api::ResourceVersion;
use skerry_identity::{Principal, TrustDomain};
use skerry_proto::registry::v1::UpdateNodeRequest;
use skerry_rpc::untrusted::{name_at, named};
use skerry_store::PageToken;

/// Where the name stands in a request to update a node.
const METADATA: [u32; 3] = [1, 1, 1];

/// The header by which a proxy says who calls. It names a service of the domain, or nobody.
pub fn forwarded(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let domain = TrustDomain::parse("example.org").expect("a domain");
    if let Some(identity) = named(text, &domain) {
        assert!(matches!(identity.principal, Principal::Service(_)), "{identity} brings its own certificate");
        assert_eq!(identity.trust_domain, domain);
    }
}

/// A request, whose project is read before it is decoded. What the layer reads is what the handler gets, or the request is refused.
pub fn request_names(input: &[u8]) {
    let Some(name) = name_at(input, &METADATA) else { return };
    if let Ok(request) = UpdateNodeRequest::decode(input) {
        let metadata = request.node.and_then(|node| node.metadata).unwrap_or_default();
        assert_eq!(metadata.name, name, "judged by one name, handled by another");
    }
}

/// Where a listing or a watch goes on. What is read names no key outside of the store's own.
pub fn versions(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(token) = PageToken::parse(text) {
        assert_eq!(PageToken::parse(&token.to_string()), Ok(token.clone()));
        assert!(token.after.starts_with(skerry_store::keys::ROOT));
    }
    if let Ok(version) = ResourceVersion::parse(text) {
        assert_eq!(ResourceVersion::parse(&version.to_string()).ok(), Some(version));
    }
}
