# Sourced by deploy/demo.sh and deploy/experiments/run.sh: a federation on this machine, one coordinator and
# daemons over gRPC on loopback. The caller sets `me` (its name in messages), `from` (the folder it was called
# in), `port`, `runs`, `bin` (empty: build), `state` (folder of the daemons' state; empty: a temporary one)
# and calls `prepare`, then `daemon` for each one, then `federation` for each run.
# shellcheck shell=bash disable=SC2154
die() { echo "$me: $1" >&2; exit "${2:-1}"; }
absolute() { case "$1" in /*) echo "$1" ;; *) echo "$from/$1" ;; esac; }
busy() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
whole_number() { [[ "$2" =~ ^[1-9][0-9]{0,8}$ ]] && [ "$2" -le "$3" ] || die "$1 $2: a number from 1 to $3" 64; }

build() {
  deploy/packages.sh install run
  local folder=build/programs
  mkdir -p "$folder"
  if [ ! -f "$folder/build.ninja" ]; then
    echo "configuring ..."
    cmake --preset programs -DCMAKE_CXX_COMPILER_LAUNCHER=ccache >"$folder/configure.log" 2>&1 \
      || die "cmake failed: $(grep -m1 -A2 'CMake Error' "$folder/configure.log" | tr '\n' ' '); log: $folder/configure.log"
  fi
  if ! ninja -C "$folder" -n 2>/dev/null | grep -q 'no work to do'; then
    echo "building ..."
    # On a terminal ninja shows its one progress line; on a pipe nothing but a failure.
    if [ -t 1 ]; then ninja -C "$folder" || die "the build failed: see above"
    else ninja -C "$folder" >"$folder/build.log" 2>&1 || die "the build failed; log: $folder/build.log"; fi
  fi
  bin="$folder/bin"
}

declare -A names=()  # of the client daemons, by process id
signalled=""         # the status to end with
tick=""              # a sleep's process id

# A signal only leaves a note: bash runs its traps between any two steps, and one that stops what was started
# would not know of what is starting.
heed() { [ -z "$signalled" ] || exit "$signalled"; }
stop() {
  local status=$? pids waits=0 signal=TERM
  trap - EXIT
  [ "$BASHPID" = $$ ] || exit "$status"   # a child that was told to end before it had become its program
  trap '' INT TERM
  # Until they are gone: bash's child forgets a signal that comes before it has become the program. What is not gone
  # after a minute is killed, which costs no more than the work in hand.
  while pids="$(jobs -pr)" && [ -n "$pids" ]; do
    [ "$((++waits))" -lt 600 ] || signal=KILL
    # shellcheck disable=SC2086  # numbers
    kill "-$signal" $pids 2>/dev/null || true
    sleep 0.1
  done
  rm -rf "$work"
  exit "${signalled:-$status}"
}
# Until one of these processes ends: `ended`, with `status`. A signal is heard at once, which bash would keep until
# a program in the foreground ends.
await() {
  local pid
  while true; do
    # Of what a signal killed `wait -n` may know no more; `wait` does.
    for pid in "$@"; do
      ! kill -0 "$pid" 2>/dev/null || continue
      ended="$pid" status=0
      wait "$pid" || status=$?
      heed
      return 0
    done
    # A signal just before bash waits is heard when something ends: here two seconds later.
    [ -n "$tick" ] || { sleep 2 & tick=$!; }
    status=0
    wait -n -p ended "$tick" "$@" || status=$?
    heed
    [ "$ended" = "$tick" ] || return 0
    tick=""
  done
}
attended() {  # a program with its arguments
  local ended status
  heed
  "$@" &
  await "$!"
  return "$status"
}

# Ports, room and programs; from here on a signal, or the end, stops everything that was started.
prepare() {
  # The coordinator listens on three in a row: for clients, for quantflctl, for browsers.
  whole_number --port "$port" 65533
  operator_port=$((port + 1))
  local p free_kib
  for p in "$port" "$operator_port"; do
    ! busy "$p" || die "port $p on 127.0.0.1 is in use: stop what listens there, or choose another with --port" 69
  done
  free_kib="$(df --output=avail -k . | tail -n 1)"
  [ "$free_kib" -gt 1048576 ] || die "$((free_kib / 1024)) MiB free on this disk: building needs 1024 MiB" 73
  [ -n "$bin" ] || build
  work=""
  trap stop EXIT
  trap 'echo; signalled=130' INT
  trap 'signalled=143' TERM
  work="$(mktemp -d "${TMPDIR:-/tmp}/quantfl-$me.XXXXXX")" || die "no room for a temporary folder" 73
}

daemon() {  # its name, then arguments of quantfl-client
  local name="$1"; shift
  heed
  "$bin/quantfl-client" --coordinator "127.0.0.1:$port" --device "$name" --state_dir "${state:-$work}/$name" \
    --log.file "$work/$name.log" --retry_min_ms 100 --retry_max_ms 500 "$@" >/dev/null 2>"$work/$name.err" &
  names[$!]="$name"
}

lost() { die "the daemon ${names[$ended]} ended with status $status: $(tail -n 1 "$work/${names[$ended]}.err")" 1; }
federation() {  # the run's name, what to say of it, then arguments of quantfl-coordinator
  local name="$1" about="$2" coordinator watch watched ended status; shift 2
  heed
  rm -rf "${runs:?}/$name"
  "$bin/quantfl-coordinator" --name "$name" --results_dir "$runs/$name" \
    --server.listen "127.0.0.1:$port" --server.operator_listen "127.0.0.1:$operator_port" \
    --web.listen "127.0.0.1:$((port + 2))" "$@" >/dev/null 2>"$work/$name.err" &
  coordinator=$!
  echo
  echo "$name: $about"
  "$bin/quantflctl" watch --results-dir "$runs/$name" --wait 30 &
  watch=$!
  # A round needs all the daemons: without one of them the run would wait for ever.
  await "$watch" "${!names[@]}"
  [ "$ended" = "$watch" ] || lost
  watched="$status"
  await "$coordinator" "${!names[@]}"
  [ "$ended" = "$coordinator" ] || lost
  [ "$status" -ne 0 ] || status="$watched"
  mkdir -p "$runs/$name/clients"
  cp "$work"/*.log "$runs/$name/clients/" 2>/dev/null || true
  [ "$status" -eq 0 ] || die "the run $name ended with status $status: $(tail -n 1 "$work/$name.err"); logs: $runs/$name" "$status"
}
