"""Writes the dashboards beside this file; with --check only says which of them are not current.

    .tools/grafana/bin/python deploy/grafana/dashboards.py
"""

import pathlib
import sys

from panels import graph, names, page

RECOMMEND = 'service="gateway", rpc="Recommend"'
RATE = "[$__rate_interval]"
MODEL = 'model=~"$model"'


def rate(metric: str, by: str = "", where: str = "") -> str:
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}{{{where}}}{RATE}))"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    grouping = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({grouping}) (rate({metric}_bucket{{{where}}}{RATE})))"


def mean(metric: str, by: str, where: str = "") -> str:
    return f"{rate(metric + '_sum', by, where)} / {rate(metric + '_count', by, where)}"


def fleetwide(metric: str, by: str, where: str = "") -> str:
    """Every registry tells the same of the fleet."""
    return f"max by ({by}) ({metric}{{{where}}})"


def shop_window() -> str:
    requests, took = "endcap_requests_total", "endcap_request_duration_seconds"
    failed = rate(requests, "", RECOMMEND + ', code!~"OK|INVALID_ARGUMENT|NOT_FOUND"')
    return page("endcap-shop-window", "Endcap / shop window", {
        "Shoppers": [
            graph("Requests", "Recommend calls a second, over all gateways.", "reqps",
                  (rate(requests, "", RECOMMEND), "requests")),
            graph("Time to an answer",
                  "Half of the calls, and all but one in a hundred, were faster. A dot is a call: its trace.",
                  "s",
                  (quantile(0.5, took, "", RECOMMEND), "p50"), (quantile(0.99, took, "", RECOMMEND), "p99")),
            graph("Errors by code", "Calls a second that got no answer. INVALID_ARGUMENT is the caller's to mend.",
                  "reqps", (rate(requests, "code", RECOMMEND + ', code!="OK"'), "{{code}}")),
        ],
        "Answers": [
            graph("Rungs",
                  "How good answers are: FULL is the model's own ranking, POPULAR the list for when it cannot be.",
                  "reqps", (rate("endcap_answers_total", "rung", MODEL), "{{rung}}")),
            graph("Coverage", "Mean share of the items to score that were scored.", "percentunit",
                  (mean("endcap_coverage_ratio", "model", MODEL), "{{model}}")),
            graph("Reasons", "Why answers were less than they could be.", "reqps",
                  (rate("endcap_degradations_total", "reason", MODEL), "{{reason}}")),
        ],
        "Where the time goes": [
            graph("Stages, p99", "Features and encode run side by side.", "s",
                  (quantile(0.99, "endcap_stage_duration_seconds", "stage"), "{{stage}}")),
            graph("Versions",
                  "Answers a second by the version that gave them: a promotion is one line crossing another.", "reqps",
                  (rate("endcap_answers_total", "model, version", MODEL), "{{model}} {{version}}")),
            graph("Share without an answer", "The promise is 0.1 % a month.", "percentunit",
                  (f"({failed} or vector(0)) / {rate(requests, '', RECOMMEND)}", "of all calls")),
        ],
    })


def model_quality() -> str:
    def at_k(metric: str) -> tuple[str, str]:
        return (fleetwide(metric, "model, version, k, source", MODEL), "{{model}} {{version}} @{{k}} {{source}}")

    aliases = f'{fleetwide("endcap_alias_info", "model, alias, version", MODEL)} == 1'
    answers = "endcap_answers_total"
    full = rate(answers, "model, version", MODEL + ', rung="FULL"')
    return page("endcap-model-quality", "Endcap / model quality", {
        "What serves": [
            names("Aliases", "The version that each alias points to.", (aliases, "{{model}} {{alias}} {{version}}")),
            graph("Aliases over time", "A promotion, or a rollback, ends one line and begins another.", "none",
                  (aliases, "{{model}} {{alias}} {{version}}")),
            graph("Answers in full", "Share of each version's answers that are its own ranking.", "percentunit",
                  (f"{full} / {rate(answers, 'model, version', MODEL)}", "{{model}} {{version}}")),
        ],
        "Ranking, on labelled queries": [
            graph("NDCG", "Of the last `endcap evaluate` through the fleet, beside the figure of the bundle.", "none",
                  at_k("endcap_ndcg_at_k")),
            graph("Recall", "Share of the relevant items that are among the first k.", "none",
                  at_k("endcap_recall_at_k")),
            graph("Precision", "Share of the first k that is relevant.", "none", at_k("endcap_precision_at_k")),
        ],
        "Breadth and freshness": [
            graph("Catalogue shown", "Share of the catalogue in the first k answers to all labelled queries.",
                  "percentunit", at_k("endcap_catalogue_coverage_ratio")),
            graph("Coverage", "Mean share of the items to score that were scored.", "percentunit",
                  (mean("endcap_coverage_ratio", "model", MODEL), "{{model}}")),
            graph("Age of features, p50", "Since they were last written.", "s",
                  (quantile(0.5, "endcap_feature_age_seconds", "namespace"), "{{namespace}}")),
        ],
    })


