//! A store in S3, or in anything that speaks its protocol.

use std::{fmt, sync::Arc, time::Duration};

use object_store::{
    ClientOptions, ObjectStore, RetryConfig, aws::AmazonS3Builder, path::Path as ObjectPath,
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
/// `AWS_ACCESS_KEY_ID` and so on) or from the machine's role.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Options {
    /// Empty for Amazon's own. `http://` is not encrypted.
    pub endpoint: String,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, region, access_key_id, .. } = self;
        write!(f, "S3Options({endpoint:?}, {region:?}, key {access_key_id:?}, secret [redacted])")
    }
}

/// The objects below `url`, which begins with `s3://`.
pub(super) fn open(url: &str, options: &S3Options) -> Result<Arc<dyn ObjectStore>, BundleError> {
    let place = url.strip_prefix("s3://").unwrap_or(url);
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.is_empty() {
        return Err(BundleError::StoreUrl { url: url.to_owned() });
    }
    // Another part of the process may have chosen one already; then that one is used.
    let _chosen = rustls::crypto::ring::default_provider().install_default();
    let is_plain = options.endpoint.starts_with("http://");
    let client = ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout_disabled()
        .with_read_timeout(READ_TIMEOUT)
        .with_allow_http(is_plain);
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    let mut builder =
        AmazonS3Builder::from_env().with_bucket_name(bucket).with_client_options(client).with_retry(retry);
    if !options.endpoint.is_empty() {
        builder = builder.with_endpoint(&options.endpoint);
    }
    if !options.region.is_empty() {
        builder = builder.with_region(&options.region);
    }
    if !options.access_key_id.is_empty() {
        builder = builder
            .with_access_key_id(&options.access_key_id)
            .with_secret_access_key(&options.secret_access_key);
    }
    let failed = |source| BundleError::Store { action: "open", what: url.to_owned(), source };
    let objects = builder.build().map_err(failed)?;
    Ok(match prefix.trim_matches('/') {
        "" => Arc::new(objects),
        prefix => Arc::new(PrefixStore::new(objects, ObjectPath::from(prefix))),
    })
}
