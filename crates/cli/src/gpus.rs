//! GPUs as the server gives them, and the names by which people mean them.
//!
//! A GPU is called `NODE/UUID` here. People may also write `NODE/INDEX`, the whole name, a UUID, or as much of one as no other has.

use skerry_model::{NodeRef, ProjectName};
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::gpu_service_client::GpuServiceClient;
use skerry_rpc::{MESSAGE_BYTES_MAX, Traced};
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use crate::client::{CallError, Client, Service, request};
use crate::error::CliError;
use crate::item::{CallOrUsage, ChangeKind, Item, Query};
use crate::target::{Target, Type};

/// Most GPUs that an error names.
const NAMED_MAX: usize = 5;
/// Asked for at once.
const PAGE_SIZE: i32 = 500;
/// What comes before the digits of a UUID, at NVIDIA.
const UUID_HEAD: &str = "GPU-";

pub(crate) fn service(channel: Channel) -> GpuServiceClient<Traced> {
    GpuServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// `projects/p/nodes/n1/gpus/GPU-1` as `n1/GPU-1`.
pub(crate) fn short_name(full: &str) -> String {
    let (node, uuid) = parts(full);
    format!("{node}/{uuid}")
}

/// Node and UUID of a full name.
pub(crate) fn parts(full: &str) -> (&str, &str) {
    let (node, uuid) = full.split_once("/gpus/").unwrap_or(("", full));
    (node.rsplit('/').next().unwrap_or_default(), uuid)
}

/// The full name of `NODE/UUID`, or of one that is whole already.
pub(crate) fn full_name(project: &ProjectName, name: &str) -> Result<String, CliError> {
    if name.starts_with("projects/") && name.contains("/gpus/") {
        return Ok(name.to_owned());
    }
    let Some((node, uuid)) = name.split_once('/') else {
        return Err(CliError::Usage(format!("name the GPU as NODE/UUID, not {name:?}")));
    };
    let node = NodeRef::parse_in(project, node).map_err(|error| CliError::Usage(error.to_string()))?;
    Ok(format!("{node}/gpus/{uuid}"))
}

/// What happened to a GPU.
pub(crate) fn change_kind(kind: pb::ChangeType) -> Option<ChangeKind> {
    match kind {
        pb::ChangeType::Added => Some(ChangeKind::Added),
        pb::ChangeType::Modified => Some(ChangeKind::Modified),
        pb::ChangeType::Deleted => Some(ChangeKind::Deleted),
        pb::ChangeType::Bookmark | pb::ChangeType::Unspecified => None,
    }
}

/// How somebody means a GPU.
#[derive(Debug, PartialEq)]
struct Meant<'a> {
    node: Option<&'a str>,
    word: &'a str,
}

impl<'a> Meant<'a> {
    fn of(name: &'a str) -> Self {
        match name.split_once('/') {
            Some((node, word)) => Self { node: Some(node), word },
            None => Self { node: None, word: name },
        }
    }

    /// The one of `all` that is meant; else why none is.
    fn among<'b>(&self, all: &'b [pb::Gpu]) -> Result<&'b pb::Gpu, CliError> {
        let at_node = |gpu: &&pb::Gpu| self.node.is_none_or(|node| parts(&gpu.name).0 == node);
        let here: Vec<&pb::Gpu> = all.iter().filter(at_node).collect();
        let exact = here.iter().copied().filter(|gpu| parts(&gpu.name).1 == self.word);
        let mut found: Vec<&pb::Gpu> = exact.collect();
        if found.is_empty()
            && self.node.is_some()
            && let Ok(index) = self.word.parse::<u32>()
        {
            let has = |gpu: &&pb::Gpu| gpu.device.as_ref().is_some_and(|device| device.index == index);
            found = here.iter().copied().filter(has).collect();
        }
        if found.is_empty() && !self.word.is_empty() {
            let begins = |gpu: &&pb::Gpu| {
                let uuid = parts(&gpu.name).1;
                let bare = uuid.strip_prefix(UUID_HEAD).unwrap_or(uuid);
                begins_with(uuid, self.word) || begins_with(bare, self.word)
            };
            found = here.iter().copied().filter(begins).collect();
        }
        let typed = match self.node {
            Some(node) => format!("{node}/{}", self.word),
            None => self.word.to_owned(),
        };
        match found.as_slice() {
            [one] => Ok(one),
            [] => Err(CliError::NotFound(format!("there is no GPU {typed:?}{}", self.hint(&here, all)))),
            several => {
                Err(CliError::Usage(format!("{typed:?} may be each of {}: write more of it", named(several))))
            }
        }
    }

    fn hint(&self, here: &[&pb::Gpu], all: &[pb::Gpu]) -> String {
        match (self.node, here) {
            // Of a node only its own were asked for.
            (Some(node), []) => format!("; node {node} has told of none"),
            (None, _) if all.is_empty() => "; no node of the project has told of one".to_owned(),
            (Some(node), here) => format!("; node {node} has {}", named(here)),
            (None, _) => {
                ": write a UUID, how one begins, or NODE/INDEX; `skerry get gpus` shows all".to_owned()
            }
        }
    }
}

