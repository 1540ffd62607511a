//! The use case: one request, from its routing to its labelled answer.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use endcap_fleet::Route;
use endcap_ranking::{Estimates, fallback, plan};
use endcap_service::traces::stage;
use endcap_types::{
    DegradationReason, FeatureName, FeatureValue, Quality, Rung, ShardOutcome, StageTiming, Violations,
};
use futures::FutureExt as _;
use tokio::time::Instant;

use crate::{
    answer::{Answer, Item},
    config::RecommendConfig,
    encode::Encoder,
    error::RecommendError,
    features::Features,
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
    pub(crate) forecast: Forecast,
    pub(crate) meters: Meters,
}

/// A request that has been placed and checked.
struct Placement<'a> {
    asked: &'a Asked,
    placed: &'a Placed,
    routes: &'a Routes,
    context: std::collections::BTreeMap<FeatureName, FeatureValue>,
}

impl Recommend {
    /// Answers within the call's deadline. A request that can be answered at all is, with a truthful rung.
    pub(crate) async fn run(&self, asked: Asked, call: &Call) -> Result<Answer, RecommendError> {
        let mut stage = stage("recommend");
        let answer = stage.run(self.answer(asked, call)).await?;
        stage.note("version", answer.quality.pin.version.get());
        stage.note("arm", answer.quality.arm.as_str());
        stage.note("rung", answer.quality.rung.as_str());
        Ok(answer)
    }

    async fn answer(&self, asked: Asked, call: &Call) -> Result<Answer, RecommendError> {
        let started = Instant::now();
        let remaining = call.deadline.instant().saturating_duration_since(started);
        if remaining.is_zero() {
            return Err(RecommendError::Expired);
        }
        let routes = self.routing.load();
        let model = asked.model.as_ref().unwrap_or(&self.config.default_model);
        let planning = stage("plan");
        let placed = place(&routes, model, &asked)?;
        let context = placed.check(&asked)?;
        let reserve = self.config.answer_reserve;
        let kind = (placed.pin.digest, asked.is_rerank());
        let full = self.forecast.full(kind, remaining.saturating_sub(reserve));
        let rung = plan(remaining, Estimates { full, reserve });
        drop(planning);
        let mut timing = StageTiming { plan_us: micros(started.elapsed()), ..StageTiming::default() };

        // Every wait ends here, so that the answer leaves before the deadline.
        let waits = call.until(call.deadline.less(reserve));
        let outcome = match (rung, &placed.route) {
            (Rung::Popular, _) => {
                let reason = DegradationReason::DeadlineTooShort;
                Outcome::unasked(&asked, &placed, ShardOutcome::TimedOut, reason)
            }
            (_, None) => {
                Outcome::unasked(&asked, &placed, ShardOutcome::Failed, DegradationReason::NotRoutable)
            }
            (_, Some(route)) => {
                let placement = Placement { asked: &asked, placed: &placed, routes: &routes, context };
                self.rank(&placement, route, &waits, &mut timing).await?
            }
        };
        let merging = Instant::now();
        let finishing = stage("finish");
        let mut answer = finish(&asked, &placed, outcome)?;
        drop(finishing);
        let ended = Instant::now();
        let took = ended - started;
        timing.merge_us += micros(ended - merging);
        timing.total_us = micros(took);
        if answer.quality.rung == Rung::Full && answer.quality.coverage.shards_timed_out == 0 {
            self.forecast.took(kind, took);
        }
        answer.quality.timing = timing;
        self.observe(&answer.quality, ended > call.deadline.instant());
        Ok(answer)
    }

    /// Asks the shards, with everything that they need to know first.
    async fn rank(
        &self,
        placement: &Placement<'_>,
        route: &Route,
        call: &Call,
        timing: &mut StageTiming,
    ) -> Result<Outcome, RecommendError> {
        let Placement { asked, placed, routes, context } = placement;
        let features =
            timed("features", self.features.fetch(&placed.parts, &routes.feature_caches, asked, call));
        let vector = timed("encode", self.vector(asked, placed, route, call));
        let (((mut features, missing), features_us), (vector, encode_us)) = tokio::join!(features, vector);
        (timing.features_us, timing.encode_us) = (features_us, encode_us);
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
                return Ok(outcome);
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
        let (heard, scatter_us) = timed("scatter", self.ask(placement, route, &question, call)).await;
        let Heard { parts, replies, reasons: mut also } = heard;
        reasons.append(&mut also);
        timing.scatter_us = scatter_us;
        // What the shards find wrong with the caller's columns is the caller's to mend; anything else is ours.
        for reply in &replies {
            if let Err(Fault::Refused(error)) = &reply.answer {
                if error.violations.iter().any(|violation| violation.field.starts_with("fields")) {
                    return Err(RecommendError::Refused(error.clone()));
                }
                tracing::warn!(shard = reply.shard, pin = %route.pin, %error, "a worker refused what the gateway sent");
            }
        }
        let merging = Instant::now();
        let stage = stage("merge");
        let mut outcome = gather(asked, placed, &parts, replies);
        drop(stage);
        timing.merge_us = micros(merging.elapsed());
        outcome.reasons.append(&mut reasons);
        Ok(outcome)
    }

    /// Asks every shard for its part: once, or first for its lists and then for the ranking.
    async fn ask(&self, placement: &Placement<'_>, route: &Route, question: &Question, call: &Call) -> Heard {
        let Placement { asked, placed, .. } = placement;
        if let Some(plan) = shortlist::plan(asked, placed) {
            let listing = Listing { scatter: &self.scatter, asked, placed, route, question };
            return listing.run(&plan, call).await;
        }
        let parts = gather::parts(asked, placed);
        let minimum_items = gather::minimum_items(asked, placed);
        let inquiry = Inquiry { question, parts: &parts, minimum_items };
        let replies = self.scatter.run(route, inquiry, call).await;
        Heard { parts, replies, reasons: BTreeSet::new() }
    }

    /// The query's vector if the request needs one, else an empty one. A request that can do without does not
    /// spend all of its time on it.
    async fn vector(
        &self,
        asked: &Asked,
        placed: &Placed,
        route: &Route,
        call: &Call,
    ) -> Result<Arc<[f32]>, Fault> {
        let Some(dim) = placed.dim(asked) else {
            return Ok(Arc::default());
        };
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

/// Work as a stage, and how long it took from now, in microseconds.
fn timed<T>(name: &'static str, work: impl Future<Output = T>) -> impl Future<Output = (T, u64)> {
    let (started, stage) = (Instant::now(), stage(name));
    stage.run(work).map(move |done| {
        drop(stage);
        (done, micros(started.elapsed()))
    })
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
