//! Requests that get no answer, and why.

use std::time::Duration;

use endcap_proto::pb::{self, recommend_request::Target};
use endcap_types::Alias;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    fleet::{Fleet, ask, query, rerank, within},
    worker::Does,
};

struct Case {
    request: pb::RecommendRequest,
    code: Code,
    /// Field path, or "" where no field is at fault.
    field: &'static str,
    says: &'static str,
}

fn case(request: pb::RecommendRequest, code: Code, field: &'static str, says: &'static str) -> Case {
    Case { request, code, field, says }
}

fn to(target: Target) -> pb::RecommendRequest {
    pb::RecommendRequest { target: Some(target), ..query() }
}

fn with_context(name: &str, floats: Vec<f32>) -> pb::RecommendRequest {
    let value = pb::FeatureValue { floats, ints: Vec::new() };
    pb::RecommendRequest { context: [(name.to_owned(), value)].into(), ..query() }
}

fn cases() -> Vec<Case> {
    use Code::{FailedPrecondition, InvalidArgument, NotFound};
    let many = |n: usize| (0..n).map(|i| format!("item-{i:05}")).collect::<Vec<_>>();
    vec![
        case(
            pb::RecommendRequest { query: String::new(), ..query() },
            InvalidArgument,
            "query",
            "candidates",
        ),
        case(
            pb::RecommendRequest { model: "nobodys".into(), ..query() },
            NotFound,
            "",
            "nobodys; known are: tiny",
        ),
        case(
            pb::RecommendRequest { model: "No Such".into(), ..query() },
            InvalidArgument,
            "model",
            "No Such",
        ),
        case(to(Target::Version(9)), NotFound, "", "no version 9"),
        case(to(Target::Version(0)), InvalidArgument, "version", "from 1"),
        case(to(Target::Version(2)), FailedPrecondition, "", "shard 1, 2"),
        case(to(Target::Alias("candidate".into())), FailedPrecondition, "", "version 2"),
        case(to(Target::Alias("last_good".into())), NotFound, "", "last_good"),
        case(to(Target::Alias("prod".into())), InvalidArgument, "alias", "prod"),
        case(pb::RecommendRequest { limit: 10_001, ..query() }, InvalidArgument, "limit", "10001"),
        case(
            pb::RecommendRequest { candidates: many(100_001), ..query() },
            InvalidArgument,
            "candidates",
            "100001",
        ),
        case(rerank(&["a", "b", "a"]), InvalidArgument, "candidates[2]", "repeats candidates[0]"),
        case(rerank(&["x", "y"]), InvalidArgument, "candidates", "none of the 2 candidates"),
        case(
            with_context("context.hour", vec![f32::NAN]),
            InvalidArgument,
            "context[\"context.hour\"].floats[0]",
            "NaN",
        ),
        case(
            with_context("context.hour", vec![1.0, 2.0]),
            InvalidArgument,
            "context[\"context.hour\"]",
            "has 2 numbers",
        ),
        case(
            pb::RecommendRequest { query: "x".repeat(1 << 20), ..query() },
            InvalidArgument,
            "query",
            "1048576",
        ),
        case(
            pb::RecommendRequest { query: "\u{1b}[31m".into(), ..query() },
            InvalidArgument,
            "query",
            "control",
        ),
        case(
            pb::RecommendRequest { minimum_coverage: f64::NAN, ..query() },
            InvalidArgument,
            "minimum_coverage",
            "NaN",
        ),
        case(
            pb::RecommendRequest { fields: vec!["nothing".into()], ..query() },
            InvalidArgument,
            "fields[0]",
            "nothing",
        ),
    ]
}

#[tokio::test]
async fn every_bad_request_names_what_is_wrong_and_the_gateway_goes_on() {
    let (mut fleet, _) = Fleet::stable(1).await;
    fleet.register(2, 3, |_| {}).await;
    fleet.worker("half", &[(2, 0)]).await;
    fleet.aliases(&[(Alias::Stable, 1), (Alias::Candidate, 2)], 0).await;
    let gateway = fleet.gateway(&[]).await;
    for Case { request, code, field, says } in cases() {
        let status = ask(&gateway, request).await.expect_err(says);
        assert_eq!(status.code(), code, "{status:?}");
        let details = status.get_error_details();
        let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
        if field.is_empty() {
            assert!(status.message().contains(says), "expected {says:?} in {status:?}");
        } else {
            let told = violations.iter().find(|violation| violation.field == field);
            let told = told.unwrap_or_else(|| panic!("no violation of {field} in {violations:?}"));
            assert!(told.description.contains(says), "expected {says:?} in {told:?}");
        }
        assert!(status.message().len() < 1_000, "{status:?}");
        ask(&gateway, query()).await.expect("the gateway goes on");
    }
    let mut expired = within(Duration::from_secs(1), query());
    expired.metadata_mut().insert("grpc-timeout", "0n".parse().unwrap());
    let status = gateway.clone().recommend(expired).await.unwrap_err();
    // The client has a clock of its own, which may be first.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
}

#[tokio::test]
async fn less_coverage_than_demanded_is_unavailable_and_says_when_to_come_back() {
    let (fleet, scripts) = Fleet::stable(1).await;
    let gateway = fleet.gateway(&[]).await;
    let demanding = |share| pb::RecommendRequest { minimum_coverage: share, ..query() };
    ask(&gateway, demanding(1.0)).await.unwrap();
    let partly = pb::RecommendRequest { minimum_coverage: 0.5, ..rerank(&["item-00001", "unknown"]) };
    ask(&gateway, partly.clone()).await.unwrap();
    let status = ask(&gateway, pb::RecommendRequest { minimum_coverage: 0.6, ..partly }).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");

    scripts[0].lock().unwrap().score = Does::Fail(Code::Unavailable);
    let status = ask(&gateway, demanding(0.01)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("0 of 120"), "{status:?}");
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
    assert!(status.get_error_details().retry_info().is_some());
    ask(&gateway, demanding(0.0)).await.expect("who demands nothing gets something");
}

#[tokio::test]
async fn a_model_that_only_reranks_asks_for_candidates() {
    let mut fleet = Fleet::new();
    let mend = |spec: &mut serde_json::Value| {
        spec.as_object_mut().unwrap().remove("retrieval");
    };
    fleet.register(1, 1, mend).await;
    fleet.worker("w", &[(1, 0)]).await;
    fleet.promote(1).await;
    let gateway = fleet.gateway(&[]).await;
    let status = ask(&gateway, query()).await.unwrap_err();
    let violations = status.get_error_details().bad_request().unwrap().field_violations.clone();
    assert_eq!((status.code(), violations[0].field.as_str()), (Code::InvalidArgument, "candidates"));
    assert!(violations[0].description.contains("only reranks"), "{violations:?}");
    ask(&gateway, rerank(&["item-00001"])).await.unwrap();
}

#[tokio::test]
async fn a_model_that_was_never_promoted_is_unavailable() {
    let mut fleet = Fleet::new();
    fleet.register(1, 1, |_| {}).await;
    let gateway = fleet.gateway(&[]).await;
    let status = ask(&gateway, query()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("tiny") && status.message().contains("promote"), "{status:?}");
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
}
