//! `user request`: a key that stays where it is made, and the request by which an admin has a certificate issued for it. Asks no server.

use skerry_identity::SigningKey as _;
use skerry_identity::csr::{Request as CertificateRequest, request_to_pem};
use skerry_identity::key_store::load_or_make_key;
use skerry_identity::private_file;
use skerry_model::ProjectName;

use super::issue::Files;
use super::user;
use crate::args::RequestArgs;
use crate::error::CliError;
use crate::print::{Printer, note};

pub(crate) fn run(args: &RequestArgs, printer: &mut Printer) -> Result<(), CliError> {
    // Of which project is the admin's to say: here the name is only that of the files.
    let name = user(&ProjectName::system(), &args.name)?;
    let files = Files::of(&args.out, &name);
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
    let there = files.key.exists();
    let key = load_or_make_key(&files.key).map_err(|error| failed(&error))?;
    let request = CertificateRequest::make(&key).map_err(|error| failed(&error))?;
    private_file::replace(&files.request, request_to_pem(&request).as_bytes())
        .map_err(|error| failed(&error))?;
    let kept = if there { " (it was there already)" } else { "" };
    printer.line(&format!("key {}{kept}", key.public_key().id()))?;
    printer.line(&format!("{} written", files.request.display()))?;
    note(&format!(
        "hand {} to an admin, for `skerry user create {} --csr FILE`; keep {} to yourself",
        files.request.display(),
        name.user,
        files.key.display()
    ));
    Ok(())
}
