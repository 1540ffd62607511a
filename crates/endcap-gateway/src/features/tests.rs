use async_trait::async_trait;
use endcap_bundle::{ModelSpec, RankerSpec};
use endcap_ranking::Popular;
use endcap_service::{Deadline, RequestId, status::RemoteError};
use endcap_types::{DType, DegradationReason};
use parking_lot::Mutex;

use super::*;

/// A cache that answers with these groups, or not at all.
#[derive(Debug, Default)]
struct Fake {
    groups: Vec<Option<FeatureGroup>>,
    error: Option<ErrorCode>,
    /// Which one fails; nothing for all of them.
    failing: Option<String>,
    hangs: bool,
    asked: Mutex<Vec<FeatureKey>>,
    caches: Mutex<Vec<String>>,
}

#[async_trait]
impl FeatureSource for Fake {
    async fn fetch(
        &self,
        endpoint: &str,
        keys: &[FeatureKey],
        _call: Call,
    ) -> Result<Vec<Option<FeatureGroup>>, RemoteError> {
        self.asked.lock().extend_from_slice(keys);
        self.caches.lock().push(endpoint.to_owned());
        if self.hangs {
            std::future::pending::<()>().await;
        }
        match self.error.filter(|_| self.failing.as_deref().is_none_or(|failing| failing == endpoint)) {
            Some(code) => {
                Err(RemoteError { code, message: String::new(), violations: Vec::new(), retry_after: None })
            }
            None => Ok(self.groups.clone()),
        }
    }
}

fn name(text: &str) -> FeatureName {
    text.parse().unwrap()
}

/// Reads `user.a` (2 floats, fresh for 60 s) and `session.b` (1 integer).
fn parts(names: &[&str]) -> Parts {
    let spec = |text: &&str| FeatureSpec {
        name: name(text),
        dtype: if text.starts_with("user") { DType::F32 } else { DType::I64 },
        width: if text.starts_with("user") { 2 } else { 1 },
        default: FeatureValue::F32(Vec::new()),
        ttl_s: Some(60),
        compute: None,
    };
    let ranker = RankerSpec { file: String::new(), inputs: Vec::new(), output: String::new() };
    Parts {
        spec: ModelSpec {
            model: "m".parse().unwrap(),
            ranker,
            encoder: None,
            retrieval: None,
            lineage: BTreeMap::new(),
        },
        shard_count: ShardCount::try_from(1).unwrap(),
        items_total: 1,
        features: names.iter().map(|text| (name(text), spec(text))).collect(),
        popular: Popular::default(),
    }
}

fn asked(user: &str, session: &str) -> Asked {
    let wire = endcap_proto::pb::RecommendRequest {
        query: "q".into(),
        limit: 1,
        user_id: user.into(),
        session_id: session.into(),
        ..Default::default()
    };
    Asked::from_wire(wire, &crate::config::Limits { limit: 1, candidates: 1, query_bytes: 9 }).unwrap()
}

fn group(name_of: &str, value: FeatureValue, age_s: u64) -> Option<FeatureGroup> {
    Some(FeatureGroup { values: BTreeMap::from([(name(name_of), value)]), age: Duration::from_secs(age_s) })
}

async fn fetch(fake: Fake, caches: &[&str], asked: &Asked) -> (Fetched, Vec<FeatureKey>, Duration) {
    fetch_from(&Arc::new(fake), caches, asked).await
}

