//! Whatever the catalogue and the number of shards: what is assembled, packed and unpacked is what went in, and every
//! item is in its shard and no other.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its tests do")]

use std::{collections::BTreeMap, fs};

use endcap_bundle::{
    Bundle, PackOptions, Parts, Progress, assemble, pack, shard_file,
    test_util::{TinyOptions, tiny_bundle, tiny_source},
    unpack,
};
use endcap_types::{ItemId, ShardCount, ShardIndex, shard_of};
use proptest::prelude::*;

/// Every item with its shard and its vector.
fn catalogue(bundle: &Bundle) -> BTreeMap<ItemId, (ShardIndex, Vec<f32>)> {
    let mut all = BTreeMap::new();
    for shard in bundle.manifest().shard_count.indices() {
        let table = bundle.items(shard).unwrap();
        assert_eq!(table.len() as u64, bundle.manifest().shard_rows[shard as usize]);
        assert!(table.ids.is_sorted());
        let vectors = table.vectors.unwrap();
        for (id, vector) in table.ids.into_iter().zip(vectors.data.chunks(vectors.dim)) {
            assert!(all.insert(id, (shard, vector.to_vec())).is_none(), "an item in two places");
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_item_is_in_exactly_its_shard_before_and_after_packing(
        items in 1_usize..200,
        shards in 1_u32..40,
        seed: u64,
        dim in 1_usize..12,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let count = ShardCount::try_from(shards).unwrap();
        let options = TinyOptions { items, seed, dim, ..TinyOptions::default() };
        let bundle = tiny_bundle(folder.path(), &options, count).unwrap();
        bundle.verify(&Parts::All).unwrap();
        bundle.check().unwrap();

        let before = catalogue(&bundle);
        prop_assert_eq!(before.len(), items);
        for (id, (shard, _)) in &before {
            prop_assert_eq!(*shard, shard_of(id, count));
        }

        let file = folder.path().join("tiny.endcap");
        pack(&bundle, &file, &()).unwrap();
        let unpacked = unpack(fs::File::open(&file).unwrap(), &folder.path().join("unpacked")).unwrap();
        prop_assert_eq!(unpacked.digest(), bundle.digest());
        unpacked.check().unwrap();
        prop_assert_eq!(catalogue(&unpacked), before);
        prop_assert_eq!(unpacked.golden().unwrap(), bundle.golden().unwrap());
    }
}

#[test]
fn equal_sources_have_equal_digests_and_variants_and_shard_counts_differ() {
    let digest = |options: &TinyOptions, shards: u32| {
        let folder = tempfile::tempdir().unwrap();
        tiny_bundle(folder.path(), options, ShardCount::try_from(shards).unwrap()).unwrap().digest()
    };
    let base = TinyOptions { items: 30, ..TinyOptions::default() };
    let first = digest(&base, 2);
    assert_eq!(first, digest(&base, 2));
    assert_ne!(first, digest(&base, 3));
    assert_ne!(first, digest(&TinyOptions { variant: "b".to_owned(), ..base.clone() }, 2));
    assert_ne!(first, digest(&TinyOptions { weight_scale: 2.0, ..base.clone() }, 2));
    assert_ne!(first, digest(&TinyOptions { seed: 8, ..base }, 2));
}

#[test]
fn each_part_names_the_files_that_its_member_needs() {
    let folder = tempfile::tempdir().unwrap();
    let count = ShardCount::try_from(3).unwrap();
    let bundle = tiny_bundle(folder.path(), &TinyOptions::default(), count).unwrap();
    // A member with nothing but its part of the bundle is served by it.
    let only = |parts: &Parts, files: &[&str]| {
        let at = tempfile::tempdir().unwrap();
        for file in files.iter().chain(&["bundle.json"]) {
            let to = at.path().join(file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(bundle.path(file), to).unwrap();
        }
        Bundle::open(at.path()).unwrap().verify(parts)
    };
    only(&Parts::Gateway, &["features.json", "popular.json"]).unwrap();
    let models = ["ranker.onnx", "encoder.onnx", "tokenizer.json", "features.json", "golden.jsonl"];
    let second = shard_file(1, count);
    only(&Parts::Shards(vec![1]), &[&models[..], &[second.as_str()]].concat()).unwrap();
    only(&Parts::Shards(vec![1]), &models).unwrap_err();
    only(&Parts::All, &models).unwrap_err();
}

#[test]
fn progress_is_told_step_by_step() {
    #[derive(Default)]
    struct Steps(std::sync::Mutex<Vec<(String, u64, u64)>>);
    impl Progress for Steps {
        fn step(&self, what: &str, done: u64, total: u64) {
            self.0.lock().unwrap().push((what.to_owned(), done, total));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    tiny_source(&folder.path().join("source"), &TinyOptions::default()).unwrap();
    let steps = Steps::default();
    let options =
        PackOptions { shards: ShardCount::try_from(3).unwrap(), created: "2026-01-01T00:00:00Z".to_owned() };
    assemble(&folder.path().join("source"), &folder.path().join("bundle"), &options, &steps).unwrap();
    let steps = steps.0.into_inner().unwrap();
    let partition: Vec<_> = steps.iter().filter(|(what, ..)| what == "partition items").collect();
    assert_eq!(partition.len(), 3);
    assert!(steps.iter().all(|(_, done, total)| done <= total));
}
