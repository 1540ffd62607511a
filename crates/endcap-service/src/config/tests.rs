use std::{net::SocketAddr, time::Duration};

use super::*;

fn load(env: &[(&str, &str)], set: &[(&str, &str)]) -> Result<Settings, ConfigProblems> {
    let env = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let set: Vec<_> = set.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    Settings::load(None, &env, &set)
}

#[test]
fn later_layers_win() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[gateway]\ndefault_deadline = \"1s\"\nmax_limit = 5\n").unwrap();
    let env = BTreeMap::from([("ENDCAP_GATEWAY__MAX_LIMIT".to_owned(), "6".to_owned())]);
    let set = [("gateway.grpc.listen".to_owned(), "127.0.0.1:0".to_owned())];
    let mut settings = Settings::load(Some(file.path()), &env, &set).unwrap();
    assert_eq!(settings.read("gateway.default_deadline"), Some(Duration::from_secs(1)));
    assert_eq!(settings.read("gateway.max_limit"), Some(6_usize));
    assert_eq!(settings.read::<SocketAddr>("gateway.grpc.listen").unwrap().port(), 0);
    assert!(settings.finish(Some(())).is_ok());
}

#[test]
fn every_problem_is_told_at_once_with_its_source() {
    let mut settings =
        load(&[("ENDCAP_GATEWAY__MAX_LIMIT", "many")], &[("gateway.default_deadline", "soon")]).unwrap();
    let deadline: Option<Duration> = settings.read("gateway.default_deadline");
    let limit: Option<usize> = settings.read("gateway.max_limit");
    let problems = settings.finish(deadline.zip(limit)).unwrap_err().to_string();
    assert_eq!(
        problems,
        "2 settings must be mended:\n  \
         gateway.default_deadline = \"soon\" (command line): expected a time such as \"250ms\" or \"2s\"\n  \
         gateway.max_limit = \"many\" (environment ENDCAP_GATEWAY__MAX_LIMIT): expected a whole number that fits \
         usize, not negative"
    );
}

#[test]
fn an_unknown_key_is_a_problem_with_a_hint() {
    let mut settings = load(&[], &[("gateway.max_limits", "7")]).unwrap();
    let problems = settings.finish(Some(())).unwrap_err().to_string();
    assert!(problems.contains("did you mean gateway.max_limit?"), "{problems}");
}

#[test]
fn every_shipped_key_is_documented() {
    let lines: Vec<_> = DEFAULTS.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(i > 0 && lines[i - 1].starts_with('#'), "no comment above {line:?}");
        }
    }
}

#[test]
fn sizes_have_units() {
    for (text, bytes) in
        [("7", Some(7)), ("512MiB", Some(512 << 20)), ("1 GiB", Some(1 << 30)), ("1GB", None)]
    {
        assert_eq!(ByteSize::from_value(&Value::String(text.into())).map(|size| size.0), bytes, "{text}");
    }
}

#[test]
fn secrets_are_never_shown() {
    for key in ["coordination.etcd.password", "store.s3.secret_access_key"] {
        let mut settings = load(&[], &[(key, "hunter2")]).unwrap();
        assert!(settings.effective().iter().all(|(_, value, _)| !value.contains("hunter2")), "{key}");
        settings.reject(key, "something else");
        let problems = settings.finish(Some(())).unwrap_err().to_string();
        assert!(problems.contains(key) && !problems.contains("hunter2"), "{problems}");
    }
}
