#!/bin/sh
# The first container of docker/compose.yaml: says what this `up` is, and makes what the others need, once. As
# root, for the owners of folders alone.
#   /state (coordinator)  server.key, server.pem, tokens (hashed)
#   /clients/K            token and lock of the place K, which is a client's identity and its part of the data
#   /evaluator            token
set -eu
. /usr/lib/quantfl/names.sh
user=7447 slots="${SLOTS:-32}"
die() { echo "init: $*" >&2; exit 64; }
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

# The place's lock is what its container holds for as long as it lives.
umask 077
if [ ! -f /state/server.key ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=coordinator \
    -addext subjectAltName=DNS:coordinator,IP:127.0.0.1 -keyout /state/server.key -out /state/server.pem 2>/dev/null
fi
token() {  # device, role, file
  [ ! -f "$3" ] || return 0
  quantflctl token new "$1" --role "$2" --tokens-file /state/tokens >"$3.new"
  tail -n 1 "$3.new" | sed 's/.* //' >"$3.part"
  rm "$3.new"
  mv "$3.part" "$3"
}
token evaluator evaluator /evaluator/token
slot=0
while [ "$slot" -lt "$slots" ]; do
  mkdir -p "/clients/$slot"
  [ -f "/clients/$slot/lock" ] || : >"/clients/$slot/lock"
  token "client-$slot" trainer "/clients/$slot/token"
  slot=$((slot + 1))
done
for folder in /clients /evaluator; do
  cp /state/server.pem "$folder/ca.pem"
  echo "$((runs - ended))" >"$folder/runs"   # so many are to come: then a client leaves
done
chown -R "$user:$user" /state /clients /evaluator
# A folder that a person made is left to them; what is in it is the coordinator's.
[ "$(stat -c %u /runs)" != 0 ] || chown "$user:$user" /runs
[ -w /runs ] && setpriv --reuid "$user" --regid "$user" --clear-groups test -w /runs \
  || die "the results folder cannot be written by the user $user: chown $user it, or set RESULTS to another"
