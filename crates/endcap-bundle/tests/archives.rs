//! The packed form: the same bytes for the same bundle, and no bad archive leaves anything behind.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its tests do")]

use std::{
    fs,
    io::{Cursor, Read, Write as _},
    path::Path,
};

use endcap_bundle::{
    Bundle, BundleError, Parts, pack,
    test_util::{TinyOptions, tiny_bundle},
    unpack, unpack_within,
};
use endcap_types::{Coded as _, ErrorCode, ShardCount};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

fn sound() -> (TempDir, Bundle) {
    let folder = tempfile::tempdir().unwrap();
    let options = TinyOptions { items: 24, ..TinyOptions::default() };
    let bundle = tiny_bundle(folder.path(), &options, ShardCount::try_from(2).unwrap()).unwrap();
    (folder, bundle)
}

fn packed(bundle: &Bundle) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.endcap");
    pack(bundle, &file, &()).unwrap();
    fs::read(file).unwrap()
}

/// One entry of an archive, as a careless or hostile writer makes it.
struct Entry {
    path: String,
    kind: EntryType,
    bytes: Vec<u8>,
}

fn file(path: &str, bytes: Vec<u8>) -> Entry {
    Entry { path: path.to_owned(), kind: EntryType::Regular, bytes }
}

/// The entries of a sound archive, in its order.
fn entries(bundle: &Bundle) -> Vec<Entry> {
    let files = bundle.manifest().files.keys().map(String::as_str);
    std::iter::once("bundle.json")
        .chain(files)
        .map(|name| file(name, fs::read(bundle.path(name)).unwrap()))
        .collect()
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut builder = Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    for entry in entries {
        let mut header = Header::new_gnu();
        // Not by `set_path`, which refuses what these tests are about.
        let name = &mut header.as_gnu_mut().unwrap().name;
        name[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_size(entry.bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, entry.bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

/// Unpacks what must be refused, and looks that nothing stays.
fn refused(name: &str, archive: impl Read) -> BundleError {
    let folder = tempfile::tempdir().unwrap();
    let Err(error) = unpack(archive, &folder.path().join("bundle")) else {
        panic!("{name}: it was accepted")
    };
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{name}: left behind {left:?}");
    error
}

fn expect(name: &str, error: &BundleError, variant: &str, part: &str) {
    let (debug, message) = (format!("{error:?}"), error.to_string());
    assert_eq!(debug.split([' ', '{']).next(), Some(variant), "{name}: {message}");
    assert!(message.contains(part), "{name}: no {part:?} in {message:?}");
}

#[test]
fn a_bundle_comes_out_as_it_went_in() {
    let (_folder, bundle) = sound();
    let dest = tempfile::tempdir().unwrap();
    let unpacked = unpack(Cursor::new(packed(&bundle)), &dest.path().join("bundle")).unwrap();
    assert_eq!(unpacked.digest(), bundle.digest());
    assert_eq!(unpacked.manifest(), bundle.manifest());
    unpacked.verify(&Parts::All).unwrap();
    unpacked.check().unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // Members may run as other users than the one that unpacked.
        let mode = fs::metadata(unpacked.dir()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{mode:o}");
    }
}

#[test]
fn packing_is_deterministic_and_says_what_it_made() {
    let (folder, bundle) = sound();
    let out = folder.path().join("out/tiny.endcap");
    let made = pack(&bundle, &out, &()).unwrap();
    assert_eq!(made.digest, bundle.digest());
    assert_eq!(made.size, fs::metadata(&out).unwrap().len());
    assert_eq!(fs::read(&out).unwrap(), packed(&bundle));
}

#[test]
fn packing_an_incomplete_bundle_leaves_no_file() {
    let (folder, bundle) = sound();
    fs::remove_file(bundle.path("golden.jsonl")).unwrap();
    let out = folder.path().join("out");
    assert!(pack(&bundle, &out.join("tiny.endcap"), &()).is_err());
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn an_archive_cut_anywhere_is_called_cut() {
    let (_folder, bundle) = sound();
    let whole = packed(&bundle);
    let cuts = (0..whole.len()).step_by(whole.len() / 50).chain([1, 2, 3, whole.len() - 4, whole.len() - 1]);
    for cut in cuts {
        let error = refused(&format!("cut at {cut}"), &whole[..cut]);
        assert!(matches!(error, BundleError::Truncated { .. }), "cut at {cut} of {}: {error}", whole.len());
        assert_eq!(error.code(), ErrorCode::DataLoss);
    }
}

#[test]
fn bytes_that_are_no_archive_are_refused() {
    let zipped = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let noise: Vec<u8> = (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (name, bytes) in
        [("text", b"hello, world".to_vec()), ("noise", noise.clone()), ("a packed noise", zipped(&noise))]
    {
        expect(name, &refused(name, bytes.as_slice()), "NotAnArchive", "endcap bundle pack");
    }
    let (_folder, bundle) = sound();
    let mut followed = packed(&bundle);
    followed.extend_from_slice(b"and more");
    expect("followed", &refused("followed", followed.as_slice()), "NotAnArchive", "endcap bundle pack");
}

type Damage = fn(&mut Vec<Entry>);

/// What is wrong, how it is made, the error's variant and a part of its message.
const HOSTILE: [(&str, Damage, &str, &str); 15] = [
    ("climbs", |all| all.insert(1, file("../evil", vec![1])), "UnsafePath", "../evil"),
    ("climbs within", |all| all.insert(1, file("items/../../evil", vec![1])), "UnsafePath", "climbs"),
    ("absolute", |all| all.insert(1, file("/tmp/evil", vec![1])), "UnsafePath", "/tmp/evil"),
    ("backslash", |all| all.insert(1, file("..\\evil", vec![1])), "UnsafePath", "evil"),
    ("symbolic link", |all| all[2].kind = EntryType::Symlink, "NotAFile", "Symlink"),
    ("hard link", |all| all[2].kind = EntryType::Link, "NotAFile", "Link"),
    ("device", |all| all[2].kind = EntryType::Char, "NotAFile", "Char"),
    (
        "folder",
        |all| all.insert(1, Entry { path: "items".into(), kind: EntryType::Directory, bytes: vec![] }),
        "NotAFile",
        "Directory",
    ),
    ("manifest later", |all| all.swap(0, 1), "ManifestNotFirst", "encoder.onnx"),
    ("manifest twice", |all| all.push(file("bundle.json", vec![])), "UnsafePath", "bundle.json"),
    ("unlisted", |all| all.push(file("extra.txt", vec![])), "UnknownFile", "extra.txt"),
    (
        "twice",
        |all| {
            let again = file(&all[3].path, all[3].bytes.clone());
            all.push(again);
        },
        "DuplicateFile",
        "twice",
    ),
    ("missing", |all| drop(all.pop()), "MissingFile", "tokenizer.json is missing"),
    ("shorter", |all| all[2].bytes.truncate(3), "SizeMismatch", "damaged"),
    ("longer", |all| all[2].bytes.push(0), "TooLarge", "more than the limit"),
];

#[test]
fn only_the_listed_files_once_each_and_inside_the_bundle_are_accepted() {
    let (_folder, bundle) = sound();
    for (name, damage, variant, part) in HOSTILE {
        let mut all = entries(&bundle);
        damage(&mut all);
        expect(name, &refused(name, archive(&all).as_slice()), variant, part);
    }
}

#[test]
fn changed_bytes_are_told_with_file_and_both_digests() {
    let (_folder, bundle) = sound();
    for index in 1..entries(&bundle).len() {
        let mut all = entries(&bundle);
        let last = all[index].bytes.last_mut().unwrap();
        *last ^= 1;
        let path = all[index].path.clone();
        match refused(&path, archive(&all).as_slice()) {
            error @ BundleError::DigestMismatch { .. } => {
                assert_eq!(error.code(), ErrorCode::DataLoss);
                let expected = bundle.manifest().files[&path].sha256.to_hex();
                let message = error.to_string();
                assert!(message.contains(&path) && message.contains(&expected), "{message}");
            }
            error => panic!("{path}: {error}"),
        }
    }
}

#[test]
fn no_more_is_written_than_the_limit_allows() {
    let (_folder, bundle) = sound();
    let bytes = packed(&bundle);
    let total: u64 = bundle.manifest().files.values().map(|entry| entry.size).sum();
    let folder = tempfile::tempdir().unwrap();
    let error = unpack_within(bytes.as_slice(), &folder.path().join("bundle"), total - 1).unwrap_err();
    assert!(
        matches!(error, BundleError::TooLarge { found, limit, .. } if found == total && limit == total - 1)
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    unpack_within(bytes.as_slice(), &folder.path().join("bundle"), total).unwrap();
}

/// Extension headers are read into memory by the reader of tars unless it is told not to.
#[test]
fn a_name_of_a_gigabyte_is_not_read() {
    for kind in [EntryType::GNULongName, EntryType::XHeader] {
        let mut header = Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..4].copy_from_slice(b"long");
        header.set_entry_type(kind);
        header.set_size(1 << 30);
        header.set_cksum();
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.write_all(header.as_bytes()).unwrap();
        std::io::copy(&mut std::io::repeat(b'a').take(64 << 20), &mut encoder).unwrap();
        let bomb = encoder.finish().unwrap();
        expect("bomb", &refused("bomb", bomb.as_slice()), "NotAFile", "regular files only");
    }
}

#[test]
fn padding_after_the_last_file_has_an_end() {
    let (_folder, bundle) = sound();
    let tar = zstd::decode_all(packed(&bundle).as_slice()).unwrap();
    let zeros = |count: u64| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.write_all(&tar).unwrap();
        std::io::copy(&mut std::io::repeat(0).take(count), &mut encoder).unwrap();
        encoder.finish().unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    unpack(zeros(10 << 10).as_slice(), &folder.path().join("bundle")).unwrap();
    expect("zeros", &refused("zeros", zeros(64 << 20).as_slice()), "NotAnArchive", "follows the last file");
}

#[test]
fn a_bundle_changed_on_disk_is_noticed_in_the_parts_that_are_asked_for() {
    let (_folder, bundle) = sound();
    let damage = |file: &str| {
        let mut bytes = fs::read(bundle.path(file)).unwrap();
        bytes[0] ^= 1;
        fs::write(bundle.path(file), bytes).unwrap();
    };
    damage("items/shard-00001-of-00002.parquet");
    bundle.verify(&Parts::Gateway).unwrap();
    bundle.verify(&Parts::Shards(vec![0])).unwrap();
    for parts in [Parts::All, Parts::Shards(vec![0, 1])] {
        let error = bundle.verify(&parts).unwrap_err();
        assert!(
            matches!(&error, BundleError::DigestMismatch { file, .. } if file.contains("shard-00001")),
            "{error}"
        );
    }
    fs::remove_file(bundle.path("popular.json")).unwrap();
    let error = bundle.verify(&Parts::Gateway).unwrap_err();
    assert!(matches!(&error, BundleError::MissingFile { file } if file == "popular.json"), "{error}");
    let error = bundle.verify(&Parts::Shards(vec![2])).unwrap_err();
    assert!(matches!(error, BundleError::NoSuchShard { shard: 2, count: 2 }), "{error}");
    let error = Bundle::open(Path::new("/nowhere")).unwrap_err();
    assert!(matches!(error, BundleError::MissingFile { .. }), "{error}");
}
