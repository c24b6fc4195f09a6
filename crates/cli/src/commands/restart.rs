//! `restart`: the instances of an app start anew, by a new restart time in its services.

use std::time::SystemTime;

use skerry_manifest::nearest;
use skerry_model::time::to_timestamp;
use skerry_proto::types::v1::ServiceSpec;

use super::act;
use super::rollout::one_app;
use super::send::{Sending, send};
use crate::args::RestartArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::item::Item;
use crate::print::Printer;

/// How often it is tried again on an app that somebody else changed meanwhile.
const TRIES_MAX: u32 = 4;

pub(crate) async fn run(client: &Client, args: &RestartArgs, printer: &mut Printer) -> Result<(), CliError> {
    if is_of_instances(args) {
        let service = match &args.services[..] {
            [] => None,
            [service] => Some(service.as_str()),
            _ => return Err(CliError::Usage("of instances one service is named, or none".to_owned())),
        };
        return act::run(client, act::RESTART, &args.app, service, &args.flags, printer).await;
    }
    // `restart app hello` is read as `restart app/hello`.
    let (words, services) = match (args.app.contains('/'), args.services.split_first()) {
        (false, Some((name, rest))) => (vec![args.app.clone(), name.clone()], rest),
        _ => (vec![args.app.clone()], args.services.as_slice()),
    };
    let mut target = one_app(&words)?;
    // And `restart app/hello/web` as `restart app/hello web`: instances are called so.
    let mut services = services.to_vec();
    if let Some((app, service)) = target.name.clone().split_once('/')
        && !target.name.starts_with("projects/")
    {
        services.insert(0, service.to_owned());
        app.clone_into(&mut target.name);
    }
    let mut tries = 0;
    loop {
        let Item::App(mut app) = client.get(&target).await? else { unreachable!("asked for an app") };
        let now = to_timestamp(SystemTime::now());
        stamp(&mut app.spec.get_or_insert_default().services, &services, now)
            .map_err(|message| CliError::NotFound(format!("{target} {message}")))?;
        tries += 1;
        match send(client, Item::App(app), &Sending::change(["spec.services"])).await {
            Ok(_) => return printer.line(&format!("{target} restarted")),
            Err(error) if error.code() == Some(tonic::Code::Aborted) && tries < TRIES_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether instances are meant, as they are, and not the app.
fn is_of_instances(args: &RestartArgs) -> bool {
    let RestartArgs { app, flags, .. } = args;
    let is_narrowed = flags.node.is_some() || flags.cluster.is_some() || flags.instance.is_some();
    is_narrowed || flags.all || app.starts_with("instance/") || app.starts_with("instances/")
}

/// Sets the time on the services that are named, or on all when none is.
fn stamp(services: &mut [ServiceSpec], named: &[String], now: prost_types::Timestamp) -> Result<(), String> {
    for name in named {
        if !services.iter().any(|service| service.name == *name) {
            let known: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
            let hint = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("it has {}", known.join(", ")),
            };
            return Err(format!("has no service {name:?}; {hint}"));
        }
    }
    for service in services.iter_mut().filter(|service| named.is_empty() || named.contains(&service.name)) {
        service.restart_time = Some(now);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_that_are_named_start_anew_and_no_others() {
        let service = |name: &str| ServiceSpec { name: name.into(), ..Default::default() };
        let now = prost_types::Timestamp { seconds: 7, nanos: 0 };
        let stamped = |named: &[&str]| {
            let mut services = [service("web"), service("db")];
            let named: Vec<String> = named.iter().map(|&name| name.to_owned()).collect();
            let done = stamp(&mut services, &named, now);
            done.map(|()| services.map(|service| service.restart_time.is_some()))
        };
        assert_eq!(stamped(&[]), Ok([true, true]));
        assert_eq!(stamped(&["db"]), Ok([false, true]));
        assert_eq!(stamped(&["dbb"]), Err("has no service \"dbb\"; did you mean db?".into()));
        assert_eq!(stamped(&["cache"]), Err("has no service \"cache\"; it has web, db".into()));
    }
}
