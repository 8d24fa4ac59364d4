#!/usr/bin/env bash
# Prove, time and explain quantmux-deepgemm beside torch's block kernel on the GPU machine.
#
#     bash benchmarks/device/deepgemm_bench.sh FOLDER
#
# Run it from a copy in another folder, with quantmux and quantmux-deepgemm installed. Evidence and
# times go into the installed packages; FOLDER gets copies, reports and what explain says then.
set -u
out=${1:?"name a folder for the results"}
mkdir -p "$out"
here=$(cd "$(dirname "$0")" && pwd)
cd "$(mktemp -d)" || exit
qm() { python3 -c 'import sys; from quantmux.cli import main; sys.exit(main())' "$@"; }

timeout 100 python3 "$here/deepgemm_check.py" > "$out/check.txt" 2>&1
grep -vE "^ |^$" "$out/check.txt" | cut -c1-160 | tail -30
python3 -m pytest -q -p no:cacheprovider --tb=line --pyargs quantmux.testing.suite \
  --backend deepgemm --record package > suite.txt 2>&1
tail -12 suite.txt

shapes=${SHAPES:-4096x7168,2112x7168,24576x1536,7168x2048,576x7168,7168x16384}
ms=${MS:-1,16,64,128,1024,4096}
contenders=(--kernels 'deepgemm/*' --kernels torch/linear_scaled_mm_block --device cuda:0)
timeout 300 python3 -c 'import sys; from quantmux.cli import main; sys.exit(main())' \
  bench linear --scheme fp8_block128 --shapes "$shapes" --m "$ms" "${contenders[@]}" --gemm \
  --out "$out/bench.json" --record-to package > "$out/bench.txt" 2> bench.err
echo "bench: exit code $?"
tail -5 bench.err
timeout 90 python3 -c 'import sys; from quantmux.cli import main; sys.exit(main())' \
  bench linear --scheme fp8_block128_pow2 --shapes 4096x7168 --m "$ms" "${contenders[@]}" \
  --out "$out/bench-pow2.json" --record-to package >> "$out/bench.txt" 2> bench.err
echo "bench of pow2 scales: exit code $?"
tail -5 bench.err

for m in 16 4096; do
  qm explain linear --scheme fp8_block128 --n 4096 --k 7168 --m $m --device h200
done > "$out/explain.txt" 2>&1
qm matrix --op linear --scheme fp8_block128 --device h200 >> "$out/explain.txt" 2>&1
python3 - "$out" <<'PY'
import shutil, sys
from quantmux.registry.default import default_registry

for name in ("deepgemm", "torch"):
    folder = default_registry().folder(name)
    for kind in ("evidence", "tuning"):
        file = folder / kind / "h200.json"
        if file.exists():
            shutil.copy(file, f"{sys.argv[1]}/{name}-{kind}.json")
PY
cat "$out/bench.txt"
