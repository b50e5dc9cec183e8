#!/bin/sh
# The container of docker/compose.yaml's evaluator.
set -eu
read -r runs </evaluator/runs
exec quantfl-client --role evaluator --device evaluator --state_dir /evaluator/state \
  --tls.token_file /evaluator/token --runs "${RUNS:-$runs}" "$@"