async fn fetch_from(
    fake: &Arc<Fake>,
    caches: &[&str],
    asked: &Asked,
) -> (Fetched, Vec<FeatureKey>, Duration) {
    let features = Features { source: Arc::<Fake>::clone(fake), budget: Duration::from_millis(10) };
    let call = Call { deadline: Deadline::after(Duration::from_secs(1)), id: RequestId::new() };
    let caches: Vec<String> = caches.iter().map(|cache| (*cache).to_owned()).collect();
    let started = tokio::time::Instant::now();
    let parts = parts(&["user.a", "session.b"]);
    let fetched = features.fetch(&parts, &caches, &keys(&parts, asked), &call).await;
    let keys = fake.asked.lock().clone();
    (fetched, keys, started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn without_a_shopper_nothing_is_asked_and_nothing_is_given_up() {
    let (fetched, sent, _) = fetch(Fake::default(), &[], &asked("", "")).await;
    assert_eq!((fetched, sent), (Fetched::default(), Vec::new()));

    // Nor for a shopper of whom the version reads nothing.
    assert_eq!(keys(&parts(&[]), &asked("u", "s")), []);
}

#[tokio::test(start_paused = true)]
async fn what_the_schema_declares_is_used() {
    let user = group("user.a", FeatureValue::I64(vec![1, 2]), 59);
    let session = group("session.b", FeatureValue::I64(vec![7]), 0);
    let fake = Fake { groups: vec![user, session], ..Fake::default() };
    let ((values, reason), keys, _) = fetch(fake, &["c"], &asked("u", "s")).await;
    assert_eq!(reason, None);
    assert_eq!(keys.len(), 2);
    // Integers widen to the declared floats.
    assert_eq!(values[&name("user.a")], FeatureValue::F32(vec![1.0, 2.0]));
    assert_eq!(values[&name("session.b")], FeatureValue::I64(vec![7]));
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_stale_or_malformed_counts_as_missing() {
    let cases = [
        None,
        Some(FeatureGroup::default()),
        group("user.a", FeatureValue::F32(vec![1.0]), 0),
        group("user.a", FeatureValue::F32(vec![1.0, f32::NAN]), 0),
        group("user.a", FeatureValue::F32(vec![1.0, 2.0]), 61),
    ];
    for case in cases {
        let fake = Fake { groups: vec![case.clone()], ..Fake::default() };
        let (fetched, ..) = fetch(fake, &["c"], &asked("u", "")).await;
        assert_eq!(fetched, (BTreeMap::new(), Some(DegradationReason::FeaturesMissing)), "{case:?}");
    }
    let fake = Fake { groups: vec![group("session.b", FeatureValue::F32(vec![1.0]), 0)], ..Fake::default() };
    let (fetched, ..) = fetch(fake, &["c"], &asked("", "s")).await;
    assert_eq!(fetched.1, Some(DegradationReason::FeaturesMissing), "a float is no integer");
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_hangs_or_fails_costs_the_budget_at_most() {
    let cases = [
        (Fake { hangs: true, ..Fake::default() }, &["c"][..], DegradationReason::FeaturesTimedOut),
        (
            Fake { error: Some(ErrorCode::DeadlineExceeded), ..Fake::default() },
            &["c"],
            DegradationReason::FeaturesTimedOut,
        ),
        (
            Fake { error: Some(ErrorCode::Unavailable), ..Fake::default() },
            &["c"],
            DegradationReason::FeaturesUnavailable,
        ),
        (Fake::default(), &[], DegradationReason::FeaturesUnavailable),
    ];
    for (fake, caches, reason) in cases {
        let (fetched, _, took) = fetch(fake, caches, &asked("u", "s")).await;
        assert_eq!(fetched, (BTreeMap::new(), Some(reason)));
        assert!(took <= Duration::from_millis(11), "{reason:?} took {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_entity_is_asked_of_one_cache_and_of_a_second_where_that_fails_at_once() {
    let caches = ["a", "b", "c"];
    let shopper = asked("u", "");
    let fake = Arc::new(Fake { groups: vec![None], ..Fake::default() });
    for _ in 0..3 {
        fetch_from(&fake, &caches, &shopper).await;
    }
    let own = fake.caches.lock()[0].clone();
    assert_eq!(*fake.caches.lock(), vec![own.clone(); 3]);

    let known = group("user.a", FeatureValue::F32(vec![1.0, 2.0]), 0);
    let failing = |groups, code, failing| {
        Arc::new(Fake { groups: vec![groups], error: Some(code), failing, ..Fake::default() })
    };
    let cases = [
        (failing(known.clone(), ErrorCode::Unavailable, Some(own.clone())), None, 2),
        // What only the failing one knows is not "missing", which would be nobody's fault.
        (
            failing(None, ErrorCode::Unavailable, Some(own.clone())),
            Some(DegradationReason::FeaturesUnavailable),
            2,
        ),
        (
            failing(known.clone(), ErrorCode::Unavailable, None),
            Some(DegradationReason::FeaturesUnavailable),
            2,
        ),
        (
            failing(known, ErrorCode::DeadlineExceeded, Some(own)),
            Some(DegradationReason::FeaturesTimedOut),
            1,
        ),
    ];
    for (fake, expected, tried) in cases {
        let ((_, reason), ..) = fetch_from(&fake, &caches, &shopper).await;
        let asked: std::collections::BTreeSet<_> = fake.caches.lock().iter().cloned().collect();
        assert_eq!((reason, fake.caches.lock().len(), asked.len()), (expected, tried, tried), "{fake:?}");
    }
}
