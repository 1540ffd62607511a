//! The use case: one request, from its routing to its labelled answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use endcap_fleet::Route;
use endcap_ranking::{Estimates, fallback, plan};
use endcap_service::traces::{note, stage};
use endcap_types::{
    DegradationReason, FeatureName, FeatureValue, Quality, Rung, ShardOutcome, StageTiming, Violations,
};
use futures::{FutureExt as _, future::OptionFuture};
use tokio::time::Instant;

use crate::{
    answer::{Answer, Item},
    config::RecommendConfig,
    encode::Encoder,
    error::RecommendError,
    features::{self, Features, Fetched},
    forecast::Forecast,
    gather::{self, Outcome, gather},
    metrics::{self, Meters, Stage},
    placement::{Placed, place},
    ports::{Call, Question},
    replicas::Fault,
    request::Asked,
    routing::{Routes, Routing},
    scatter::{Inquiry, Scatter},
    shortlist::{self, Heard, Listing},
};

/// Ranks pages.
#[derive(Debug)]
pub(crate) struct Recommend {
    pub(crate) config: RecommendConfig,
    pub(crate) routing: Routing,
    pub(crate) features: Features,
    pub(crate) encoder: Encoder,
    pub(crate) scatter: Scatter,
    pub(crate) forecast: Arc<Forecast>,
    pub(crate) meters: Meters,
}

/// A request that has been placed and checked.
struct Placement<'a> {
    asked: &'a Asked,
    placed: &'a Placed,
    routes: &'a Routes,
    context: BTreeMap<FeatureName, FeatureValue>,
    /// When it was.
    at: Instant,
}

impl Recommend {
    /// Answers within the call's deadline. A request that can be answered at all is, with a truthful rung.
    pub(crate) async fn run(&self, asked: Asked, call: &Call) -> Result<Answer, RecommendError> {
        let started = Instant::now();
        let remaining = call.deadline.instant().saturating_duration_since(started);
        if remaining.is_zero() {
            return Err(RecommendError::Expired);
        }
        let planning = stage("plan", started);
        let routes = self.routing.load();
        let model = asked.model.as_ref().unwrap_or(&self.config.default_model);
        let placed = place(&routes, model, &asked)?;
        let context = placed.check(&asked)?;
        let reserve = self.config.answer_reserve;
        let kind = (placed.pin.digest, asked.is_rerank());
        let full = self.forecast.full(kind, remaining.saturating_sub(reserve));
        let rung = plan(remaining, Estimates { full, reserve });
        let at = Instant::now();
        planning.end(at);
        let mut timing = StageTiming { plan_us: micros(at - started), ..StageTiming::default() };

        // Every wait ends here, so that the answer leaves before the deadline.
        let waits = call.until(call.deadline.less(reserve));
        let unasked = |outcome, reason| (Outcome::unasked(&asked, &placed, outcome, reason), at);
        let (outcome, heard) = match (rung, &placed.route) {
            (Rung::Popular, _) => unasked(ShardOutcome::TimedOut, DegradationReason::DeadlineTooShort),
            (_, None) => unasked(ShardOutcome::Failed, DegradationReason::NotRoutable),
            (_, Some(route)) => {
                let placement = Placement { asked: &asked, placed: &placed, routes: &routes, context, at };
                self.rank(&placement, route, &waits, &mut timing).await?
            }
        };
        let merging = stage("merge", heard);
        let mut answer = finish(&asked, &placed, outcome)?;
        let ended = Instant::now();
        merging.end(ended);
        let took = ended - started;
        timing.merge_us = micros(ended - heard);
        timing.total_us = micros(took);
        if answer.quality.rung == Rung::Full && answer.quality.coverage.shards_timed_out == 0 {
            self.forecast.took(kind, took);
        }
        answer.quality.timing = timing;
        let Quality { pin, arm, rung, .. } = &answer.quality;
        note([
            ("version", pin.version.get().into()),
            ("arm", arm.as_str().into()),
            ("rung", rung.as_str().into()),
        ]);
        self.observe(&answer.quality, ended > call.deadline.instant());
        Ok(answer)
    }

