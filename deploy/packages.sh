#!/usr/bin/env bash
# The Debian packages that QuantFL needs, and their installation. Debian 12 and 13.
#   deploy/packages.sh list run|build|check|test|all     print names
#   deploy/packages.sh install run|build|check|test|all  install what is missing, quietly; nothing missing: no output
# `build` is what the programs are built from, `run` the demo's data, `check` adds what ctest needs, `test` the
# fuzz targets' compiler and the oracles in Python, `all` what tests/run.sh --all needs.
set -euo pipefail

build=(g++ cmake ninja-build pkg-config ccache
       libgrpc++-dev libgrpc-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libprotoc-dev
       libc-ares-dev libre2-dev libabsl-dev libhwy-dev
       libspdlog-dev libfmt-dev libcli11-dev libtomlplusplus-dev nlohmann-json3-dev
       libssl-dev zlib1g-dev libsqlite3-dev libcurl4-openssl-dev libarchive-dev
       libcpp-httplib-dev libjs-chart.js
       libtorch-dev libopenblas0-pthread)   # Debian's default BLAS is the reference one, 14 times slower
run=(dataset-fashion-mnist openssl)
test=(libgtest-dev libgmock-dev libbenchmark-dev python3 openssl binutils iproute2 dpkg-dev file)
# libFuzzer needs clang's runtime, which is a package of its own version.
clang_version() { apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p' | head -1; }
all=(clang-format clang-tidy tmux tshark chromium chromium-driver python3-selenium
     debootstrap docker-compose
     libzstd-dev libhtscodecs-dev           # tests/benchmark: rivals
     g++-aarch64-linux-gnu qemu-user)       # tests/aarch64.sh

names() {
  case "$1" in
    build) printf '%s\n' "${build[@]}" ;;
    run) printf '%s\n' "${build[@]}" "${run[@]}" ;;
    check) printf '%s\n' "${build[@]}" "${run[@]}" "${test[@]}" ;;
    test) names check; printf '%s\n' clang "libclang-rt-$(clang_version)-dev" python3-numpy python3-torch ;;
    all) names test; printf '%s\n' "${all[@]}" ;;
    *) echo "packages.sh: \"$1\": run, build, check, test or all" >&2; exit 64 ;;
  esac
}

missing() {
  local name
  for name in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || echo "$name"
  done
}

die() { echo "$1" >&2; exit "${2:-1}"; }

install() {
  command -v apt-get >/dev/null || die "quantfl: no apt-get here: install the packages of 'deploy/packages.sh list $1' by hand, or use Debian 12 or 13" 69
  local want need sudo=() log
  # Before the first update a new machine knows no package, and clang's version neither.
  apt-cache show cmake >/dev/null 2>&1 && mapfile -t want < <(names "$1") || want=()
  mapfile -t need < <(missing "${want[@]}")
  if [ "${#want[@]}" -gt 0 ] && [ "${#need[@]}" -eq 0 ]; then return 0; fi
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "quantfl: ${#need[@]} packages are missing and there is neither root nor sudo: run 'deploy/packages.sh install $1' as root" 77
    sudo=(sudo)
  fi
  log="$(mktemp)"
  echo "installing packages (apt) ..."
  if ! "${sudo[@]}" apt-get update >"$log" 2>&1; then
    die "quantfl: apt-get update failed ($(tail -n 1 "$log")): check the network and /etc/apt/sources.list, then run this again" 69
  fi
  mapfile -t want < <(names "$1")
  mapfile -t need < <(missing "${want[@]}")
  [ "${#need[@]}" -gt 0 ] || return 0
  if ! "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${need[@]}" >"$log" 2>&1; then
    die "quantfl: apt-get could not install packages ($(grep -m1 -E '^(E:|dpkg:)' "$log" || tail -n 1 "$log")); log: $log" 69
  fi
  echo "installed ${#need[@]} packages"
  rm -f "$log"
}

case "${1:-}" in
  list) names "${2:-all}" ;;
  install) install "${2:-all}" ;;
  *) echo "usage: deploy/packages.sh list|install run|build|check|test|all" >&2; exit 64 ;;
esac
