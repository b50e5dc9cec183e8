#!/usr/bin/env bash
# The codec and the fold on AArch64: cross-built, their tests run under qemu-aarch64. The same golden files, the same
# bits. Debian's arm64 libraries are unpacked under build/aarch64-root: nothing is installed for it here.
# Ends with 77, and says why, where that cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."
jobs="${QUANTFL_JOBS:-$(nproc)}"
root="$PWD/build/aarch64-root"
tests=(codec_test golden_test aggregation_test base_test)

skip() { echo "codec on AArch64: skipped: $1"; exit 77; }
[ "$(uname -m)" != aarch64 ] || skip "this machine is one: its ordinary tests are these"
for program in apt-get dpkg-deb aarch64-linux-gnu-g++ qemu-aarch64; do
  command -v "$program" >/dev/null || skip "no $program here (deploy/packages.sh install all)"
done

# What the core needs (cmake/QuantflDependencies.cmake), with what that needs; apt works on lists of its own.
packages=(libc6-dev libabsl-dev libhwy-dev libssl-dev zlib1g-dev nlohmann-json3-dev libsqlite3-dev libgtest-dev
          libgmock-dev libstdc++6)
wanted="$(. /etc/os-release; echo "${VERSION_ID:-}") ${packages[*]}"
if [ "$(cat "$root/packages" 2>/dev/null)" != "$wanted" ]; then
  rm -rf "$root"
  apt="$root/apt"
  mkdir -p "$apt/lists/partial" "$apt/archives/partial"
  : > "$apt/status"
  get() {
    timeout 600 apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root \
      -o Dir::State::status="$apt/status" -o Dir::State::lists="$apt/lists" -o Dir::Cache::archives="$apt/archives" \
      -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Debug::NoLocking=1 "$@" >"$apt/log" 2>&1 \
      || skip "apt-get $1: $(grep -m1 '^E:' "$apt/log" || tail -n 1 "$apt/log")"
  }
  get update
  get install --download-only -y --no-install-recommends "${packages[@]}"
  for package in "$apt"/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
  [ -e "$root/lib" ] || ln -s usr/lib "$root/lib"   # base-files' from Debian 13 on
  rm -rf "$apt"
  echo "$wanted" > "$root/packages"
fi

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
cmake --preset aarch64 -DQUANTFL_WERROR=ON -DCMAKE_CXX_COMPILER_LAUNCHER=ccache >"$log" 2>&1 || { cat "$log"; exit 1; }
cmake --build build/aarch64 -j "$jobs" --target "${tests[@]}" | tail -n 1
# Not by ctest, which would start qemu a thousand times. Death tests start the program again, which only qemu can.
for test in "${tests[@]}"; do
  timeout 1800 qemu-aarch64 -L "$root" "build/aarch64/tests/$test" --gtest_brief=1 --gtest_filter='-*DeathTest*' >"$log" 2>&1 || { cat "$log"; exit 1; }
  echo "$test: $(grep PASSED "$log" | sed 's/.*] *//')"
done