    /// Asks the shards, with everything that they need to know first. Also when the last of them was heard.
    async fn rank(
        &self,
        placement: &Placement<'_>,
        route: &Route,
        call: &Call,
        timing: &mut StageTiming,
    ) -> Result<(Outcome, Instant), RecommendError> {
        let Placement { asked, placed, context, at, .. } = placement;
        let (fetched, vector) = self.prepare(placement, route, call).await;
        // What need not be done takes no time, and is no stage.
        let (mut features, missing, fetched) = match fetched {
            Some(((features, missing), ended)) => (features, missing, ended),
            None => (BTreeMap::new(), None, *at),
        };
        let (vector, encoded) = vector.unwrap_or_else(|| (Ok(Arc::default()), *at));
        (timing.features_us, timing.encode_us) = (micros(fetched - *at), micros(encoded - *at));
        let prepared = fetched.max(encoded);
        let mut reasons: BTreeSet<_> = missing.into_iter().collect();
        let vector = match vector {
            Ok(vector) => vector,
            Err(_) if placed.does_without_vector(asked) => {
                // The words are enough, and the ranker does without: to its vector features nothing is near.
                reasons.insert(DegradationReason::EncoderFailed);
                Arc::default()
            }
            Err(fault) => {
                let outcome =
                    if fault == Fault::TimedOut { ShardOutcome::TimedOut } else { ShardOutcome::Failed };
                let mut outcome = Outcome::unasked(asked, placed, outcome, DegradationReason::EncoderFailed);
                outcome.reasons.append(&mut reasons);
                return Ok((outcome, prepared));
            }
        };
        features.extend(context.clone());
        let question = Question {
            pin: route.pin.clone(),
            query: asked.query.clone(),
            vector,
            features,
            fields: asked.fields.clone(),
        };
        let asking = self.ask(placement, route, (&question, prepared), call);
        let (Heard { parts, replies, reasons: mut also }, heard) = timed("scatter", prepared, asking).await;
        reasons.append(&mut also);
        timing.scatter_us = micros(heard - prepared);
        // What the shards find wrong with the caller's columns is the caller's to mend; anything else is ours.
        for reply in &replies {
            if let Err(Fault::Refused(error)) = &reply.answer {
                if error.violations.iter().any(|violation| violation.field.starts_with("fields")) {
                    return Err(RecommendError::Refused(error.clone()));
                }
                tracing::warn!(shard = reply.shard, pin = %route.pin, %error, "a worker refused what the gateway sent");
            }
        }
        let mut outcome = gather(asked, placed, &parts, replies);
        outcome.reasons.append(&mut reasons);
        Ok((outcome, heard))
    }

    /// Fetches features and the query's vector, both at once, as far as they are needed; and when each was there.
    async fn prepare(
        &self,
        placement: &Placement<'_>,
        route: &Route,
        call: &Call,
    ) -> (Option<Timed<Fetched>>, Option<Timed<Result<Arc<[f32]>, Fault>>>) {
        let Placement { asked, placed, routes, at, .. } = placement;
        let keys = features::keys(&placed.parts, asked);
        let fetch = |keys| self.features.fetch(&placed.parts, &routes.feature_caches, keys, call);
        let fetch = (!keys.is_empty()).then(|| timed("features", *at, fetch(&keys)));
        let encode = |dim| timed("encode", *at, self.vector(placement, dim, route, call));
        let encode = placed.dim(asked).map(encode);
        tokio::join!(OptionFuture::from(fetch), OptionFuture::from(encode))
    }

