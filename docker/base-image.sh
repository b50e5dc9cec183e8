#!/usr/bin/env bash
# Makes the base image of docker/Dockerfile where there is no registry: debootstrap, then docker import.
#   docker/base-image.sh [SUITE [NAME]]   trixie (Debian 13) and quantfl-base:SUITE by default
# An image of that name is left as it is. Needs root, debootstrap and a Debian mirror: MIRROR, by default
# http://deb.debian.org/debian.
set -euo pipefail
suite="${1:-trixie}" mirror="${MIRROR:-http://deb.debian.org/debian}"
name="${2:-quantfl-base:$suite}"
die() { echo "base-image: $1" >&2; exit "${2:-1}"; }
[[ "$suite" =~ ^[a-z]+$ ]] || die "\"$suite\": a release of Debian by its name, trixie or bookworm" 64
docker info >/dev/null 2>&1 || die "no Docker engine answers: start it, or see \"docker info\"" 69
if docker image inspect "$name" >/dev/null 2>&1; then echo "$name is there already"; exit 0; fi
[ "$(id -u)" -eq 0 ] || die "debootstrap needs root: run it with sudo" 77
command -v debootstrap >/dev/null || die "there is no debootstrap: apt-get install debootstrap" 69

# One file system that nothing else is mounted in, so that it can be removed without a second thought.
work="$(mktemp -d "${TMPDIR:-/tmp}/quantfl-base.XXXXXX")"
trap 'rm -rf --one-file-system "$work"' EXIT
echo "debootstrap $suite from $mirror ..."
debootstrap --variant=minbase "$suite" "$work/root" "$mirror" >"$work/log" 2>&1 \
  || die "debootstrap failed: $(tail -n 1 "$work/log")"
security="${mirror%/debian}/debian-security"
cat >"$work/root/etc/apt/sources.list" <<LIST
deb $mirror $suite main
deb $mirror $suite-updates main
deb $security $suite-security main
LIST
# Packages installed later bring no manuals, as in Debian's own slim images, and are not synced file by file: a
# layer is there as a whole or not at all.
cat >"$work/root/etc/dpkg/dpkg.cfg.d/slim-image" <<'CONFIG'
force-unsafe-io
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
CONFIG
rm -rf "$work"/root/var/lib/apt/lists/* "$work"/root/var/cache/apt/* "$work"/root/var/log/* \
       "$work"/root/usr/share/{man,info,locale}/*
find "$work/root/usr/share/doc" -type f ! -name copyright -delete
tar -C "$work/root" --numeric-owner -c . | docker import --change 'CMD ["bash"]' - "$name" >/dev/null
echo "$name: $(docker image inspect -f '{{.Size}}' "$name" | numfmt --to=si)B"