fn begins_with(text: &str, start: &str) -> bool {
    text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

/// As `n1/0 (GPU-5d2f…), n1/1 (GPU-77aa…)`.
fn named(gpus: &[&pb::Gpu]) -> String {
    let name = |gpu: &&pb::Gpu| {
        let index = gpu.device.as_ref().map_or(0, |device| device.index);
        let (node, uuid) = parts(&gpu.name);
        format!("{node}/{index} ({uuid})")
    };
    let more = gpus.len().saturating_sub(NAMED_MAX);
    let text = gpus.iter().take(NAMED_MAX).map(name).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{text} and {more} more") } else { text }
}

impl Client {
    /// The target by the name that a server has for it: of a GPU that may be meant in several ways.
    pub(crate) async fn whole(&self, target: &Target) -> Result<Target, CallOrUsage> {
        if target.kind != Type::Gpu || target.name.starts_with("projects/") {
            return Ok(target.clone());
        }
        let meant = Meant::of(&target.name);
        if let Some(node) = meant.node {
            let checked = NodeRef::parse_in(self.project(), node);
            checked.map_err(|error| CallOrUsage::Usage(CliError::Usage(error.to_string())))?;
        }
        let query = Query { node: meant.node.map(str::to_owned), ..Query::all(Type::Gpu) };
        let (items, _) = self.list(&query).await.map_err(CallOrUsage::Usage)?;
        let gpus: Vec<pb::Gpu> = items.into_iter().filter_map(of_item).collect();
        if let Some(node) = meant.node.filter(|_| gpus.is_empty()) {
            // It may be that there is no such node.
            Box::pin(self.get(&Target::node(node))).await?;
        }
        let gpu = meant.among(&gpus).map_err(CallOrUsage::Usage)?;
        Ok(Target { kind: Type::Gpu, name: gpu.name.clone() })
    }

    /// The GPU of that full name.
    pub(crate) async fn get_gpu(&self, name: String) -> Result<Item, CallError> {
        let message = pb::GetGpuRequest { name };
        let answer = self.call(Service::Gpu, |channel, left| {
            let message = message.clone();
            async move { service(channel).get_gpu(request(message, left)).await }
        });
        Ok(Item::Gpu(Box::new(answer.await?.gpu.unwrap_or_default())))
    }

    /// A page of GPUs, the token of the next, and where a watch continues.
    pub(crate) async fn page_of_gpus(
        &self,
        page_size: i32,
        page_token: String,
        query: &Query,
    ) -> Result<(Vec<Item>, String, String), CallError> {
        let (parent, selector) = (self.gpu_parent(query), Some(self.gpu_selector(query)));
        let page = self.gpus(pb::ListGpusRequest { parent, page_size, page_token, selector }).await?;
        let items = page.gpus.into_iter().map(|gpu| Item::Gpu(Box::new(gpu))).collect();
        Ok((items, page.next_page_token, page.resource_version))
    }

    async fn gpus(&self, message: pb::ListGpusRequest) -> Result<pb::ListGpusResponse, CallError> {
        let answer = self.call(Service::Gpu, |channel, left| {
            let message = message.clone();
            async move { service(channel).list_gpus(request(message, left)).await }
        });
        answer.await
    }

    /// Those of the project that a selector means, `most` and one more at most.
    pub(crate) async fn gpus_meant(
        &self,
        meant: &pb::GpuSelector,
        most: usize,
    ) -> Result<Vec<pb::Gpu>, CallError> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let page = self.gpus(pb::ListGpusRequest {
                parent: self.project().parent(),
                page_size: PAGE_SIZE,
                page_token,
                selector: Some(meant.clone()),
            });
            let page = page.await?;
            all.extend(page.gpus);
            page_token = page.next_page_token;
            if page_token.is_empty() || all.len() > most {
                all.truncate(most.saturating_add(1));
                return Ok(all);
            }
        }
    }

    /// Changes of GPUs after a version.
    pub(crate) async fn gpu_changes(
        &self,
        resource_version: String,
        query: &Query,
    ) -> Result<Streaming<pb::WatchGpusResponse>, CallError> {
        let message = pb::WatchGpusRequest {
            parent: self.gpu_parent(query),
            resource_version,
            selector: Some(self.gpu_selector(query)),
        };
        let stream = self.call(Service::Gpu, |channel, _| {
            let message = message.clone();
            async move { service(channel).watch_gpus(message).await }
        });
        stream.await
    }

    /// Samples as they come in, for as long as somebody reads.
    pub(crate) async fn gpu_samples(
        &self,
        message: pb::StreamSamplesRequest,
    ) -> Result<Streaming<pb::StreamSamplesResponse>, CallError> {
        let stream = self.call(Service::Gpu, |channel, _| {
            let message = message.clone();
            async move { service(channel).stream_samples(Request::new(message)).await }
        });
        stream.await
    }

    /// What was.
    pub(crate) async fn gpu_history(
        &self,
        message: pb::QueryHistoryRequest,
    ) -> Result<pb::QueryHistoryResponse, CallError> {
        let answer = self.call(Service::Gpu, |channel, left| {
            let message = message.clone();
            async move { service(channel).query_history(request(message, left)).await }
        });
        answer.await
    }

    pub(crate) fn gpu_parent(&self, query: &Query) -> String {
        let parent = self.project().parent();
        query.node.as_ref().map_or_else(|| parent.clone(), |node| format!("{parent}/nodes/{node}"))
    }

    /// What a query says beside the node.
    pub(crate) fn gpu_selector(&self, query: &Query) -> pb::GpuSelector {
        let app = |app: &String| format!("{}/apps/{app}", self.project().parent());
        pb::GpuSelector {
            label_selector: query.selector.clone(),
            app: query.app.as_ref().map(app).unwrap_or_default(),
            ..Default::default()
        }
    }
}

