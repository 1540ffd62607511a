#!/usr/bin/env bash
# A fleet of separate processes on this machine around a real etcd, as `make fleet` starts it and `make fleet-down`
# ends it. What is up already is left alone; what is missing, such as a worker that was killed, is started.
#
#   fleet.sh up | down | status | monitor
#
# `monitor` puts Prometheus and Alertmanager beside it, with the rules of deploy/prometheus; again after more workers.
#
# Environment: ENDCAP (the program), ETCD (etcd's program), BUNDLE (released as long as nothing of its model is), DIR
# (.endcap/fleet: logs, pids, data), BASE_PORT (9400), WORKERS (4), REGISTRIES (2), GATEWAYS (2), KEEP (1; `down` with 0
# removes the data), PROMETHEUS (the folder of its programs), WEBHOOK (where Alertmanager posts alerts; empty: nowhere).
# `up` with more WORKERS than are up adds the others.
set -euo pipefail

ENDCAP=${ENDCAP:-target/release/endcap}
ETCD=${ETCD:-.tools/etcd/etcd}
BUNDLE=${BUNDLE:-deploy/demo/search-ranker.endcap}
DIR=${DIR:-.endcap/fleet}
BASE_PORT=${BASE_PORT:-9400}
WORKERS=${WORKERS:-4}
REGISTRIES=${REGISTRIES:-2}
GATEWAYS=${GATEWAYS:-2}
KEEP=${KEEP:-1}
PROMETHEUS=${PROMETHEUS:-.tools/prometheus}
WEBHOOK=${WEBHOOK:-}
RULES=$(cd "$(dirname "$0")/../prometheus" && pwd)/rules.yaml
# Seconds that a member may take to become ready.
PATIENCE=${PATIENCE:-30}

fail() { echo "fleet: $*" >&2; exit 1; }

