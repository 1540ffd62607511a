//! Bad bundles through the registry's door: each is refused with its own reason, and nothing is left behind.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use endcap_bundle::test_util::{TinyOptions, tiny_source};
use endcap_proto::pb;
use endcap_tests::{MODEL, TestFleet, pack_source, timed, tiny};
use serde_json::{Value, json};
use tonic::Code;

/// A packed bundle that is bad in one way.
struct Case {
    what: &'static str,
    packed: Vec<u8>,
    code: Code,
    says: &'static [&'static str],
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_bundle_is_refused_with_its_reason_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = TestFleet::start(folder.path(), 1, &[]).await.unwrap();
    for case in cases() {
        let status = fleet.register(&case.packed).await.expect_err(case.what);
        assert_eq!(status.code(), case.code, "{}: {status:?}", case.what);
        for word in case.says {
            assert!(status.message().contains(word), "{}: no {word:?} in {:?}", case.what, status.message());
        }
        assert_eq!(files_below(&folder.path().join("registry")), Vec::<PathBuf>::new(), "{}", case.what);
        assert_eq!(files_below(&folder.path().join("bundles")), Vec::<PathBuf>::new(), "{}", case.what);
        let models = fleet.registry.list_models(timed(pb::ListModelsRequest::default())).await.unwrap();
        assert!(models.into_inner().models.is_empty(), "{}: a version came into being", case.what);
    }
    // The door still opens for a good one.
    let good = tiny(&TinyOptions::default(), 2).unwrap();
    assert_eq!(fleet.release(&good.bytes).await.unwrap(), 1);
    fleet.fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_answers_that_do_not_match_fail_the_validation_and_stable_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = TestFleet::start(folder.path(), 2, &[]).await.unwrap();
    let good = fleet.release(&tiny(&TinyOptions::default(), 2).unwrap().bytes).await.unwrap();
    let lying = from_source(|source| {
        edit_lines(&source.join("golden.jsonl"), |line| line["scores"][3] = json!(99.5));
    });
    let bad = fleet.register(&lying).await.unwrap().version;
    // A second try is a new one: it is loaded and refused again, not answered from memory.
    for _ in 0..2 {
        let status = fleet.validate(bad).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        for word in ["golden request 1", "shard", "worker-", "expected 99.5", "found"] {
            assert!(status.message().contains(word), "no {word:?} in {:?}", status.message());
        }
    }
    let status = fleet.promote(bad).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("shard 0, 1"), "{status:?}");
    fleet.until_answering(good).await.unwrap();

    let request = pb::GetVersionRequest { model: MODEL.into(), version: bad, ..Default::default() };
    let version = fleet.registry.get_version(timed(request)).await.unwrap().into_inner().version.unwrap();
    assert_eq!(version.state(), pb::VersionState::Failed);
    assert!(version.failure.contains("golden request 1"), "{}", version.failure);
    fleet.fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_edits_are_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = TestFleet::start(folder.path(), 1, &[]).await.unwrap();
    let packed = tiny(&TinyOptions::default(), 2).unwrap();
    let one = fleet.register(&packed.bytes).await.unwrap().version;
    // The same bytes again are the same version.
    assert_eq!(fleet.register(&packed.bytes).await.unwrap().version, one);

    let unroutable = fleet.promote(one).await.unwrap_err();
    assert_eq!(unroutable.code(), Code::FailedPrecondition);
    assert!(
        unroutable.message().contains("shard 0, 1") && unroutable.message().contains("endcap model validate")
    );
    assert_eq!(fleet.promote(77).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(fleet.validate(77).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(fleet.rollback().await.unwrap_err().code(), Code::FailedPrecondition);

    fleet.validate(one).await.unwrap();
    let revision = fleet.promote(one).await.unwrap().revision;
    assert_eq!(
        fleet.promote(one).await.unwrap_err().code(),
        Code::FailedPrecondition,
        "it is stable already"
    );
    let stale = pb::PromoteRequest {
        model: MODEL.into(),
        version: one,
        expected_revision: revision + 5,
        ..Default::default()
    };
    let stale = fleet.registry.promote(timed(stale)).await.unwrap_err();
    assert_eq!(stale.code(), Code::Aborted);
    assert!(stale.message().contains(&format!("revision {revision}")), "{stale:?}");
    fleet.fleet.stop().await.unwrap();
}

fn cases() -> Vec<Case> {
    let good = tiny(&TinyOptions::default(), 2).unwrap();
    let bad = |what, says, packed| Case { what, packed, code: Code::InvalidArgument, says };
    let half = good.bytes[..good.bytes.len() / 2].to_vec();
    let mut cases = vec![
        Case { what: "truncated", packed: half, code: Code::DataLoss, says: &["ends too early"] },
        bad("not an archive", &["not a bundle"], b"this is no archive at all".to_vec()),
        Case {
            what: "a wrong digest",
            packed: repacked(|folder| {
                let path = folder.join("popular.json");
                let mut bytes = fs::read(&path).unwrap();
                let last = bytes.len() - 3;
                bytes[last] ^= 1;
                fs::write(path, bytes).unwrap();
            }),
            code: Code::DataLoss,
            says: &["popular.json", "expected SHA-256", "found"],
        },
        bad("a path that climbs out", &["../../evil", "climbs out"], climbing()),
        bad(
            "no items",
            &["no items"],
            repacked(|folder| {
                edit(&folder.join("bundle.json"), |manifest| {
                    manifest["items_total"] = json!(0);
                    manifest["shard_rows"] = json!([0, 0]);
                });
            }),
        ),
        bad(
            "a shard file with the wrong rows",
            &["shard-00000-of-00002.parquet", "hashes to shard 1"],
            repacked(swap_shards),
        ),
    ];
    cases.extend(bad_models());
    cases
}

fn bad_models() -> Vec<Case> {
    let bad = |what, says, damage: fn(&Path)| Case {
        what,
        packed: from_source(damage),
        code: Code::InvalidArgument,
        says,
    };
    vec![
        bad("an ONNX file that isn't one", &["ranker.onnx", "not an ONNX model"], |source| {
            fs::write(source.join("ranker.onnx"), b"\xff\xffnot a model").unwrap();
        }),
        bad("wrong input names", &["ranker.onnx", "features", "other"], |source| {
            edit(&source.join("model.json"), |spec| spec["ranker"]["inputs"][0]["name"] = json!("other"));
        }),
        bad("a wrong output name", &["ranker.onnx", "no_such_output"], |source| {
            edit(&source.join("model.json"), |spec| spec["ranker"]["output"] = json!("no_such_output"));
        }),
        bad("wrong shapes", &["[?, 5]", "[rows, 4]"], |source| {
            edit(&source.join("model.json"), |spec| {
                spec["ranker"]["inputs"][0]["features"].as_array_mut().unwrap().pop();
            });
        }),
        bad("NaN weights", &["weights", "NaN", "ranker.onnx"], |source| {
            let path = source.join("ranker.onnx");
            let mut bytes = fs::read(&path).unwrap();
            let first = [2.0_f32, 0.25].map(f32::to_le_bytes).concat();
            let at = bytes.windows(8).position(|window| window == first).expect("the first two weights");
            bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
            fs::write(path, bytes).unwrap();
        }),
        bad("a feature that nobody declares", &["item.rating", "features.json"], |source| {
            edit(&source.join("features.json"), |schema| {
                schema["features"].as_array_mut().unwrap().retain(|spec| spec["name"] != "item.rating");
            });
        }),
        bad("popular items that are none", &["nowhere", "popular.json"], |source| {
            edit(&source.join("popular.json"), |popular| popular["overall"][0] = json!("nowhere"));
        }),
        bad("golden lines of unequal lengths", &["golden.jsonl", "scores"], |source| {
            edit_lines(&source.join("golden.jsonl"), |line| {
                line["scores"].as_array_mut().unwrap().pop();
            });
        }),
    ]
}

/// A bundle of a damaged source, with digests that are right.
fn from_source(damage: impl Fn(&Path)) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    tiny_source(&source, &TinyOptions { variant: "damaged".into(), ..TinyOptions::default() }).unwrap();
    damage(&source);
    pack_source(folder, 2).unwrap().bytes
}

