#!/usr/bin/env bash
# The proof on the GPU at hand: tests that need one, the self-check, and a sweep of every backend.
#
#     bash benchmarks/device/proof_check.sh FOLDER
#
# Needs an installed quantmux and pytest; run it from a copy of tests/ and benchmarks/ elsewhere, so
# that no source tree lies beside it. Evidence and the sweep's journal go into FOLDER.
set -u
to=${1:?"name a folder for the results"}
mkdir -p "$to"
quantmux() { python3 -c 'import sys; from quantmux.cli import main; sys.exit(main())' "$@"; }

python3 -m pytest -q -p no:cacheprovider -m gpu tests/backends/torch/test_gpu.py \
    tests/contract/test_sweep_hazards.py > "$to/gpu_tests.txt" 2>&1
echo "GPU tests: exit code $?"
tail -n 8 "$to/gpu_tests.txt"

python3 benchmarks/device/self_check.py 2> "$to/self_check.err" | tee "$to/self_check.txt"
echo "self-check: exit code ${PIPESTATUS[0]}"
tail -n 5 "$to/self_check.err"

begun=$SECONDS
timeout 400 env COLUMNS=120 python3 -c 'import sys; from quantmux.cli import main; sys.exit(main())' \
    sweep --device cuda --out "$to/journal" --record-to "$to" > "$to/sweep.txt" 2> "$to/sweep.err"
echo "sweep: exit code $? after $((SECONDS - begun)) s"
tail -n 3 "$to/sweep.err"
tail -n 45 "$to/sweep.txt"
sed -i "s#$to/##" "$to/sweep.txt"  # a result names no folder of one machine
rm -rf "$to/journal"
