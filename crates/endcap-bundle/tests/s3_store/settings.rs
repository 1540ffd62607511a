//! What the settings say, and what the environment.

use endcap_bundle::{
    BundleStore, Parts, S3Options, StoreOptions,
    test_util::s3::{BUCKET, S3Server, options},
};
use endcap_types::{Coded as _, Digest, ErrorCode};
use tokio::{io::AsyncReadExt as _, net::TcpListener};

use crate::bundle;

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_the_settings_are_told_apart() {
    let (server, folder) = (S3Server::start(), tempfile::tempdir().unwrap());
    let bundle = bundle(folder.path(), "a", 50);
    let options = |url: &str, address: &str| StoreOptions {
        url: url.to_owned(),
        cache: folder.path().join("cache"),
        cache_max_bytes: u64::MAX,
        s3: options(address),
    };
    let missing = BundleStore::open(&options("s3://nowhere/x", &server.address)).unwrap();
    let error = missing.put(&bundle).await.unwrap_err();
    assert!(error.to_string().contains("there is no bucket \"nowhere\""), "{error}");
    // Nobody should look for a registration that was forgotten.
    let error = missing.fetch(bundle.digest(), Parts::All).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable);
    let (text, endpoint) = (error.to_string(), format!("http://{}", server.address));
    for part in ["\"nowhere\"", &endpoint, "store.url"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let gone = BundleStore::open(&options(&format!("s3://{BUCKET}"), &free)).unwrap();
    let error = gone.contains(bundle.digest()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable);
    assert!(error.to_string().contains("store.s3.endpoint"), "{error}");
    for url in ["s3://", "s3:///prefix", "gs://bucket", ""] {
        let error = BundleStore::open(&options(url, &server.address)).unwrap_err();
        assert!(error.to_string().contains("s3://bucket/prefix"), "{url}: {error}");
    }
    assert!(!format!("{:?}", options("s3://b", "h:1")).contains("hunter2"));
}

/// The head of the first request of a store that is given the address of its server.
async fn asked(options: impl FnOnce(String) -> S3Options) -> String {
    let (listener, folder) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), tempfile::tempdir().unwrap());
    let s3 = options(format!("http://{}", listener.local_addr().unwrap()));
    let (url, cache) = (format!("s3://{BUCKET}"), folder.path().to_owned());
    let store = BundleStore::open(&StoreOptions { url, cache, cache_max_bytes: 0, s3 }).unwrap();
    let head = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = String::new();
        while !head.contains("\r\n\r\n") {
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).await.unwrap();
            assert_ne!(read, 0, "{head}");
            head.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
        head.to_lowercase()
    };
    tokio::select! {
        head = head => head,
        answer = store.contains(Digest::from_bytes([7; 32])) => panic!("it asked somebody else: {answer:?}"),
    }
}

fn environment(variables: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const KEYS: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "key-of-environment"),
    ("AWS_SECRET_ACCESS_KEY", "secret"),
    ("AWS_SESSION_TOKEN", "token-of-environment"),
    ("AWS_REGION", "eu-north-1"),
];

#[tokio::test]
async fn settings_stand_for_all_of_their_kind_whatever_the_environment_says() {
    let elsewhere =
        [("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1"), ("AWS_ENDPOINT_URL", "http://127.0.0.1:1")];
    let variables: Vec<_> =
        KEYS.into_iter().chain(elsewhere).chain([("AWS_SKIP_SIGNATURE", "true")]).collect();
    let head = asked(|endpoint| S3Options {
        endpoint,
        region: "us-west-2".to_owned(),
        access_key_id: "key-of-settings".to_owned(),
        secret_access_key: "secret".to_owned(),
        environment: environment(&variables),
        ..S3Options::default()
    })
    .await;
    assert!(head.contains("credential=key-of-settings/") && head.contains("/us-west-2/"), "{head}");
    assert!(!head.contains("x-amz-security-token"), "{head}");
}

#[tokio::test]
async fn what_the_settings_leave_open_comes_from_the_environment() {
    let head = asked(|endpoint| {
        let endpoint = [("AWS_ENDPOINT_URL_S3", endpoint.as_str())];
        let variables: Vec<_> = KEYS.into_iter().chain(endpoint).collect();
        S3Options { environment: environment(&variables), ..S3Options::default() }
    })
    .await;
    assert!(head.contains("credential=key-of-environment/") && head.contains("/eu-north-1/"), "{head}");
    assert!(head.contains("x-amz-security-token: token-of-environment"), "{head}");
}

#[test]
fn an_endpoint_on_another_machine_is_encrypted_or_allowed_by_name() {
    let open = |s3: S3Options| {
        let url = format!("s3://{BUCKET}");
        BundleStore::open(&StoreOptions { url, s3, ..StoreOptions::default() })
    };
    let set = |endpoint: &str| S3Options { endpoint: endpoint.to_owned(), ..options("") };
    for local in
        ["http://127.0.0.1:9000", "http://[::1]:9000", "http://localhost:9000", "https://s3.shop:9000"]
    {
        open(set(local)).unwrap();
    }
    open(S3Options { allow_http: true, ..set("http://s3.shop:9000") }).unwrap();
    let variables = environment(&[("AWS_ENDPOINT_URL", "http://s3.shop:9000")]);
    let from_environment = S3Options { environment: variables, ..set("") };
    for refused in [set("http://s3.shop:9000"), set("http://127.0.0.1.shop"), from_environment] {
        let error = open(refused).unwrap_err().to_string();
        assert!(error.contains("store.s3.allow_http = true"), "{error}");
    }
}
