use endcap_types::Digest;
use proptest::prelude::*;

use super::*;
use crate::{RolloutRecord, VersionRecord, VersionState};

const MODELS: [&str; 2] = ["a", "b"];

fn digest(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
}

fn record(digest: Digest, shards: u32) -> VersionRecord {
    VersionRecord {
        digest,
        shard_count: ShardCount::try_from(shards).unwrap(),
        items_total: 10,
        size_bytes: 1,
        registered_at: String::new(),
        state: VersionState::Validated,
        attempt: 1,
        failure: String::new(),
        evaluation: BTreeMap::new(),
        lineage: BTreeMap::new(),
    }
}

/// One change that the coordinator may show.
#[derive(Debug, Clone)]
enum Change {
    Register { model: usize, version: u64, digest: u8, shards: u32 },
    Ready { model: usize, version: u64, shard: u32, worker: u8, digest: u8 },
    Gone { model: usize, version: u64, shard: u32, worker: u8 },
    Alias { model: usize, alias: usize, version: u64, permille: u16 },
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change =
        prop_oneof![
            (0..2_usize, 1..4_u64, 0..3_u8, 1..4_u32).prop_map(|(model, version, digest, shards)| {
                Change::Register { model, version, digest, shards }
            }),
            (0..2_usize, 1..4_u64, 0..4_u32, 0..3_u8, 0..3_u8).prop_map(
                |(model, version, shard, worker, digest)| {
                    Change::Ready { model, version, shard, worker, digest }
                }
            ),
            (0..2_usize, 1..4_u64, 0..4_u32, 0..3_u8)
                .prop_map(|(model, version, shard, worker)| Change::Gone { model, version, shard, worker }),
            (0..2_usize, 0..3_usize, 1..4_u64, 0..1001_u16).prop_map(|(model, alias, version, permille)| {
                Change::Alias { model, alias, version, permille }
            }),
        ];
    prop::collection::vec(change, 0..80)
}

fn apply(view: &mut FleetView, change: Change) {
    let name = |model: usize| MODELS[model].parse::<ModelName>().unwrap();
    let key = |model: usize, version: u64, shard: u32| ShardKey {
        model: name(model),
        version: Version::try_from(version).unwrap(),
        shard,
    };
    match change {
        Change::Register { model, version, digest: byte, shards } => {
            let versions = &mut view.models.entry(name(model)).or_default().versions;
            // Versions are immutable: a second registration changes nothing.
            versions
                .entry(Version::try_from(version).unwrap())
                .or_insert_with(|| record(digest(byte), shards));
        }
        Change::Ready { model, version, shard, worker, digest: byte } => {
            let ready = ReadyRecord { digest: digest(byte), endpoint: format!("w{worker}-d{byte}") };
            view.ready.entry(key(model, version, shard)).or_default().insert(format!("w{worker}"), ready);
        }
        Change::Gone { model, version, shard, worker } => {
            if let Some(replicas) = view.ready.get_mut(&key(model, version, shard)) {
                replicas.remove(&format!("w{worker}"));
            }
        }
        Change::Alias { model, alias, version, permille } => {
            let rollout: &mut RolloutRecord = &mut view.models.entry(name(model)).or_default().rollout;
            rollout.aliases.insert(Alias::ALL[alias], Version::try_from(version).unwrap());
            rollout.candidate_permille = permille;
        }
    }
}

proptest! {
    #[test]
    fn a_route_is_of_one_version_and_one_digest_whatever_the_fleet_does(changes in changes()) {
        let mut view = FleetView::default();
        for change in changes {
            apply(&mut view, change);
            let snapshot = RoutingSnapshot::build(&view);
            let targets = [Target::Rollout(Arm::Stable), Target::Rollout(Arm::Candidate)]
                .into_iter()
                .chain(Alias::ALL.map(Target::Alias))
                .chain((1..4).map(|version| Target::Version(Version::try_from(version).unwrap())));
            for target in targets {
                for model in MODELS.map(|name| name.parse::<ModelName>().unwrap()) {
                    match snapshot.route(&model, target) {
                        Ok((route, _)) => {
                            prop_assert!(route.shards.iter().all(|replicas| !replicas.is_empty()));
                            if let Target::Version(version) = target {
                                prop_assert_eq!(version, route.pin.version);
                            }
                            check(&view, &model, &route)?;
                        }
                        Err(RouteError::NotRoutable { pin, missing }) => {
                            prop_assert!(!missing.is_empty());
                            if let Some(partial) = snapshot.partial(&pin) {
                                prop_assert_eq!(&partial.pin, &pin);
                                check(&view, &model, &partial)?;
                                let empty = (0..).zip(&partial.shards).filter(|(_, shard)| shard.is_empty());
                                prop_assert_eq!(empty.map(|(shard, _)| shard).collect::<Vec<_>>(), missing);
                            }
                        }
                        Err(_) => {}
                    }
                }
            }
        }
    }
}

/// Every replica of a route holds exactly the route's version, by the fleet's own records.
fn check(view: &FleetView, model: &ModelName, route: &Route) -> Result<(), TestCaseError> {
    prop_assert_eq!(&route.pin.model, model);
    prop_assert_eq!(route.shards.len(), route.shard_count.get() as usize);
    let known = &view.models[model].versions[&route.pin.version];
    prop_assert_eq!(known.digest, route.pin.digest);
    for (shard, replicas) in (0..).zip(&route.shards) {
        let key = ShardKey { model: model.clone(), version: route.pin.version, shard };
        for replica in replicas {
            prop_assert_eq!(view.ready[&key][&replica.worker].digest, route.pin.digest);
        }
    }
    Ok(())
}

#[test]
fn what_cannot_be_placed_says_why() {
    let mut view = FleetView::default();
    let model: ModelName = "a".parse().unwrap();
    let other: ModelName = "zzz".parse().unwrap();
    apply(&mut view, Change::Register { model: 0, version: 1, digest: 1, shards: 3 });
    apply(&mut view, Change::Ready { model: 0, version: 1, shard: 1, worker: 0, digest: 1 });
    let snapshot = RoutingSnapshot::build(&view);
    let says = |model: &ModelName, target| snapshot.route(model, target).unwrap_err().to_string();
    assert!(says(&other, Target::Alias(Alias::Stable)).contains("known are: a"));
    assert!(says(&model, Target::Alias(Alias::Stable)).contains("no alias stable yet"));
    assert!(says(&model, Target::Version(Version::try_from(9).unwrap())).contains("no version 9"));
    assert!(says(&model, Target::Version(Version::FIRST)).contains("shard 0, 2"));
}
