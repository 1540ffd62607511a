#!/usr/bin/env bash
# Airflow with its scheduler and an empty fleet, both within this network namespace; runs the DAG once and says how it
# ended. Whoever started this in a process namespace of its own ends everything with it.
set -euo pipefail

ip link set lo up
# `standalone` looks for its own program.
PATH=$(dirname "$AIRFLOW_BIN"):$PATH
# A task gives up when the API server does not answer in 5 s, as on a busy machine.
export AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT=60
work=$PWD/alone
mkdir "$work"
"$ENDCAP_BIN" dev --data-dir "$work/fleet" >"$work/fleet.log" 2>&1 &
export ENDCAP_GATEWAY_URL=http://127.0.0.1:9400 ENDCAP_REGISTRY_URL=http://127.0.0.1:9420
airflow standalone >"$work/airflow.log" 2>&1 &

fail() { tail -n 60 "$work"/*.log "$AIRFLOW_HOME"/logs/dag_id=*/*/*/* 2>/dev/null || true; echo "$*"; exit 1; }

until airflow dags trigger endcap_pipeline --run-id once >"$work/trigger.log" 2>&1; do
  [ $SECONDS -lt 240 ] || fail "the DAG was not found in $SECONDS s"
done
airflow dags unpause endcap_pipeline --yes >/dev/null 2>&1
while :; do
  state=$(airflow dags list-runs endcap_pipeline -o json 2>/dev/null | grep -o '"state": "[a-z]*"' | cut -d'"' -f4) || true
  case $state in
    success) break ;;
    failed) fail "the run failed" ;;
  esac
  [ $SECONDS -lt 600 ] || fail "the run is still \"$state\" after $SECONDS s"
  # Each look at it starts an Airflow and takes from the machine what the run needs.
  sleep 3
done
echo "state: $state"
"$ENDCAP_BIN" model list