# number NAME LEAST MOST: refuses anything else with one line.
number() {
  local value=${!1}
  # The length first: bash's arithmetic wraps around.
  if ! [[ $value =~ ^[0-9]{1,5}$ ]] || ((10#$value < $2 || 10#$value > $3)); then
    echo "fleet: $1 is \"$value\"; expected a number from $2 to $3" >&2
    exit 64
  fi
  printf -v "$1" %d "$((10#$value))"
}

port() { echo $((BASE_PORT + $1)); }

# Every member: id, role, port, admin port. Gateways and registries first, where the command line looks for them. A
# member's ports depend on nothing but its id, so that a running fleet can be given more members.
members() {
  local i
  for ((i = 1; i <= REGISTRIES; i++)); do echo "registry-$i registry $(port $((19 + i))) $(port $((59 + i)))"; done
  echo "feature-cache-1 feature-cache $(port 30) $(port 50)"
  for ((i = 1; i <= WORKERS; i++)); do echo "worker-$i worker $(port $((99 + 2 * i))) $(port $((100 + 2 * i)))"; done
  for ((i = 1; i <= GATEWAYS; i++)); do echo "gateway-$i gateway $(port $((i - 1))) $(port $((69 + i)))"; done
}

pid_of() { cat "$DIR/pids/$1.pid" 2>/dev/null || true; }

# What tells a process from every other one that has had its pid, or will: when it began, and since which start of the
# machine that is counted. Nothing for one that has ended, or waits to be buried.
birth_of() {
  local stat
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  # After the name, which may hold anything: the state first, the start as the twentieth.
  # shellcheck disable=SC2206
  local fields=(${stat##*) })
  [ "${fields[0]}" != Z ] && echo "${fields[19]} $(cat /proc/sys/kernel/random/boot_id)"
}

# A pid that the machine has given to another program since is not ours.
is_up() {
  local pid birth
  pid=$(pid_of "$1")
  [ -n "$pid" ] && birth=$(birth_of "$pid") && [ "$birth" = "$(cat "$DIR/pids/$1.birth" 2>/dev/null)" ]
}

is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# start ID PORTS COMMAND...: in a session of its own, so that Ctrl-C here does not reach it.
start() {
  local id=$1 ports=$2 taken
  shift 2
  for taken in $ports; do
    is_free "$taken" || fail "port $taken, which $id needs, is taken; choose others with BASE_PORT=<number>"
  done
  setsid "$@" >>"$DIR/logs/$id.log" 2>&1 </dev/null &
  echo $! >"$DIR/pids/$id.pid"
  birth_of $! >"$DIR/pids/$id.birth" || true
}

# await ID URL: until it answers with success.
await() {
  local id=$1 url=$2 end=$((SECONDS + PATIENCE))
  until probe "$url"; do
    is_up "$id" || { tail -n 20 "$DIR/logs/$id.log" >&2; fail "$id ended at its start; the whole log is $DIR/logs/$id.log"; }
    [ $SECONDS -lt $end ] || { tail -n 20 "$DIR/logs/$id.log" >&2; fail "$id was not ready after $PATIENCE s; the whole log is $DIR/logs/$id.log"; }
    sleep 0.1
  done
}

# A GET that needs no curl: whether the answer is 200.
probe() {
  local host path answer
  host=${1%%/*} path=/${1#*/}
  { exec 3<>"/dev/tcp/${host%:*}/${host#*:}"; } 2>/dev/null || return 1
  printf 'GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$path" "$host" >&3
  read -r -t 2 answer <&3 || answer=
  exec 3>&- 3<&-
  [[ $answer == *" 200 "* ]]
}

up_etcd() {
  local client peer
  client=$(port 40) peer=$(port 41)
  if ! is_up etcd-1; then
    start etcd-1 "$client $peer" "$ETCD" --name etcd-1 --data-dir "$DIR/data/etcd-1" --log-level warn \
      --listen-client-urls "http://127.0.0.1:$client" --advertise-client-urls "http://127.0.0.1:$client" \
      --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
      --initial-cluster "etcd-1=http://127.0.0.1:$peer"
  fi
  await etcd-1 "127.0.0.1:$client/health"
}

up() {
  local id role at admin
  [ -x "$ENDCAP" ] || fail "$ENDCAP is not there; \`make build\` makes it"
  [ -x "$ETCD" ] || fail "$ETCD is not there; \`make fleet\` fetches it"
  mkdir -p "$DIR/logs" "$DIR/pids" "$DIR/data"
  cat >"$DIR/endcap.toml" <<TOML
# Written by fleet.sh: what all members of this fleet have in common.
[coordination]
kind = "etcd"
saved_dir = "$DIR/data/saved"
[coordination.etcd]
endpoints = "http://127.0.0.1:$(port 40)"
[store]
url = "$DIR/data/bundles"
cache_dir = "$DIR/data/cache"
TOML
  up_etcd
  while read -r id role at admin; do
    is_up "$id" && continue
    echo "starting $id"
    start "$id" "$at $admin" "$ENDCAP" "$role" --id "$id" --config "$DIR/endcap.toml" \
      --set "${role//-/_}.grpc.listen=127.0.0.1:$at" --set "admin.listen=127.0.0.1:$admin" \
      $([ "$role" = registry ] && echo --set "registry.data_dir=$DIR/data/$id")
  done < <(members)
  while read -r id role at admin; do await "$id" "127.0.0.1:$admin/readyz"; done < <(members)
  release
  status
  cat <<TEXT

Logs and pids are in $DIR. Try, here or in another terminal:

  $ENDCAP --gateway $(url gateway-1) recommend "grey pine bar stool"
  $ENDCAP --registry $(url registry-1) status
  kill -9 \$(cat $DIR/pids/worker-1.pid)     # nobody who asks notices; \`make fleet\` brings it back
  make monitor        # Prometheus and Alertmanager beside it
  make fleet-down
TEXT
}

# Only where nothing of the bundle's model serves yet: what was promoted since stays. A bundle that an earlier `up` has
# registered and no more is promoted.
release() {
  local registry model models
  registry=$(url registry-1)
  model=$("$ENDCAP" -o json bundle inspect "$BUNDLE" | awk -F '"' '/^      "model":/ { print $4 }')
  models=$("$ENDCAP" -o json --registry "$registry" model list)
  # `name` of a model, and below it its rollout's aliases.
  if ! awk -v model="$model" -F '"' '/^    "name":/ { ours = $4 == model }
      ours && /"stable": [0-9]/ { found = 1 } END { exit !found }' <<<"$models"; then
    "$ENDCAP" --registry "$registry" model register "$BUNDLE" --promote
  fi
}

url() { members | awk -v id="$1" '$1 == id { print "http://127.0.0.1:" $3 }'; }

status() {
  local id role at admin state
  printf '%-16s %-8s %-22s %-22s %s\n' member pid serves admin log
  state=$(is_up etcd-1 && pid_of etcd-1 || echo down)
  printf '%-16s %-8s %-22s %-22s %s\n' etcd-1 "$state" "127.0.0.1:$(port 40)" - "$DIR/logs/etcd-1.log"
  while read -r id role at admin; do
    state=$(is_up "$id" && pid_of "$id" || echo down)
    printf '%-16s %-8s %-22s %-22s %s\n' "$id" "$state" "127.0.0.1:$at" "127.0.0.1:$admin" "$DIR/logs/$id.log"
  done < <(members)
}

# Both on this machine alone: neither asks who is there.
monitor() {
  local id role at admin server alerts
  server=$(port 90) alerts=$(port 92)
  [ -x "$PROMETHEUS/prometheus" ] || fail "$PROMETHEUS/prometheus is not there; \`make monitor\` fetches it"
  is_up etcd-1 || fail "nothing is up in $DIR; \`make fleet\` first"
  PROMETHEUS=$(cd "$PROMETHEUS" && pwd)
  {
    echo "# Written by fleet.sh."
    echo "global: {scrape_interval: 5s, evaluation_interval: 5s}"
    echo "rule_files: ['$RULES']"
    echo "alerting: {alertmanagers: [{static_configs: [{targets: ['127.0.0.1:$alerts']}]}]}"
    echo "scrape_configs:"
    echo "  - job_name: endcap"
    echo "    static_configs:"
    while read -r id role at admin; do
      echo "      - {targets: ['127.0.0.1:$admin'], labels: {instance: $id}}"
    done < <(members)
  } >"$DIR/prometheus.yaml"
  {
    echo "# Written by fleet.sh."
    echo "route: {receiver: operator, group_by: [alertname], group_wait: 5s, group_interval: 30s}"
    echo "receivers: [{name: operator${WEBHOOK:+, webhook_configs: [{url: '$WEBHOOK'\}]}}]"
  } >"$DIR/alertmanager.yaml"
  if is_up prometheus-1; then
    kill -HUP "$(pid_of prometheus-1)"
  else
    start prometheus-1 "$server" "$PROMETHEUS/prometheus" --config.file "$DIR/prometheus.yaml" \
      --storage.tsdb.path "$DIR/data/prometheus" --web.listen-address "127.0.0.1:$server" --log.level warn \
      --enable-feature exemplar-storage
  fi
  if is_up alertmanager-1; then
    kill -HUP "$(pid_of alertmanager-1)"
  else
    # From its own folder: the distribution's build reads templates/ beside it.
    start alertmanager-1 "$alerts" env -C "$PROMETHEUS" ./alertmanager --config.file "$DIR/alertmanager.yaml" \
      --storage.path "$DIR/data/alertmanager" --web.listen-address "127.0.0.1:$alerts" \
      --cluster.listen-address "" --log.level warn
  fi
  await prometheus-1 "127.0.0.1:$server/-/ready"
  await alertmanager-1 "127.0.0.1:$alerts/-/ready"
  cat <<TEXT
Prometheus    http://127.0.0.1:$server/alerts      what fires; deploy/prometheus/RUNBOOK.md says what to do
              http://127.0.0.1:$server/graph       any query; deploy/prometheus/METRICS.md has the metrics
Alertmanager  http://127.0.0.1:$alerts
Grafana       add http://127.0.0.1:$server as a data source, import deploy/grafana/*.json
TEXT
}

# Gateways first, so that nobody asks what is going; etcd last, so that everybody can leave.
down() {
  local id file
  for kind in alertmanager prometheus gateway worker feature-cache registry etcd; do
    for file in "$DIR"/pids/"$kind"-*.pid; do
      [ -e "$file" ] || continue
      id=$(basename "$file" .pid)
      is_up "$id" && kill -TERM "$(pid_of "$id")"
    done
    for file in "$DIR"/pids/"$kind"-*.pid; do
      [ -e "$file" ] || continue
      id=$(basename "$file" .pid)
      ended "$id"
      rm -f "$file" "$DIR/pids/$id.birth"
    done
  done
  if [ "$KEEP" = 0 ]; then
    # Its own things alone: DIR may be a folder that holds more.
    rm -rf "$DIR/data" "$DIR/logs" "$DIR/pids" "$DIR"/{endcap.toml,prometheus.yaml,alertmanager.yaml}
    rmdir "$DIR" 2>/dev/null || true
    echo "the fleet is down, and its data are removed"
  else
    echo "the fleet is down; its data stay in $DIR/data (KEEP=0 removes them)"
  fi
}

ended() {
  local id=$1 end=$((SECONDS + 15))
  while is_up "$id"; do
    if [ $SECONDS -ge $end ]; then
      echo "$id does not end; killing it"
      kill -KILL "$(pid_of "$id")"
    fi
    sleep 0.1
  done
}

number WORKERS 1 200
number REGISTRIES 1 10
number GATEWAYS 1 20
number KEEP 0 1
number PATIENCE 1 3600
# The last worker's admin port is the highest of all.
number BASE_PORT 1024 $((65535 - 100 - 2 * WORKERS))

# Settings are read relative to where a member starts; paths must not depend on that.
mkdir -p "$DIR"
DIR=$(cd "$DIR" && pwd)

case ${1:-} in
  up) up ;;
  down) down ;;
  status) status ;;
  monitor) monitor ;;
  *) sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
esac
