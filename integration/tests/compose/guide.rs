//! The guide's page on the stack in containers, done by a reader: `docker compose` as it is typed, on images made on this machine.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use skerry_integration::Compose;
use skerry_integration::guide::{self, Page, Setting};
use skerry_testing::{BUSYBOX_IMAGE, Docker, bin, compose_required, free_port};

const PAGE: &str = "docs/guide/stack.md";

#[tokio::test]
async fn the_page_on_the_stack_in_containers() -> Result<()> {
    let (Some(docker), Some(program)) = (Docker::required(), compose_required()) else { return Ok(()) };
    docker.busybox()?;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(PAGE);
    let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let page = Page::parse(PAGE, &text)?;

    let compose = Compose::build(program, docker, |name| Ok(bin(name))).await?;
    let owned = |shown: &str, real: &str| (shown.to_owned(), real.to_owned());
    let instead = vec![
        owned("8080", &free_port().to_string()),
        owned("busybox:1.37", BUSYBOX_IMAGE),
        owned("n1", compose.node()),
    ];
    let skerry = format!("#!/bin/sh\nexec '{}' \"$@\"\n", bin("skerry").display());
    let programs =
        BTreeMap::from([("docker".to_owned(), compose.docker_script()), ("skerry".to_owned(), skerry)]);
    guide::run(&page, Setting { instead, programs, ..Setting::default() }).await
}
