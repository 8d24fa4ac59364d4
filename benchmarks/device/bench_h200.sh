#!/bin/sh
# The harness on the GPU at hand: FP8 linears of DeepSeek V3 beside torch's own products, their
# input quantizers, and DeepGEMM in a process of its own where $DEEPGEMM names its folder.
#
#     sh benchmarks/device/bench_h200.sh FOLDER
#
# Results, roofline and recorded rows go into FOLDER; the last lines are short. An installed
# quantmux, no source tree beside it: run it from a copy in another folder.
set -u
to=${1:?"name a folder for the results"}
mkdir -p "$to"
bench() {
    limit=$1
    shift
    timeout "$limit" python3 -c 'import sys; from quantmux.cli import main; sys.exit(main())' \
        bench "$@"
}
shapes=${SHAPES:-576x7168,2112x7168,24576x1536,7168x16384,4096x7168,7168x2048}
ms=${MS:-1,16,64,128,1024,4096}

bench 330 linear --scheme fp8_block128,fp8_channel_token,fp8_tensor --shapes "$shapes" \
    --m "$ms" --peers bf16,scaled_mm --out "$to" --plot "$to/roofline.svg" --record-to "$to" \
    > "$to/linear.txt" 2> "$to/linear.err"
echo "linear: exit code $?"
tail -n 3 "$to/linear.err"
bench 60 quantize --operand fp8_group128,fp8_token --shapes 7168 --m 16,1024,8192 \
    --out "$to" --record-to "$to" > "$to/quantize.txt" 2> "$to/quantize.err"
echo "quantize: exit code $?"
tail -n 3 "$to/quantize.err"
if [ -n "${DEEPGEMM:-}" ]; then
    bench 150 linear --scheme fp8_block128 --shapes 4096x7168,2112x7168 --m 16,4096 \
        --peers scaled_mm --peer-env "deepgemm=$DEEPGEMM" --out "$to/deepgemm.json" \
        > "$to/deepgemm.txt" 2> "$to/deepgemm.err"
    echo "with DeepGEMM: exit code $?"
    tail -n 3 "$to/deepgemm.err"
    cat "$to/deepgemm.txt"
fi
head -n 60 "$to/linear.txt"
