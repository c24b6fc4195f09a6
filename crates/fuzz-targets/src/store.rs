//! Requests to the embedded etcd, from their bytes on through the store's core.

use std::time::Duration;

use skerry_etcd_embedded::mvcc::{Command, Core, Identity, KeyRange, MemDisk, Range};
use skerry_etcd_embedded::wire;

use crate::steps;

const QUOTA_BYTES: usize = 64 * 1024;

/// What clients send. After it the store opens again from its rows as it was.
pub fn etcd_requests(input: &[u8]) {
    let mut disk = MemDisk::default();
    disk.write(Core::format(Identity { cluster_id: 1, member_id: 2 }));
    disk.sync();
    let mut now = Duration::ZERO;
    let mut core = Core::open(disk.rows(), now).expect("it was just made");
    core.set_quota(QUOTA_BYTES);
    for (how, bytes) in steps(input) {
        now += Duration::from_secs(u64::from(how >> 4));
        let ended = core.tick(now, 10);
        disk.write(ended.writes);
        if let Some(Ok(range)) = wire::range(bytes).filter(|_| how & 8 != 0) {
            if let Ok(answer) = core.range(&range) {
                assert!(answer.count >= i64::try_from(answer.entries.len()).unwrap_or(i64::MAX));
            }
        } else if let Some(Ok(command)) = wire::command(how & 7, bytes) {
            if let Command::Txn(txn) = &command
                && txn.is_read_only()
            {
                let _ = core.read_txn(txn);
            }
            let before = core.revision();
            let (answer, effects) = core.apply(command, now);
            assert!(answer.is_ok() || effects.writes.is_empty(), "a refused command writes nothing");
            assert!(core.revision() >= before && core.revision() <= before + 1, "a command is one revision");
            disk.write(effects.writes);
        }
        disk.sync();
        core.commit(core.revision());
    }
    let again = Core::open(disk.rows(), now).expect("its own rows");
    assert_eq!((again.revision(), again.compacted()), (core.revision(), core.compacted()));
    assert_eq!(again.size_bytes(), core.size_bytes());
    let all = Range::new(KeyRange::all());
    assert_eq!(again.range(&all), core.range(&all));
}
