//! One GET over http or https, with redirects. A connection of its own each: downloads are few and long.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderName, LOCATION, RANGE, USER_AGENT};
use hyper::http::uri::Scheme;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The longest that a server may take to be reached and to begin its answer.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Most redirects of one download.
const REDIRECTS_MAX: usize = 8;

/// An answer whose body is read while its connection is held.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    /// Ends the connection when dropped.
    _driver: JoinSet<()>,
}

/// GETs `url` from byte `from` on; the server may answer with all of it nevertheless. With `unless`, a header that asks for other content than some,
/// it may answer that it has no other. Errors are sentences for people.
pub(super) async fn get(
    url: &str,
    from: u64,
    unless: Option<(HeaderName, &str)>,
    certificates: Option<&Path>,
) -> Result<Answer, String> {
    let mut uri: Uri = url.parse().map_err(|error| format!("the URL does not read: {error}"))?;
    for _ in 0..=REDIRECTS_MAX {
        let answer = timeout(ANSWER_WAIT, ask(&uri, from, unless.clone(), certificates));
        let answer = answer.await.map_err(|_| format!("no answer in {} s", ANSWER_WAIT.as_secs()))??;
        let status = answer.response.status();
        if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(answer);
        }
        let location = answer.response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        uri = follow(&uri, location.unwrap_or_default())?;
    }
    Err(format!("more than {REDIRECTS_MAX} redirects"))
}

/// Where a redirect leads: never from https to http.
fn follow(from: &Uri, location: &str) -> Result<Uri, String> {
    let unusable = || "it redirects to where no download can go".to_owned();
    let mut target = location.parse::<Uri>().map_err(|_| unusable())?.into_parts();
    if target.authority.is_none() {
        if !location.starts_with('/') {
            return Err(unusable());
        }
        target.scheme = from.scheme().cloned();
        target.authority = from.authority().cloned();
    }
    let target = Uri::from_parts(target).map_err(|_| unusable())?;
    match target.scheme_str() {
        Some("https") => Ok(target),
        Some("http") if from.scheme() != Some(&Scheme::HTTPS) => Ok(target),
        Some("http") => Err("it redirects from https to http".to_owned()),
        _ => Err(unusable()),
    }
}

async fn ask(
    uri: &Uri,
    from: u64,
    unless: Option<(HeaderName, &str)>,
    certificates: Option<&Path>,
) -> Result<Answer, String> {
    let authority = uri.authority().ok_or("the URL names no host")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let secure = uri.scheme() == Some(&Scheme::HTTPS);
    let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::get(path)
        .header(HOST, authority.as_str())
        .header(USER_AGENT, concat!("skerry-agent/", env!("CARGO_PKG_VERSION")));
    if from > 0 {
        request = request.header(RANGE, format!("bytes={from}-"));
    }
    if let Some((name, value)) = unless {
        request = request.header(name, value);
    }
    let request = request.body(Empty::new()).map_err(|error| format!("the URL does not read: {error}"))?;
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("connecting to {authority}: {error}"))?;
    if !secure {
        return exchange(stream, request).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("`{host}` is no name of a host"))?;
    let config = trust(certificates).await?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| format!("TLS with {authority}: {error}"))?;
    exchange(stream, request).await
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let asking = |error: hyper::Error| format!("asking: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(asking)?;
    // Its errors come out at the response and its body.
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    let response = sender.send_request(request).await.map_err(asking)?;
    Ok(Answer { response, _driver: driver })
}

/// Whom to trust: read for each connection, so that an idle agent holds no certificates and new ones count at once.
async fn trust(certificates: Option<&Path>) -> Result<ClientConfig, String> {
    let file = certificates.map(Path::to_owned);
    let load = move || match file {
        Some(file) => rustls_native_certs::load_certs_from_paths(Some(&file), None),
        None => rustls_native_certs::load_native_certs(),
    };
    let found =
        tokio::task::spawn_blocking(load).await.map_err(|error| format!("the agent stops: {error}"))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(format!(
            "this machine trusts no certificates{why}: install ca-certificates, or name a file of them in the agent's SSL_CERT_FILE"
        ));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_http_and_never_leave_https() {
        let rows = [
            ("http://a/x", "/y?z", Some("http://a/y?z")),
            ("http://a/x", "https://b/y", Some("https://b/y")),
            ("https://a:8/x", "/y", Some("https://a:8/y")),
            ("https://a/x", "http://a/y", None),
            ("http://a/x", "ftp://a/y", None),
            ("http://a/x", "y", None),
            ("http://a/x", "", None),
        ];
        for (from, location, to) in rows {
            let target = follow(&from.parse().unwrap(), location).ok().map(|uri| uri.to_string());
            assert_eq!(target.as_deref(), to, "{from} to {location}");
        }
    }
}
