//! `endcap recommend`: one question to the gateway, as a readable table.

use anyhow::Context as _;
use endcap_proto::pb::{self, recommend_request::Target};
use serde_json::json;

use crate::{
    cli::{Global, Output, RecommendArgs},
    clients::{self, with_deadline},
    output, view,
};

/// Asks and prints.
pub(crate) async fn run(global: &Global, args: RecommendArgs) -> anyhow::Result<()> {
    let target = match (args.version, args.alias) {
        (Some(version), _) => Some(Target::Version(version)),
        (None, Some(alias)) => Some(Target::Alias(alias)),
        (None, None) => None,
    };
    let request = pb::RecommendRequest {
        model: args.model,
        target,
        query: args.query,
        candidates: args.candidates,
        limit: args.limit,
        user_id: args.user,
        session_id: args.session,
        fields: args.fields.clone(),
        minimum_coverage: args.minimum_coverage,
        exclude: args.exclude,
        ..Default::default()
    };
    let answer = clients::gateway(&global.gateway)?
        .recommend(with_deadline(request, args.deadline))
        .await
        .map_err(|e| output::remote("recommend", &global.gateway, &e))?
        .into_inner();
    print(global.output, &answer, &args.fields)
}

/// Prints an answer: the items with their columns, then how good it is.
pub(crate) fn print(format: Output, answer: &pb::RecommendResponse, fields: &[String]) -> anyhow::Result<()> {
    let quality =
        answer.quality.as_ref().context("the answer has no quality block: it is not from Endcap")?;
    if format == Output::Json {
        let items: Vec<_> = answer.items.iter().map(item_json).collect();
        return output::json(&json!({
            "items": items,
            "quality": view::quality_json(quality),
            "request_id": answer.request_id,
            "unknown_candidates": answer.unknown_candidates,
        }));
    }
    let mut header = vec!["#", "item", "score"];
    header.extend(fields.iter().map(String::as_str));
    let mut table = output::table(&header, &[0, 2]);
    for (i, item) in answer.items.iter().enumerate() {
        let mut row = vec![(i + 1).to_string(), item.item_id.clone(), format!("{:.4}", item.score)];
        row.extend(fields.iter().map(|field| cut(item.fields.get(field).map_or("", String::as_str))));
        table.add_row(row);
    }
    output::line(table);
    if !answer.unknown_candidates.is_empty() {
        output::line(format!("not in the catalogue: {}", answer.unknown_candidates.join(", ")));
    }
    output::line(view::quality_line(quality));
    Ok(())
}

fn item_json(item: &pb::RankedItem) -> serde_json::Value {
    json!({
        "item_id": item.item_id, "score": output::number(item.score),
        "retrieval_score": output::number(item.retrieval_score), "fields": item.fields,
    })
}

/// Product names run to hundreds of characters; a table's column should not.
fn cut(text: &str) -> String {
    const LIMIT: usize = 70;
    if text.chars().count() <= LIMIT {
        return text.to_owned();
    }
    text.chars().take(LIMIT - 1).chain("…".chars()).collect()
}
