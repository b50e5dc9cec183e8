#!/usr/bin/env bash
# This tree on another Debian, in containers: builds it there with warnings as errors, runs every test, makes the
# Debian packages and installs them on a bare system. What tests/run.sh --debian 13 runs.
#   tests/debian.sh 12|13                     all of that
#   tests/debian.sh 12|13 --packages FOLDER   installs the .debs of FOLDER on a bare system
#   tests/debian.sh 13 --compose              tests/integration/docker_test.py with that Debian's docker-compose
# Needs a Docker engine on this machine, and what docker/base-image.sh needs where BASE is not set. Objects are kept
# in build/debian-N and ~/.cache/quantfl/ccache-debian-N, images as quantfl-base, quantfl-toolchain, quantfl-compose.
set -euo pipefail
cd "$(dirname "$0")/.."
die() { echo "tests/debian.sh: $1" >&2; exit "${2:-1}"; }
release="${1:-}" packages="" compose=0
case "$release" in
  12) suite=bookworm ;;
  13) suite=trixie ;;
  *) die "\"$release\": 12 or 13" 64 ;;
esac
case "${2:-}" in
  '') ;;
  --packages) packages="$(realpath "${3:?--packages needs a folder}")" ;;
  --compose) [ "$release" = 13 ] || die "--compose is for 13: Debian $release has docker-compose 1.29" 64; compose=1 ;;
  *) die "unknown argument $2: --packages FOLDER or --compose" 64 ;;
esac
docker info >/dev/null 2>&1 || die "skipped: no Docker engine answers (docker info)" 77
jobs="${QUANTFL_JOBS:-$(nproc)}"
base="${BASE:-quantfl-base:$suite}"
[ -n "${BASE:-}" ] || docker/base-image.sh "$suite"

with_packages() {  # image, the image it is made of, then Debian packages
  local image="$1" from="$2"; shift 2
  docker build --quiet -t "$image" - >/dev/null <<DOCKERFILE
FROM $from
RUN apt-get update && apt-get install -y --no-install-recommends $* && apt-get clean && rm -rf /var/lib/apt/lists/*
DOCKERFILE
}

if [ "$compose" = 1 ]; then
  docker/images.sh test
  # What the engine binds into containers are this machine's folders, so they have the same names in this one; the
  # test kills by process id, and the pages of containers are on this machine's loopback.
  with_packages "quantfl-compose:$suite" "$base" docker-compose docker-cli python3
  exec docker run --rm --init --pid host --network host -v /var/run/docker.sock:/var/run/docker.sock \
    -v "$PWD:$PWD" -v "${TMPDIR:-/tmp}:${TMPDIR:-/tmp}" -w "$PWD/tests/integration" -e TMPDIR="${TMPDIR:-/tmp}" \
    -e QUANTFL_ALL=1 -e QUANTFL_DOCKER_TAG=test -e PYTHONDONTWRITEBYTECODE=1 "quantfl-compose:$suite" \
    bash -c 'docker compose version; python3 docker_test.py'
fi
if [ -z "$packages" ]; then
  work="$PWD/build/debian-$release"
  cache="${XDG_CACHE_HOME:-$HOME/.cache}/quantfl/ccache-debian-$release"
  packages="$work/packages"
  mkdir -p "$work" "$cache"
  toolchain="quantfl-toolchain:$suite"
  echo "$toolchain ..."
  docker build --quiet -f docker/Dockerfile --build-arg BASE="$base" --target toolchain -t "$toolchain" . >/dev/null
  # What tests compare with, where it is there.
  with_packages "$toolchain-test" "$toolchain" python3-torch tshark
  shared="$(realpath -m "${QUANTFL_SHARED_DIR:-$PWD/../shared}")" data=()
  [ ! -d "$shared" ] || data=(-v "$shared:/shared:ro")
  # No network: what tests connect to is loopback, or in namespaces that they make.
  docker run --rm --init --cap-add SYS_ADMIN --cap-add NET_ADMIN --network none \
    --sysctl net.ipv6.conf.all.disable_ipv6=0 --tmpfs /tmp:exec,mode=1777 "${data[@]}" \
    -v "$PWD:/src:ro" -v "$work:/src/build" -v "$cache:/ccache" \
    -e CCACHE_DIR=/ccache -e PYTHONDONTWRITEBYTECODE=1 -e CTEST_OUTPUT_ON_FAILURE=1 -e JOBS="$jobs" -w /src "$toolchain-test" bash -c '
      set -euo pipefail
      . /etc/os-release
      echo "$PRETTY_NAME: $(g++ --version | head -n 1), CMake $(cmake --version | sed -n "1s/.* //p"), LibTorch $(dpkg-query -W -f "\${Version}" libtorch-dev), Abseil $(dpkg-query -W -f "\${Version}" libabsl-dev)"
      cmake --preset release -DQUANTFL_WERROR=ON -DCMAKE_CXX_COMPILER_LAUNCHER=ccache >build/configure.log 2>&1 \
        || { cat build/configure.log; exit 1; }
      cmake --build build/release -j "$JOBS" -- -k 0 >build/build.log 2>&1 || { grep -E "FAILED|error|warning" build/build.log | head -n 60; exit 1; }
      tail -n 1 build/build.log
      ctest --test-dir build/release -j "$JOBS"
      rm -rf build/packages && cpack --config build/release/CPackConfig.cmake -B build/packages >/dev/null
      rm -rf build/packages/_CPack_Packages'
fi
echo "packages on a bare Debian $release"
docker run --rm -v "$packages:/packages:ro" -v "$PWD/tests/install/installed.sh:/installed.sh:ro" "$base" /installed.sh /packages
