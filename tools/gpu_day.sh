#!/usr/bin/env bash
# gpu_day.sh [OUT] [--minutes M] [--dry-run]: what only a GPU can tell, in pieces of under
# six minutes, into OUT/gpu_day.md and .json. Given again, it goes on. In a clone only;
# PYTHON names the interpreter. docs/guides/gpu_day.md says more.
set -euo pipefail
exec "${PYTHON:-python}" -W ignore "$(dirname "$0")/../benchmarks/gpu_day.py" "$@"
