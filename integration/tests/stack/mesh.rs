//! Behind a mesh: nginx as the sidecar of a registry ends the TLS of services and says whose certificate it saw, which is believed of it and
//! of nobody else; what it passes through keeps its own TLS.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use skerry_integration::stack::PATIENCE;
use skerry_proto::registry::v1::GetRootsRequest;
use skerry_proto::registry::v1::issuer_service_client::IssuerServiceClient;
use skerry_rpc::{TlsFile, TlsPaths};
use skerry_testing::{Authority, Etcd, Process, TlsFiles, bin, find_program, free_port};
use tonic::{Code, Request, Status};

const GATEWAY: &str = "spiffe://example.org/project/system/service/gateway";
const ADA: &str = "spiffe://example.org/project/default/user/ada";
/// Where the sidecar comes from; whoever calls from elsewhere on this machine is 127.0.0.1.
const SIDECAR: &str = "127.0.0.77";

/// nginx: on one port it ends TLS and forwards, on the other it passes TLS through.
fn sidecar(dir: &Path, own: &TlsFiles, (ending, passing, registry): (u16, u16, u16)) -> Result<Process> {
    let (certificate, key, ca) = (own.certificate.display(), own.key.display(), own.authority.display());
    let place = dir.display();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {place}/nginx.pid;\nerror_log stderr;\n\
         include /etc/nginx/modules-enabled/*stream*.conf;\nevents {{}}\n\
         http {{\n  access_log off;\n  client_body_temp_path {place}/body;\n  proxy_temp_path {place}/proxy;\n  \
         fastcgi_temp_path {place}/fastcgi;\n  uwsgi_temp_path {place}/uwsgi;\n  scgi_temp_path {place}/scgi;\n  \
         server {{\n    listen 127.0.0.1:{ending} ssl http2;\n    \
         ssl_certificate {certificate};\n    ssl_certificate_key {key};\n    ssl_protocols TLSv1.3;\n    \
         ssl_client_certificate {ca};\n    ssl_verify_client on;\n    ssl_verify_depth 3;\n    \
         location / {{\n      grpc_pass grpc://127.0.0.1:{registry};\n      grpc_bind {SIDECAR};\n      \
         grpc_set_header x-forwarded-client-cert 'Cert=\"$ssl_client_escaped_cert\"';\n    }}\n  }}\n}}\n\
         stream {{\n  server {{\n    listen 127.0.0.1:{passing};\n    proxy_bind {SIDECAR};\n    proxy_pass 127.0.0.1:{registry};\n  }}\n}}\n"
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config)?;
    let nginx = find_program("nginx").context("nginx is not installed")?;
    let mut command = Command::new(nginx);
    // Its own prefix: there are its modules.
    command.arg("-e").arg("stderr").arg("-c").arg(&file);
    Process::spawn_command(&mut command, dir.join("nginx.log"))
}

fn paths(files: &TlsFiles) -> TlsPaths {
    let file = |setting, path: &Path| TlsFile { setting, path: path.to_owned() };
    TlsPaths {
        own: Some((file("--tls-cert", &files.certificate), file("--tls-key", &files.key))),
        authority: file("--tls-ca", &files.authority),
    }
}

/// Asks for what is for services on `port`, by TLS as `who` or in plain, with `header` if there is one.
async fn ask(port: u16, who: Option<&TlsFiles>, header: Option<&str>) -> Result<Result<(), Status>> {
    let tls = who.map(|files| skerry_rpc::TlsFiles::load(paths(files))).transpose()?;
    let tls = tls.as_ref().map(skerry_rpc::TlsFiles::client);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let channel = skerry_rpc::connect(&format!("{scheme}://127.0.0.1:{port}"), tls.as_ref()).await?;
    let mut request = Request::new(GetRootsRequest {});
    if let Some(header) = header {
        request.metadata_mut().insert("x-forwarded-client-cert", header.parse()?);
    }
    let answer = IssuerServiceClient::new(channel).get_roots(request).await.map(drop);
    // There is no authority here: that this is said shows that the caller was let in.
    Ok(answer.or_else(|status| if status.code() == Code::FailedPrecondition { Ok(()) } else { Err(status) }))
}

#[tokio::test]
async fn a_service_s_identity_is_taken_from_the_sidecar_and_from_nobody_else() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("example.org");
    let files = |name: &str, identity: &str| authority.write(dir.path(), name, identity);
    let own = files("registry", "spiffe://example.org/project/system/service/registry");
    let (gateway, ada) = (files("gateway", GATEWAY), files("ada", ADA));
    let etcd = Etcd::start().await?;
    let ports @ (ending, passing, port) = (free_port(), free_port(), free_port());
    let mut command = Command::new(bin("skerry-registry"));
    command.arg(format!("--etcd={}", etcd.endpoint())).arg(format!("--listen=127.0.0.1:{port}"));
    command.args(own.flags()).arg(format!("--trusted-proxy={SIDECAR}"));
    let mut registry = Process::spawn_command(&mut command, dir.path().join("registry.log"))?;
    registry.wait_for_port(format!("127.0.0.1:{port}").parse()?, PATIENCE).await?;
    let mut nginx = sidecar(dir.path(), &own, ports)?;
    for port in [ending, passing] {
        nginx.wait_for_port(format!("127.0.0.1:{port}").parse()?, PATIENCE).await?;
    }

    // A service by its name; a user is nobody there, as it brings its own TLS, which is passed through.
    let denied = |outcome: Result<(), Status>, code: Code, words: &str| -> Result<()> {
        let status = outcome.err().context("it was let in")?;
        ensure!(status.code() == code && status.message().contains(words), "{status:?}");
        Ok(())
    };
    ask(ending, Some(&gateway), None).await?.context("the gateway, through the sidecar")?;
    denied(ask(ending, Some(&ada), None).await?, Code::PermissionDenied, "may not be forwarded")?;
    ask(passing, Some(&gateway), None).await?.context("TLS that is passed through")?;

    // What a caller says of itself is replaced by the sidecar, and refused where it comes another way.
    let claim = format!("URI={GATEWAY}");
    denied(ask(ending, Some(&ada), Some(&claim)).await?, Code::PermissionDenied, "may not be forwarded")?;
    for way in [port, passing] {
        let outcome = ask(way, Some(&gateway), Some(&claim)).await?;
        denied(outcome, Code::PermissionDenied, "believed from trusted proxies only")?;
    }
    let plain = ask(port, None, Some(&claim)).await?;
    ensure!(plain.is_err(), "plain HTTP/2 from an address that is not trusted");
    nginx.terminate(PATIENCE).await?;
    registry.terminate(PATIENCE).await?;
    Ok(())
}
