//! `config`: the contexts in the configuration file. Asks no server.

use std::path::Path;

use skerry_manifest::contexts::Context;
use skerry_model::ProjectName;

use crate::args::{ConfigCommand, GetContextsArgs, GlobalArgs, SetContextArgs};
use crate::config_file::ConfigFile;
use crate::error::CliError;
use crate::print::{Printer, note};
use crate::render::table::Table;

pub(crate) fn run(
    global: &GlobalArgs,
    command: &ConfigCommand,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let mut file = ConfigFile::load()?;
    match command {
        ConfigCommand::GetContexts(args) => list(&file, args, printer),
        ConfigCommand::CurrentContext => match &file.config.current {
            Some(name) => printer.line(name),
            None => Err(CliError::NotFound(format!(
                "{} has no current context: `skerry config use-context NAME` sets it",
                file.shown()
            ))),
        },
        ConfigCommand::UseContext(args) => {
            file.context(&args.name)?;
            file.config.current = Some(args.name.clone());
            file.save()?;
            printer.line(&format!("context {} is the current one", args.name))
        }
        ConfigCommand::SetContext(args) => set(global, &mut file, args, printer),
        ConfigCommand::DeleteContext(args) => {
            file.context(&args.name)?;
            file.config.contexts.retain(|context| context.name != args.name);
            if file.config.current.as_ref() == Some(&args.name) {
                file.config.current = None;
                note("it was the current one: `skerry config use-context NAME` sets another");
            }
            file.save()?;
            printer.line(&format!("context {} deleted", args.name))
        }
        ConfigCommand::View => printer.text(&file.config.to_value().to_yaml()),
    }
}

fn list(file: &ConfigFile, args: &GetContextsArgs, printer: &mut Printer) -> Result<(), CliError> {
    if file.config.contexts.is_empty() {
        note(&format!("no contexts in {}: `skerry config set-context` makes one", file.shown()));
        return Ok(());
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    let rows: Vec<Vec<String>> = file
        .config
        .contexts
        .iter()
        .map(|context| {
            let current = file.config.current.as_ref() == Some(&context.name);
            vec![
                if current { "*" } else { "" }.to_owned(),
                context.name.clone(),
                text(&context.server),
                text(&context.registry),
                text(&context.scheduler),
                text(&context.relay),
                text(&context.gpu),
                text(&context.project),
            ]
        })
        .collect();
    let headers = ["CURRENT", "NAME", "SERVER", "REGISTRY", "SCHEDULER", "RELAY", "GPU", "PROJECT"];
    printer.text(&Table::new(&headers, printer.width(), !args.no_headers).rows(&rows))
}

fn set(
    global: &GlobalArgs,
    file: &mut ConfigFile,
    args: &SetContextArgs,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let name = match (&args.name, &file.config.current) {
        (Some(name), _) | (None, Some(name)) => name.clone(),
        (None, None) => {
            return Err(CliError::Usage("there is no current context: name the one to set".into()));
        }
    };
    Context::check_name(&name).map_err(CliError::Usage)?;
    let known = file.config.get(&name).cloned();
    let is_new = known.is_none();
    let context =
        changed(known.unwrap_or_else(|| Context { name: name.clone(), ..Default::default() }), global)?;
    match file.config.contexts.iter_mut().find(|other| other.name == name) {
        Some(other) => *other = context,
        None => file.config.contexts.push(context),
    }
    // The first one is meant to be used.
    let only = is_new && file.config.contexts.len() == 1 && file.config.current.is_none();
    if args.make_current || only {
        file.config.current = Some(name.clone());
    }
    file.save()?;
    let word = if is_new { "created" } else { "changed" };
    let current = if file.config.current.as_ref() == Some(&name) { "; it is the current one" } else { "" };
    printer.line(&format!("context {name} {word}{current}"))
}

/// The context with what the flags name; what is given empty is taken out.
fn changed(mut context: Context, global: &GlobalArgs) -> Result<Context, CliError> {
    let fields = [
        (&mut context.server, &global.server, "--server"),
        (&mut context.registry, &global.registry, "--registry"),
        (&mut context.scheduler, &global.scheduler, "--scheduler"),
        (&mut context.relay, &global.relay, "--relay"),
        (&mut context.gpu, &global.gpu, "--gpu"),
    ];
    for (field, given, flag) in fields {
        if let Some(url) = given {
            if !url.is_empty() {
                skerry_rpc::check_address(url)
                    .map_err(|error| CliError::Usage(format!("{flag}: {error}")))?;
            }
            *field = Some(url.clone()).filter(|url| !url.is_empty());
        }
    }
    let files = [
        (&mut context.certificate, &global.tls.tls_cert, "--tls-cert"),
        (&mut context.key, &global.tls.tls_key, "--tls-key"),
        (&mut context.authority, &global.tls.tls_ca, "--tls-ca"),
    ];
    for (field, given, flag) in files {
        if let Some(path) = given {
            *field = kept(path).map_err(|why| CliError::Usage(format!("{flag}: {why}")))?;
        }
    }
    if let Some(project) = &global.project {
        if !project.is_empty() {
            ProjectName::parse(project).map_err(|error| CliError::Usage(format!("--project: {error}")))?;
        }
        context.project = Some(project.clone()).filter(|project| !project.is_empty());
    }
    Ok(context)
}

/// A file as the configuration keeps it: from the root, since the next command may be typed elsewhere. Nothing, if it is given empty.
fn kept(path: &Path) -> Result<Option<String>, String> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    let text = path.to_str().ok_or_else(|| format!("{} is no text in UTF-8", path.display()))?;
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_changed_and_what_is_given_empty_is_taken_out() {
        let before = Context {
            name: "a".into(),
            server: Some("http://x:1".into()),
            project: Some("p".into()),
            ..Default::default()
        };
        let flags = |server: Option<&str>, project: Option<&str>| GlobalArgs {
            server: server.map(str::to_owned),
            project: project.map(str::to_owned),
            ..Default::default()
        };
        assert_eq!(changed(before.clone(), &flags(None, None)).expect("valid"), before);
        let other = changed(before.clone(), &flags(Some("http://y:2"), Some(""))).expect("valid");
        assert_eq!((other.server.as_deref(), other.project), (Some("http://y:2"), None));
        let refused = |flags: &GlobalArgs| changed(before.clone(), flags).expect_err("refused").summary();
        assert!(refused(&flags(Some("http://"), None)).starts_with("--server: "));
        assert!(refused(&flags(None, Some("Not A Name"))).starts_with("--project: "));
    }
}
