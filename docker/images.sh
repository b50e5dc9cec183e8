#!/usr/bin/env bash
# Builds the images of docker/compose.yaml where there is no registry, without compiling again what is compiled.
#   docker/images.sh [TAG]   quantfl-coordinator, quantfl-client and quantfl-tools of that tag, "latest" by default
# BASE is the base image: quantfl-base:trixie by default, which docker/base-image.sh makes. CACHE is an image with
# ccache's folder as /ccache: by default what `tests/debian.sh 13` has compiled, as quantfl-ccache:debian-13.
set -euo pipefail
cd "$(dirname "$0")/.."
die() { echo "images: $1" >&2; exit "${2:-1}"; }
tag="${1:-latest}"
[[ "$tag" =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] || die "\"$tag\": a tag has letters, digits, \"_\", \".\" and \"-\"" 64
docker info >/dev/null 2>&1 || die "no Docker engine answers: start it, or see \"docker info\"" 69
base="${BASE:-quantfl-base:trixie}"
[ -n "${BASE:-}" ] || docker/base-image.sh trixie

cache="${CACHE:-}"
compiled="${XDG_CACHE_HOME:-$HOME/.cache}/quantfl/ccache-debian-13"
if [ -z "$cache" ] && [ -d "$compiled" ]; then
  cache=quantfl-ccache:debian-13
  # Anew where something was compiled since.
  made="$(docker image inspect -f '{{.Created}}' "$cache" 2>/dev/null || echo 1970-01-01)"
  if [ -n "$(find "$compiled" -type f -newermt "$made" ! -path "$compiled/tmp/*" ! -name stats -print -quit)" ]; then
    echo "$cache ..."
    # /etc/debian_version is what Dockerfile's COPY finds in every base.
    tar -C "$compiled" --exclude ./tmp --transform 's,^\.,ccache,' -c . -C /etc --no-recursion \
        --transform 's,^debian_version,etc/debian_version,' debian_version | docker import - "$cache" >/dev/null
  fi
fi

# ON: as in the tests' builds, whose objects then fit.
for target in tools coordinator client; do
  echo "quantfl-$target:$tag ..."
  log="$(mktemp)"
  docker build -f docker/Dockerfile --build-arg BASE="$base" --build-arg CACHE="$cache" --build-arg WERROR=ON \
    --target "$target" -t "quantfl-$target:$tag" . >"$log" 2>&1 \
    || { tail -n 40 "$log" >&2; die "docker build failed; log: $log"; }
  rm -f "$log"
  echo "quantfl-$target:$tag: $(docker image inspect -f '{{.Size}}' "quantfl-$target:$tag" | numfmt --to=si)B"
done
