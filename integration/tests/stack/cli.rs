//! What people type who come from kubectl: differences, editors, revisions, restarts, pruning, templates, contexts, Tab.

use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use skerry_integration::Stack;
use skerry_integration::apps::{app, script};
use skerry_integration::stack::PATIENCE;
use skerry_proto::scheduler::v1::app_service_server::{AppService, AppServiceServer};
use skerry_proto::scheduler::v1::{
    App, CreateAppRequest, CreateAppResponse, DeleteAppRequest, DeleteAppResponse, GetAppRequest,
    GetAppResponse, ListAppsRequest, ListAppsResponse, ListInstancesRequest, ListInstancesResponse,
    ListRevisionsRequest, ListRevisionsResponse, UpdateAppRequest, UpdateAppResponse, WatchAppsRequest,
    WatchAppsResponse,
};
use skerry_proto::types::v1::Metadata;
use skerry_testing::{Process, bin, eventually};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// What a server answers.
type Answer<T> = std::result::Result<T, Status>;

/// The `skerry` command with a home and a directory of its own, against a stack that a context names.
struct Operator {
    home: PathBuf,
}

impl Operator {
    async fn new(stack: &Stack) -> Result<Self> {
        let this = Self { home: stack.dir().join("home") };
        std::fs::create_dir_all(&this.home)?;
        let registry = format!("--registry=http://{}", stack.address("registry-0"));
        let scheduler = format!("--scheduler=http://{}", stack.address("scheduler-0"));
        let made = this.run(&["config", "set-context", "lab", &registry, &scheduler]).await?;
        assert_eq!(made, (Some(0), "context lab created; it is the current one\n".into(), String::new()));
        Ok(this)
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.home).env("HOME", &self.home).stdin(Stdio::null());
        for name in
            ["XDG_CONFIG_HOME", "SKERRY_CONFIG", "SKERRY_SERVER", "SKERRY_PROJECT", "SKERRY_EDITOR", "VISUAL"]
        {
            command.env_remove(name);
        }
        command
    }

    /// Exit code, stdout, stderr.
    async fn run(&self, words: &[&str]) -> Result<(Option<i32>, String, String)> {
        let mut command = self.command(bin("skerry"));
        command.args(words);
        ended(command).await
    }

    async fn edit(&self, editor: &Path, target: &str) -> Result<(Option<i32>, String, String)> {
        let mut command = self.command(bin("skerry"));
        command.args(["edit", target]).env("EDITOR", editor);
        ended(command).await
    }

    /// Begins an edit, and comes back when its editor has made the file `opened`.
    async fn open(&self, editor: &Path, target: &str, opened: &str) -> Result<Process> {
        let mut command = self.command(bin("skerry"));
        command.args(["edit", target]).env("EDITOR", editor);
        let edit = Process::spawn_command(&mut command, self.home.join(format!("{opened}.log")))?;
        eventually("the editor is open", PATIENCE, async || {
            ensure!(self.home.join(opened).exists(), "{}", edit.output());
            Ok(())
        })
        .await;
        Ok(edit)
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.home.join(name);
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// A program that is taken for an editor: `script` with the file as its first argument.
    fn editor(&self, name: &str, script: &str) -> Result<PathBuf> {
        let path = self.file(name, &format!("#!/bin/sh\n{script}\n"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }
}

async fn ended(mut command: Command) -> Result<(Option<i32>, String, String)> {
    let output = tokio::task::spawn_blocking(move || command.output());
    let output: Output =
        tokio::time::timeout(PATIENCE, output).await.context("it did not end")??.context("running it")?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).context("text");
    Ok((output.status.code(), text(output.stdout)?, text(output.stderr)?))
}

fn web(seconds: u32) -> String {
    format!(
        "apiVersion: skerry/v1\nkind: App\nmetadata: {{name: web, labels: {{team: shop}}}}\nspec:\n  services:\n    - name: s\n      \
         process: {{program: /bin/sleep, args: [\"{seconds}\"]}}\n      stop: {{gracePeriod: 2s}}\n"
    )
}

fn config(name: &str) -> String {
    format!(
        "apiVersion: skerry/v1\nkind: Config\nmetadata: {{name: {name}, labels: {{team: shop}}}}\nspec: {{data: {{a: b}}}}\n"
    )
}

#[tokio::test]
async fn a_change_is_seen_made_undone_and_restarted() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    let operator = Operator::new(&stack).await?;
    operator.file("web.yaml", &web(1_000_001))?;

    let new = operator.run(&["diff", "-f", "web.yaml"]).await?;
    ensure!(new.0 == Some(1) && new.1.contains("\n+  name: web\n"), "{new:?}");
    let applied = operator.run(&["apply", "-f", "web.yaml", "--wait"]).await?;
    assert_eq!(
        (applied.0, applied.1.as_str()),
        (Some(0), "app/web created\napp/web healthy\n"),
        "{applied:?}"
    );
    assert_eq!(operator.run(&["diff", "-f", "web.yaml"]).await?, (Some(0), String::new(), String::new()));

    operator.file("web.yaml", &web(1_000_002))?;
    let other = operator.run(&["diff", "-f", "web.yaml"]).await?;
    ensure!(
        other.0 == Some(1) && other.1.contains("\n-          - \"1000001\"\n+          - \"1000002\"\n"),
        "{other:?}"
    );
    let bad = operator.file("bad.yaml", &web(1).replace("process", "proces"))?;
    let refused = operator.run(&["diff", "-f", &bad.display().to_string()]).await?;
    ensure!(refused.0 == Some(2) && refused.2.contains("did you mean \"process\"?"), "{refused:?}");
    ensure!(operator.run(&["apply", "-f", "web.yaml"]).await?.0 == Some(0), "applied");
    let status = operator.run(&["rollout", "status", "app/web"]).await?;
    ensure!(status.0 == Some(0) && status.1.starts_with("app/web rolled out: 1/1 ready"), "{status:?}");

    // A restart replaces what runs, and applying the manifest again neither undoes nor repeats it.
    let id = ["get", "instances", "web", "-o", "jsonpath={.items[0].runtimeId}"];
    let before = operator.run(&id).await?.1;
    assert_eq!(operator.run(&["restart", "app/web", "s"]).await?.1, "app/web restarted\n");
    ensure!(operator.run(&["rollout", "status", "app/web"]).await?.0 == Some(0), "restarted");
    let after = operator.run(&id).await?.1;
    ensure!(!before.is_empty() && before != after, "{before} is still {after}");
    assert_eq!(operator.run(&["apply", "-f", "web.yaml"]).await?.1, "app/web unchanged\n");

    let undone = operator.run(&["rollout", "undo", "app/web"]).await?;
    assert_eq!((undone.0, undone.1.as_str()), (Some(0), "app/web rolled back to revision 1\n"), "{undone:?}");
    let args =
        operator.run(&["get", "app/web", "-o", "jsonpath={.spec.services[0].process.args[*]}"]).await?;
    assert_eq!(args.1, "1000001");
    let history = operator.run(&["rollout", "history", "app/web"]).await?.1;
    ensure!(
        history.contains("4 ") && history.contains("current") && history.contains("restart"),
        "{history}"
    );
    let missing = operator.run(&["rollout", "undo", "app/web", "--to-revision=9"]).await?;
    ensure!(missing.0 == Some(3) && missing.2.contains("kept are 4, 3, 2, 1"), "{missing:?}");
    stack.finish(None).await
}

