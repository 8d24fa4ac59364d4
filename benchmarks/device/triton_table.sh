#!/usr/bin/env bash
# The Triton backend's speed table on the GPU at hand, with its peers in the same process.
#
#     bash benchmarks/device/triton_table.sh FOLDER [ARGUMENTS OF triton_table.py]
#
# quantmux is installed. $DEEPGEMM names a folder with the wheels sgl-deep-gemm 0.1.2 and
# apache-tvm-ffi 0.1.9, $VLLM one that benchmarks/triton_vllm_extract.py has made; without them the
# result says which peers were not here. $JIT keeps what DeepGEMM has compiled.
set -u
out=${1:?"name a folder for the results"}
shift
here=$(cd "$(dirname "$0")/.." && pwd)
table=${TABLE:-triton_table}  # or cutlass_table, after quantmux build cutlass
peers=$(mktemp -d)
mkdir -p "$out" "$peers/dg" "$peers/vllm"
export DG_JIT_CACHE_DIR=${JIT:-$peers/jit}
if [ -n "${DEEPGEMM:-}" ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --target "$peers/dg" \
        "$DEEPGEMM"/sgl_deep_gemm-*.whl "$DEEPGEMM"/apache_tvm_ffi-*.whl || exit
fi
if [ -n "${VLLM:-}" ]; then
    python3 "$here/triton_vllm_extract.py" --unpack "$VLLM" "$peers/vllm" || exit
fi
export PYTHONPATH="$peers/dg:$peers/vllm${PYTHONPATH:+:$PYTHONPATH}"
cd "$(mktemp -d)" || exit
SECONDS=0
timeout 150 python3 "$here/$table.py" --compile "$@" > "$out/compile.txt" 2>&1
echo "compiled in ${SECONDS}s: $(tail -n 1 "$out/compile.txt")"
timeout 300 python3 "$here/$table.py" --out "$out" "$@" > "$out/table.md" 2> "$out/table.err"
echo "table: exit code $?, ${SECONDS}s"
grep -E "FAILED|Error" "$out/table.err" | cut -c1-200 | tail -n 10
head -n 70 "$out/table.md"
