//! Registries that several people edit through at once, and that die in the middle of it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{path::Path, time::Duration};

use endcap_bundle::test_util::TinyOptions;
use endcap_proto::pb::{self, model_registry_client::ModelRegistryClient};
use endcap_tests::{
    MODEL, eventually,
    linear::{Ask, Attempt, Told, contradictions},
    load::Load,
    processes::{ProcessFleet, Size, USUAL},
    registry, tiny,
};
use tokio::{task::JoinSet, time::Instant};
use tonic::{Code, Status, transport::Channel};

const EDITORS: usize = 8;
/// Calls of each.
const CALLS: usize = 40;

async fn fleet(size: Size, set: &[(&str, &str)]) -> ProcessFleet {
    ProcessFleet::start(Path::new(env!("CARGO_BIN_EXE_endcap-node")), size, set).await.unwrap()
}

fn bundle(variant: &str, weight_scale: f32, shards: u32) -> Vec<u8> {
    let options = TinyOptions { variant: variant.into(), weight_scale, ..TinyOptions::default() };
    tiny(&options, shards).unwrap().bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_editors_at_two_registries_see_one_order_of_edits() {
    let fleet = fleet(Size { etcd: 3, registries: 2, gateways: 1, workers: 2 }, &[]).await;
    let mut client = fleet.registry("registry-1").unwrap();
    // Two, so that both keep an alias and with it their workers: a third would be let go, and refused as not routable.
    for variant in ["one", "two"] {
        let version = registry::register(&mut client, &bundle(variant, 1.0, 2)).await.unwrap().version;
        registry::validate(&mut client, version).await.unwrap();
    }
    let started = Instant::now();
    let mut editors = JoinSet::new();
    for editor in 0..EDITORS {
        let clients = fleet.ids("registry").iter().map(|id| fleet.registry(id).unwrap()).collect();
        editors.spawn(edit(editor, clients, started));
    }
    let attempts: Vec<Attempt> = editors.join_all().await.into_iter().flatten().collect();
    let history = registry::history(&mut client).await.unwrap();
    assert_eq!(contradictions(&history, &attempts), Vec::<String>::new());
    let sequences: Vec<u64> = history.iter().map(|entry| entry.sequence).collect();
    assert_eq!(sequences, (1..=history.len() as u64).collect::<Vec<_>>());
    let count = |told: fn(&Told) -> bool| attempts.iter().filter(|attempt| told(&attempt.told)).count();
    let (done, refused) = (count(|t| matches!(t, Told::Done(_))), count(|t| matches!(t, Told::Refused(_))));
    println!("{} edits: {done} done, {refused} refused, in {:?}", attempts.len(), started.elapsed());
    assert!(done > EDITORS && refused > 0, "nothing was contended: {done} done, {refused} refused");
    assert_eq!(done + refused, attempts.len(), "some answers were lost, though nothing was killed");
}

/// Promotes and rolls back, half of the time on the revision that it saw last.
async fn edit(
    editor: usize,
    mut clients: Vec<ModelRegistryClient<Channel>>,
    started: Instant,
) -> Vec<Attempt> {
    let (mut attempts, mut seen) = (Vec::new(), 0);
    for call in 0..CALLS {
        // Each editor walks through registries, versions and revisions in a way of its own.
        let mixed = (editor * 7 + call * 5 + editor * call) % 12;
        let ask = if mixed < 3 { Ask::Rollback } else { Ask::Promote(mixed as u64 % 2 + 1) };
        let expected_revision = if (editor + call).is_multiple_of(2) { seen } else { 0 };
        let token = format!("editor {editor} call {call}");
        let client = &mut clients[(editor + call / 3) % 2];
        let began = started.elapsed();
        let answer = ask_for(client, ask, expected_revision, &token).await;
        let ended = started.elapsed();
        let told = match answer {
            Ok(rollout) => {
                seen = rollout.revision;
                Told::Done(rollout)
            }
            Err(status) if [Code::Aborted, Code::FailedPrecondition].contains(&status.code()) => {
                Told::Refused(status.code())
            }
            Err(_) => Told::Unknown,
        };
        attempts.push(Attempt { token, ask, expected_revision, began, ended, told });
    }
    attempts
}

async fn ask_for(
    client: &mut ModelRegistryClient<Channel>,
    ask: Ask,
    expected_revision: u64,
    token: &str,
) -> Result<pb::Rollout, Status> {
    let (model, actor, reason) = (MODEL.to_owned(), "test".to_owned(), token.to_owned());
    let rollout = match ask {
        Ask::Promote(version) => {
            let request = pb::PromoteRequest { model, version, expected_revision, actor, reason };
            client.promote(request).await?.into_inner().rollout
        }
        Ask::Rollback => {
            let request = pb::RollbackRequest { model, expected_revision, actor, reason };
            client.rollback(request).await?.into_inner().rollout
        }
    };
    Ok(rollout.unwrap_or_default())
}

/// How far a promotion is when its registry dies.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// Workers have been told to load.
    Loading,
    /// Everything is ready, and the alias is about to move.
    Moving,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_leading_registry_was_at_when_it_was_killed_the_other_finishes() {
    let mut fleet = fleet(USUAL, &[("coordination.lease_ttl", "2s")]).await;
    fleet.release(&bundle("first", 1.0, 8)).await.unwrap();
    let load = Load::start(fleet.gateways().unwrap(), 40);
    for (round, moment) in [Moment::Loading, Moment::Moving, Moment::Loading].into_iter().enumerate() {
        let leader = fleet.controller().await.unwrap();
        let other = fleet.ids("registry").into_iter().find(|id| *id != leader).unwrap();
        let (mut dying, mut living) = (fleet.registry(&leader).unwrap(), fleet.registry(&other).unwrap());
        let packed = bundle(&format!("round {round}"), 2.0, 8);
        let version = registry::register(&mut dying, &packed).await.unwrap().version;
        let promoting = async {
            registry::validate(&mut dying, version).await?;
            registry::promote(&mut dying, version).await
        };
        let killing = async {
            let reached = match moment {
                Moment::Loading => [pb::VersionState::Validating, pb::VersionState::Validated],
                Moment::Moving => [pb::VersionState::Validated; 2],
            };
            eventually("the promotion is under way", async || {
                state(&mut living, version).await.is_ok_and(|state| reached.contains(&state))
            })
            .await
            .unwrap();
            fleet.kill(&leader).unwrap();
        };
        let (promoted, ()) = tokio::join!(promoting, killing);
        println!("{moment:?}: {leader} answered {:?}", promoted.as_ref().map_err(Status::code));
        // Nobody asks for it, and yet it comes to an end that history shows.
        eventually("the other registry concludes the validation", async || {
            actions(&mut living, version).await.is_ok_and(|actions| actions.contains(&"validated".to_owned()))
        })
        .await
        .unwrap();
        let done = actions(&mut living, version).await.unwrap();
        if promoted.is_ok() {
            assert!(done.contains(&"promoted".to_owned()), "a promotion that was answered is lost: {done:?}");
        }
        if !done.contains(&"promoted".to_owned()) {
            registry::promote(&mut living, version).await.unwrap();
        }
        assert_eq!(actions(&mut living, version).await.unwrap(), ["registered", "validated", "promoted"]);
        fleet.until_answering(version).await.unwrap();
        fleet.launch(&leader).unwrap();
        fleet.until_ready(&leader).await.unwrap();
    }
    let report = load.stop().await.unwrap();
    println!("{}", report.summary());
    assert_eq!(report.failed(), Vec::<String>::new());
    assert!(report.late() == 0 && report.degraded().is_empty(), "{}", report.summary());
}

async fn state(client: &mut ModelRegistryClient<Channel>, version: u64) -> Result<pb::VersionState, Status> {
    let request = pb::GetVersionRequest { model: MODEL.into(), version, alias: String::new() };
    Ok(client.get_version(request).await?.into_inner().version.unwrap_or_default().state())
}

/// What history says was done to a version, in order.
async fn actions(client: &mut ModelRegistryClient<Channel>, version: u64) -> Result<Vec<String>, Status> {
    let history = tokio::time::timeout(Duration::from_secs(5), registry::history(client)).await;
    let history = history.map_err(|_| Status::deadline_exceeded("no history"))??;
    Ok(history.into_iter().filter(|entry| entry.to_version == version).map(|entry| entry.action).collect())
}