/// A name is used again: what an app of before ran is nothing to go back to.
#[tokio::test]
async fn an_app_that_has_the_name_of_a_deleted_one_begins_with_an_empty_history() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    let operator = Operator::new(&stack).await?;
    for seconds in [1_000_001, 1_000_002, 1_000_003] {
        operator.file("web.yaml", &web(seconds))?;
        ensure!(operator.run(&["apply", "-f", "web.yaml"]).await?.0 == Some(0), "applied");
    }
    ensure!(operator.run(&["delete", "app/web"]).await?.0 == Some(0), "deleted");
    // One of them is of the same content as one of before.
    for seconds in [1_000_004, 1_000_002] {
        operator.file("web.yaml", &web(seconds))?;
        ensure!(operator.run(&["apply", "-f", "web.yaml"]).await?.0 == Some(0), "applied");
    }
    let history = operator.run(&["rollout", "history", "app/web"]).await?.1;
    let numbers: Vec<&str> =
        history.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    ensure!(numbers == ["2", "1"], "{history}");
    let undone = operator.run(&["rollout", "undo", "app/web"]).await?;
    assert_eq!((undone.0, undone.1.as_str()), (Some(0), "app/web rolled back to revision 1\n"), "{undone:?}");
    let args =
        operator.run(&["get", "app/web", "-o", "jsonpath={.spec.services[0].process.args[*]}"]).await?;
    assert_eq!(args.1, "1000004");
    stack.finish(None).await
}

