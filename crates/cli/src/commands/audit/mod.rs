//! `audit`: lists and follows records, and holds whole chains against their hashes.

mod chains;
mod export;
mod follow;
mod records;

use crate::args::{AuditArgs, AuditCommand};
use crate::client::Client;
use crate::error::CliError;
use crate::print::Printer;

pub(crate) use chains::verify_file;
pub(super) use records::{parse_time, wrong_time};

pub(crate) async fn run(client: &Client, args: &AuditArgs, printer: &mut Printer) -> Result<(), CliError> {
    match &args.command {
        None if args.follow => follow::follow(client, args, printer).await,
        None => records::list(client, args, printer).await.map(drop),
        Some(AuditCommand::Verify(args)) => chains::verify(client, args, printer).await,
        Some(AuditCommand::Export) => chains::export(client, printer).await,
    }
}
