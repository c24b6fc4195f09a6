//! What is booked on GPUs, as the server gives it, and the names by which people mean it.
//!
//! An allocation is called `NODE/UUID/INSTANCE` here: an instance may have several GPUs, and a GPU several instances.

use skerry_proto::gpu::v1 as pb;

use crate::client::{CallError, Client, Service, request};
use crate::error::CliError;
use crate::gpus::{self, service};
use crate::item::{Item, Query};
use crate::target::{Target, Type};

/// Most GPUs that can be named, as servers have it.
const NAMED_MAX: usize = 256;

/// `n1/GPU-1/hello/web/n1/0`.
pub(crate) fn name(allocation: &pb::Allocation) -> String {
    format!("{}/{}", gpus::short_name(&allocation.gpu), allocation.instance)
}

/// The GPU of a name, and what comes after it: an instance, or how one begins.
fn split(name: &str) -> (&str, &str) {
    let after = name.match_indices('/').nth(1).map_or(name.len(), |(at, _)| at);
    name.split_at(after)
}

/// Whether it is of this app (short name), or of any where none is said.
fn is_of(allocation: &pb::Allocation, app: Option<&str>) -> bool {
    app.is_none_or(|app| allocation.instance.split('/').next() == Some(app))
}

impl Client {
    /// The query with what it is narrowed by looked up: a node and an app that must be there, and GPUs by the names that a server has for them.
    /// Only of what is asked of GPUs and what is booked on them.
    pub(crate) async fn settled(&self, query: Query) -> Result<Query, CliError> {
        if !matches!(query.kind, Type::Gpu | Type::Allocation) {
            return Ok(query);
        }
        if query.below.len() > NAMED_MAX {
            return Err(CliError::Usage(format!(
                "{} GPUs are named, and at most {NAMED_MAX} can be: choose some with -l, --node or --app",
                query.below.len()
            )));
        }
        let there = [(Type::Node, &query.node), (Type::App, &query.app)];
        for (kind, name) in there.into_iter().filter_map(|(kind, name)| Some((kind, name.as_ref()?))) {
            self.get(&Target { kind, name: name.clone() }).await?;
        }
        let mut below = Vec::new();
        for name in &query.below {
            let own = name.strip_prefix(&format!("{}/nodes/", self.project().parent()));
            let name = own.map_or_else(|| name.clone(), |own| own.replacen("/gpus/", "/", 1));
            let (gpu, rest) = split(&name);
            let gpu = self.whole(&Target { kind: Type::Gpu, name: gpu.to_owned() }).await?;
            below.push(gpus::short_name(&gpu.name) + rest);
        }
        Ok(Query { below, ..query })
    }

    /// A page of what is booked, and the token of the next.
    pub(crate) async fn page_of_allocations(
        &self,
        page_size: i32,
        page_token: String,
        query: &Query,
    ) -> Result<(Vec<Item>, String), CliError> {
        let mut selector = self.gpu_selector(query);
        for name in &query.below {
            selector.gpus.push(gpus::full_name(self.project(), split(name).0)?);
        }
        let message = pb::ListAllocationsRequest {
            parent: self.gpu_parent(query),
            page_size,
            page_token,
            selector: Some(selector),
        };
        let page = self.allocations(message).await?;
        // The server tells all of the GPUs that the app has something of.
        let of_app = page.allocations.into_iter().filter(|one| is_of(one, query.app.as_deref()));
        Ok((of_app.map(|one| Item::Allocation(Box::new(one))).collect(), page.next_page_token))
    }

    async fn allocations(
        &self,
        message: pb::ListAllocationsRequest,
    ) -> Result<pb::ListAllocationsResponse, CallError> {
        let answer = self.call(Service::Gpu, |channel, left| {
            let message = message.clone();
            async move { service(channel).list_allocations(request(message, left)).await }
        });
        answer.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_gpu_s_and_what_comes_after_it() {
        assert_eq!(split("5d2f"), ("5d2f", ""));
        assert_eq!(split("n1/0"), ("n1/0", ""));
        assert_eq!(split("n1/0/hello/web"), ("n1/0", "/hello/web"));
        let allocation = pb::Allocation {
            gpu: "projects/p/nodes/n1/gpus/GPU-1".into(),
            instance: "hello/web/n1/0".into(),
            ..Default::default()
        };
        assert_eq!(name(&allocation), "n1/GPU-1/hello/web/n1/0");
        assert_eq!(split(&name(&allocation)), ("n1/GPU-1", "/hello/web/n1/0"));
    }

    #[test]
    fn of_an_app_are_those_of_its_instances_and_of_no_other_whose_name_begins_so() {
        let allocation = pb::Allocation { instance: "hello/web/n1/0".into(), ..Default::default() };
        assert!(is_of(&allocation, None) && is_of(&allocation, Some("hello")));
        assert!(!is_of(&allocation, Some("hell")) && !is_of(&allocation, Some("web")));
    }
}