#[tokio::test]
async fn a_command_that_waits_for_its_input_ends_with_ctrl_c() -> Result<()> {
    let stack = Stack::start().await?;
    let operator = Operator::new(&stack).await?;
    for words in [&["apply", "-f", "-"][..], &["diff", "-f", "-"], &["secret", "set", "s", "a=-"]] {
        let mut command = operator.command(bin("skerry"));
        let waiting = command.args(words).stdin(Stdio::piped()).spawn().context("starting it")?;
        let id = rustix::process::Pid::from_child(&waiting);
        let waiting = RefCell::new(waiting);
        // Not told when it has begun to read: typed until it ends, as people do.
        eventually(&format!("{words:?} has ended"), PATIENCE, async || {
            rustix::process::kill_process(id, Signal::INT).context("Ctrl-C")?;
            let status = waiting.borrow_mut().try_wait()?.context("it waits")?;
            ensure!(!status.success(), "{status}");
            Ok(())
        })
        .await;
    }
    stack.finish(None).await
}

#[tokio::test]
async fn an_edit_is_taken_refused_or_kept_when_somebody_else_was_faster() -> Result<()> {
    let stack = Stack::start().await?;
    let operator = Operator::new(&stack).await?;
    operator.file("web.yaml", &web(1_000_001))?;
    ensure!(operator.run(&["apply", "-f", "web.yaml"]).await?.0 == Some(0), "applied");

    let good = operator.editor("good.sh", "sed -i s/1000001/1000002/ \"$1\"")?;
    assert_eq!(operator.edit(&good, "app/web").await?.1, "app/web edited\n");
    assert_eq!(
        operator.edit(Path::new("true"), "app/web").await?.1,
        "app/web unchanged: the edit was given up\n"
    );

    // The second time the editor sees what was wrong, and mends it.
    let slip = "if grep -q 'did you mean' \"$1\"; then sed -i s/proces:/process:/ \"$1\"; \
                else sed -i 's/process:/proces:/; s/1000002/1000003/' \"$1\"; fi";
    let slip = operator.editor("slip.sh", slip)?;
    assert_eq!(operator.edit(&slip, "app/web").await?.1, "app/web edited\n");

    let skerry = bin("skerry").display().to_string();
    let slow = format!("{skerry} annotate app/web by=another > /dev/null; sed -i s/1000003/1000004/ \"$1\"");
    let slow = operator.editor("slow.sh", &slow)?;
    let (code, _, told) = operator.edit(&slow, "app/web").await?;
    ensure!(code == Some(1) && told.contains("somebody else changed app/web meanwhile"), "{told}");
    let kept = told.split_whitespace().find(|word| word.ends_with(".yaml:")).context("a file is named")?;
    let kept = kept.trim_end_matches(':');
    let differs = operator.run(&["diff", "-f", kept]).await?;
    ensure!(differs.0 == Some(1) && differs.1.contains("1000004"), "{differs:?}");
    std::fs::remove_file(kept)?;
    let args =
        operator.run(&["get", "app/web", "-o", "jsonpath={.spec.services[0].process.args[0]}"]).await?;
    assert_eq!(args.1, "1000003", "nothing was written");
    stack.finish(None).await
}

