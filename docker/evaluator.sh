#!/bin/sh
# The container of docker/compose.yaml's evaluator.
set -eu
read -r runs </evaluator/runs
exec quantfl-client --role evaluator --device evaluator --state_dir /evaluator/state \
  --tls.certificate /evaluator/device.pem --tls.private_key /evaluator/device.key --runs "${RUNS:-$runs}" "$@"