    /// Asks every shard for its part: once, or first for its lists and then for the ranking.
    async fn ask(
        &self,
        placement: &Placement<'_>,
        route: &Route,
        (question, began): (&Question, Instant),
        call: &Call,
    ) -> Heard {
        let Placement { asked, placed, .. } = placement;
        if let Some(plan) = shortlist::plan(asked, placed) {
            let listing = Listing { scatter: &self.scatter, asked, placed, route, question };
            return listing.run(&plan, call).await;
        }
        let parts = gather::parts(asked, placed);
        let minimum_items = gather::minimum_items(asked, placed);
        let inquiry = Inquiry { question, parts: &parts, minimum_items, began };
        let replies = self.scatter.run(route, inquiry, call).await;
        Heard { parts, replies, reasons: BTreeSet::new() }
    }

    /// The query's vector, of `dim` numbers. A request that can do without does not spend all of its time on it.
    async fn vector(
        &self,
        Placement { asked, placed, .. }: &Placement<'_>,
        dim: usize,
        route: &Route,
        call: &Call,
    ) -> Result<Arc<[f32]>, Fault> {
        let remaining = call.deadline.remaining();
        let share = if placed.does_without_vector(asked) { remaining / 2 } else { remaining };
        let call = call.until(call.deadline.within(share));
        self.encoder.vector(route, dim, &asked.query, &call).await
    }

    fn observe(&self, quality: &Quality, late: bool) {
        self.meters.answered(quality);
        let timing = &quality.timing;
        let stages = [
            (Stage::Plan, timing.plan_us),
            (Stage::Features, timing.features_us),
            (Stage::Encode, timing.encode_us),
            (Stage::Scatter, timing.scatter_us),
            (Stage::Merge, timing.merge_us),
        ];
        for (stage, took) in stages {
            self.meters.stage(stage, Duration::from_micros(took));
        }
        if late {
            metrics::late();
        }
    }
}

/// Labels an answer, or refuses one that is worse than the caller accepts.
fn finish(asked: &Asked, placed: &Placed, outcome: Outcome) -> Result<Answer, RecommendError> {
    let Outcome { items, mut coverage, mut reasons, unknown, all_unknown } = outcome;
    if all_unknown {
        return Err(nothing_known(asked, placed).into());
    }
    reasons.extend(placed.reason);
    let rung = if items.is_some() { Rung::Full } else { Rung::Popular };
    let items = items.unwrap_or_else(|| {
        // None of what was scored is shown.
        coverage.items_scored = 0;
        popular(asked, placed, &unknown)
    });
    if coverage.ratio() < asked.minimum_coverage {
        let (pin, minimum) = (placed.pin.clone(), asked.minimum_coverage);
        return Err(RecommendError::BelowCoverage { pin, coverage: Box::new(coverage), minimum });
    }
    let quality = Quality {
        rung,
        pin: placed.pin.clone(),
        arm: placed.arm,
        coverage,
        reasons: reasons.into_iter().collect(),
        timing: StageTiming::default(),
    };
    Ok(Answer { items, quality, unknown })
}

fn nothing_known(asked: &Asked, placed: &Placed) -> Violations {
    let mut violations = Violations::default();
    let count = asked.candidates.len();
    let pin = &placed.pin;
    violations.push(
        "candidates",
        format!(
            "none of the {count} candidates is in the catalogue of version {} of {}",
            pin.version, pin.model
        ),
    );
    violations
}

/// Candidates that are known not to exist are not shown.
fn popular(asked: &Asked, placed: &Placed, unknown: &[String]) -> Vec<Item> {
    let mut hidden = asked.exclude.clone();
    hidden.extend(unknown.iter().cloned());
    let shown = fallback(&placed.parts.popular, &asked.candidates, &hidden, asked.limit);
    shown.into_iter().map(Item::unscored).collect()
}

/// What came of work, and when.
type Timed<T> = (T, Instant);

/// Work as a stage that began at `began`.
fn timed<T>(
    name: &'static str,
    began: Instant,
    work: impl Future<Output = T>,
) -> impl Future<Output = Timed<T>> {
    let stage = stage(name, began);
    stage.run(work).map(move |done| {
        let ended = Instant::now();
        stage.end(ended);
        (done, ended)
    })
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
