//! Whole chains: held against their hashes, and written into a file. What is wrong is found here, by the records alone.

use std::path::Path;

use skerry_model::ProjectName;
use skerry_model::audit::{ChainCheck, Checked, Finding, Restored, compare};
use skerry_proto::registry::v1::{
    AuditChain, AuditRecord, ListAuditChainsRequest, ReadAuditChainRequest, ReadAuditChainResponse,
};

use super::export;
use crate::args::VerifyArgs;
use crate::client::{Client, Service, audit, request};
use crate::error::CliError;
use crate::print::{Printer, complain};

/// How often a chain is read anew that is not whole: records may be removed for their age while it is read.
const READS_MAX: u32 = 3;

pub(super) async fn verify(
    client: &Client,
    args: &VerifyArgs,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let (mut whole, mut wrong) = (Vec::new(), Vec::new());
    for chain in chains(client).await? {
        let mut reads = 0;
        loop {
            reads += 1;
            match check(client, &chain).await? {
                Ok(checked) => break whole.push(checked),
                Err(finding) if reads >= READS_MAX => break wrong.push(finding),
                Err(_) => {}
            }
        }
    }
    conclude(&whole, wrong, args.restored, printer)
}

/// The same of an export.
pub(crate) fn verify_file(path: &Path, args: &VerifyArgs, printer: &mut Printer) -> Result<(), CliError> {
    let (mut whole, mut wrong) = (Vec::new(), Vec::new());
    for (chain, records) in export::read(path)? {
        let checked = ChainCheck::new(&chain).and_then(|mut check| {
            records.iter().try_for_each(|record| check.take(record))?;
            check.finish(&chain)
        });
        match checked {
            Ok(checked) => whole.push(checked),
            Err(finding) => wrong.push(finding),
        }
    }
    conclude(&whole, wrong, args.restored, printer)
}

/// Says what was found: each chain that is whole, then what is wrong. `restored`: the store was, as somebody says who knows.
fn conclude(
    whole: &[Checked],
    mut wrong: Vec<Finding>,
    restored: bool,
    printer: &mut Printer,
) -> Result<(), CliError> {
    for chain in whole {
        let removed = match chain.removed {
            0 => String::new(),
            removed => format!("; begins at {}, earlier ones were removed for age or number", removed + 1),
        };
        let former = chain.start.as_ref().and_then(|start| start.former.as_ref());
        let former = former.map_or_else(String::new, |former| {
            format!("; follows the chain {} at {}, as its writer knew it", former.chain, former.sequence)
        });
        printer.line(&format!("{}: {} records{removed}{former}", chain.chain, chain.records()))?;
    }
    // What one chain says of another that is broken itself is told by that one.
    let broken: Vec<String> = wrong.iter().map(|finding| finding.chain.clone()).collect();
    let restored = if restored { Restored::Yes } else { Restored::No };
    wrong.extend(compare(whole, restored).into_iter().filter(|finding| !broken.contains(&finding.chain)));
    let records: usize = whole.iter().map(Checked::records).sum();
    if whole.is_empty() && wrong.is_empty() {
        let message = "there is no chain: every change leaves a record, so the log was emptied, or nothing was ever changed";
        return Err(CliError::Failed(message.to_owned()));
    }
    if wrong.is_empty() {
        return printer.line(&format!("whole: {} chains, {records} records", whole.len()));
    }
    for finding in &wrong {
        complain(&CliError::Failed(finding.to_string()));
    }
    let message = format!("the audit log is not as it was written: {} findings", wrong.len());
    Err(CliError::Failed(message))
}

pub(super) async fn export(client: &Client, printer: &mut Printer) -> Result<(), CliError> {
    for chain in chains(client).await? {
        let mut records = Vec::new();
        let head = read(client, &chain, |part| {
            records.extend_from_slice(part);
            Ok(())
        });
        let head = head.await?.expect("nothing is refused here");
        // Those that were removed for their age while it was read: the chain begins behind them now.
        records.retain(|record| record.sequence > head.removed_sequence);
        printer.line(&export::chain_line(&head))?;
        for record in &records {
            printer.line(&export::record_line(record))?;
        }
    }
    Ok(())
}

async fn chains(client: &Client) -> Result<Vec<AuditChain>, CliError> {
    let listed = client.call(Service::Registry, |channel, left| {
        let wanted = ListAuditChainsRequest { parent: ProjectName::system().parent() };
        async move { audit(channel).list_audit_chains(request(wanted, left)).await }
    });
    Ok(listed.await?.chains)
}

async fn check(client: &Client, chain: &AuditChain) -> Result<Result<Checked, Finding>, CliError> {
    // Where it begins is what the newest answer says, and known before the first record.
    let first = part(client, &chain.name, 0).await?;
    let begins = first.chain.unwrap_or_default();
    let mut check = match ChainCheck::new(&begins) {
        Ok(check) => check,
        Err(finding) => return Ok(Err(finding)),
    };
    let read = read(client, &begins, |part| part.iter().try_for_each(|record| check.take(record)));
    Ok(match read.await? {
        Ok(head) => check.finish(&head),
        Err(finding) => Err(finding),
    })
}

/// Reads a chain to its end, and answers its head as it was last.
async fn read(
    client: &Client,
    chain: &AuditChain,
    mut take: impl FnMut(&[AuditRecord]) -> Result<(), Finding>,
) -> Result<Result<AuditChain, Finding>, CliError> {
    let mut after = chain.removed_sequence;
    loop {
        let ReadAuditChainResponse { chain, records } = part(client, &chain.name, after).await?;
        if let Err(finding) = take(&records) {
            return Ok(Err(finding));
        }
        match records.last() {
            Some(last) if last.sequence > after => after = last.sequence,
            _ => return Ok(Ok(chain.unwrap_or_default())),
        }
    }
}

async fn part(client: &Client, chain: &str, after_sequence: u64) -> Result<ReadAuditChainResponse, CliError> {
    let read = client.call(Service::Registry, |channel, left| {
        let parent = ProjectName::system().parent();
        let wanted = ReadAuditChainRequest { parent, chain: chain.to_owned(), after_sequence };
        async move { audit(channel).read_audit_chain(request(wanted, left)).await }
    });
    Ok(read.await?)
}
