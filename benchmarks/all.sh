#!/usr/bin/env bash
# Every number of research/docs/speed.md, into research/results/benchmarks: half an hour, on a machine
# that does nothing else. With a GPU, the GPU's. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python}

run() { echo "== $*"; "$python" -W ignore "$@"; }

if "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())'; then
    run end_to_end.py --batch-sizes 128 1024 --memory
    run end_to_end.py --pair r34_r18 --batch-sizes 128 --memory
    run feature_methods.py --batch-size 128
    run teacher.py --teachers resnet56 resnet32x4 wrn40-2 resnet34
    run overhead.py
    run loss.py
    run loss_growth.py
    run resident_data.py
    run dense_memory.py
else
    run end_to_end.py --memory --rounds 9
    run teacher.py --teachers resnet56 resnet32x4 wrn40-2 --rounds 9
    run overhead.py
    run overhead.py --threads 1
    for threads in 1 2; do run loss.py --threads "$threads"; done
    run loss_growth.py --threads 1
    run resident_data.py --rounds 5
    run dense_memory.py --threads 1
    run feature_methods.py --rounds 7
    run history.py
    run ranks.py
fi
run exchange.py
run exports.py --threads 1
run plots.py