def fleet() -> str:
    endcap = 'job=~".*endcap.*"'
    return page("endcap-fleet", "Endcap / fleet", {
        "Members": [
            graph("Processes", "By role, as Prometheus reaches them.", "none",
                  ("sum by (role) (endcap_build_info)", "{{role}}")),
            graph("Builds", "More than one during an update.", "none",
                  ("sum by (version) (endcap_build_info)", "{{version}}")),
            graph("Workers with a lease", "As the registries see them.", "none",
                  (f"sum ({fleetwide('endcap_worker_live', 'worker')})", "workers")),
            graph("Controllers", "One registry leads.", "none", ("sum (endcap_controller_leads)", "lead")),
            graph("Age of the routing snapshot", "0 while the coordinator is followed.", "s",
                  ("endcap_routing_snapshot_age_seconds", "{{instance}}")),
            graph("Devices", "What workers infer on.", "none",
                  ("count by (device) (endcap_device_info == 1)", "{{device}}")),
        ],
        "Shards": [
            graph("Replicas", "Ready, and as many as are wanted.", "none",
                  (fleetwide("endcap_ready_replicas", "model, version"), "{{model}} {{version}} ready"),
                  (fleetwide("endcap_assigned_replicas", "model, version"), "{{model}} {{version}} wanted")),
            graph("Shards that nobody answers for", "0, but while a version is loaded for the first time.", "none",
                  (fleetwide("endcap_unready_shards", "model, version"), "{{model}} {{version}}")),
            graph("Held by worker", "Replicas.", "none", ("endcap_held_shards", "{{worker}}")),
            graph("Memory for models", "Of what `worker.memory_budget` allows.", "percentunit",
                  ("endcap_held_bytes / endcap_memory_budget_bytes", "{{worker}}")),
            graph("Loading, p50", "By phase.", "s",
                  ("histogram_quantile(0.5, sum by (le, phase) (endcap_swap_duration_seconds_bucket))", "{{phase}}")),
            graph("Retries and ejections", "A second replica was asked; a worker was left alone; a late shard was "
                  "not waited for.", "ops",
                  (rate("endcap_shard_retries_total"), "retries"),
                  (rate("endcap_replica_ejections_total"), "ejections"),
                  (rate("endcap_stragglers_left_total"), "stragglers left")),
            graph("Hedges", "A second replica was asked beside one that was late, and what came of it.", "ops",
                  (rate("endcap_hedges_total", by="outcome"), "{{outcome}}")),
        ],
        "Queues": [
            graph("In flight", "Calls being worked on.", "none",
                  ("sum by (service) (endcap_requests_in_flight)", "{{service}}")),
            graph("Rows that wait", "For a model; more than `worker.queue_rows` are refused.", "none",
                  ("sum by (file) (endcap_pending_rows)", "{{file}}")),
            graph("Wait for a model, p99", "Before its rows were run.", "s",
                  (quantile(0.99, "endcap_queue_duration_seconds", "file"), "{{file}}")),
            graph("Rows in a batch, mean", "Small requests share a run.", "none",
                  (mean("endcap_batch_rows", "file"), "{{file}}")),
            graph("Rows inferred", "A second.", "none", (rate("endcap_inference_rows_total", "file"), "{{file}}")),
            graph("Turned away and expired", "Before any work; because the deadline had passed.", "ops",
                  (rate("endcap_rejected_total", "service, reason"), "{{service}} {{reason}}"),
                  (rate("endcap_expired_total", "stage"), "expired {{stage}}")),
        ],
        "Processes": [
            graph("Processor", "Cores in use.", "none",
                  (f"rate(process_cpu_seconds_total{{{endcap}}}{RATE})", "{{instance}}")),
            graph("Memory", "Resident.", "bytes", (f"process_resident_memory_bytes{{{endcap}}}", "{{instance}}")),
            graph("Files and connections", "Open.", "none", (f"process_open_fds{{{endcap}}}", "{{instance}}")),
        ],
    }, by_model=False)


def main() -> int:
    here = pathlib.Path(__file__).parent
    stale = []
    for name, text in {"shop-window": shop_window(), "model-quality": model_quality(), "fleet": fleet()}.items():
        file = here / f"{name}.json"
        if file.exists() and file.read_text() == text:
            continue
        stale.append(file.name)
        if "--check" not in sys.argv:
            file.write_text(text)
    if "--check" in sys.argv and stale:
        print(f"not current: {', '.join(stale)}; write them with {sys.argv[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
