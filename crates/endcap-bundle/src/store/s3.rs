//! A store in S3, or in anything that speaks its protocol.

use std::{collections::BTreeMap, error::Error as _, fmt, net::IpAddr, sync::Arc, time::Duration};

use object_store::{
    ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey as Key},
    path::Path as ObjectPath,
    prefix::PrefixStore,
};

use crate::BundleError;

/// A store that does not take a connection within this is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A download may take hours, but not this long between two pieces.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// After that the caller hears of it.
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);
const RETRIES: usize = 5;

/// How a store at `s3://bucket/prefix` is reached. What is empty comes from the environment (`AWS_REGION`,
/// `AWS_ACCESS_KEY_ID` and so on) or from the machine's role; credentials never from both.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Options {
    /// Empty for Amazon's own.
    pub endpoint: String,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    /// Of credentials that end some time.
    pub session_token: String,
    /// Whether the endpoint may be `http://`, which is not encrypted, though it is on another machine.
    pub allow_http: bool,
    /// The variables `AWS_…` of the process.
    pub environment: BTreeMap<String, String>,
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, region, access_key_id, .. } = self;
        write!(f, "S3Options({endpoint:?}, {region:?}, key {access_key_id:?}, secret [redacted])")
    }
}

impl S3Options {
    /// The endpoint, if it is `http://` on another machine and nobody has allowed that.
    pub fn refused_endpoint(&self) -> Option<&str> {
        let endpoint = self.own_endpoint()?;
        let plain = endpoint.starts_with("http://") && !self.allow_http && !is_local(endpoint);
        plain.then_some(endpoint)
    }

    /// The one that is set, here or in the environment.
    fn own_endpoint(&self) -> Option<&str> {
        let from_environment = || {
            let names = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
            names.iter().find_map(|name| self.environment.get(*name)).map(String::as_str)
        };
        if self.endpoint.is_empty() { from_environment() } else { Some(&self.endpoint) }
    }

    /// What is set here stands for the whole of its kind: keys for all credentials, an endpoint for all endpoints.
    fn builder(&self) -> AmazonS3Builder {
        let mut builder = AmazonS3Builder::new();
        for (name, value) in &self.environment {
            let Ok(key) = name.to_ascii_lowercase().parse::<Key>() else { continue };
            let overruled = match key {
                Key::Endpoint | Key::S3Endpoint => true,
                Key::Region | Key::DefaultRegion => !self.region.is_empty(),
                _ => is_credential(&key) && !self.access_key_id.is_empty(),
            };
            if !overruled {
                builder = builder.with_config(key, value);
            }
        }
        let own = [
            (Key::S3Endpoint, self.own_endpoint().unwrap_or_default()),
            (Key::Region, &self.region),
            (Key::AccessKeyId, &self.access_key_id),
            (Key::SecretAccessKey, &self.secret_access_key),
            (Key::Token, &self.session_token),
        ];
        let set = own.into_iter().filter(|(_, value)| !value.is_empty());
        set.fold(builder, |builder, (key, value)| builder.with_config(key, value))
    }
}

/// What says who asks.
fn is_credential(key: &Key) -> bool {
    matches!(
        key,
        Key::AccessKeyId
            | Key::SecretAccessKey
            | Key::Token
            | Key::SkipSignature
            | Key::WebIdentityTokenFile
            | Key::RoleArn
            | Key::RoleSessionName
            | Key::StsEndpoint
            | Key::ContainerCredentialsRelativeUri
            | Key::ContainerCredentialsFullUri
            | Key::ContainerAuthorizationTokenFile
            | Key::MetadataEndpoint
            | Key::ImdsV1Fallback
    )
}

fn is_local(endpoint: &str) -> bool {
    let url = reqwest::Url::parse(endpoint);
    let host = url.ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// A bucket, for whoever must be told of it.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    pub(super) name: String,
    pub(super) endpoint: String,
}

/// Whether a store says that its bucket is not there.
pub(super) fn is_no_bucket(error: &object_store::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if error.to_string().contains("NoSuchBucket") {
            return true;
        }
        source = error.source();
    }
    false
}

/// The objects below `url`, which begins with `s3://`.
pub(super) fn open(url: &str, options: &S3Options) -> Result<(Arc<dyn ObjectStore>, Bucket), BundleError> {
    let place = url.strip_prefix("s3://").unwrap_or(url);
    let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
    if name.is_empty() {
        return Err(BundleError::StoreUrl { url: url.to_owned() });
    }
    if let Some(endpoint) = options.refused_endpoint() {
        return Err(BundleError::PlainEndpoint { endpoint: endpoint.to_owned() });
    }
    // Another part of the process may have chosen one already; then that one is used.
    let _chosen = rustls::crypto::ring::default_provider().install_default();
    let endpoint = options.own_endpoint().unwrap_or("Amazon S3");
    let client = ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout_disabled()
        .with_read_timeout(READ_TIMEOUT)
        .with_allow_http(endpoint.starts_with("http://"));
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    let builder = options.builder().with_bucket_name(name).with_client_options(client).with_retry(retry);
    let failed = |source| BundleError::Store { action: "open", what: url.to_owned(), source };
    let objects = builder.build().map_err(failed)?;
    let bucket = Bucket { name: name.to_owned(), endpoint: endpoint.to_owned() };
    let objects: Arc<dyn ObjectStore> = match prefix.trim_matches('/') {
        "" => Arc::new(objects),
        prefix => Arc::new(PrefixStore::new(objects, ObjectPath::from(prefix))),
    };
    Ok((objects, bucket))
}
