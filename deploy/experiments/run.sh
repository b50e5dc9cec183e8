#!/usr/bin/env bash
# An experiment at full size: a coordinator, an evaluator and ten clients over gRPC on loopback, as
# deploy/experiments/NAME.toml says.
#   deploy/experiments/run.sh mnist     LeNet-5 from Fashion-MNIST to MNIST; minutes
#   deploy/experiments/run.sh cifar100 --weights FILE
#                                       MobileNetV2 from ImageNet to CIFAR-100; about twenty minutes of two cores, then
#                                       half of it: what the frozen layers give is kept in files
# Options:
#   --data-dir FOLDER   of the data set; else it is downloaded from its publisher to data/NAME
#   --weights FILE      of cifar100: the features of MobileNetV2 with folded batch normalisation (README.md)
#   --against CODEC     a second run with that uplink beside it, as fp32; may be given several times
#   --daemons N         client daemons, 1 to 10, each with its share of the clients [one a processor]
#   --seed N            of weights, partition, batches and rounding [1]
#   --set KEY=VALUE     any key of the run's configuration; may be given several times
#   --cache MODE        of the daemons: off, memory or file [file]
#   --port P  --runs FOLDER  --bin FOLDER OF BUILT PROGRAMS
# Installs and builds what is missing. Leaves FOLDER/NAME (default runs/experiments/NAME) with the report.
set -euo pipefail
me=run
from="$PWD"   # what folders are relative to
cd "$(dirname "$0")/../.."
. deploy/federation.sh

clients=10
processors="$(nproc)"
name="" data="" weights="" daemons_wanted=$((processors < clients ? processors : clients)) seed=1 port=7447 runs=runs/experiments bin="" cache=file
against=()
declare -A settings=()   # keys of the run that differ from its file
usage() { sed -n '2,19s/^# \{0,1\}//p' "$0"; }
while [ $# -gt 0 ]; do
  case "$1" in
    mnist|cifar100) [ -z "$name" ] || die "one experiment at a time, not $name and $1" 64; name="$1" ;;
    --data-dir) data="$(absolute "${2:?--data-dir needs a folder}")"; shift ;;
    --weights) weights="$(absolute "${2:?--weights needs a file}")"; shift ;;
    --against) against+=("${2:?--against needs a codec}"); shift ;;
    --daemons) daemons_wanted="${2:?--daemons needs a number}"; shift ;;
    --seed) seed="${2:?--seed needs a number}"; shift ;;
    --set) [[ "${2:-}" == *=* ]] || die "--set ${2:-}: KEY=VALUE" 64; settings["${2%%=*}"]="${2#*=}"; shift ;;
    --cache) cache="${2:?--cache needs a mode}"; shift ;;
    --port) port="${2:?--port needs a number}"; shift ;;
    --runs) runs="$(absolute "${2:?--runs needs a folder}")"; shift ;;
    --bin) bin="$(absolute "${2:?--bin needs a folder}")"; shift ;;
    -h|--help) usage; exit 0 ;;
    *) die "unknown argument $1 (see --help)" 64 ;;
  esac
  shift
done
[ -n "$name" ] || die "which experiment: mnist or cifar100 (see --help)" 64
whole_number --daemons "$daemons_wanted" "$clients"
whole_number --seed "$seed" 999999999
[ "$name" != cifar100 ] || [ -n "$weights" ] || die "cifar100 needs --weights FILE: the features of MobileNetV2 (see deploy/experiments/README.md)" 64
state="$runs/$name-devices"   # with the cached activations, which the next run uses again
prepare
mkdir -p "$runs" "$state"

if [ -z "$data" ]; then
  data="data/$name"
  attended "$bin/quantflctl" data get "$name" --out "$data"
fi
start="$runs/$name-start-$seed.safetensors"
if [ "$name" = mnist ]; then
  format=idx
  if [ ! -f "$start" ]; then
    fashion=/usr/share/datasets/fashion-mnist   # the package dataset-fashion-mnist
    if [ ! -d "$fashion" ]; then
      fashion=data/fashion-mnist
      attended "$bin/quantflctl" data get fashion-mnist --out "$fashion"
    fi
    attended "$bin/quantfl-model" pretrain --data-dir "$fashion" --epochs 5 --seed "$seed" --out "$work/fashion.safetensors"
    attended "$bin/quantfl-model" init --from "$work/fashion.safetensors" --new-head --classes 10 --seed "$seed" --out "$start"
  fi
else
  format=cifar100
  attended "$bin/quantfl-model" init --architecture mobilenet_v2 --from "$weights" --new-head --classes 100 --seed "$seed" \
    --input-height 128 --out "$start"
fi

client=(--data.dir "$data" --data.format "$format" --cache.mode "$cache" --cache.bytes_max $((4 << 30))
        --pretrained "$start")
daemon evaluator --role evaluator "${client[@]}"
for i in $(seq 0 $((daemons_wanted - 1))); do
  first=$((i * clients / daemons_wanted)) next=$(((i + 1) * clients / daemons_wanted))
  daemon "box-$i" --first_index "$first" --clients $((next - first)) "${client[@]}"
done

settings+=([seed]="$seed" [data.seed]="$seed" [model.file]="$start")
folders=()
experiment() {  # the run's name, what to say of it
  local flags=() key
  for key in "${!settings[@]}"; do flags+=("--$key" "${settings[$key]}"); done
  federation "$1" "$2" --config "deploy/experiments/$name.toml" "${flags[@]}"
  folders+=("$runs/$1")
}
experiment "$name" "$clients clients, daemons: $daemons_wanted, as deploy/experiments/$name.toml says"
for codec in "${against[@]}"; do
  settings[codec.uplink]="$codec"
  experiment "$name-${codec//[^A-Za-z0-9.]/-}" "the same with uplink $codec"
done

echo
"$bin/quantflctl" compare "${folders[@]}"
page="$runs/$name"
[ "${#folders[@]}" -eq 1 ] || page+="-report"   # a folder of its own
"$bin/quantflctl" report "${folders[@]}" --out "$page" >/dev/null
echo
echo "$page/report.html shows it in pictures."
