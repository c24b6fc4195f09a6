//! `cargo xtask bench stack`: the stack of `compose.yaml`, from nothing to the first healthy app, how large its images are, and what its
//! idle control plane takes of memory.
//!
//! The images hold the programs as they are shipped, on a base made on this machine; they are built before the clock starts.

mod support;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skerry_integration::Compose;
use skerry_testing::{BUSYBOX_IMAGE, Budget, Docker, Figures, bin, compose_required, free_port};
use support::{edge_bin, ms, note_load, proc, quick};

/// Each image, beyond its base.
const IMAGE_MB_MAX: f64 = 30.0;
/// Registry, scheduler and gateway together, without etcd.
const IDLE_MIB_MAX: f64 = 40.0;
const CONTROL_PLANE: [&str; 3] = ["registry", "scheduler", "gateway"];
const SERVICES: [&str; 6] = ["registry", "scheduler", "gateway", "relay", "agent", "cli"];
/// After the app is healthy, before memory is looked at.
const SETTLE: Duration = Duration::from_secs(20);
const MIB: f64 = 1024.0 * 1024.0;

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Result<()> {
    let figures = Figures::from_args();
    let docker = Docker::find()?;
    let Some(program) = compose_required() else { return Ok(()) };
    docker.busybox()?;
    let place = |name: &str| if name == "skerry-agent" { edge_bin(name) } else { Ok(bin(name)) };
    let compose = Compose::build(program, docker, place).await?;
    for service in SERVICES {
        let size = compose.image_bytes_over_base(service)? as f64 / 1e6;
        figures.hold(&format!("stack.image.{service}"), size, "MB", Budget::AtMost(IMAGE_MB_MAX));
    }
    note_load(&figures);

    let begun = Instant::now();
    compose.run(&["up", "--detach", "--wait", "--no-build"]).await?;
    figures.show("stack.cold.up", ms(begun.elapsed()), "ms");
    compose.cli(&["apply", "-f", "-"], &manifest(free_port())).await?;
    compose.cli(&["wait", "app/web", "--for=healthy", "--timeout=2m"], "").await?;
    figures.show("stack.cold.app_healthy", ms(begun.elapsed()), "ms");

    tokio::time::sleep(if quick() { Duration::ZERO } else { SETTLE }).await;
    let (mut resident, mut proportional) = (0.0, 0.0);
    for service in CONTROL_PLANE {
        let containers = compose.containers(service)?;
        ensure!(containers.len() == 1, "{} containers of {service}", containers.len());
        let pid = containers[0]["State"]["Pid"].as_u64().context("it runs")?;
        let memory = proc::memory(pid.try_into()?)?;
        let mib = memory.resident as f64 / MIB;
        figures.show(&format!("stack.idle.rss.{service}"), mib, "MiB");
        resident += mib;
        proportional += memory.pss as f64 / MIB;
    }
    figures.hold("stack.idle.rss", resident, "MiB", Budget::AtMost(IDLE_MIB_MAX));
    figures.show("stack.idle.pss", proportional, "MiB");
    note_load(&figures);
    compose.cli(&["delete", "app/web"], "").await.map(drop)
}

fn manifest(port: u16) -> String {
    format!(
        "apiVersion: skerry/v1\nkind: App\nmetadata: {{name: web}}\nspec:\n  services:\n  - name: web\n    container:\n      \
         image: {BUSYBOX_IMAGE}\n      pullPolicy: never\n      command: [httpd, -f, -p, \"8080\", -h, /bin]\n      \
         ports: [{{containerPort: 8080, hostPort: {port}, hostAddress: 127.0.0.1}}]\n    \
         healthCheck: {{http: {{port: 8080, path: /busybox}}, interval: 1s}}\n    stop: {{signal: SIGKILL}}\n"
    )
}
