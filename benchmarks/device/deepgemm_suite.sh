#!/usr/bin/env bash
# Run quantmux-deepgemm's own tests and the conformance suite on the GPU machine; evidence to $1.
set -u
out=${1:?where evidence and report go}
here=$(cd "$(dirname "$0")" && pwd)
cd "$(mktemp -d)" || exit
python3 -m pytest -q -p no:cacheprovider "$here/../../examples/quantmux-deepgemm/tests" 2>&1 | tail -3
python3 -m pytest -q -p no:cacheprovider --tb=line --pyargs quantmux.testing.suite \
  --backend deepgemm --record "$out" --report "$out/suite.json" --durations=8 2>&1 | tail -60
