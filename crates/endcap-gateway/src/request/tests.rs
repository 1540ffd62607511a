use super::*;

const LIMITS: Limits = Limits { limit: 1_000, candidates: 10_000, query_bytes: 1_024 };

fn good() -> pb::RecommendRequest {
    pb::RecommendRequest { query: "red kettle".into(), limit: 10, ..Default::default() }
}

fn found(wire: pb::RecommendRequest) -> Vec<(String, String)> {
    let violations = Asked::from_wire(wire, &LIMITS).expect_err("a bad request");
    violations.0.into_iter().map(|violation| (violation.field, violation.description)).collect()
}

/// Every case has exactly one fault.
fn check(wire: pb::RecommendRequest, field: &str, says: &str) {
    let found = found(wire);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, field, "{found:?}");
    assert!(found[0].1.contains(says), "expected {says:?} in {found:?}");
}

fn ids(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn with_context(name: &str, floats: &[f32], ints: &[i64]) -> pb::RecommendRequest {
    let value = pb::FeatureValue { floats: floats.to_vec(), ints: ints.to_vec() };
    pb::RecommendRequest { context: [(name.to_owned(), value)].into(), ..good() }
}

#[test]
fn every_fault_names_its_field_and_what_was_found() {
    let many = |n: usize| (0..n).map(|i| format!("i{i}")).collect::<Vec<_>>();
    check(pb::RecommendRequest { query: " \t\n".into(), ..good() }, "query", "empty");
    check(
        pb::RecommendRequest { query: "x".repeat(1_025), ..good() },
        "query",
        "1025 bytes; expected at most 1024",
    );
    check(pb::RecommendRequest { query: "a\u{0}b".into(), ..good() }, "query", "U+0000 at byte 1");
    check(pb::RecommendRequest { query: "a\u{85}".into(), ..good() }, "query", "U+0085");
    check(pb::RecommendRequest { model: "No Such".into(), ..good() }, "model", "No Such");
    check(pb::RecommendRequest { target: Some(WireTarget::Version(0)), ..good() }, "version", "from 1");
    check(pb::RecommendRequest { target: Some(WireTarget::Alias("prod".into())), ..good() }, "alias", "prod");
    check(pb::RecommendRequest { limit: 0, ..good() }, "limit", "is 0; expected 1 to 1000");
    check(pb::RecommendRequest { limit: 10_001, ..good() }, "limit", "is 10001");
    check(pb::RecommendRequest { candidates: many(100_001), ..good() }, "candidates", "has 100001");
    check(pb::RecommendRequest { exclude: many(10_001), ..good() }, "exclude", "has 10001");
    check(
        pb::RecommendRequest { candidates: ids("a b c d e f g c"), ..good() },
        "candidates[7]",
        "repeats candidates[2]",
    );
    check(
        pb::RecommendRequest { candidates: vec!["a".into(), String::new()], ..good() },
        "candidates[1]",
        "empty",
    );
    check(pb::RecommendRequest { exclude: vec![String::new()], ..good() }, "exclude[0]", "empty");
    check(pb::RecommendRequest { candidates: vec!["x".repeat(513)], ..good() }, "candidates[0]", "513 bytes");
    check(pb::RecommendRequest { user_id: "a\nb".into(), ..good() }, "user_id", "control");
    check(pb::RecommendRequest { fields: ids("name name"), ..good() }, "fields[1]", "repeats fields[0]");
    check(pb::RecommendRequest { fields: vec![String::new()], ..good() }, "fields[0]", "empty");
    for coverage in [f64::NAN, -0.1, 1.5, f64::INFINITY] {
        let wire = pb::RecommendRequest { minimum_coverage: coverage, ..good() };
        check(wire, "minimum_coverage", "expected 0 to 1");
    }
    check(with_context("context.x", &[1.0, f32::NAN], &[]), "context[\"context.x\"].floats[1]", "NaN");
    check(with_context("context.x", &[f32::INFINITY], &[]), "context[\"context.x\"].floats[0]", "inf");
    check(with_context("context.x", &[], &[]), "context[\"context.x\"]", "no values");
    check(with_context("context.x", &[1.0], &[1]), "context[\"context.x\"]", "both");
    check(with_context("user.x", &[1.0], &[]), "context[\"user.x\"]", "not a context.* feature");
    check(with_context("hour", &[1.0], &[]), "context[\"hour\"]", "feature name");
}

#[test]
fn all_faults_are_told_at_once_and_briefly() {
    let wire = pb::RecommendRequest { minimum_coverage: -1.0, ..Default::default() };
    let fields: Vec<_> = found(wire).into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["query", "limit", "minimum_coverage"]);

    let repeated = pb::RecommendRequest { candidates: vec!["é".repeat(250); 5_000], ..good() };
    let told = found(repeated);
    assert_eq!(told.len(), MOST_VIOLATIONS + 1);
    assert_eq!(told[MOST_VIOLATIONS].1, format!("and {} more", 4_999 - MOST_VIOLATIONS));
    assert!(told.iter().map(|(field, text)| field.len() + text.len()).sum::<usize>() < 2_500);
}

#[test]
fn what_is_allowed_is_allowed() {
    let asked = Asked::from_wire(
        pb::RecommendRequest {
            query: " Red\t\tKettle \r\n größe ".into(),
            candidates: (0..10_000).map(|i| format!("i{i}")).collect(),
            exclude: ids("a a"),
            minimum_coverage: 1.0,
            limit: 1_000,
            ..with_context("context.hour", &[], &[3])
        },
        &LIMITS,
    )
    .unwrap();
    assert_eq!(asked.query, "Red Kettle größe");
    assert_eq!(asked.exclude.len(), 1);
    assert_eq!(asked.context.values().next(), Some(&FeatureValue::I64(vec![3])));
    assert!(asked.is_rerank() && asked.pinned.is_none() && asked.model.is_none());
}

#[test]
fn the_arm_follows_the_user_then_the_session() {
    let model: ModelName = "m".parse().unwrap();
    let asked = |user: &str, session: &str| {
        let wire = pb::RecommendRequest { user_id: user.into(), session_id: session.into(), ..good() };
        Asked::from_wire(wire, &LIMITS).unwrap()
    };
    assert_eq!(asked("u", "s").target(&model, 500), asked("u", "other").target(&model, 500));
    assert_eq!(asked("", "s").shopper(), "s");
    assert_eq!(asked("", "").target(&model, 1_000), Target::Rollout(endcap_types::Arm::Stable));
}