/// A sound bundle folder, damaged, and packed by hand: nothing here checks it.
fn repacked(damage: impl Fn(&Path)) -> Vec<u8> {
    let good = tiny(&TinyOptions::default(), 2).unwrap();
    let folder = good.folder.path().join("bundle");
    damage(&folder);
    let mut names: Vec<String> = files_below(&folder)
        .iter()
        .map(|path| path.strip_prefix(&folder).unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort_by_key(|name| name != "bundle.json");
    let files = names.into_iter().map(|name| (name.clone(), fs::read(folder.join(name)).unwrap()));
    archive(files.collect())
}

fn climbing() -> Vec<u8> {
    let good = tiny(&TinyOptions::default(), 2).unwrap();
    let manifest = fs::read(good.folder.path().join("bundle/bundle.json")).unwrap();
    archive(vec![("bundle.json".into(), manifest), ("../../evil".into(), b"boo".to_vec())])
}

fn archive(files: Vec<(String, Vec<u8>)>) -> Vec<u8> {
    let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        // By hand: the library would refuse to climb.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        tar.append(&header, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// Each shard file under the other's name, with its own digest.
fn swap_shards(folder: &Path) {
    let names = [0, 1].map(|shard| format!("items/shard-{shard:05}-of-00002.parquet"));
    let [first, second] = names.each_ref().map(|name| fs::read(folder.join(name)).unwrap());
    fs::write(folder.join(&names[0]), second).unwrap();
    fs::write(folder.join(&names[1]), first).unwrap();
    edit(&folder.join("bundle.json"), |manifest| {
        let files = manifest["files"].as_object_mut().unwrap();
        let [first, second] = names.each_ref().map(|name| files[name].clone());
        files.insert(names[0].clone(), second);
        files.insert(names[1].clone(), first);
    });
}

fn edit(path: &Path, change: impl Fn(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, serde_json::to_vec_pretty(&value).unwrap()).unwrap();
}

/// Changes the first line.
fn edit_lines(path: &Path, change: impl Fn(&mut Value)) {
    let text = fs::read_to_string(path).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let mut value: Value = serde_json::from_str(first).unwrap();
    change(&mut value);
    fs::write(path, format!("{value}\n{rest}")).unwrap();
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}
