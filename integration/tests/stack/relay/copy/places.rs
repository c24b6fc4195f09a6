//! Where things go: in processes, in containers and here the same, and what is refused.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Result, ensure};
use skerry_integration::apps::{app, container, script};
use skerry_integration::containers::{Containers, unique};

use skerry_integration::{Stack, StackConfig};
use skerry_proto::types::v1::container::PullPolicy;
use skerry_proto::types::v1::service_spec;
use skerry_testing::Docker;

use super::{STAYS, cp, fails, make_tree, names, seen, state_of, staying, text};

/// The rules of `docker cp`, between `here` and the directory `there` of the instance of `web`, which is empty.
async fn follow_the_rules(stack: &Stack, here: &Path, there: &str) -> Result<()> {
    make_tree(&here.join("tree"))?;
    let tree = text(&here.join("tree")).to_owned();
    let at = |path: &str| format!("app/web:{there}{path}");
    let back = async |path: &str, name: &str| -> Result<_> {
        cp(stack, &at(path), text(&here.join(name))).await?;
        seen(&here.join(name))
    };
    let wanted = seen(&here.join("tree"))?;
    let plain = seen(&here.join("tree/plain"))?;

    // Nothing there: it is the directory. There: it goes into it; what is in it, with a point.
    cp(stack, &tree, &at("new")).await?;
    assert_eq!(back("new", "b1").await?, wanted);
    cp(stack, &tree, &at("new")).await?;
    assert_eq!(back("new/tree", "b2").await?, wanted);
    cp(stack, &format!("{tree}/."), &at("new/")).await?;
    assert_eq!(back("new/tree", "b3").await?, wanted);
    // A file: as, into, in place of.
    cp(stack, &format!("{tree}/plain"), &at("file")).await?;
    assert_eq!(back("file", "b4").await?, plain);
    cp(stack, &format!("{tree}/run"), &at("file")).await?;
    assert_eq!(
        back("file", "b4").await?,
        seen(&here.join("tree/run"))?,
        "here too it is in place of the other"
    );
    cp(stack, &format!("{tree}/plain"), &at("new/empty")).await?;
    assert_eq!(back("new/empty/plain", "b5").await?, plain);
    // The same the other way round.
    fs::create_dir(here.join("dir"))?;
    let dir = text(&here.join("dir")).to_owned();
    cp(stack, &at("file"), &dir).await?;
    cp(stack, &at("new/tree"), &dir).await?;
    assert_eq!(names(&here.join("dir"))?, ["file", "tree"]);
    assert_eq!(seen(&here.join("dir/tree"))?, wanted);
    fs::create_dir(here.join("content"))?;
    cp(stack, &at("new/tree/."), text(&here.join("content"))).await?;
    let mut inner = seen(&here.join("content"))?;
    inner.insert("".into(), wanted[Path::new("")].clone());
    assert_eq!(inner, wanted);
    // Into a link to a directory of the user's own.
    symlink("dir", here.join("way"))?;
    cp(stack, &at("new/tree/plain"), text(&here.join("way"))).await?;
    assert_eq!(names(&here.join("dir"))?, ["file", "plain", "tree"]);

    // What makes no sense is refused in words, and leaves nothing.
    let before = (seen(&here.join("dir"))?, names(here)?);
    fails(stack, &at("never"), &dir, "never").await?;
    fails(stack, &at("never/."), &dir, "never").await?;
    fails(stack, &at("file"), &format!("{dir}/no/where"), "there is no directory").await?;
    fails(stack, &at("file"), &format!("{dir}/none/"), "there is no directory").await?;
    fails(stack, &at("new"), &format!("{dir}/file"), "is a file: a directory cannot be copied to it").await?;
    fails(stack, &at("file/."), &dir, "file").await?;
    fails(stack, &at("file"), "/dev/null", "neither a file nor a directory").await?;
    fails(stack, "/never", &at("x"), "/never").await?;
    fails(stack, &format!("{tree}/plain"), &at("no/where/x"), "no/where").await?;
    fails(stack, &format!("{tree}/plain"), &at("none/"), "there is no directory").await?;
    fails(stack, &tree, &at("file"), "is a file: a directory cannot be copied to it").await?;
    fails(stack, "/dev/null", &at("x"), "is a device").await?;
    fails(stack, &at("x"), &at("y"), "copy it here first").await?;
    fails(stack, &dir, &dir, "one of the two is in an instance").await?;
    fails(stack, "app/never:/x", &dir, "does not exist").await?;
    assert_eq!((seen(&here.join("dir"))?, names(here)?), before);
    Ok(())
}

