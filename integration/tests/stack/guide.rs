//! The user's guide and the README, done by a reader on this machine: every manifest, every command, every shown output.
//!
//! Each page is run by itself, in a directory of its own, on the `skerry up` that it starts. What stands for what: ports are free ones,
//! `n1` is a node of this test alone, and the images are made on this machine of busybox, so that nothing is pulled.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use skerry_integration::containers::{Containers, unique};
use skerry_integration::guide::{self, Page, Setting};
use skerry_testing::{BUSYBOX_IMAGE, Docker, bin, free_port};

/// Ports that pages name.
const PORTS: [u16; 9] = [7770, 7771, 7772, 7773, 2379, 2380, 8080, 8081, 8082];
/// The images that pages name, all of them busybox: what is shown is Skerry, not what runs.
const IMAGES: [&str; 1] = ["busybox:1.37"];
/// Programs that pages call.
const PROGRAMS: [&str; 4] = ["skerry-registry", "skerry-scheduler", "skerry-gateway", "skerry-agent"];

/// One test for each page, so that a page that fails is named and the others still run.
macro_rules! pages {
    ($($test:ident: $page:literal, $needs:ident;)*) => {
        const PAGES: &[&str] = &[$($page),*];
        $(
            #[tokio::test]
            async fn $test() -> Result<()> {
                run($page, Needs::$needs).await
            }
        )*
    };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Docker,
}

pages! {
    first_app: "first-app.md", Docker;
}

#[test]
fn every_page_of_the_guide_is_run() -> Result<()> {
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(root().join("docs/guide"))? {
        there.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    let run: BTreeSet<String> =
        PAGES.iter().chain(&["README.md", "containers-stack.md"]).map(|page| (*page).to_owned()).collect();
    assert_eq!(there, run);
    Ok(())
}

async fn run(name: &str, needs: Needs) -> Result<()> {
    let docker = if needs == Needs::Docker {
        let Some(docker) = Docker::required() else { return Ok(()) };
        docker.busybox()?;
        Some(docker)
    } else {
        None
    };
    let file = root().join("docs/guide").join(name);
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let page = Page::parse(&format!("docs/guide/{name}"), &text)?;
    let node = unique(&format!("guide-{}", name.trim_end_matches(".md")));
    let data = tempfile::tempdir()?;
    // After the page, whatever became of it.
    let _containers = docker.as_ref().map(|docker| Containers::of(docker, &node));
    guide::run(&page, setting(&node, data.path())?).await
}

fn setting(node: &str, data: &Path) -> Result<Setting> {
    let mut instead: Vec<(String, String)> =
        PORTS.iter().map(|port| (port.to_string(), free_port().to_string())).collect();
    let server = format!("127.0.0.1:{}", instead[0].1);
    instead.extend(IMAGES.iter().map(|image| ((*image).to_owned(), BUSYBOX_IMAGE.to_owned())));
    instead.push(("n1".to_owned(), node.to_owned()));
    let mut programs = BTreeMap::new();
    // As on a machine of its own: the usual port and the usual directory are others here.
    let skerry = bin("skerry").display().to_string();
    ensure!(!skerry.contains('\''), "{skerry} cannot be quoted");
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = up ]; then\n  shift\n  exec '{skerry}' up --listen {server} --data-dir '{}' \"$@\"\nfi\n\
         exec '{skerry}' \"$@\"\n",
        data.display()
    );
    programs.insert("skerry".to_owned(), script);
    for name in PROGRAMS {
        programs.insert(name.to_owned(), format!("#!/bin/sh\nexec '{}' \"$@\"\n", bin(name).display()));
    }
    let env = BTreeMap::from([("SKERRY_SERVER".to_owned(), format!("http://{server}"))]);
    // Processes outlive `skerry up`, by design.
    let farewell = "skerry get apps -o name | xargs -r skerry delete --timeout 60s".to_owned();
    Ok(Setting { instead, env, programs, farewell: Some(farewell) })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
