#!/bin/sh
# In a container of a bare Debian, as root: installs QuantFL's packages, runs a round with the programs under their
# units' users, removes and purges them, and looks whether anything is left.
#   installed.sh FOLDER OF .debs
set -eu
packages="${1:?installed.sh FOLDER}"
fail() { echo "installed.sh: $*" >&2; exit 1; }
quietly() { "$@" >/tmp/log 2>&1 || { tail -n 30 /tmp/log >&2; fail "$* failed"; }; }
export DEBIAN_FRONTEND=noninteractive
quietly apt-get update
quietly apt-get install -y --no-install-recommends dataset-fashion-mnist libopenblas0-pthread passwd
quietly apt-get install -y --no-install-recommends "$packages"/quantfl-coordinator_*.deb "$packages"/quantfl-client_*.deb "$packages"/quantfl-tools_*.deb

value() { sed -n "s/^$2=//p" "/usr/lib/systemd/system/$1"; }
# As systemd would: its user, state folder, working folder, umask, no way to more rights.
as_unit() {  # unit, instance, further arguments
  unit="$1" instance="$2"
  shift 2
  user="$(value "$unit" User)" state="/var/lib/$(value "$unit" StateDirectory)"
  install -d -o "$user" -g "$user" -m "$(value "$unit" StateDirectoryMode)" "$state"
  # shellcheck disable=SC2046  # words of the unit's own line
  set -- $(value "$unit" ExecStart | sed "s/%i/$instance/g") "$@"
  cd "$state" && umask "$(value "$unit" UMask)" \
    && exec setpriv --reuid "$user" --regid "$user" --init-groups --no-new-privs --bounding-set=-all "$@"
}
(as_unit quantfl-coordinator@.service demo --round.rounds 1 --training.local_steps 20) >/tmp/coordinator 2>&1 &
coordinator=$!
(as_unit quantfl-client.service "" --runs 1 --away_ms_max 30000) >/tmp/client 2>&1 &
client=$!
status=0
wait "$coordinator" || status=$?
[ "$status" -eq 0 ] || { cat /tmp/coordinator /tmp/client >&2; fail "the coordinator ended with $status"; }
wait "$client" || { cat /tmp/client >&2; fail "the client ended with an error"; }
records=/var/lib/quantfl-coordinator/runs/demo
grep -q '"state": *"finished"' "$records/summary.json" || fail "the run did not finish"
[ "$(stat -c '%U %a' "$records/final.safetensors")" = "quantfl-coordinator 640" ] \
  || fail "the checkpoint is $(stat -c '%U %a' "$records/final.safetensors")"
quantflctl compare "$records"
quantfl-model --version
for user in quantfl-coordinator quantfl-client; do
  [ "$(getent passwd "$user" | cut -d: -f7)" = /usr/sbin/nologin ] || fail "$user has a shell"
done
# A start after the end is no error (--once).
(as_unit quantfl-coordinator@.service demo) >/tmp/again 2>&1 || fail "a second start: $(cat /tmp/again)"

echo "# mine" >>/etc/quantfl/client.toml
quietly apt-get remove -y quantfl-coordinator quantfl-client quantfl-tools
for file in /usr/bin/quantfl-coordinator /usr/bin/quantfl-client /usr/bin/quantfl-model /usr/bin/quantflctl /usr/share/quantfl; do
  [ ! -e "$file" ] || fail "$file is left after removal"
done
grep -q "# mine" /etc/quantfl/client.toml || fail "removal took a configuration that was edited"
[ -f "$records/summary.json" ] || fail "removal took the records"
quietly apt-get purge -y quantfl-coordinator quantfl-client quantfl-tools
left="$(find / -xdev \( -path /proc -o -path /sys -o -path /packages -o -path /tmp -o -path /etc/dpkg/dpkg.cfg.d \) -prune -o -iname '*quantfl*' -print)"
[ -z "$left" ] || fail "left after purge: $left"
! getent passwd | grep quantfl || fail "a user is left after purge"
! getent group | grep quantfl || fail "a group is left after purge"
echo "installed, ran as its units' users, removed: $(cat /etc/debian_version)"