/// Puts GPUs in the order of nodes and places, where names have that of UUIDs. What is no GPU stays.
pub(crate) fn sort(items: &mut [Item]) {
    items.sort_by(|a, b| match (a, b) {
        (Item::Gpu(a), Item::Gpu(b)) => place(a).cmp(&place(b)),
        _ => std::cmp::Ordering::Equal,
    });
}

/// Node and index.
pub(crate) fn place(gpu: &pb::Gpu) -> (&str, u32) {
    (parts(&gpu.name).0, gpu.device.as_ref().map_or(0, |device| device.index))
}

/// The GPU that an item is.
pub(crate) fn of_item(item: Item) -> Option<pb::Gpu> {
    match item {
        Item::Gpu(gpu) => Some(*gpu),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(node: &str, index: u32, uuid: &str) -> pb::Gpu {
        let device = pb::Device { index, uuid: uuid.into(), ..Default::default() };
        let name = format!("projects/p/nodes/{node}/gpus/{uuid}");
        pb::Gpu { name, device: Some(device), ..Default::default() }
    }

    fn found(name: &str) -> Result<String, String> {
        let all = [
            gpu("n1", 0, "GPU-5d2f-1"),
            gpu("n1", 1, "GPU-5d3a-1"),
            gpu("n2", 0, "GPU-5d2f-1"),
            gpu("n2", 3, "GPU-00"),
        ];
        let one = Meant::of(name).among(&all);
        one.map(|gpu| short_name(&gpu.name)).map_err(|error| error.text().expect("printed"))
    }

    #[test]
    fn a_gpu_is_meant_by_its_place_or_by_as_much_of_its_uuid_as_no_other_has() {
        let cases = [
            ("n1/0", "n1/GPU-5d2f-1"),
            ("n2/3", "n2/GPU-00"),
            ("n1/GPU-5d3a-1", "n1/GPU-5d3a-1"),
            ("n2/5D2F", "n2/GPU-5d2f-1"),
            ("gpu-5d3", "n1/GPU-5d3a-1"),
            ("5d3", "n1/GPU-5d3a-1"),
            ("00", "n2/GPU-00"),
        ];
        for (name, expected) in cases {
            assert_eq!(found(name).as_deref(), Ok(expected), "{name}");
        }
    }

    #[test]
    fn they_are_told_in_the_order_of_their_places() {
        let all = [gpu("n2", 0, "GPU-1"), gpu("n1", 1, "GPU-2"), gpu("n1", 0, "GPU-3")];
        let mut items: Vec<Item> = all.into_iter().map(|gpu| Item::Gpu(Box::new(gpu))).collect();
        sort(&mut items);
        let names: Vec<String> = items.iter().map(|item| item.target().to_string()).collect();
        assert_eq!(names, ["gpu/n1/GPU-3", "gpu/n1/GPU-2", "gpu/n2/GPU-1"]);
    }

    #[test]
    fn what_may_be_several_or_none_is_told_with_what_there_is() {
        assert_eq!(
            found("5d2").unwrap_err(),
            "error: \"5d2\" may be each of n1/0 (GPU-5d2f-1), n2/0 (GPU-5d2f-1): write more of it\n"
        );
        assert_eq!(
            found("n2/7").unwrap_err(),
            "error: there is no GPU \"n2/7\"; node n2 has n2/0 (GPU-5d2f-1), n2/3 (GPU-00)\n"
        );
        assert!(found("n9/0").unwrap_err().contains("; node n9 has told of none"));
        assert!(found("77").unwrap_err().contains("NODE/INDEX"));
        let none = |name| Meant::of(name).among(&[]).unwrap_err().text().expect("printed");
        assert!(none("n1/0").contains("; node n1 has told of none"));
        assert!(none("5d2f").contains("; no node of the project has told of one"));
    }

    #[test]
    fn the_name_that_is_printed_is_one_that_is_read() {
        let project = ProjectName::parse("p").expect("valid");
        let full = "projects/p/nodes/n1/gpus/GPU-1";
        assert_eq!(full_name(&project, &short_name(full)).expect("valid"), full);
        assert_eq!(full_name(&project, full).expect("valid"), full);
        assert!(full_name(&project, "GPU-1").is_err() && full_name(&project, "N!/GPU-1").is_err());
    }
}
