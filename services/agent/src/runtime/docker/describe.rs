//! What Docker says of itself for who looks for a fault: no proxies, registries and labels, which may hold what is not for others.

use std::fmt::{Debug, Write as _};

use bollard::models::SystemInfo;

/// A line for each thing that it says.
pub(super) fn lines(info: &SystemInfo) -> String {
    let mut text = String::new();
    let mut say = |name: &str, value: Option<&dyn Debug>| {
        if let Some(value) = value {
            let _ = writeln!(text, "{name}: {value:?}");
        }
    };
    fn of<T: Debug>(value: &Option<T>) -> Option<&dyn Debug> {
        value.as_ref().map(|value| value as &dyn Debug)
    }
    say("server version", of(&info.server_version));
    say("kernel", of(&info.kernel_version));
    say("system", of(&info.operating_system));
    say("architecture", of(&info.architecture));
    say("cpus", of(&info.ncpu));
    say("memory bytes", of(&info.mem_total));
    say("storage driver", of(&info.driver));
    say("storage status", of(&info.driver_status));
    say("log driver", of(&info.logging_driver));
    say("cgroup driver", of(&info.cgroup_driver));
    say("cgroup version", of(&info.cgroup_version));
    say("default runtime", of(&info.default_runtime));
    say("root directory", of(&info.docker_root_dir));
    say("live restore", of(&info.live_restore_enabled));
    say("security", of(&info.security_options));
    say("containers", of(&info.containers));
    say("containers running", of(&info.containers_running));
    say("containers paused", of(&info.containers_paused));
    say("containers stopped", of(&info.containers_stopped));
    say("images", of(&info.images));
    say("memory limit", of(&info.memory_limit));
    say("swap limit", of(&info.swap_limit));
    say("warnings", of(&info.warnings));
    text
}
