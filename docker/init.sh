#!/bin/sh
# The first container of docker/compose.yaml: says what this `up` is, and makes what the others need, once. As
# root, for the owners of folders alone.
#   init.sh [revoke DEVICE...]
#   /authority            the authority's key, what it issued and revoked; mounted nowhere else
#   /state (coordinator)  server.key, server.pem, ca.pem, revoked.txt
#   /clients/K            device.key, device.pem and lock of the place K, which is a client's identity and its part
#                         of the data
#   /evaluator, /operator key and certificate of the evaluator, of who watches
set -eu
. /usr/lib/quantfl/names.sh
user=7447 slots="${SLOTS:-32}"
die() { echo "init: $*" >&2; exit 64; }
# What others read is there as a whole or not at all, and their user's alone.
put() {  # file, target
  (umask 077 && cp "$1" "$2.part")
  chown "$user:$user" "$2.part"
  mv "$2.part" "$2"
}
if [ "${1:-}" = revoke ]; then
  shift
  quantflctl certs revoke "$@" --dir /authority
  put /authority/revoked.txt /state/revoked.txt
  exit
fi
case "$slots" in ''|0*|*[!0-9]*|?????*) die "SLOTS=$slots: a number from 1 to 9999" ;; esac
[ -n "${CODECS:-}" ] || die "CODECS is empty: codecs with blanks between them, as in CODECS=\"fp32 bu:16\""

# What ended is put aside, or what stopped before its end; what was killed goes on.
over=0 ended=0 runs=0
for codec in $CODECS; do
  runs=$((runs + 1))
  summary="/runs/$(name_of "$codec")/summary.json"
  [ -f "$summary" ] || continue
  ended=$((ended + 1))
  grep -q '"state": *"finished"' "$summary" || over=1
done
[ "$ended" -lt "$runs" ] || over=1
if [ "${FRESH:-0}" = 1 ] || [ "$over" = 1 ]; then
  aside="earlier/$(date -u +%Y%m%dT%H%M%SZ)"
  for folder in /runs/demo-* /runs/demo; do
    [ -d "$folder" ] || continue
    mkdir -p "/runs/$aside"
    mv "$folder" "/runs/$aside/"
  done
  [ ! -d "/runs/$aside" ] || echo "init: a new run; the records of the last one are in $aside"
  rm -rf /state/demo-* /state/run /state/clients
  ended=0
elif [ -f /state/run ]; then
  read -r run </state/run
  echo "init: going on with $run, which was interrupted; FRESH=1 begins anew"
fi

umask 077
# server.pem is the last file of a new authority.
if [ ! -f /authority/server.pem ]; then
  rm -rf /authority/*
  quantflctl certs init --server coordinator --dir /authority >/dev/null
fi
month=$(($(date +%s) + 30 * 86400))
good() {  # valid for a month, and not revoked: a place that was gets another key
  openssl verify -CAfile /authority/ca.pem -attime "$month" "$1" >/dev/null 2>&1 || return 1
  serial="$(openssl x509 -in "$1" -noout -serial | cut -d= -f2 | tr 'A-F' 'a-f' | sed 's/^0*//')"
  [ ! -f /authority/revoked.txt ] || ! grep -q "^$serial\b" /authority/revoked.txt
}
issue() { quantflctl certs issue --renew --dir /authority --role "$@" >/dev/null; }
hand_over() {  # the certificate's name, target without its ending; the authority keeps no other's key
  put "/authority/$1.key" "$2.key"
  put "/authority/$1.pem" "$2.pem"
  rm "/authority/$1.key"
}
if ! good /state/server.pem; then
  [ -f /authority/server.key ] || issue server coordinator localhost 127.0.0.1
  hand_over server /state/server
fi
for one in evaluator operator; do
  good "/$one/device.pem" || { issue "$one" "$one"; hand_over "$one" "/$one/device"; }
done
slot=0 names=""
while [ "$slot" -lt "$slots" ]; do
  mkdir -p "/clients/$slot"
  # What its container holds for as long as it lives.
  [ -f "/clients/$slot/lock" ] || : >"/clients/$slot/lock"
  good "/clients/$slot/device.pem" || names="$names client-$slot"
  slot=$((slot + 1))
done
# shellcheck disable=SC2086  # names without blanks
[ -z "$names" ] || issue trainer $names
for name in $names; do hand_over "$name" "/clients/${name#client-}/device"; done
for folder in /state /clients /evaluator /operator; do put /authority/ca.pem "$folder/ca.pem"; done
put /authority/revoked.txt /state/revoked.txt
for folder in /clients /evaluator; do
  echo "$((runs - ended))" >"$folder/runs"   # so many are to come: then a client leaves
done
chown -R "$user:$user" /state /clients /evaluator /operator
# A folder that a person made is left to them; what is in it is the coordinator's.
[ "$(stat -c %u /runs)" != 0 ] || chown "$user:$user" /runs
[ -w /runs ] && setpriv --reuid "$user" --regid "$user" --clear-groups test -w /runs \
  || die "the results folder cannot be written by the user $user: chown $user it, or set RESULTS to another"
