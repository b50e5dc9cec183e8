#!/bin/sh
# A container of docker/compose.yaml's client: claims a free place under /clients and becomes who the place is.
# The claim is a lock on the place's file, so two containers never get the same, and a place whose container
# dies is free again at once, with what it had spooled. The place's number is the client_index.
set -eu
read -r runs </clients/runs
slot=0
while [ -f "/clients/$slot/device.pem" ]; do
  exec 9<>"/clients/$slot/lock"
  # The descriptor is the program's: the lock ends with it.
  if flock --nonblock 9; then
    exec quantfl-client --device "client-$slot" --first_index "$slot" --state_dir "/clients/$slot/state" \
      --tls.certificate "/clients/$slot/device.pem" \
      --tls.private_key "/clients/$slot/device.key" --runs "${RUNS:-$runs}" "$@"
  fi
  slot=$((slot + 1))
done
echo "client: all $slot places are taken: SLOTS=$((slot * 2)) docker-compose up makes more" >&2
exit 69
