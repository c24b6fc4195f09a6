//! etcd-embedded