/// The text that is said to be kept, which is then removed.
fn kept(told: &str) -> Result<String> {
    let named = told.split_whitespace().find(|word| word.ends_with(".yaml:"));
    let file = named.with_context(|| format!("a file is named: {told}"))?.trim_end_matches(':');
    let text = std::fs::read(file).with_context(|| format!("reading {file}"))?;
    std::fs::remove_file(file)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn an_interrupt_in_the_editor_is_the_editors_and_a_later_one_keeps_the_text() -> Result<()> {
    let mut stack = Stack::start().await?;
    let operator = Operator::new(&stack).await?;
    operator.file("web.yaml", &web(1_000_001))?;
    ensure!(operator.run(&["apply", "-f", "web.yaml"]).await?.0 == Some(0), "applied");
    let waits = |seconds: u32, word: &str| {
        let script = format!(
            "sed -i 's/100000[0-9]/{seconds}/' \"$1\"; touch {word}; until test -e {word}.end; do sleep 0.05; done"
        );
        operator.editor(&format!("{word}.sh"), &script)
    };

    let mut edit = operator.open(&waits(1_000_002, "typed")?, "app/web", "typed").await?;
    edit.signal(Signal::INT)?;
    edit.signal(Signal::QUIT)?;
    operator.file("typed.end", "")?;
    let status = edit.wait(PATIENCE).await?;
    assert_eq!((status.code(), edit.output().as_str()), (Some(0), "app/web edited\n"), "{status}");

    // The editor has ended, and the server keeps the text waiting.
    let mut edit = operator.open(&waits(1_000_003, "sent")?, "app/web", "sent").await?;
    stack.service("scheduler-0")?.pause()?;
    operator.file("sent.end", "")?;
    eventually("the command ends", PATIENCE, || {
        let ended = edit.signal(Signal::INT).and_then(|()| edit.try_wait()?.context("it runs"));
        std::future::ready(ended)
    })
    .await;
    assert_eq!(edit.wait(PATIENCE).await?.code(), Some(130), "{}", edit.output());
    ensure!(kept(&edit.output())?.contains("1000003"), "the text of the last edit");
    stack.service("scheduler-0")?.resume()?;
    stack.finish(None).await
}

#[tokio::test]
async fn an_edit_that_goes_wrong_keeps_the_text_and_one_that_changes_nothing_says_so() -> Result<()> {
    let stack = Stack::start().await?;
    let operator = Operator::new(&stack).await?;
    operator.file("web.yaml", &web(1_000_001))?;
    ensure!(operator.run(&["apply", "-f", "web.yaml"]).await?.0 == Some(0), "applied");
    let comment = operator.editor("comment.sh", "echo '# why' >> \"$1\"")?;
    assert_eq!(operator.edit(&comment, "app/web").await?.1, "app/web unchanged\n");

    // A slip first; then an editor that fails, one that leaves what is no text, and one that fails at once.
    let slip = "sed -i 's/process:/proces:/; s/1000001/1000009/' \"$1\"";
    for (name, script) in [
        ("fails.sh", format!("if grep -q 'did you mean' \"$1\"; then exit 1; else {slip}; fi")),
        (
            "binary.sh",
            format!("if grep -q 'did you mean' \"$1\"; then printf '\\377' >> \"$1\"; else {slip}; fi"),
        ),
        ("never.sh", format!("{slip}; exit 1")),
    ] {
        let (code, _, told) = operator.edit(&operator.editor(name, &script)?, "app/web").await?;
        ensure!(code == Some(1), "{name}: {told}");
        ensure!(kept(&told)?.contains("1000009"), "{name}: {told}");
    }
    let (code, _, told) = operator.edit(Path::new("false"), "app/web").await?;
    ensure!(code == Some(1) && !told.contains("kept"), "nothing was typed: {told}");
    stack.finish(None).await
}

/// A scheduler that knows one app once, and to which every change comes too late.
struct Forgets {
    asked: AtomicU32,
}

#[tonic::async_trait]
impl AppService for Forgets {
    type WatchAppsStream = futures_util::stream::Empty<Answer<WatchAppsResponse>>;

    async fn get_app(&self, _: Request<GetAppRequest>) -> Answer<Response<GetAppResponse>> {
        if self.asked.fetch_add(1, Ordering::Relaxed) > 0 {
            return Err(Status::internal("it broke"));
        }
        let metadata = Metadata { name: "projects/default/apps/web".into(), ..Default::default() };
        let spec = app([script("s", "sleep 1")]);
        Ok(Response::new(GetAppResponse {
            app: Some(App { metadata: Some(metadata), spec: Some(spec), status: None }),
        }))
    }
    async fn update_app(&self, _: Request<UpdateAppRequest>) -> Answer<Response<UpdateAppResponse>> {
        Err(Status::aborted("somebody was faster"))
    }
    async fn create_app(&self, _: Request<CreateAppRequest>) -> Answer<Response<CreateAppResponse>> {
        Err(Status::unimplemented(""))
    }
    async fn list_apps(&self, _: Request<ListAppsRequest>) -> Answer<Response<ListAppsResponse>> {
        Err(Status::unimplemented(""))
    }
    async fn watch_apps(&self, _: Request<WatchAppsRequest>) -> Answer<Response<Self::WatchAppsStream>> {
        Err(Status::unimplemented(""))
    }
    async fn delete_app(&self, _: Request<DeleteAppRequest>) -> Answer<Response<DeleteAppResponse>> {
        Err(Status::unimplemented(""))
    }
    async fn list_instances(
        &self,
        _: Request<ListInstancesRequest>,
    ) -> Answer<Response<ListInstancesResponse>> {
        Err(Status::unimplemented(""))
    }
    async fn list_revisions(
        &self,
        _: Request<ListRevisionsRequest>,
    ) -> Answer<Response<ListRevisionsResponse>> {
        Err(Status::unimplemented(""))
    }
}

#[tokio::test]
async fn an_edit_whose_server_fails_between_two_answers_keeps_the_text() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let scheduler = format!("--scheduler=http://{}", listener.local_addr()?);
    let mut serving = JoinSet::new();
    let forgets = AppServiceServer::new(Forgets { asked: AtomicU32::new(0) });
    serving.spawn(Server::builder().add_service(forgets).serve_with_incoming(TcpIncoming::from(listener)));
    let home = tempfile::tempdir()?;
    let operator = Operator { home: home.path().to_owned() };
    let editor = operator.editor("good.sh", "sed -i 's/sleep 1/sleep 2/' \"$1\"")?;
    let mut command = operator.command(bin("skerry"));
    command.args(["edit", "app/web", &scheduler]).env("EDITOR", editor);
    let (code, _, told) = ended(command).await?;
    ensure!(code == Some(1) && told.contains("it broke"), "{told}");
    ensure!(kept(&told)?.contains("sleep 2"), "{told}");
    Ok(())
}