#[tokio::test]
async fn things_go_where_docker_cp_puts_them_with_processes() -> Result<()> {
    let stack = staying().await?;
    let here = stack.dir().join("here");
    fs::create_dir(&here)?;
    fs::create_dir(state_of(&stack).await?.join("data"))?;
    follow_the_rules(&stack, &here, "data/").await?;
    assert_eq!(names(&state_of(&stack).await?.join("data"))?, ["file", "new"]);
    // The working directory itself, which has no name.
    cp(&stack, "app/web:.", text(&here.join("all"))).await?;
    assert_eq!(names(&here.join("all"))?, ["data"]);

    // What an instance has put into its files does not reach out of what is copied.
    let state = state_of(&stack).await?;
    fs::create_dir(state.join("evil"))?;
    fs::write(stack.dir().join("outside"), "as it was")?;
    let out = here.join("out");
    fs::create_dir(&out)?;
    for target in ["/etc/passwd", "../../outside", "..", "a/../../../outside"] {
        symlink(target, state.join("evil/link"))?;
        fails(&stack, "app/web:evil", text(&out), "`evil/link` is a link to").await?;
        fails(&stack, "app/web:evil/.", text(&out), "leads out of what is copied").await?;
        fs::remove_file(state.join("evil/link"))?;
    }
    let made = std::process::Command::new("mkfifo").arg(state.join("evil/pipe")).status()?;
    ensure!(made.success(), "a pipe");
    fails(&stack, "app/web:evil", text(&out), "`evil/pipe` is a pipe").await?;
    // Nor into it: a link is not written through.
    symlink(stack.dir(), state.join("lead"))?;
    fs::create_dir_all(here.join("lead"))?;
    fs::write(here.join("lead/outside"), "changed")?;
    fails(&stack, text(&here.join("lead")), "app/web:.", "is there and is no directory").await?;
    assert_eq!(fs::read_to_string(stack.dir().join("outside"))?, "as it was");
    assert!(names(&out)?.is_empty() && !names(&state)?.iter().any(|name| name.starts_with(".skerry")));
    stack.finish(None).await
}

#[tokio::test]
async fn the_kernel_says_what_the_user_of_a_process_may() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let stack = super::stack(&["n1"]).await?;
    // The way to its files: the data directory of an agent is for others to pass through, where it is usually.
    for way in [stack.dir().to_owned(), stack.dir().join("agents"), stack.agent_dir("n1")] {
        fs::set_permissions(way, fs::Permissions::from_mode(0o711))?;
    }
    let mut service = script("s", STAYS);
    service.user = "65534:65534".to_owned();
    stack.apply("web", app([service])).await?;
    stack.wait_ready("web", 1).await;
    let here = stack.dir().join("here");
    fs::create_dir(&here)?;
    fs::write(here.join("file"), "content")?;
    let file = text(&here.join("file")).to_owned();
    cp(&stack, &file, "app/web:.").await?;
    let put = fs::metadata(state_of(&stack).await?.join("file"))?;
    assert_eq!((put.uid(), put.gid()), (65534, 65534));
    fails(&stack, &file, "app/web:/etc", "Permission denied").await?;
    fails(&stack, "app/web:/etc/shadow", text(&here), "Permission denied").await?;
    assert_eq!(names(&here)?, ["file"]);
    stack.finish(None).await
}

#[tokio::test]
async fn things_go_where_docker_cp_puts_them_with_containers() -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    docker.busybox()?;
    let node = unique("copy");
    let containers = Containers::of(&docker, &node);
    let config = StackConfig { gateways: 2, relays: 2, crossed_relays: true, ..StackConfig::default() };
    let mut stack = Stack::start_with(config).await?;
    let host = format!("--docker-host=unix://{}", docker.socket().display());
    stack.add_agent(&node, &[&host])?;
    stack.wait_connected(&node).await;
    let mut service = container(
        "s",
        "mkdir -p /data/work; cd /data; ln -s /etc/passwd leads; mkdir evil; ln -s /etc/passwd evil/link; mkdir pipe; mkfifo pipe/pipe; exec sleep 1000000",
    );
    if let Some(service_spec::Program::Container(container)) = &mut service.program {
        container.pull_policy = PullPolicy::Never.into();
    }
    service.working_directory = "/data/work".to_owned();
    stack.apply("web", app([service])).await?;
    stack.wait_ready("web", 1).await;
    let here = stack.dir().join("here");
    fs::create_dir(&here)?;
    // From the working directory on, and absolute.
    follow_the_rules(&stack, &here, "").await?;
    cp(&stack, text(&here.join("tree")), "app/web/s:/data/abs").await?;
    cp(&stack, "app/web:../abs/.", text(&here.join("abs"))).await?;
    assert_eq!(seen(&here.join("abs"))?, seen(&here.join("tree"))?);

    let out = here.join("out");
    fs::create_dir(&out)?;
    fails(&stack, "app/web:/data/evil", text(&out), "`evil/link` is a link to `/etc/passwd`").await?;
    fails(&stack, "app/web:/data/leads", text(&out), "leads out of what is copied").await?;
    fails(&stack, "app/web:/data/pipe", text(&out), "`pipe/pipe` is a pipe").await?;
    // Docker does not see what is mounted there while it runs.
    fails(&stack, "app/web:/dev/null", text(&out), "Could not find the file").await?;
    // An archive of the user's own that leads out.
    fs::create_dir(here.join("bad"))?;
    symlink("/etc", here.join("bad/link"))?;
    fails(&stack, text(&here.join("bad")), "app/web:/data", "`bad/link` is a link to `/etc`").await?;
    assert!(names(&out)?.is_empty());
    stack.delete_app("web").await?;
    containers.wait_none().await;
    stack.finish(None).await
}
