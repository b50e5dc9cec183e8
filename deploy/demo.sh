#!/usr/bin/env bash
# Federated fine-tuning on this machine: one coordinator, one evaluator and four client daemons over gRPC
# on loopback; LeNet-5 from MNIST to Fashion-MNIST, once with fp32 updates and once with BU at 16 levels.
# Installs and builds what is missing. Ends with a table; leaves runs/demo-fp32 and runs/demo-bu16.
#   deploy/demo.sh [--rounds N] [--port P] [--runs FOLDER] [--bin FOLDER OF BUILT PROGRAMS]
set -euo pipefail
me=demo
from="$PWD"   # what --runs and --bin are relative to
cd "$(dirname "$0")/.."
. deploy/federation.sh

rounds=14 port="${QUANTFL_DEMO_PORT:-7447}" clients=4 runs=runs bin="" state=""
usage() { sed -n '2,5s/^# \{0,1\}//p' "$0"; }
while [ $# -gt 0 ]; do
  case "$1" in
    --rounds) rounds="${2:?--rounds needs a number}"; shift ;;
    --port) port="${2:?--port needs a number}"; shift ;;
    --runs) runs="$(absolute "${2:?--runs needs a folder}")"; shift ;;
    --bin) bin="$(absolute "${2:?--bin needs a folder}")"; shift ;;
    -h|--help) usage; exit 0 ;;
    *) die "unknown argument $1 (see --help)" 64 ;;
  esac
  shift
done
whole_number --rounds "$rounds" 9999
prepare

echo
echo "training images of each client, by label (Dirichlet 0.5, seed 1):"
attended "$bin/quantflctl" data partitions --data-dir /usr/share/datasets/fashion-mnist --partitions "$clients" --alpha 0.5 --seed 1

daemon evaluator --config deploy/configs/client.toml --role evaluator
for i in $(seq 0 $((clients - 1))); do
  daemon "client-$i" --config deploy/configs/client.toml --first_index "$i"
done

for run in demo-fp32=fp32 demo-bu16=bu:16; do
  codec="${run#*=}"
  federation "${run%%=*}" "$clients clients, $rounds rounds, uplink $codec" \
    --config deploy/configs/demo.toml --codec.uplink "$codec" --round.rounds "$rounds"
done

echo
"$bin/quantflctl" compare "$runs/demo-fp32" "$runs/demo-bu16"
"$bin/quantflctl" report "$runs/demo-fp32" "$runs/demo-bu16" --out "$runs/demo" >/dev/null
echo
echo "$runs/demo/report.html shows both in pictures; $runs/demo-fp32 and $runs/demo-bu16 hold"
echo "summary.json, rounds.csv, clients.csv, effective.toml, logs and the final checkpoint."
