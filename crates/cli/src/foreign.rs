//! Words that people bring along from kubectl, Docker and Compose, or look for in another place, and what there is here instead. Help only:
//! none of them does anything.

/// What to do in place of a command that there is none of.
pub fn command(word: &str) -> Option<&'static str> {
    Some(match word {
        "attach" => {
            "`skerry logs app/NAME -f` shows what is written, and `skerry exec -it app/NAME -- sh` goes inside"
        }
        "shell" | "ssh" => "`skerry exec -it app/NAME -- sh`, and `skerry exec -it node/NAME` on a machine",
        "run" | "replace" | "patch" | "set" | "scale" | "expose" | "autoscale" => {
            "write a manifest and `skerry apply -f FILE`, or change what is there with `skerry edit app/NAME`; \
             `skerry explain app.spec.services` says what can be written"
        }
        "ps" => "`skerry get instances` shows what runs",
        "nvidia-smi" | "nvtop" => {
            "`skerry top gpus` shows how busy GPUs are, and `skerry get gpus` which there are"
        }
        "stats" => "`skerry top apps` shows what apps use",
        "ls" | "list" => "`skerry get apps`, or nodes, instances, configs, secrets",
        "rm" | "kill" | "remove" => "`skerry delete app/NAME` stops an app and takes it away",
        "down" | "stop" => {
            "Ctrl-C ends `skerry up`, and what runs runs on; `skerry delete app/NAME` stops an app and takes it away"
        }
        "compose" | "stack" => {
            "`skerry apply -f docker-compose.yml --as-app NAME` deploys a Compose file, and `skerry convert` shows what it becomes"
        }
        "start" | "init" | "server" => "`skerry up` runs everything in one process",
        "cluster-info" | "info" => "`skerry status` shows how the installation is",
        "api-resources" | "api-versions" => "`skerry explain` shows the kinds",
        "context" | "use-context" | "get-contexts" | "login" => "contexts are kept by `skerry config`",
        "kustomize" => "kustomizations are not read: `skerry apply -f` takes files and directories",
        _ => return None,
    })
}

/// What to do in place of a flag that there is none of, as it was typed.
pub fn flag(flag: &str) -> Option<&'static str> {
    Some(match flag {
        "-n" | "--namespace" => "what are namespaces elsewhere are projects here: -p NAME or --project NAME",
        "-A" | "--all-namespaces" => "a command is about one project: --project NAME",
        "-k" | "--kustomize" => "kustomizations are not read: -f takes files and directories",
        "--kubeconfig" => "SKERRY_CONFIG names another file of contexts",
        _ => return None,
    })
}

/// The type that is nearest to one of kubectl's.
pub(crate) fn type_of(word: &str) -> Option<&'static str> {
    Some(match word {
        "pod" | "pods" | "po" | "container" | "containers" | "replicaset" | "replicasets" | "rs" => {
            "instances"
        }
        "deployment" | "deployments" | "deploy" | "daemonset" | "daemonsets" | "ds" | "statefulset"
        | "statefulsets" | "sts" | "service" | "services" | "svc" | "job" | "jobs" | "cronjob"
        | "cronjobs" => "apps",
        "configmap" | "configmaps" | "cm" => "configs",
        _ => return None,
    })
}

/// The command that shows what is no type of `get`.
pub(crate) fn listed_by(word: &str) -> Option<&'static str> {
    Some(match word {
        "role" | "roles" => "skerry role list",
        "token" | "tokens" => "skerry token list",
        "context" | "contexts" => "skerry config get-contexts",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_from_elsewhere_are_answered_and_others_are_not() {
        assert!(command("attach").is_some_and(|hint| hint.contains("skerry exec")));
        assert!(flag("-n").is_some_and(|hint| hint.contains("--project")));
        assert_eq!(type_of("pods"), Some("instances"));
        assert_eq!(listed_by("tokens"), Some("skerry token list"));
        assert_eq!((command("nonsense"), flag("-q"), type_of("nodse")), (None, None, None));
    }
}
