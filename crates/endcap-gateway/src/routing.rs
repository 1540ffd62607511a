//! What the gateway knows of the fleet: an immutable snapshot, swapped whole, and the task that keeps it current.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use endcap_bundle::{Bundle, BundleError, BundleStore, ModelSpec, background};
use endcap_coordination::Entries;
use endcap_fleet::{
    FleetView, Key, Keys, MemberRecord, ReadyRecord, Record, RolloutRecord, RoutingSnapshot, VersionRecord,
};
use endcap_ranking::Popular;
use endcap_service::Latch;
use endcap_types::{Digest, FeatureName, FeatureSpec, Namespace, ShardCount, Version};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

/// How long news of the fleet waits for the parts of a version that it brings. They are two small files; when the store
/// is slow, what is known of the other versions matters more.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between tries to get what the store did not give.
const RETRY: Duration = Duration::from_secs(1);

/// What a gateway needs of a version's bundle.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) spec: ModelSpec,
    pub(crate) shard_count: ShardCount,
    pub(crate) items_total: u64,
    pub(crate) features: BTreeMap<FeatureName, FeatureSpec>,
    pub(crate) popular: Popular,
}

impl Parts {
    pub(crate) fn read(bundle: &Bundle) -> Result<Self, BundleError> {
        let manifest = bundle.manifest();
        let features = bundle.features()?.features;
        Ok(Self {
            spec: manifest.spec.clone(),
            shard_count: manifest.shard_count,
            items_total: manifest.items_total,
            features: features.into_iter().map(|spec| (spec.name.clone(), spec)).collect(),
            popular: bundle.popular()?.overall.into(),
        })
    }

    /// Features of one namespace.
    pub(crate) fn of(&self, namespace: Namespace) -> impl Iterator<Item = &FeatureSpec> {
        self.features.values().filter(move |spec| spec.name.namespace() == namespace)
    }
}

type PartsByDigest = HashMap<Digest, Arc<Parts>>;

/// One moment of the fleet. A request uses one throughout.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    pub(crate) snapshot: RoutingSnapshot,
    parts: PartsByDigest,
    /// Endpoints, ascending.
    pub(crate) feature_caches: Vec<String>,
}

impl Routes {
    pub(crate) fn parts(&self, digest: Digest) -> Option<&Arc<Parts>> {
        self.parts.get(&digest)
    }

    /// Every endpoint that a request may be sent to.
    pub(crate) fn endpoints(&self) -> BTreeSet<&str> {
        let workers = self.snapshot.replicas().map(|replica| replica.endpoint.as_str());
        workers.chain(self.feature_caches.iter().map(String::as_str)).collect()
    }
}

/// The routes now. Cheap to clone and to read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routing {
    current: Arc<ArcSwap<Routes>>,
}

impl Routing {
    pub(crate) fn load(&self) -> Arc<Routes> {
        self.current.load_full()
    }

    pub(crate) fn publish(&self, routes: Routes) {
        self.current.store(Arc::new(routes));
    }
}

/// Keeps a [`Routing`] equal to what the coordinator says. A version is routed to only once its parts are here.
pub(crate) struct Follower {
    pub(crate) keys: Keys,
    pub(crate) store: Arc<BundleStore>,
    pub(crate) routing: Routing,
    /// Told every new state, to let go of what no route needs any more.
    pub(crate) tidy: Box<dyn Fn(&Routes) + Send + Sync>,
}

type Fetches = FuturesUnordered<BoxFuture<'static, (Digest, Result<Parts, BundleError>)>>;

impl Follower {
    /// Follows until the mirror ends. `first` is released, and `routed` told, with the first snapshot.
    pub(crate) async fn run(
        self,
        mut entries: watch::Receiver<Arc<Entries>>,
        first: Latch,
        routed: oneshot::Sender<()>,
    ) {
        let mut first = Some((first, routed));
        let mut parts = PartsByDigest::new();
        let mut fetches = Fetches::new();
        let mut fetching = BTreeSet::new();
        loop {
            let (view, feature_caches) = read(&self.keys, &entries.borrow_and_update());
            let wanted = wanted(&view);
            parts.retain(|digest, _| wanted.contains(digest));
            let mut begun = false;
            for digest in &wanted {
                if !parts.contains_key(digest) && fetching.insert(*digest) {
                    fetches.push(fetch(Arc::clone(&self.store), *digest).boxed());
                    begun = true;
                }
            }
            // Once: a store that hangs must not hold up all later news.
            let patience = Instant::now() + if begun { PATIENCE } else { Duration::ZERO };
            while !fetches.is_empty()
                && let Ok(Some(fetched)) = tokio::time::timeout_at(patience, fetches.next()).await
            {
                keep(fetched, &mut parts, &mut fetching);
            }
            let routes = routes(view, &parts, feature_caches);
            (self.tidy)(&routes);
            self.routing.publish(routes);
            if let Some((latch, routed)) = first.take() {
                latch.release();
                // Nobody listens when the gateway was told to end before it began.
                let _ended = routed.send(());
            }
            let incomplete = wanted.iter().any(|digest| !parts.contains_key(digest));
            tokio::select! {
                changed = entries.changed() => if changed.is_err() { return },
                Some(fetched) = fetches.next(), if !fetches.is_empty() => keep(fetched, &mut parts, &mut fetching),
                () = tokio::time::sleep(RETRY), if incomplete => {}
            }
        }
    }
}

