//! Start-first: the new copy is started beside the old one and takes its place as it is, whatever is cut short in between.

use std::time::Duration;

use skerry_agent::desired::InstanceSpec;
use skerry_agent::runtime::{Place, Runtime as _};
use skerry_model::app::EnvSource;
use skerry_testing::eventually;

use super::world::{IDLE, SOON, World, idle_with_env, is_running, shell, spec};

/// Most attempts at something that passes by itself.
const TRIES_MAX: u32 = 20;

/// The copies of the instance, each with its place, fingerprint and id, as the agent sees them.
async fn copies(world: &World, spec: &InstanceSpec) -> Vec<(Place, String, String)> {
    let observed = world.runtime.observe().await.expect("Docker is observed");
    observed
        .into_iter()
        .filter(|one| one.instance == spec.name)
        .map(|one| (one.place, one.fingerprint, one.runtime_id))
        .collect()
}

fn started_at(world: &World, id: &str) -> String {
    let seen = world.docker.inspect(id).expect("it is there");
    seen["State"]["StartedAt"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_new_copy_runs_beside_the_old_one_and_takes_its_place_without_starting_again() {
    let Some(world) = World::new("start-first") else { return };
    let (old, new, newer) = (idle_with_env("1"), idle_with_env("2"), idle_with_env("3"));
    world.ensure(&old).await.expect("the old one runs");
    for _ in 0..2 {
        world.runtime.ensure_at(Place::Beside, &new, &|_| ()).await.expect("the new one runs beside");
    }
    let both = copies(&world, &old).await;
    let places: Vec<_> = both.iter().map(|(place, fingerprint, _)| (*place, fingerprint.clone())).collect();
    assert_eq!(places, [(Place::Own, old.fingerprint.clone()), (Place::Beside, new.fingerprint.clone())]);
    let inside = |value: &str| ["sh", "-c", &format!("test \"$VALUE\" = {value}")].map(str::to_owned);
    for (place, value) in [(Place::Own, "1"), (Place::Beside, "2")] {
        let ran = world.runtime.exec_at(place, &old.name, &inside(value)).await;
        assert_eq!(ran.expect("it runs"), 0, "{place:?}");
    }
    // Both answer to the name of the service.
    eventually("two addresses", SOON, async || {
        match world
            .exec(&old, "test $(nslookup web 2>/dev/null | grep -c 'Address.*172\\|Address.*192') -ge 2")
            .await
        {
            0 => Ok(()),
            code => Err(code),
        }
    })
    .await;

    // Another one takes the place beside, and never the old one's.
    world.runtime.ensure_at(Place::Beside, &newer, &|_| ()).await.expect("the newer one runs beside");
    let both = copies(&world, &old).await;
    let fingerprints: Vec<_> = both.iter().map(|(_, fingerprint, _)| fingerprint.clone()).collect();
    assert_eq!(fingerprints, [old.fingerprint.clone(), newer.fingerprint.clone()]);
    assert_eq!(world.containers().len(), 2);

    // The old one is started again by itself, while the other one is left alone.
    let (own, beside) = (both[0].2.clone(), both[1].2.clone());
    world.post(&format!("/containers/{own}/kill"));
    let before = started_at(&world, &beside);
    world.runtime.ensure_at(Place::Own, &old, &|_| ()).await.expect("the old one runs again");
    assert_eq!(copies(&world, &old).await, both);

    world.ensure(&newer).await.expect("the newer one takes the place");
    assert_eq!(copies(&world, &old).await, [(Place::Own, newer.fingerprint.clone(), beside.clone())]);
    assert_eq!(started_at(&world, &beside), before, "it was not started again");
    assert_eq!(world.inspect(&newer)["Id"], beside, "it has the instance's name");
    assert_eq!(world.observe(&newer).await.unwrap().drift, None);
    assert_eq!(world.containers().len(), 1);

    // A stale picture makes no second copy of one fingerprint.
    world.runtime.ensure_at(Place::Beside, &newer, &|_| ()).await.expect("there is one");
    assert_eq!(world.containers().len(), 1);
}

#[tokio::test]
async fn the_copy_beside_is_withdrawn_alone() {
    let Some(world) = World::new("withdraw") else { return };
    let (old, new) = (idle_with_env("1"), idle_with_env("2"));
    world.ensure(&old).await.expect("the old one runs");
    world.runtime.ensure_at(Place::Beside, &new, &|_| ()).await.expect("the new one runs beside");
    let both = copies(&world, &old).await;
    for _ in 0..2 {
        world.runtime.withdraw(&old.name, &both[1].2).await.expect("it is withdrawn");
    }
    assert_eq!(copies(&world, &old).await, both[..1]);
    world.runtime.ensure_at(Place::Beside, &new, &|_| ()).await.expect("it runs beside again");
    world.runtime.remove(&old.name).await.expect("all is removed");
    assert!(world.containers().is_empty());
}

#[tokio::test]
async fn a_replacement_cut_short_anywhere_is_finished_by_the_next_and_never_three_are_there() {
    let Some(world) = World::new("cut-short") else { return };
    let specs = [idle_with_env("1"), idle_with_env("2")];
    world.ensure(&specs[0]).await.expect("it runs");
    for (turn, cut) in [5u64, 20, 60, 150, 300, 500, 800].into_iter().enumerate() {
        let new = &specs[(turn + 1) % 2];
        for place in [Some(Place::Beside), None] {
            let work = async {
                match place {
                    Some(place) => world.runtime.ensure_at(place, new, &|_| ()).await,
                    None => world.ensure(new).await,
                }
            };
            // As after a kill of the agent: what Docker was asked goes on, and nobody waits for the answer.
            let _ = tokio::time::timeout(Duration::from_millis(cut), work).await;
            assert!(world.containers().len() <= 2, "{place:?} cut after {cut} ms");
            // What was asked before may be done by Docker in the midst of this: the agent tries again what passes by itself.
            let mut tries = 0;
            loop {
                let again = match place {
                    Some(place) => world.runtime.ensure_at(place, new, &|_| ()).await,
                    None => world.ensure(new).await,
                };
                match again {
                    Ok(()) => break,
                    Err(error) if error.transient && tries < TRIES_MAX => tries += 1,
                    Err(error) => panic!("{place:?} cut after {cut} ms is not finished: {error:?}"),
                }
            }
            assert!(world.containers().len() <= 2, "{place:?} after {cut} ms");
        }
        assert!(is_running(world.observe(new).await.as_ref()));
        assert_eq!(world.containers().len(), 1, "after {cut} ms");
        assert_eq!(world.inspect(new)["Config"]["Labels"]["skerry.io/fingerprint"], new.fingerprint);
    }
}

#[tokio::test]
async fn one_that_lost_the_old_one_before_it_got_its_name_gets_it() {
    let Some(world) = World::new("half-done") else { return };
    let (old, new) = (idle_with_env("1"), idle_with_env("2"));
    world.ensure(&old).await.expect("the old one runs");
    world.runtime.ensure_at(Place::Beside, &new, &|_| ()).await.expect("the new one runs beside");
    let both = copies(&world, &old).await;
    world.runtime.withdraw(&old.name, &both[0].2).await.expect("the old one is gone");
    let left = world.observe(&new).await.expect("it is there");
    assert_eq!((left.place, left.drift), (Place::Own, Some("Renamed")), "what is alone is in its own place");
    world.ensure(&new).await.expect("it is put right");
    assert_eq!(world.inspect(&new)["Id"], both[1].2);
    assert_eq!(world.observe(&new).await.unwrap().drift, None);
}

#[tokio::test]
async fn an_update_whose_variables_do_not_read_takes_nothing_away() {
    let Some(world) = World::new("no-variables") else { return };
    let old = idle_with_env("1");
    world.ensure(&old).await.expect("the old one runs");
    let before = copies(&world, &old).await;
    let file = world.dir.path().join("env");
    let new = spec("web", shell(IDLE), |service| {
        let path = file.display().to_string();
        service.env_from = vec![EnvSource::File { path, optional: false }];
    });
    let error = world.runtime.prepare(&new, &|_| ()).await.expect_err("it is told before");
    assert_eq!((error.reason, error.transient), ("InvalidEnvironment", true), "{error}");
    assert_eq!(world.ensure(&new).await.unwrap_err().reason, "InvalidEnvironment");
    assert_eq!(copies(&world, &old).await, before);
    std::fs::write(&file, "VALUE=2\n").expect("it is written");
    world.runtime.prepare(&new, &|_| ()).await.expect("it reads");
    world.ensure(&new).await.expect("the new one runs");
    assert_eq!(world.containers().len(), 1);
}
