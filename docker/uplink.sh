#!/bin/sh
# docker/uplink.yaml: shapes what this container sends, as root with NET_ADMIN, and gives both up for the rest.
#   UPLINK=256kbit uplink.sh PROGRAM...
set -eu
tc qdisc replace dev eth0 root tbf rate "${UPLINK:?a rate as tc reads it, 256kbit}" burst 16kb latency 500ms
exec setpriv --reuid 7447 --regid 7447 --clear-groups --inh-caps=-all --no-new-privs "$@"
