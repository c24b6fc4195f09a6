//! Jobs and cron jobs from outside: what succeeds is run once, whatever is killed; what fails for good is told and stopped; a schedule is kept
//! by the node's own clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use skerry_integration::Stack;
use skerry_integration::apps::{app, script};
use skerry_integration::stack::PATIENCE;
use skerry_proto::types::v1::{
    CronJob, Dependency, InstancePhase, InstanceStatus, Job, JobStatus, RestartPolicy, ServiceSpec,
    dependency, job_status, service_spec,
};
use skerry_testing::{Process, bin, eventually};

use crate::operator::{said, skerry};

/// What jobs on this machine write, and what they wait for.
struct Yard(PathBuf);

impl Yard {
    fn new(stack: &Stack) -> Result<Self> {
        let path = stack.dir().join("yard");
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// A job whose instances note their index and wait to be told that they may end.
    fn service(&self, name: &str, job: Job) -> ServiceSpec {
        let dir = self.0.display();
        let text = format!(
            "echo $SKERRY_JOB_INDEX >>{dir}/{name}.starts; \
             while ! [ -e {dir}/{name}.$SKERRY_JOB_INDEX ]; do sleep 0.05; done; echo $SKERRY_JOB_INDEX >>{dir}/{name}.ends"
        );
        of_job(job, script(name, &text))
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.0.join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn let_end(&self, name: &str, index: u32) -> Result<()> {
        fs::write(self.0.join(format!("{name}.{index}")), "").context("letting an instance end")
    }

    /// In any order: some of them run at once.
    async fn wait_lines(&self, file: &str, expected: &[&str]) {
        eventually(&format!("{file} has {expected:?}"), PATIENCE, async || {
            let mut lines = self.lines(file);
            lines.sort_unstable();
            ensure!(lines == expected, "{lines:?}");
            Ok(())
        })
        .await;
    }
}

fn job(completions: u32, parallelism: u32, backoff_limit: u32) -> Job {
    Job {
        completions: Some(completions),
        parallelism: Some(parallelism),
        backoff_limit: Some(backoff_limit),
        deadline: None,
    }
}

/// Tried again after a tenth of a second.
fn of_job(job: Job, service: ServiceSpec) -> ServiceSpec {
    let soon = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
    let restart = RestartPolicy { backoff: soon, backoff_max: soon, ..RestartPolicy::default() };
    ServiceSpec { kind: Some(service_spec::Kind::Job(job)), restart: Some(restart), ..service }
}

async fn stack() -> Result<(Stack, Yard)> {
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    let yard = Yard::new(&stack)?;
    Ok((stack, yard))
}

/// What a command wrote, and its exit code.
async fn run(stack: &Stack, words: &[&str]) -> Result<(Option<i32>, String)> {
    let output = skerry(stack, words).await?;
    Ok((output.status.code(), said(&output)))
}

async fn wait_complete(stack: &Stack, app: &str) -> Result<()> {
    let (code, said) = run(stack, &["wait", app, "--for=complete", "--timeout=60s"]).await?;
    ensure!(code == Some(0), "{said}");
    Ok(())
}

/// What is told of the job of an app's first instance.
async fn status(stack: &Stack, app: &str, service: &str) -> Result<(InstanceStatus, JobStatus)> {
    let name = format!("{app}/{service}/n1/0");
    let all = stack.instances(app).await?;
    let found = all.into_iter().find(|one| one.instance == name).context("no such instance")?;
    let job = found.job.clone().context("nothing is told of its job")?;
    Ok((found, job))
}

#[tokio::test]
async fn what_succeeded_is_run_once_whoever_is_killed_until_somebody_asks_for_it_again() -> Result<()> {
    let (mut stack, yard) = stack().await?;
    stack.apply("load", app([yard.service("work", job(4, 2, 0))])).await?;
    yard.wait_lines("work.starts", &["0", "1"]).await;
    eventually("two are told to wait for their turn", PATIENCE, async || {
        let waiting = stack.instances("load").await?;
        let reasons: Vec<&str> = waiting.iter().skip(2).map(|one| one.reason.as_str()).collect();
        ensure!(reasons == ["WaitingForTurn", "WaitingForTurn"], "{waiting:?}");
        Ok(())
    })
    .await;
    yard.let_end("work", 1)?;
    yard.wait_lines("work.starts", &["0", "1", "2"]).await;

    // One ends while no agent sees it.
    stack.kill_agent("n1")?;
    yard.let_end("work", 2)?;
    yard.wait_lines("work.ends", &["1", "2"]).await;
    stack.start_agent("n1")?;
    yard.wait_lines("work.starts", &["0", "1", "2", "3"]).await;
    yard.let_end("work", 0)?;
    yard.let_end("work", 3)?;
    wait_complete(&stack, "app/load").await?;
    let (first, told) = status(&stack, "load", "work").await?;
    ensure!(first.phase() == InstancePhase::Completed && first.exit_code == Some(0), "{first:?}");
    ensure!(
        told.state() == job_status::State::Complete && told.succeeded == 4 && told.failures == 0,
        "{told:?}"
    );
    let (start, finish) = (told.start_time.context("a start")?, told.finish_time.context("an end")?);
    ensure!((start.seconds, start.nanos) <= (finish.seconds, finish.nanos), "{told:?}");
    let (_, shown) = run(&stack, &["describe", "app/load"]).await?;
    ensure!(shown.contains("Job (4 completions)") && shown.contains("4/4"), "{shown}");

    // A new agent, a new revision that changes another service: it has succeeded.
    stack.kill_agent("n1")?;
    stack.start_agent("n1")?;
    let beside = yard.service("beside", job(1, 1, 0));
    yard.let_end("beside", 0)?;
    stack.apply("load", app([yard.service("work", job(4, 2, 0)), beside])).await?;
    yard.wait_lines("beside.ends", &["0"]).await;
    wait_complete(&stack, "app/load").await?;
    ensure!(yard.lines("work.starts").len() == 4, "{:?}", yard.lines("work.starts"));

    let (code, said) = run(&stack, &["restart", "app/load", "work"]).await?;
    ensure!(code == Some(0), "{said}");
    eventually("each ran twice", PATIENCE, async || {
        let mut ends = yard.lines("work.ends");
        ends.sort_unstable();
        ensure!(ends == ["0", "0", "1", "1", "2", "2", "3", "3"], "{ends:?}");
        Ok(())
    })
    .await;
    wait_complete(&stack, "app/load").await?;
    ensure!(yard.lines("work.starts").len() == 8 && yard.lines("beside.starts").len() == 1);
    stack.finish(None).await
}

#[tokio::test]
async fn a_job_that_fails_for_good_is_told_at_once_and_what_runs_of_it_is_stopped() -> Result<()> {
    let (stack, yard) = stack().await?;
    let dir = yard.0.display();
    // The first one fails each time, the second one would go on.
    let text = format!(
        "echo $SKERRY_JOB_INDEX >>{dir}/starts; [ $SKERRY_JOB_INDEX = 1 ] || exit 7; \
         trap 'echo asked >>{dir}/asked; exit 0' TERM; while :; do sleep 0.05; done"
    );
    stack.apply("bad", app([of_job(job(3, 2, 2), script("task", &text))])).await?;
    for state in ["complete", "healthy"] {
        let (code, said) =
            run(&stack, &["wait", "app/bad", &format!("--for={state}"), "--timeout=50s"]).await?;
        ensure!(code == Some(1), "{code:?} {said}");
        ensure!(said.contains(&format!("is never {state}: job bad/task/n1 has failed for good")), "{said}");
        ensure!(said.contains("BackoffLimitExceeded"), "{said}");
    }
    yard.wait_lines("asked", &["asked"]).await;
    eventually("nothing of it runs", PATIENCE, async || {
        let all = stack.instances("bad").await?;
        let failed = |one: &InstanceStatus| {
            one.phase() == InstancePhase::Failed && one.reason == "BackoffLimitExceeded"
        };
        ensure!(all.len() == 3 && all.iter().all(failed), "{all:?}");
        Ok(())
    })
    .await;
    let mut starts = yard.lines("starts");
    starts.sort_unstable();
    ensure!(starts == ["0", "0", "0", "1"], "{starts:?}");
    let (_, told) = status(&stack, "bad", "task").await?;
    ensure!(
        told.state() == job_status::State::Failed && told.failures == 3 && told.succeeded == 0,
        "{told:?}"
    );
    let events = stack.events().await?;
    let event = events.iter().find(|event| event.reason == "JobFailed").context("no event")?;
    ensure!(event.message.contains("failed 3 times, and 2 are borne"), "{event:?}");
    stack.finish(None).await
}

#[tokio::test]
async fn a_job_ends_at_its_deadline_and_who_waits_for_one_starts_when_it_has_completed() -> Result<()> {
    let (stack, yard) = stack().await?;
    let deadline = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let late = yard.service("late", Job { deadline, ..job(1, 1, 5) });
    stack.apply("slow", app([late])).await?;
    let (code, said) = run(&stack, &["wait", "app/slow", "--for=complete", "--timeout=50s"]).await?;
    ensure!(code == Some(1) && said.contains("DeadlineExceeded"), "{code:?} {said}");
    ensure!(yard.lines("late.starts") == ["0"] && yard.lines("late.ends").is_empty());

    let web = ServiceSpec {
        depends_on: vec![Dependency {
            service: "migrate".to_owned(),
            condition: dependency::Condition::Completed.into(),
        }],
        ..script("web", &format!("cat {}/migrate.ends >>{0}/web; exec sleep 1000000", yard.0.display()))
    };
    stack.apply("shop", app([yard.service("migrate", job(2, 1, 0)), web])).await?;
    yard.wait_lines("migrate.starts", &["0"]).await;
    eventually("it is told that web waits", PATIENCE, async || {
        let waits = stack.instances("shop").await?;
        let web = waits.iter().find(|one| one.instance == "shop/web/n1/0").context("no web")?;
        ensure!(web.reason == "WaitingForDependency" && !web.ready, "{web:?}");
        Ok(())
    })
    .await;
    yard.let_end("migrate", 0)?;
    yard.let_end("migrate", 1)?;
    yard.wait_lines("web", &["0", "1"]).await;
    stack.wait_ready("shop", 3).await;
    stack.finish(None).await
}

/// An agent whose clock begins at `clock`, as `@2027-01-10 02:59:57`: the process itself, not a `faketime` that would not pass signals on.
fn agent_at(stack: &Stack, clock: &str) -> Result<Process> {
    let preload = Command::new("faketime").args(["-f", clock, "printenv", "LD_PRELOAD"]).output();
    let preload = String::from_utf8(preload.context("faketime")?.stdout)?;
    let mut command = Command::new(bin("skerry-agent"));
    // Only the wall clock: no machine's monotonic one is wrong.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    command.env("LD_PRELOAD", preload.trim()).env("FAKETIME", clock);
    command.args(["--insecure", "--no-docker", "--node=n1"]);
    command.arg(format!("--gateway=http://{}", stack.address("gateway-0")));
    command.arg("--data-dir").arg(stack.agent_dir("n1"));
    Process::spawn_command(&mut command, stack.log("agent-n1"))
}

fn cron(schedule: &str, service: ServiceSpec) -> ServiceSpec {
    let cron = CronJob { schedule: schedule.to_owned(), job: Some(job(1, 1, 0)), ..CronJob::default() };
    ServiceSpec { kind: Some(service_spec::Kind::CronJob(cron)), ..service }
}

/// A cron job that notes when each of its runs was due.
fn noting(file: &Path, name: &str, schedule: &str) -> ServiceSpec {
    cron(schedule, script(name, &format!("echo $SKERRY_JOB_DUE >>{}", file.display())))
}

#[tokio::test]
async fn a_cron_job_keeps_its_schedule_by_the_nodes_clock_and_runs_nothing_twice() -> Result<()> {
    let mut stack = Stack::start().await?;
    let yard = Yard::new(&stack)?;
    let (nightly, probe) = (yard.0.join("nightly"), yard.0.join("probe"));
    // Applied in good time, and then it is nearly due.
    let mut agent = agent_at(&stack, "@2027-01-10 01:00:00")?;
    stack.apply("backup", app([noting(&nightly, "nightly", "0 3 * * *")])).await?;
    // Nothing is missing while it waits for its time.
    stack.wait_ready("backup", 1).await;
    agent.terminate(PATIENCE).await?;
    let mut agent = agent_at(&stack, "@2027-01-10 02:59:58")?;
    yard.wait_lines("nightly", &["2027-01-10T03:00:00Z"]).await;
    eventually("the result is told", PATIENCE, async || {
        let (instance, told) = status(&stack, "backup", "nightly").await?;
        ensure!(instance.ready && instance.reason == "Scheduled", "{instance:?}");
        ensure!(told.history.len() == 1 && told.history[0].reason.is_empty(), "{told:?}");
        let next = told.next_time.context("no next time")?;
        ensure!(next.to_string() == "2027-01-11T03:00:00Z", "{next}");
        Ok(())
    })
    .await;

    // The clock goes back before the time that was run: a new cron job runs then, and this one does not.
    agent.kill()?;
    let mut agent = agent_at(&stack, "@2027-01-10 01:30:00")?;
    stack.apply("probe", app([noting(&probe, "probe", "0 3 * * *")])).await?;
    stack.wait_ready("probe", 1).await;
    agent.terminate(PATIENCE).await?;
    let mut agent = agent_at(&stack, "@2027-01-10 02:59:58")?;
    yard.wait_lines("probe", &["2027-01-10T03:00:00Z"]).await;
    ensure!(yard.lines("nightly").len() == 1, "{:?}", yard.lines("nightly"));
    // The agent has seen its end too.
    eventually("the result is told", PATIENCE, async || {
        let (_, told) = status(&stack, "probe", "probe").await?;
        ensure!(told.history.len() == 1, "{told:?}");
        Ok(())
    })
    .await;

    // Off for two days, and offline when it starts again: the last run that was missed is made up for, once.
    agent.kill()?;
    stack.kill_service("gateway-0")?;
    let mut agent = agent_at(&stack, "@2027-01-12 10:00:00")?;
    yard.wait_lines("nightly", &["2027-01-10T03:00:00Z", "2027-01-12T03:00:00Z"]).await;
    yard.wait_lines("probe", &["2027-01-10T03:00:00Z", "2027-01-12T03:00:00Z"]).await;

    // A clock that cannot be right begins nothing, and says so.
    agent.kill()?;
    stack.start_service("gateway-0")?;
    stack.wait_service("gateway-0").await?;
    let mut agent = agent_at(&stack, "@2020-01-10 02:59:58")?;
    eventually("the clock is told to be wrong", PATIENCE, async || {
        let (instance, _) = status(&stack, "backup", "nightly").await?;
        ensure!(!instance.ready && instance.reason == "ClockWrong", "{instance:?}");
        Ok(())
    })
    .await;
    ensure!(yard.lines("nightly").len() == 2 && yard.lines("probe").len() == 2);
    stack.delete_apps().await?;
    agent.kill()?;
    stack.finish(None).await
}
