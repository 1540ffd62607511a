//! Versions that come and go every two seconds while processes die at random: every answer is whole, of one version,
//! and of bytes that were verified. `ENDCAP_STORM_SECONDS` says for how long; 30 by default.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{collections::BTreeMap, path::Path, time::Duration};

use endcap_bundle::test_util::TinyOptions;
use endcap_proto::pb;
use endcap_tests::{
    load::{Load, Seen},
    processes::{ProcessFleet, USUAL},
    registry, tiny,
};
use tokio::time::Instant;

/// Requests per second.
const RATE: u32 = 40;
const BETWEEN_MOVES: Duration = Duration::from_secs(2);
/// From one kill to the next; what was killed comes back after half of it.
const BETWEEN_KILLS: Duration = Duration::from_secs(3);

/// What the answers of a version look like when nothing happens: its digest, and the scores of each query.
type Quiet = BTreeMap<u64, Vec<Seen>>;

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_of_one_verified_version_whatever_is_killed() {
    let seconds = std::env::var("ENDCAP_STORM_SECONDS").map_or(30, |text| text.parse().unwrap());
    let program = Path::new(env!("CARGO_BIN_EXE_endcap-node"));
    let mut fleet = ProcessFleet::start(program, USUAL, &[("coordination.lease_ttl", "3s")]).await.unwrap();
    let mut quiet = Quiet::new();
    for (variant, weight_scale) in [("one", 1.0), ("two", 2.0)] {
        let options = TinyOptions { variant: variant.into(), weight_scale, ..TinyOptions::default() };
        fleet.release(&tiny(&options, 8).unwrap().bytes).await.unwrap();
        let load = Load::start(fleet.gateways().unwrap(), RATE);
        tokio::time::sleep(Duration::from_secs(1)).await;
        for sample in load.stop().await.unwrap().samples {
            let seen = sample.outcome.unwrap();
            quiet.entry(seen.version).or_default().push(seen);
        }
    }
    assert_eq!(quiet.len(), 2);

    let load = Load::start(fleet.gateways().unwrap(), RATE);
    let (moves, kills) = storm(&mut fleet, Duration::from_secs(seconds)).await;
    let report = load.stop().await.unwrap();
    println!(
        "{seconds} s, {moves} moves, {kills} kills: {}; availability {:.5}",
        report.summary(),
        report.availability()
    );
    report.failed().iter().for_each(|failure| println!("{failure}"));
    assert!(moves >= seconds / 4, "only {moves} moves in {seconds} s");
    let answers = report.samples.iter().filter_map(|sample| sample.outcome.as_ref().ok());
    let mixed: Vec<&Seen> = answers.filter(|seen| !is_pure(seen, &quiet)).collect();
    assert!(mixed.is_empty(), "{} answers are of no one version: {:?}", mixed.len(), mixed[0]);
    assert_eq!(report.late(), 0);
    assert!(report.availability() >= 0.999, "{:?}", report.failed());
}

/// Moves the aliases and kills members, one at a time; tells how often each.
async fn storm(fleet: &mut ProcessFleet, time: Duration) -> (u64, u64) {
    let end = Instant::now() + time;
    let (mut next_move, mut next_kill) = (Instant::now(), Instant::now());
    let (mut moves, mut kills) = (0, 0);
    let mut dead: Option<(String, Instant)> = None;
    let mut members = fleet.ids("");
    members.extend((0..USUAL.etcd).map(|member| format!("etcd-{member}")));
    while Instant::now() < end {
        let now = Instant::now();
        if let Some((id, _)) = dead.take_if(|(_, back)| *back <= now) {
            match id.strip_prefix("etcd-") {
                Some(member) => fleet.etcd.restart(member.parse().unwrap()),
                None => fleet.launch(&id).unwrap(),
            }
        }
        if now >= next_kill && dead.is_none() {
            // Everybody in turn, in an order that mixes the roles.
            let id = members[(kills as usize * 7) % members.len()].clone();
            match id.strip_prefix("etcd-") {
                Some(member) => fleet.etcd.kill(member.parse().unwrap()),
                None => fleet.kill(&id).unwrap(),
            }
            dead = Some((id, now + BETWEEN_KILLS / 2));
            (kills, next_kill) = (kills + 1, now + BETWEEN_KILLS);
        }
        if now >= next_move {
            moves += u64::from(shift(fleet).await);
            next_move += BETWEEN_MOVES;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if let Some((id, _)) = dead {
        match id.strip_prefix("etcd-") {
            Some(member) => fleet.etcd.restart(member.parse().unwrap()),
            None => fleet.launch(&id).unwrap(),
        }
    }
    (moves, kills)
}

/// Rolls back, which swaps the two versions, through whichever registry takes it.
async fn shift(fleet: &ProcessFleet) -> bool {
    for id in fleet.ids("registry") {
        let mut client = fleet.registry(&id).unwrap();
        let moved = tokio::time::timeout(Duration::from_secs(1), registry::rollback(&mut client)).await;
        if moved.is_ok_and(|moved| moved.is_ok()) {
            return true;
        }
    }
    false
}

/// Whether this is an answer that its version gives. One that lacks shards is held to its version's bytes alone.
fn is_pure(seen: &Seen, quiet: &Quiet) -> bool {
    let Some(known) = quiet.get(&seen.version) else { return false };
    let whole = seen.rung == pb::Rung::Full as i32 && seen.shards_ok == seen.shards_total;
    seen.digest == known[0].digest && (!whole || known.iter().any(|known| known.scores == seen.scores))
}
