//! Users, groups and role bindings to the registry.

use skerry_proto::registry::v1::{
    Group, RoleBinding, UpdateGroupRequest, UpdateRoleBindingRequest, UpdateUserRequest, User,
};
use skerry_proto::scheduler::v1::update_app_response::Outcome;

use super::{Sending, mask, outcome};
use crate::client::{CallError, Client, Service, bindings, groups, request, request_id, users};
use crate::item::Item;

pub(super) async fn send_user(
    client: &Client,
    user: User,
    how: &Sending,
) -> Result<(Item, Outcome), CallError> {
    let message = UpdateUserRequest {
        user: Some(user),
        update_mask: mask(how),
        request_id: request_id(),
        allow_missing: how.create,
        validate_only: how.dry_run,
    };
    let answer = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { users(channel).update_user(request(message, left)).await }
    });
    let answer = answer.await?;
    let came = outcome(answer.outcome());
    Ok((Item::User(Box::new(answer.user.unwrap_or_default())), came))
}

pub(super) async fn send_group(
    client: &Client,
    group: Group,
    how: &Sending,
) -> Result<(Item, Outcome), CallError> {
    let message = UpdateGroupRequest {
        group: Some(group),
        update_mask: mask(how),
        request_id: request_id(),
        allow_missing: how.create,
        validate_only: how.dry_run,
    };
    let answer = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { groups(channel).update_group(request(message, left)).await }
    });
    let answer = answer.await?;
    let came = outcome(answer.outcome());
    Ok((Item::Group(Box::new(answer.group.unwrap_or_default())), came))
}

pub(super) async fn send_binding(
    client: &Client,
    binding: RoleBinding,
    how: &Sending,
) -> Result<(Item, Outcome), CallError> {
    let message = UpdateRoleBindingRequest {
        role_binding: Some(binding),
        update_mask: mask(how),
        request_id: request_id(),
        allow_missing: how.create,
        validate_only: how.dry_run,
    };
    let answer = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { bindings(channel).update_role_binding(request(message, left)).await }
    });
    let answer = answer.await?;
    let came = outcome(answer.outcome());
    Ok((Item::RoleBinding(Box::new(answer.role_binding.unwrap_or_default())), came))
}
