//! Bad requests: each gets its own clear error, naming the field, and the fleet goes on. The README lists these.

use endcap_bundle::test_util::TinyOptions;
use endcap_proto::pb::{self, recommend_request::Target};
use endcap_tests::{TestFleet, eventually, metrics, query, timed, tiny};
use tonic::Code;
use tonic_types::StatusExt as _;

struct Case {
    what: &'static str,
    request: pb::RecommendRequest,
    code: Code,
    /// A field path that the error's BadRequest details name; "" where no field is at fault.
    field: &'static str,
    /// Words of the message or of the field's description.
    says: &'static str,
}

fn good() -> pb::RecommendRequest {
    pb::RecommendRequest { query: "red kettle".into(), limit: 10, ..Default::default() }
}

fn with_context(name: &str, floats: Vec<f32>) -> pb::RecommendRequest {
    let value = pb::FeatureValue { floats, ints: Vec::new() };
    pb::RecommendRequest { context: [(name.to_owned(), value)].into(), ..good() }
}

fn bad(what: &'static str, field: &'static str, says: &'static str, request: pb::RecommendRequest) -> Case {
    Case { what, request, code: Code::InvalidArgument, field, says }
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    let many = |n: usize| (0..n).map(|i| format!("item-{i}")).collect::<Vec<_>>();
    vec![
        bad("an empty request", "query", "query", pb::RecommendRequest::default()),
        Case {
            what: "an unknown model",
            request: pb::RecommendRequest { model: "no-such-model".into(), ..good() },
            code: Code::NotFound,
            field: "",
            says: "no-such-model",
        },
        bad(
            "a model name that is none",
            "model",
            "No Such",
            pb::RecommendRequest { model: "No Such".into(), ..good() },
        ),
        Case {
            what: "an unknown version",
            request: pb::RecommendRequest { target: Some(Target::Version(99)), ..good() },
            code: Code::NotFound,
            field: "",
            says: "99",
        },
        bad("version 0", "version", "0", pb::RecommendRequest { target: Some(Target::Version(0)), ..good() }),
        bad(
            "an alias that is none",
            "alias",
            "prod",
            pb::RecommendRequest { target: Some(Target::Alias("prod".into())), ..good() },
        ),
        bad("limit 0", "limit", "0", pb::RecommendRequest { limit: 0, ..good() }),
        bad("limit 10,001", "limit", "10001", pb::RecommendRequest { limit: 10_001, ..good() }),
        bad(
            "100,001 candidates",
            "candidates",
            "100001",
            pb::RecommendRequest { candidates: many(100_001), ..good() },
        ),
        bad(
            "a candidate twice",
            "candidates[2]",
            "candidates[0]",
            pb::RecommendRequest { candidates: vec!["a".into(), "b".into(), "a".into()], ..good() },
        ),
        bad(
            "an empty candidate",
            "candidates[1]",
            "empty",
            pb::RecommendRequest { candidates: vec!["a".into(), String::new()], ..good() },
        ),
        bad(
            "only unknown candidates",
            "candidates",
            "none of the 2",
            pb::RecommendRequest { candidates: vec!["nowhere-1".into(), "nowhere-2".into()], ..good() },
        ),
        bad("a NaN feature", "context", "context.", with_context("context.hour", vec![f32::NAN])),
        bad("an infinite feature", "context", "context.", with_context("context.hour", vec![f32::INFINITY])),
        bad("a feature of another namespace", "context", "user.x", with_context("user.x", vec![1.0])),
        bad(
            "a query of 1 MB",
            "query",
            "1024",
            pb::RecommendRequest { query: "x".repeat(1 << 20), ..good() },
        ),
        bad(
            "a query of control characters",
            "query",
            "control",
            pb::RecommendRequest { query: "\u{0}\u{1b}[31m".into(), ..good() },
        ),
        bad(
            "a coverage that is none",
            "minimum_coverage",
            "1.5",
            pb::RecommendRequest { minimum_coverage: 1.5, ..good() },
        ),
        bad(
            "an unknown column",
            "fields",
            "no_such_column",
            pb::RecommendRequest { fields: vec!["no_such_column".into()], ..good() },
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_request_gets_its_own_clear_error_and_the_fleet_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = TestFleet::start(folder.path(), 1, &[]).await.unwrap();
    fleet.release(&tiny(&TinyOptions::default(), 2).unwrap().bytes).await.unwrap();
    let mut gateway = fleet.gateway.clone().max_encoding_message_size(64 << 20);
    for case in cases() {
        let status = gateway.recommend(timed(case.request)).await.expect_err(case.what);
        assert_eq!(status.code(), case.code, "{}: {status:?}", case.what);
        let details = status.get_error_details();
        let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
        let text = violations.iter().fold(status.message().to_owned(), |text, violation| {
            format!("{text}\n{}: {}", violation.field, violation.description)
        });
        assert!(text.contains(case.says), "{}: expected {:?} in {text:?}", case.what, case.says);
        assert!(text.len() < 2_000, "{}: an error of {} bytes", case.what, text.len());
        if !case.field.is_empty() {
            let named = violations.iter().any(|violation| violation.field.starts_with(case.field));
            assert!(named, "{}: no violation of {:?} in {violations:?}", case.what, case.field);
        }
        gateway.recommend(query("red kettle")).await.expect("the fleet goes on");
    }

    let mut expired = query("red kettle");
    expired.metadata_mut().insert("grpc-timeout", "0n".parse().unwrap());
    let status = gateway.recommend(expired).await.expect_err("an expired deadline");
    // The client's own timer may be faster to say so; what the gateway said is in its metrics.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    let counted = r#"endcap_requests_total{service="gateway",rpc="Recommend",code="DEADLINE_EXCEEDED"} 1"#;
    eventually("the gateway counts the expired call", async || {
        metrics(&fleet).await.is_ok_and(|text| text.contains(counted))
    })
    .await
    .unwrap();
    fleet.fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn several_faults_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = TestFleet::start(folder.path(), 1, &[]).await.unwrap();
    let request = pb::RecommendRequest { limit: 0, minimum_coverage: -1.0, ..Default::default() };
    let status = fleet.gateway.recommend(timed(request)).await.unwrap_err();
    let details = status.get_error_details();
    let fields: Vec<_> =
        details.bad_request().unwrap().field_violations.iter().map(|v| v.field.as_str()).collect();
    for field in ["limit", "minimum_coverage", "query"] {
        assert!(fields.contains(&field), "{field} is missing in {fields:?}");
    }
    fleet.fleet.stop().await.unwrap();
}
