#!/usr/bin/env bash
# Installs what is missing, builds, runs every test.
#   tests/run.sh               what CI runs: sanitized core, seconds of fuzzing, one optimised build, all tests
#   tests/run.sh --all         and: sanitizers over everything, threads, clang-tidy, AArch64, Docker, packages installed
#   tests/run.sh --fuzz M      every fuzz target for M minutes
#   tests/run.sh --simulate N  N seeds of the simulation
#   tests/run.sh --debian N    the same tree on Debian 12 or 13, in a container: build, tests, packages; with
#                              --compose docker/compose.yaml by that Debian's docker-compose
set -euo pipefail
cd "$(dirname "$0")/.."
jobs="${QUANTFL_JOBS:-$(nproc)}"
export CTEST_OUTPUT_ON_FAILURE=1 CCACHE_DIR="${CCACHE_DIR:-$HOME/.cache/ccache}"
# A clone anywhere finds what another one compiled.
export CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1

all=0 fuzz_minutes="" simulate=""
while [ $# -gt 0 ]; do
  case "$1" in
    --all) all=1 ;;
    --fuzz) fuzz_minutes="${2:?--fuzz needs a number of minutes}"; shift ;;
    --simulate) simulate="${2:?--simulate needs a number of seeds}"; shift ;;
    --debian) exec tests/debian.sh "${2:?--debian needs 12 or 13}" "${@:3}" ;;
    -h|--help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "tests/run.sh: unknown argument $1 (see --help)" >&2; exit 64 ;;
  esac
  shift
done

started=$SECONDS
say() { printf '\n== %s (%d s)\n' "$1" "$((SECONDS - started))"; }
quietly() {  # the whole output only where it fails
  local log; log="$(mktemp)"
  if ! "$@" >"$log" 2>&1; then cat "$log"; rm -f "$log"; return 1; fi
  rm -f "$log"
}
build() {  # preset, then what to build
  local preset="$1"; shift
  quietly cmake --preset "$preset" -DQUANTFL_WERROR=ON -DCMAKE_CXX_COMPILER_LAUNCHER=ccache
  cmake --build "build/$preset" -j "$jobs" "$@" | tail -n 1
}
fuzz() {  # seconds a target
  local target name found=0
  build fuzz --target fuzz_all
  for target in build/fuzz/fuzz/fuzz_*; do
    [ -f "$target" ] && [ -x "$target" ] || continue
    name="${target##*/fuzz_}"
    mkdir -p "build/fuzz/fuzz/corpus/found/$name"
    quietly "$target" -max_total_time="$1" -max_len=65536 -timeout=20 -rss_limit_mb=2048 \
            -artifact_prefix="build/fuzz/$name-" "build/fuzz/fuzz/corpus/found/$name" "build/fuzz/fuzz/corpus/$name" \
      || { echo "fuzz: $name failed; its input is build/fuzz/$name-*"; return 1; }
    echo "fuzz: $name, $1 s, no finding"
    found=$((found + 1))
  done
  [ "$found" -gt 0 ] || { echo "fuzz: no target in build/fuzz/fuzz"; return 1; }
}

say "packages"
export QUANTFL_ALL="$all"  # tests that take minutes ask for it
if [ "$all" = 1 ]; then deploy/packages.sh install all; else deploy/packages.sh install test; fi

if [ -n "$fuzz_minutes" ]; then fuzz "$((fuzz_minutes * 60))"; exit; fi
if [ -n "$simulate" ]; then
  build release
  # Not by ctest, whose time limit is for the thousand seeds of CI.
  QUANTFL_SIM_SEEDS="$simulate" build/release/tests/simulation_test
  ctest --test-dir build/release -j "$jobs" -R '^simulation[.]finds_'
  exit
fi

say "core under address and undefined sanitizers"
build asan
quietly ctest --test-dir build/asan -j "$jobs"
say "fuzz targets, 10 s each"
fuzz 10
if [ "$all" = 1 ]; then
  say "core under the thread sanitizer"
  build tsan
  ctest --test-dir build/tsan -j "$jobs" | tail -n 4
  say "everything under address and undefined sanitizers"
  build asan-all
  LSAN_OPTIONS="suppressions=$PWD/tests/support/libtorch.lsan print_suppressions=0" \
    ctest --test-dir build/asan-all -j "$jobs" | tail -n 4
  say "clang-tidy"
  build release
  # Debian 12's clang cannot compile LibTorch's headers as C++20 (c10::IValue is incomplete in a vector).
  git ls-files 'common/*.cc' 'server/*.cc' 'client/*.cc' | xargs grep -L -E '#include .(torch/|common/learn/(networks|prefix|script_network)[.]h)' \
    | xargs -P "$jobs" -n 4 clang-tidy -p build/release --quiet
fi
say "optimised build"
build release
if [ "$all" = 1 ] && docker info >/dev/null 2>&1; then
  say "images"
  status=0
  docker/images.sh test || status=$?
  case "$status" in
    0) export QUANTFL_DOCKER_TAG=test ;;
    69|77) export QUANTFL_DOCKER_TAG= ;;   # it said what is missing; the test is skipped
    *) exit "$status" ;;
  esac
fi
say "all tests"
QUANTFL_SIM_SEEDS="${QUANTFL_SIM_SEEDS:-1000}" ctest --test-dir build/release -j "$jobs"
if [ "$all" = 1 ]; then
  say "codec on AArch64"
  status=0
  tests/aarch64.sh || status=$?
  [ "$status" -eq 0 ] || [ "$status" -eq 77 ] || exit "$status"
  say "packages on a bare Debian"
  quietly cpack --config build/release/CPackConfig.cmake -B build/packages
  status=0
  tests/debian.sh "$(. /etc/os-release && echo "${VERSION_ID:-}")" --packages build/packages || status=$?
  [ "$status" -eq 0 ] || [ "$status" -eq 77 ] || exit "$status"
fi