#[tokio::test]
async fn pruning_deletes_what_the_selector_chooses_and_no_manifest_names() -> Result<()> {
    let stack = Stack::start().await?;
    let operator = Operator::new(&stack).await?;
    operator.file("site/web.yaml", &(web(1) + "---\n" + &config("kept")))?;
    operator.file("site/below/old.yaml", &config("old"))?;
    operator.file("other.yaml", &config("other").replace("shop", "else"))?;
    for words in [["apply", "-R", "-f", "site"].as_slice(), &["apply", "-f", "other.yaml"]] {
        ensure!(operator.run(words).await?.0 == Some(0), "{words:?}");
    }
    let refused = operator.run(&["apply", "-f", "site", "--prune"]).await?;
    ensure!(refused.0 == Some(2) && refused.2.contains("--prune needs -l SELECTOR"), "{refused:?}");
    let dry = operator.run(&["apply", "-f", "site", "--prune", "-l", "team=shop", "--dry-run"]).await?;
    ensure!(dry.1.ends_with("config/old pruned (dry run)\n"), "{dry:?}");
    let pruned = operator.run(&["apply", "-f", "site", "--prune", "-l", "team=shop"]).await?;
    assert_eq!(pruned.1, "config/kept unchanged\napp/web unchanged\nconfig/old pruned\n");
    let left = operator.run(&["get", "configs", "-o", "name"]).await?.1;
    assert_eq!(left, "config/kept\nconfig/other\n");
    let all = operator.run(&["apply", "-f", "other.yaml", "--prune", "--all"]).await?;
    assert_eq!(all.1, "config/other unchanged\napp/web pruned\nconfig/kept pruned\n", "apps before configs");
    stack.finish(None).await
}

