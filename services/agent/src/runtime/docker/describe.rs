//! What Docker says of itself for who looks for a fault: no proxies, registries and labels, which may hold what is not for others.

use std::fmt::{Debug, Write as _};

use bollard::models::SystemInfo;

/// A line for each thing that it says.
pub(super) fn lines(info: &SystemInfo) -> String {
    let mut text = String::new();
    say(&mut text, "server version", info.server_version.as_ref());
    say(&mut text, "kernel", info.kernel_version.as_ref());
    say(&mut text, "system", info.operating_system.as_ref());
    say(&mut text, "architecture", info.architecture.as_ref());
    say(&mut text, "cpus", info.ncpu.as_ref());
    say(&mut text, "memory bytes", info.mem_total.as_ref());
    say(&mut text, "storage driver", info.driver.as_ref());
    say(&mut text, "storage status", info.driver_status.as_ref());
    say(&mut text, "log driver", info.logging_driver.as_ref());
    say(&mut text, "cgroup driver", info.cgroup_driver.as_ref());
    say(&mut text, "cgroup version", info.cgroup_version.as_ref());
    say(&mut text, "default runtime", info.default_runtime.as_ref());
    say(&mut text, "root directory", info.docker_root_dir.as_ref());
    say(&mut text, "live restore", info.live_restore_enabled.as_ref());
    say(&mut text, "security", info.security_options.as_ref());
    say(&mut text, "containers", info.containers.as_ref());
    say(&mut text, "containers running", info.containers_running.as_ref());
    say(&mut text, "containers paused", info.containers_paused.as_ref());
    say(&mut text, "containers stopped", info.containers_stopped.as_ref());
    say(&mut text, "images", info.images.as_ref());
    say(&mut text, "memory limit", info.memory_limit.as_ref());
    say(&mut text, "swap limit", info.swap_limit.as_ref());
    say(&mut text, "warnings", info.warnings.as_ref());
    text
}

fn say(text: &mut String, name: &str, value: Option<&impl Debug>) {
    if let Some(value) = value {
        let _ = writeln!(text, "{name}: {value:?}");
    }
}
