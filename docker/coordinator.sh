#!/bin/sh
# The container of docker/compose.yaml's coordinator: a run for each of $CODECS, one after the other. One that was
# killed begins here again: --once passes over runs whose records are there, and the coordinator goes on with
# the one whose state is there.
#   coordinator.sh [health]
set -eu
. /usr/lib/quantfl/names.sh
if [ "${1:-}" = health ]; then
  read -r run </state/run
  exec quantfl-coordinator --health --state_dir "/state/$run"
fi
# As many clients as `up --scale client=N` made: each container has an address under the service's name. A run
# that goes on has as many as it began with.
if [ ! -f /state/clients ]; then
  count=0
  for word in $(getent ahostsv4 client); do
    [ "$word" != STREAM ] || count=$((count + 1))
  done
  [ "$count" -gt 0 ] || { echo "coordinator: no container answers to the name client" >&2; exit 69; }
  echo "$count" >/state/clients
fi
read -r clients </state/clients
child="" stopped=0
stop() {
  stopped=1
  [ -n "$child" ] || return 0
  # dash's child forgets a signal that comes before it has become the program.
  while read -r name 2>/dev/null <"/proc/$child/comm" && [ "$name" != quantfl-coordin ]; do :; done
  kill -TERM "$child" 2>/dev/null || true
}
trap stop TERM INT
for codec in $CODECS; do
  run="$(name_of "$codec")"
  echo "$run" >/state/run
  quantfl-coordinator --once --name "$run" --results_dir "/runs/$run" --state_dir "/state/$run" \
    --codec.uplink "$codec" --data.partitions "$clients" --round.min_clients "$clients" 2>/state/run.err &
  child=$! status=0
  # A signal between the start and this line found no child.
  [ "$stopped" = 0 ] || stop
  wait "$child" || status=$?
  # A signal ends the wait before the child.
  while kill -0 "$child" 2>/dev/null; do status=0; wait "$child" || status=$?; done
  child=""
  if [ "$status" -ne 0 ]; then
    # Its log is in /runs; what is no line of the log is why it did not get so far.
    while read -r line; do
      case "$line" in time=*) ;; *) echo "$line" >&2 ;; esac
    done </state/run.err
    exit "$status"
  fi
  [ "$stopped" = 0 ] || exit 0
done
