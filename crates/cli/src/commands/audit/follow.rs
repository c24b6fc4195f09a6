//! `audit -f`: lists, then goes on with what comes, through lost connections. What was shown is known by chain and number, since times of
//! several processes are in no order.

use std::collections::BTreeMap;

use prost_types::Timestamp;
use skerry_proto::registry::v1::{
    AuditFilter, AuditRecord, ListAuditRecordsRequest, WatchAuditRecordsRequest,
};
use tonic::Request;

use super::records::{Moment, filter_of, list, show, time_of};
use crate::args::AuditArgs;
use crate::client::{Client, Service, audit, jittered, request};
use crate::error::{CliError, is_transport_failure, root_cause};
use crate::patience::Lost;
use crate::print::Printer;

/// A server is asked again for what is so much older than the newest that was shown: clocks differ, and chains are told one after the other.
const OVERLAP_SECONDS: i64 = 60;
/// Chains that are remembered; a process that writes begins a few.
const CHAINS_MAX: usize = 10_000;

/// What was shown, to go on behind it.
#[derive(Debug)]
struct Shown {
    /// The last of each chain.
    chains: BTreeMap<String, u64>,
    /// The newest there was.
    newest: Moment,
    /// Of a chain of which nothing was shown, what is older than this is behind the listing's end.
    oldest: Option<Moment>,
}

impl Shown {
    /// What a listing has shown. `newest`: of all records there were before it, shown or not. `is_cut`: there are older ones.
    fn of(listed: &[AuditRecord], newest: Option<Moment>, is_cut: bool) -> Self {
        let oldest = listed.first().map(time_of).filter(|_| is_cut);
        let mut shown = Self { chains: BTreeMap::new(), newest: newest.unwrap_or_default(), oldest };
        for record in listed {
            shown.enter(record);
        }
        shown
    }

    fn enter(&mut self, record: &AuditRecord) {
        self.newest = self.newest.max(time_of(record));
        let last = self.chains.entry(record.chain.clone()).or_default();
        *last = record.sequence.max(*last);
        if self.chains.len() > CHAINS_MAX {
            self.chains.pop_first();
        }
    }

    /// Takes a record; whether it is to be shown.
    fn take(&mut self, record: &AuditRecord) -> bool {
        let is_new = match self.chains.get(&record.chain) {
            Some(last) => record.sequence > *last,
            None => self.oldest.is_none_or(|oldest| time_of(record) >= oldest),
        };
        if is_new {
            self.enter(record);
        }
        is_new
    }

    /// From when on to ask, but for what nobody wants.
    fn since(&self, wanted: Option<Timestamp>) -> Timestamp {
        let (seconds, nanos) = self.newest;
        let at = (seconds.saturating_sub(OVERLAP_SECONDS).max(0), nanos);
        let (seconds, nanos) = wanted.map_or(at, |wanted| at.max((wanted.seconds, wanted.nanos)));
        Timestamp { seconds, nanos }
    }
}

/// When the newest record of the project was made; nothing: there is none.
async fn newest(client: &Client) -> Result<Option<Moment>, CliError> {
    let wanted =
        ListAuditRecordsRequest { parent: client.project().parent(), page_size: 1, ..Default::default() };
    let page = client.call(Service::Registry, |channel, left| {
        let wanted = wanted.clone();
        async move { audit(channel).list_audit_records(request(wanted, left)).await }
    });
    Ok(page.await?.records.first().map(time_of))
}

pub(super) async fn follow(client: &Client, args: &AuditArgs, printer: &mut Printer) -> Result<(), CliError> {
    let wanted = filter_of(args)?;
    // Before the listing: what is made meanwhile is newer.
    let newest = newest(client).await?;
    let listed = list(client, args, printer).await?;
    let mut shown = Shown::of(&listed, newest, args.limit > 0 && listed.len() >= args.limit);
    drop(listed);
    let mut lost = Lost::default();
    let mut failures = 0;
    loop {
        let filter = AuditFilter { since: Some(shown.since(wanted.since)), ..wanted.clone() };
        let wanted = WatchAuditRecordsRequest { parent: client.project().parent(), filter: Some(filter) };
        let begun = client.call(Service::Registry, |channel, _| {
            let wanted = wanted.clone();
            async move { audit(channel).watch_audit_records(Request::new(wanted)).await }
        });
        match begun.await {
            Ok(mut stream) => {
                lost.over();
                let why = loop {
                    let record = match stream.message().await {
                        Ok(Some(told)) => told.record.unwrap_or_default(),
                        Ok(None) => break "the server has ended the stream".to_owned(),
                        Err(status) if is_transport_failure(&status) => break root_cause(&status),
                        Err(status) => return Err(CliError::of_status(&status, "the server")),
                    };
                    failures = 0;
                    if shown.take(&record) {
                        show(std::slice::from_ref(&record), args, false, printer)?;
                    }
                };
                lost.say(&why);
            }
            Err(error) if error.is_unreachable() => lost.say(&CliError::from(error).summary()),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(jittered(failures)).await;
        failures = failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_proto::types::v1::AuditEntry;

    fn record(chain: &str, sequence: u64, seconds: i64) -> AuditRecord {
        let time = Some(Timestamp { seconds, nanos: 0 });
        let content = Some(AuditEntry { time, ..AuditEntry::default() });
        AuditRecord { chain: chain.into(), sequence, content, ..AuditRecord::default() }
    }

    #[test]
    fn what_was_shown_is_not_shown_again_and_what_was_not_is_though_its_clock_is_behind() {
        let mut shown = Shown::of(&[record("a", 4, 1000), record("a", 5, 1010)], Some((1010, 0)), false);
        for old in [record("a", 4, 1000), record("a", 5, 1010)] {
            assert!(!shown.take(&old), "{old:?}");
        }
        assert!(shown.take(&record("b", 1, 1005)), "another chain's, whose clock is behind");
        assert!(!shown.take(&record("b", 1, 1005)));
        assert!(shown.take(&record("a", 6, 1011)));
        assert_eq!(shown.since(None).seconds, 1011 - OVERLAP_SECONDS);
    }

    #[test]
    fn what_a_listing_was_cut_off_before_is_not_shown_after_it() {
        let mut shown = Shown::of(&[record("a", 5, 1010)], Some((1010, 0)), true);
        assert!(!shown.take(&record("a", 4, 1000)));
        assert!(!shown.take(&record("b", 7, 1000)));
        assert!(shown.take(&record("b", 8, 1010)));
    }

    #[test]
    fn who_was_shown_nothing_is_told_from_what_was_newest_on_and_nothing_that_was_not_asked_for() {
        let shown = Shown::of(&[], Some((5000, 7)), false);
        assert_eq!(shown.since(None), Timestamp { seconds: 5000 - OVERLAP_SECONDS, nanos: 7 });
        let asked = Timestamp { seconds: 4990, nanos: 0 };
        assert_eq!(shown.since(Some(asked)), asked);
        assert_eq!(Shown::of(&[], None, false).since(None), Timestamp::default());
    }
}
