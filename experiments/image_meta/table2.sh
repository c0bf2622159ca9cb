#!/usr/bin/env bash
# Table 2's WarpGrad on one GPU, as much as fits into LIMIT seconds; the same command goes on later.
#
#     experiments/image_meta/table2.sh DATA_DIR OUT LIMIT [options of experiments.image_meta]
#
# FO, 1-step and HyperDistill, five seeds of each side by side in one program, preset paper. At LIMIT
# the program at hand is asked to stop: it ends its step, writes a checkpoint, and resumes next time.
set -euo pipefail
data=$1 out=$2 limit=$3
shift 3
end=$((SECONDS + limit))
for method in fo one-step hyperdistill; do
    left=$((end - SECONDS))
    ((left > 0)) || break
    gamma=()
    [[ $method == hyperdistill ]] && gamma=(--gamma 0.99)
    timeout --signal=TERM "$left" "${PYTHON:-.venv/bin/python}" -m experiments.image_meta \
        --preset paper --model warpgrad --dataset cifar100 --data-dir "$data" --out "$out" \
        --method "$method" "${gamma[@]}" --seed 0 1 2 3 4 --side-by-side --resume "$@" || {
        status=$?
        ((status == 124 || status == 130)) || exit "$status"
        echo "stopped within $method: the same command goes on" >&2
        break
    }
done
