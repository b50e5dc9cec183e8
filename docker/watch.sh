#!/bin/sh
# The container of docker/compose.yaml's watch: a row for each round, and at the end the demo's table.
set -eu
. /usr/lib/quantfl/names.sh
folders=""
for codec in $CODECS; do
  run="$(name_of "$codec")" away=0
  folders="$folders /runs/$run"
  echo "$run: uplink $codec"
  # Again and again, since a coordinator may be killed and go on.
  until [ -f "/runs/$run/summary.json" ]; do
    if quantflctl watch --operator coordinator:7448 --ca /operator/ca.pem --certificate /operator/device.pem \
         --key /operator/device.key 2>/tmp/why; then away=0; fi
    [ "$away" -lt 90 ] || { echo "watch: no coordinator for $away s: $(cat /tmp/why)" >&2; exit 69; }
    away=$((away + 1))
    sleep 1 & wait $!
  done
done
# shellcheck disable=SC2086  # names without blanks
quantflctl compare $folders
# shellcheck disable=SC2086
quantflctl report $folders --out /runs/demo >/dev/null
echo "${RESULTS:-/runs}/demo/report.html shows them in pictures"
