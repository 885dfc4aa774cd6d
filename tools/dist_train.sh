#!/usr/bin/env bash
# dist_train.sh CONFIG GPUS [arguments of train.py]; without a GPU, GPUS processes.
# Several machines: NNODES, NODE_RANK, MASTER_ADDR, PORT. When a rank fails, all begin
# again up to MAX_RESTARTS times, with the same arguments: add --resume to go on.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [arguments of train.py]" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
exec "${PYTHON:-python}" "$(dirname "$0")/torchrun.py" \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    --max-restarts="${MAX_RESTARTS:-0}" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"
