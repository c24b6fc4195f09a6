//! GPUs: `deploy.resources.reservations.devices`, and `gpus`, which says the same. Compose lets all who ask share a device; here each instance keeps what it has.

use skerry_proto::types::v1 as pb;

use crate::context::{Context, Field};
use crate::keys;

/// What a service says of GPUs.
pub(crate) fn read(cx: &mut Context<'_>, service: &Field) -> Option<(Field, pb::GpuRequest)> {
    let reserved = service
        .get("deploy")
        .and_then(|deploy| deploy.get("resources")?.get("reservations")?.get("devices"))
        .filter(|field| !field.is_empty());
    let own = service.get("gpus").filter(|field| !field.is_empty() && field.scalar() != Some(""));
    let (field, is_short) = match (reserved, own) {
        (Some(_), Some(own)) => {
            cx.error(&own, "deploy.resources.reservations.devices says the same: keep one");
            return None;
        }
        (Some(field), None) => (field, false),
        (None, Some(field)) => (field, true),
        (None, None) => return None,
    };
    if field.scalar() == Some("all") {
        cx.error(&field, ALL);
        return None;
    }
    let items = field.items(cx);
    let [item] = items.as_slice() else {
        if let Some(second) = items.get(1) {
            cx.error(second, "a service has GPUs of one kind only: keep one entry");
        }
        return None;
    };
    keys::GPU.check(cx, item);
    check_kind(cx, item, is_short)?;
    let Some(count) = item.get("count").filter(|count| count.scalar() != Some("all")) else {
        // Where they are named, that is told.
        if item.get("device_ids").is_none() {
            cx.error(item.get("count").as_ref().unwrap_or(item), ALL);
        }
        return None;
    };
    let number = count.integer(cx)?;
    let Ok(number) = u32::try_from(number) else {
        cx.error(&count, "use 1 or more");
        return None;
    };
    cx.warn(
        item,
        "each instance keeps its GPUs to itself; write gpu: {memory: 8Gi} below x-skerry for a share of one",
    );
    Some((count, pb::GpuRequest { count: Some(number), ..Default::default() }))
}

const ALL: &str =
    "all GPUs of a machine cannot be asked for: write count, or what is needed as gpu below x-skerry";

/// Capabilities that are known: what a driver's libraries are for is chosen by the image.
const KNOWN: [&str; 8] = ["gpu", "nvidia", "compute", "utility", "graphics", "video", "display", "compat32"];

/// Whether it is a GPU that is meant, and one whose driver is known.
fn check_kind(cx: &mut Context<'_>, item: &Field, is_short: bool) -> Option<()> {
    if let Some(driver) = item.get("driver")
        && driver.scalar() != Some("nvidia")
    {
        cx.error(&driver, "GPUs of NVIDIA are given out, and no other devices: use nvidia");
        return None;
    }
    let Some(capabilities) = item.get("capabilities") else {
        if is_short {
            return Some(());
        }
        cx.error(item, "say what kind of device is meant: capabilities: [gpu]");
        return None;
    };
    let found = capabilities.texts(cx);
    if let Some((other, _)) = found.iter().find(|(_, text)| !KNOWN.contains(&text.as_str())) {
        cx.error(other, "only GPUs are given out: use gpu");
        return None;
    }
    if !is_short && !found.iter().any(|(_, text)| text == "gpu" || text == "nvidia") {
        cx.error(&capabilities, "only GPUs are given out: name gpu among them");
        return None;
    }
    Some(())
}
