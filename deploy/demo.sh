#!/usr/bin/env bash
# Federated fine-tuning on this machine: one coordinator, one evaluator and four client daemons over gRPC
# on loopback; LeNet-5 from MNIST to Fashion-MNIST, once with fp32 updates and once with BU at 16 levels.
# Installs and builds what is missing. Ends with a table; leaves runs/demo-fp32 and runs/demo-bu16.
#   deploy/demo.sh [--rounds N] [--port P] [--runs FOLDER] [--bin FOLDER OF BUILT PROGRAMS]
set -euo pipefail
from="$PWD"   # what --runs and --bin are relative to
cd "$(dirname "$0")/.."

rounds=14 port="${QUANTFL_DEMO_PORT:-7447}" clients=4 runs=runs bin=""
absolute() { case "$1" in /*) echo "$1" ;; *) echo "$from/$1" ;; esac; }
usage() { sed -n '2,5s/^# \{0,1\}//p' "$0"; }
while [ $# -gt 0 ]; do
  case "$1" in
    --rounds) rounds="${2:?--rounds needs a number}"; shift ;;
    --port) port="${2:?--port needs a number}"; shift ;;
    --runs) runs="$(absolute "${2:?--runs needs a folder}")"; shift ;;
    --bin) bin="$(absolute "${2:?--bin needs a folder}")"; shift ;;
    -h|--help) usage; exit 0 ;;
    *) echo "demo: unknown argument $1 (see --help)" >&2; exit 64 ;;
  esac
  shift
done
die() { echo "demo: $1" >&2; exit "${2:-1}"; }
[[ "$rounds" =~ ^[1-9][0-9]{0,3}$ ]] || die "--rounds $rounds: a number from 1 to 9999" 64
{ [[ "$port" =~ ^[1-9][0-9]{0,4}$ ]] && [ "$port" -lt 65535 ]; } || die "--port $port: a number from 1 to 65534 (the operator's is the next one)" 64
operator_port=$((port + 1))
busy() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
for p in "$port" "$operator_port"; do
  ! busy "$p" || die "port $p on 127.0.0.1 is in use: stop what listens there, or choose another with --port" 69
done
free_kib="$(df --output=avail -k . | tail -n 1)"
[ "$free_kib" -gt 1048576 ] || die "$((free_kib / 1024)) MiB free on this disk: building needs 1024 MiB" 73

build() {
  deploy/packages.sh install run
  local folder=build/programs
  mkdir -p "$folder"
  if [ ! -f "$folder/build.ninja" ]; then
    echo "configuring ..."
    cmake --preset programs -DCMAKE_CXX_COMPILER_LAUNCHER=ccache >"$folder/configure.log" 2>&1 \
      || die "cmake failed: $(grep -m1 -A2 'CMake Error' "$folder/configure.log" | tr '\n' ' '); log: $folder/configure.log"
  fi
  if ! ninja -C "$folder" -n 2>/dev/null | grep -q 'no work to do'; then
    echo "building ..."
    # On a terminal ninja shows its one progress line; on a pipe nothing but a failure.
    if [ -t 1 ]; then ninja -C "$folder" || die "the build failed: see above"
    else ninja -C "$folder" >"$folder/build.log" 2>&1 || die "the build failed; log: $folder/build.log"; fi
  fi
  bin="$folder/bin"
}
[ -n "$bin" ] || build

daemons=()
work="$(mktemp -d "${TMPDIR:-/tmp}/quantfl-demo.XXXXXX")" || die "no room for a temporary folder" 73
stop() {
  trap - EXIT INT TERM
  local pid
  for pid in "${daemons[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in "${daemons[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap stop EXIT
trap 'echo; stop; exit 130' INT
trap 'stop; exit 143' TERM

echo
echo "training images of each client, by label (Dirichlet 0.5, seed 1):"
"$bin/quantflctl" data partitions --data-dir /usr/share/datasets/fashion-mnist --partitions "$clients" --alpha 0.5 --seed 1

daemon() {  # name, then arguments
  local name="$1"; shift
  "$bin/quantfl-client" --config deploy/configs/client.toml --coordinator "127.0.0.1:$port" \
    --device "$name" --state_dir "$work/$name" --log.file "$work/$name.log" \
    --retry_min_ms 100 --retry_max_ms 500 "$@" >/dev/null 2>"$work/$name.err" &
  daemons+=("$!")
  names[$!]="$name"
}
declare -A names=()   # of the client daemons, by process id
daemon evaluator --role evaluator
for i in $(seq 0 $((clients - 1))); do daemon "client-$i" --first_index "$i"; done

federation() {  # run's name, codec
  local name="$1" codec="$2" pid status=0
  rm -rf "${runs:?}/$name"
  "$bin/quantfl-coordinator" --config deploy/configs/demo.toml --name "$name" --results_dir "$runs/$name" \
    --codec.uplink "$codec" --round.rounds "$rounds" \
    --server.listen "127.0.0.1:$port" --server.operator_listen "127.0.0.1:$operator_port" \
    >/dev/null 2>"$work/$name.err" &
  pid=$!
  daemons+=("$pid")
  echo
  echo "$name: $clients clients, $rounds rounds, uplink $codec"
  # Not in the foreground: bash would keep a signal until it ends.
  "$bin/quantflctl" watch --results-dir "$runs/$name" --wait 30 &
  local watch=$! ended=""
  daemons+=("$watch")
  # A round needs all the daemons: without one of them the run would wait for ever.
  while [ "$ended" != "$watch" ]; do
    status=0
    wait -n -p ended "$watch" "${!names[@]}" || status=$?
    [ "$ended" = "$watch" ] && break
    local lost="${names[$ended]:-}"
    [ -n "$lost" ] || continue
    die "the daemon $lost ended with status $status: $(tail -n 1 "$work/$lost.err")" 1
  done
  unset "daemons[-1]"
  wait "$pid" || status=$?
  mkdir -p "$runs/$name/clients"
  cp "$work"/*.log "$runs/$name/clients/" 2>/dev/null || true
  [ "$status" -eq 0 ] || die "the run $name ended with status $status: $(tail -n 1 "$work/$name.err"); logs: $runs/$name" "$status"
}
federation demo-fp32 fp32
federation demo-bu16 bu:16

echo
"$bin/quantflctl" compare "$runs/demo-fp32" "$runs/demo-bu16"
"$bin/quantflctl" report "$runs/demo-fp32" "$runs/demo-bu16" --out "$runs/demo" >/dev/null
echo
echo "$runs/demo/report.html shows both in pictures; $runs/demo-fp32 and $runs/demo-bu16 hold"
echo "summary.json, rounds.csv, clients.csv, effective.toml, logs and the final checkpoint."