#[tokio::test]
async fn real_shells_complete_the_names_of_resources() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    let operator = Operator::new(&stack).await?;
    operator.file("web.yaml", &web(1_000_001))?;
    ensure!(operator.run(&["apply", "-f", "web.yaml"]).await?.0 == Some(0), "applied");
    let script = "source <(skerry completion bash)
        answer() {
            COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9; COMPREPLY=()
            _clap_complete_skerry skerry \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"
            echo \"${COMPREPLY[*]}\"
        }
        answer skerry get app/
        answer skerry describe node n
        answer skerry rollout undo app/w
        answer skerry config use-context l
        answer skerry --server = http : //127.0.0.1 : 1 get app/
        answer skerry explain app.spec.s
        answer skerry unco";
    let in_shell = async |words: &[&str]| {
        let mut command = operator.command(words[0]);
        let directory = bin("skerry").parent().context("a directory")?.display().to_string();
        let path = format!("{directory}:{}", std::env::var("PATH").unwrap_or_default());
        command.args(&words[1..]).env("PATH", path);
        ended(command).await
    };
    let (code, said, errors) = in_shell(&["bash", "--norc", "-c", script]).await?;
    let expected =
        "app/web\nn1\napp/web\nlab\n\napp.spec.selector app.spec.services app.spec.system\nuncordon\n";
    assert_eq!((code, said.as_str()), (Some(0), expected), "{errors}");

    // The same in the two others. Where nobody sits at a terminal zsh calls no completer by itself: it is called as zsh would.
    let expected = "app/web\nn1\napp.spec.selector\napp.spec.services\napp.spec.system\nuncordon:Give nodes work again, also those that are drained\n";
    let script = "compdef() { : }
        _describe() { print -l -- \"${(@P)3}\" }
        source <(skerry completion zsh)
        answer() { words=(\"$@\"); CURRENT=$#; _clap_dynamic_completer_skerry }
        answer skerry get app/
        answer skerry describe node n
        answer skerry explain app.spec.s
        answer skerry unco";
    let (code, said, errors) = in_shell(&["zsh", "-fc", script]).await?;
    assert_eq!((code, said.as_str()), (Some(0), expected), "{errors}");
    let script = "skerry completion fish | source
        complete -C 'skerry get app/'
        complete -C 'skerry describe node n'
        complete -C 'skerry explain app.spec.s'
        complete -C 'skerry unco'";
    let (code, said, errors) = in_shell(&["fish", "--no-config", "-c", script]).await?;
    assert_eq!((code, said.replace('\t', ":").as_str()), (Some(0), expected), "{errors}");
    stack.finish(None).await
}

#[tokio::test]
async fn colours_and_templates_are_for_whom_they_are_asked() -> Result<()> {
    let stack = Stack::start().await?;
    let operator = Operator::new(&stack).await?;
    operator.file("web.yaml", &web(1))?;
    ensure!(operator.run(&["apply", "-f", "web.yaml"]).await?.0 == Some(0), "applied");
    let plain = operator.run(&["get", "apps"]).await?.1;
    ensure!(!plain.contains('\x1b'), "a pipe has no colours: {plain:?}");
    let painted = operator.run(&["get", "apps", "--color=always"]).await?.1;
    ensure!(painted.contains('\x1b'), "{painted:?}");
    let template =
        "jsonpath={range .items[?(@.metadata.labels.team==\"shop\")]}{.metadata.name}{\"\\n\"}{end}";
    assert_eq!(operator.run(&["get", "apps", "-o", template]).await?.1, "web\n");
    let away = operator.run(&["--server=http://127.0.0.1:1", "get", "apps"]).await?;
    assert_eq!(away.0, Some(4), "a flag comes before the context: {away:?}");
    let unknown = operator.run(&["--context=lob", "get", "apps"]).await?;
    ensure!(unknown.0 == Some(2) && unknown.2.contains("did you mean lab?"), "{unknown:?}");
    // As deliberate as any flag: what the shell happens to have set sends nobody elsewhere.
    let mut named = operator.command(bin("skerry"));
    named.args(["--context=lab", "get", "apps", "-o", "name"]);
    named.env("SKERRY_SERVER", "http://127.0.0.1:1").env("SKERRY_PROJECT", "other");
    assert_eq!(ended(named).await?, (Some(0), "app/web\n".into(), String::new()));
    stack.finish(None).await
}

#[tokio::test]
async fn a_config_in_use_is_refused_in_the_word_for_its_use_and_no_error_commands_a_terminal() -> Result<()> {
    let stack = Stack::start().await?;
    let operator = Operator::new(&stack).await?;
    let mounts = "      configs: [{config: c, path: c}]\n";
    let reads = "      envFrom: [{config: c}]\n";
    operator.file("c.yaml", &config("c"))?;
    ensure!(operator.run(&["apply", "-f", "c.yaml"]).await?.0 == Some(0), "applied");
    for (uses, word) in
        [(mounts.to_owned(), "mounted"), (reads.to_owned(), "used"), (format!("{mounts}{reads}"), "mounted")]
    {
        operator.file("web.yaml", &format!("{}{uses}", web(1)))?;
        let applied = operator.run(&["apply", "-f", "web.yaml"]).await?;
        ensure!(applied.0 == Some(0), "{applied:?}");
        let expected = format!(
            "error: projects/default/configs/c is {word} by web: remove it from there first (CONFIG_IN_USE)\n"
        );
        let refused = operator.run(&["delete", "config/c"]).await?;
        assert_eq!(refused, (Some(1), String::new(), expected), "{uses}");
    }
    operator.file("web.yaml", &web(1))?;
    for words in [["apply", "-f", "web.yaml"].as_slice(), &["delete", "config/c"]] {
        let done = operator.run(words).await?;
        ensure!(done.0 == Some(0), "{words:?}: {done:?}");
    }

    let evil = "x\x1b[2J\x07";
    operator.file("evil.yaml", &config("c").replace("data: {a: b}", "data: {\"a\\e[2J\": b}"))?;
    let said = [
        operator.run(&["get", "apps", &format!("--context={evil}")]).await?,
        operator.run(&["get", &format!("app/{evil}")]).await?,
        operator.run(&["get", &format!("{evil}/web")]).await?,
        operator.run(&["apply", "-f", &format!("{evil}.yaml")]).await?,
        operator.run(&["apply", "-f", "evil.yaml"]).await?,
    ];
    for (code, _, errors) in said {
        ensure!(
            code != Some(0) && errors.starts_with("error: ") || errors.contains("evil.yaml"),
            "{errors:?}"
        );
        ensure!(errors.chars().all(|c| c == '\n' || !c.is_control()), "{errors:?}");
    }
    stack.finish(None).await
}
