//! Users, groups, role bindings and grants: one by its name, and all in pages.

use skerry_proto::registry::v1 as registry;

use super::{Item, PAGE_SIZE, Page, wrap};
use crate::client::{CallError, Client, Service, bindings, grants, groups, request, users};
use crate::error::CliError;

impl Client {
    pub(super) async fn get_user(&self, name: String) -> Result<Item, CallError> {
        let message = registry::GetUserRequest { name };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { users(channel).get_user(request(message, left)).await }
        });
        Ok(Item::User(Box::new(answer.await?.user.unwrap_or_default())))
    }

    pub(super) async fn get_group(&self, name: String) -> Result<Item, CallError> {
        let message = registry::GetGroupRequest { name };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { groups(channel).get_group(request(message, left)).await }
        });
        Ok(Item::Group(Box::new(answer.await?.group.unwrap_or_default())))
    }

    pub(super) async fn get_binding(&self, name: String) -> Result<Item, CallError> {
        let message = registry::GetRoleBindingRequest { name };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { bindings(channel).get_role_binding(request(message, left)).await }
        });
        Ok(Item::RoleBinding(Box::new(answer.await?.role_binding.unwrap_or_default())))
    }

    pub(super) async fn get_grant(&self, name: String) -> Result<Item, CallError> {
        let message = registry::GetGrantRequest { name };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { grants(channel).get_grant(request(message, left)).await }
        });
        Ok(Item::Grant(Box::new(answer.await?.grant.unwrap_or_default())))
    }

    pub(super) async fn page_of_users(
        &self,
        label_selector: String,
        page_token: String,
    ) -> Result<Page, CliError> {
        let parent = self.project().parent();
        let message = registry::ListUsersRequest { parent, page_size: PAGE_SIZE, page_token, label_selector };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { users(channel).list_users(request(message, left)).await }
        });
        let answer = answer.await?;
        Ok((wrap(answer.users, Item::User), answer.next_page_token, String::new()))
    }

    pub(super) async fn page_of_groups(
        &self,
        label_selector: String,
        page_token: String,
    ) -> Result<Page, CliError> {
        let parent = self.project().parent();
        let message =
            registry::ListGroupsRequest { parent, page_size: PAGE_SIZE, page_token, label_selector };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { groups(channel).list_groups(request(message, left)).await }
        });
        let answer = answer.await?;
        Ok((wrap(answer.groups, Item::Group), answer.next_page_token, String::new()))
    }

    pub(super) async fn page_of_grants(
        &self,
        label_selector: String,
        page_token: String,
    ) -> Result<Page, CliError> {
        let parent = self.project().parent();
        let message =
            registry::ListGrantsRequest { parent, page_size: PAGE_SIZE, page_token, label_selector };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { grants(channel).list_grants(request(message, left)).await }
        });
        let answer = answer.await?;
        Ok((wrap(answer.grants, Item::Grant), answer.next_page_token, String::new()))
    }

    pub(super) async fn page_of_bindings(
        &self,
        label_selector: String,
        page_token: String,
    ) -> Result<Page, CliError> {
        let parent = self.project().parent();
        let message =
            registry::ListRoleBindingsRequest { parent, page_size: PAGE_SIZE, page_token, label_selector };
        let answer = self.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { bindings(channel).list_role_bindings(request(message, left)).await }
        });
        let answer = answer.await?;
        Ok((wrap(answer.role_bindings, Item::RoleBinding), answer.next_page_token, String::new()))
    }
}
