//! The service, as systemd reads it.
//!
//! Programs that the agent starts are its children and inherit what confines it, and containers' mounts are made by another service. So
//! nothing here gives it a view of the file system of its own (`ProtectSystem` and its kin: what it mounts for a container would be seen by
//! nobody else), and nothing takes rights from it that an operator's program may need, as `NoNewPrivileges` or a filter of system calls
//! would. What is taken away is what no program on an edge machine has to do through an agent.

pub(super) const TEXT: &str = "\
# Written by `skerry-agent install`; `skerry-agent uninstall` removes it. Settings are in /etc/skerry/agent.env.
[Unit]
Description=Skerry agent
Wants=network-online.target
After=network-online.target docker.service
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=/usr/local/bin/skerry-agent
EnvironmentFile=/etc/skerry/agent.env
Restart=always
RestartSec=5
# Only the agent ends; what it started runs on, and the next agent finds it.
KillMode=process
# Limits of programs are groups beside the agent's own.
Delegate=yes
OOMScoreAdjust=-500
LimitNOFILE=65536
TasksMax=infinity
UMask=0077
KeyringMode=private
LockPersonality=yes
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_BOOT CAP_SYS_TIME CAP_SYSLOG CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_AUDIT_CONTROL CAP_WAKE_ALARM

[Install]
WantedBy=multi-user.target
";