async fn fetch(store: Arc<BundleStore>, digest: Digest) -> (Digest, Result<Parts, BundleError>) {
    (digest, fetch_parts(&store, digest).await)
}

async fn fetch_parts(store: &BundleStore, digest: Digest) -> Result<Parts, BundleError> {
    let bundle = store.fetch(digest, endcap_bundle::Parts::Gateway).await?;
    // A popularity list can be long; reading it must not hold up requests.
    let read = background(move || Parts::read(&bundle));
    let ended = |error: tokio::task::JoinError| BundleError::TaskEnded { detail: error.to_string() };
    read.await.map_err(ended)?
}

fn keep(
    (digest, fetched): (Digest, Result<Parts, BundleError>),
    parts: &mut PartsByDigest,
    fetching: &mut BTreeSet<Digest>,
) {
    fetching.remove(&digest);
    match fetched {
        Ok(fetched) => {
            parts.insert(digest, Arc::new(fetched));
        }
        Err(error) => {
            tracing::warn!(digest = %digest.short(), %error, "cannot route to a version: its bundle cannot be read; trying again");
        }
    }
}

/// Versions that may have to answer: those with an alias, and those that somebody holds.
fn wanted(view: &FleetView) -> BTreeSet<Digest> {
    let held: BTreeSet<_> = view.ready.keys().map(|shard| (&shard.model, shard.version)).collect();
    let mut wanted = BTreeSet::new();
    for (model, known) in &view.models {
        let aliased: BTreeSet<_> = known.rollout.aliases.values().copied().collect();
        let answering = |version: &Version| aliased.contains(version) || held.contains(&(model, *version));
        let versions = known.versions.iter().filter(|(version, _)| answering(version));
        wanted.extend(versions.map(|(_, record)| record.digest));
    }
    wanted
}

/// Replicas of versions whose parts are not here yet are left out, as if they were not ready.
fn routes(mut view: FleetView, parts: &PartsByDigest, feature_caches: Vec<String>) -> Routes {
    for replicas in view.ready.values_mut() {
        replicas.retain(|_, ready| parts.contains_key(&ready.digest));
    }
    Routes { snapshot: RoutingSnapshot::build(&view), parts: parts.clone(), feature_caches }
}

/// Records by kind. One that cannot be read is left out and told: it was written by another build.
fn read(keys: &Keys, entries: &Entries) -> (FleetView, Vec<String>) {
    let mut view = FleetView::default();
    let mut feature_caches = BTreeSet::new();
    for (key, entry) in entries {
        match keys.parse(key) {
            Some(Key::Version { model, version }) => {
                if let Some(record) = record::<VersionRecord>(key, &entry.value) {
                    view.models.entry(model).or_default().versions.insert(version, record);
                }
            }
            Some(Key::Rollout { model }) => {
                if let Some(record) = record::<RolloutRecord>(key, &entry.value) {
                    view.models.entry(model).or_default().rollout = record;
                }
            }
            Some(Key::Ready { shard, worker }) => {
                if let Some(record) = record::<ReadyRecord>(key, &entry.value) {
                    view.ready.entry(shard).or_default().insert(worker, record);
                }
            }
            Some(Key::FeatureCache { .. }) => {
                feature_caches
                    .extend(record::<MemberRecord>(key, &entry.value).map(|record| record.endpoint));
            }
            _ => {}
        }
    }
    (view, feature_caches.into_iter().collect())
}

fn record<R: Record>(key: &str, value: &[u8]) -> Option<R> {
    R::from_json(key, value).inspect_err(|error| tracing::warn!(%error, "left out")).ok()
}
