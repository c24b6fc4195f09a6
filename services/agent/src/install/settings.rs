//! The agent's flags as the file that systemd reads into its environment: only what differs from what it takes by itself.

use std::io;

use super::{InstallError, TOKEN};
use crate::config::{AgentArgs, DATA_DIR_DEFAULT};

/// Names all files and directories from the root on: the service does not start where the flags were typed.
pub(super) fn make_absolute(agent: &mut AgentArgs) -> io::Result<()> {
    let AgentArgs { data_dir, tls, docker_config, secrets_dir, gpus, .. } = agent;
    let tls = [&mut tls.tls_cert, &mut tls.tls_key, &mut tls.tls_ca];
    let optional = tls.into_iter().chain([docker_config, secrets_dir, &mut gpus.nvml_library]);
    for path in optional.flatten().chain([data_dir]) {
        *path = std::path::absolute(&*path)?;
    }
    Ok(())
}

/// The file. `has_token`: a token lies in a file of its own beside it, so that this one holds no secret.
pub(super) fn text(agent: &AgentArgs, has_token: bool) -> Result<String, InstallError> {
    let AgentArgs {
        gateways,
        node,
        project,
        data_dir,
        insecure,
        tls,
        enrol,
        address,
        no_docker,
        docker_host,
        docker_config,
        secrets_dir,
        metrics_listen,
        image_gc,
        gpus,
        forbid,
    } = agent;
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let flag = |set: bool| set.then(|| "true".to_owned());
    let unless = |text: String, usual: &str| (text != usual).then_some(text);
    let all = [
        ("SKERRY_GATEWAY", Some(gateways.join(","))),
        ("SKERRY_NODE", node.clone()),
        ("SKERRY_PROJECT", unless(project.clone(), "default")),
        ("SKERRY_AGENT_DATA_DIR", unless(data_dir.display().to_string(), DATA_DIR_DEFAULT)),
        ("SKERRY_INSECURE", flag(*insecure)),
        ("SKERRY_TLS_CERT", path(&tls.tls_cert)),
        ("SKERRY_TLS_KEY", path(&tls.tls_key)),
        ("SKERRY_TLS_CA", path(&tls.tls_ca)),
        ("SKERRY_TOKEN_FILE", has_token.then(|| TOKEN.to_owned())),
        ("SKERRY_CA_PIN", enrol.ca_pin.map(|pin| pin.to_string())),
        ("SKERRY_ADDRESS", address.map(|address| address.to_string())),
        ("SKERRY_NO_DOCKER", flag(*no_docker)),
        ("DOCKER_HOST", docker_host.clone()),
        ("SKERRY_DOCKER_CONFIG", path(docker_config)),
        ("SKERRY_SECRETS_DIR", path(secrets_dir)),
        ("SKERRY_METRICS_LISTEN", metrics_listen.map(|address| address.to_string())),
        ("SKERRY_IMAGE_GC_AGE", unless(image_gc.image_gc_age.clone(), "168h")),
        ("SKERRY_IMAGE_GC_HIGH", unless(image_gc.image_gc_high.to_string(), "85")),
        ("SKERRY_IMAGE_GC_LOW", unless(image_gc.image_gc_low.to_string(), "80")),
        ("SKERRY_NVML_LIBRARY", path(&gpus.nvml_library)),
        ("SKERRY_NO_GPU", flag(gpus.no_gpu)),
        ("SKERRY_MPS", flag(gpus.mps)),
        ("SKERRY_FORBID", unless(forbid.text(), "")),
        ("SKERRY_ALLOW_NODE_SHELL", flag(forbid.allow_node_shell)),
    ];
    let mut text = "# Settings of skerry-agent: see `skerry-agent --help`.\n".to_owned();
    for (name, value) in all {
        let Some(value) = value else { continue };
        text.extend([name, "=", &quoted(name, &value)?, "\n"]);
    }
    Ok(text)
}

/// As systemd reads it back, whatever is in it (systemd.exec(5), EnvironmentFile).
fn quoted(name: &'static str, value: &str) -> Result<String, InstallError> {
    if value.contains(['\n', '\r', '\0']) {
        return Err(InstallError::Setting(name));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,@%+[]=".contains(c);
    if value.chars().all(plain) {
        return Ok(value.to_owned());
    }
    let escaped: String = value
        .chars()
        .flat_map(|c| ['"', '\\', '$', '`'].contains(&c).then_some('\\').into_iter().chain([c]))
        .collect();
    Ok(format!("\"{escaped}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_back_as_it_was() {
        let quoted = |value| quoted("NAME", value).unwrap();
        assert_eq!(quoted("https://a:1,https://[::1]:2"), "https://a:1,https://[::1]:2");
        assert_eq!(quoted("/a b"), "\"/a b\"");
        assert_eq!(quoted("a\"b\\c$d"), "\"a\\\"b\\\\c\\$d\"");
        assert!(super::quoted("NAME", "a\nB=c").is_err());
    }
}
