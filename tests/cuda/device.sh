#!/usr/bin/env bash
# Everything about the CUDA kernels that needs a GPU, in one run of a few minutes: tests, then benchmarks. build/cuda must be there (`make cuda`, here
# or on another machine); Python needs numpy, ml_dtypes, pytest and PyTorch, not Ingot.
#
#   tests/cuda/device.sh [tests] [bench] [sanitize] [-- arguments for pytest]
#
# With none of these words: tests and bench. Environment: PYTHON (python3), OUT (build/cuda-results) for logs and JSON files, JOBS (4) processes of
# tests, BENCH (names of scripts, such as "attention matmul"; all by default), BENCH_SECONDS (45) for each script.
set -u
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-build/cuda-results}
JOBS=${JOBS:-4}
BENCH_SECONDS=${BENCH_SECONDS:-45}
mkdir -p "$OUT"
export OUT
rm -f "$OUT/crashes.log"

parts=""
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    tests | bench | sanitize) parts="$parts $1" ;;
    *)
      echo "device.sh: '$1' is none of tests, bench, sanitize" >&2
      exit 2
      ;;
  esac
  shift
done
[ $# -gt 0 ] && shift
[ -n "$parts" ] || parts="tests bench"
started=$SECONDS
status=0
summary=""

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
export PYTHONDONTWRITEBYTECODE=1
pytest="$PYTHON -m pytest --confcutdir=tests/cuda -p no:cacheprovider -q --tb=short"
"$PYTHON" -c "import xdist" 2>/dev/null && spread="-n $JOBS --max-worker-restart 20" || spread=""

for part in $parts; do
  case $part in
    tests)
      # shellcheck disable=SC2086
      timeout 240 $pytest $spread tests/cuda "$@" >"$OUT/tests.log" 2>&1 || status=1
      grep -E "^(FAILED|ERROR)" "$OUT/tests.log" | cut -c 1-200 | head -40
      [ ! -e "$OUT/crashes.log" ] || cut -c 1-300 "$OUT/crashes.log"
      summary="$summary
tests: $(tail -n 1 "$OUT/tests.log")"
      ;;
    sanitize)
      # compute-sanitizer runs a process a hundred times slower: what the emulator does not see is what a few small cases show.
      if command -v compute-sanitizer >/dev/null; then
        timeout 200 compute-sanitizer --error-exitcode 9 --kernel-name-exclude regex:at:: $pytest tests/cuda/test_emulator.py \
          -k "barriers or asynchronous or ldmatrix" >"$OUT/sanitize.log" 2>&1 || status=1
        summary="$summary
sanitize: $(grep -E "ERROR SUMMARY" "$OUT/sanitize.log" | tail -n 1)"
      else
        summary="$summary
sanitize: compute-sanitizer was not found"
      fi
      ;;
    bench)
      for script in benchmarks/cuda/bench_*.py; do
        name=$(basename "$script" .py)
        name=${name#bench_}
        case " ${BENCH:-$name} " in *" $name "*) ;; *) continue ;; esac
        timeout "$BENCH_SECONDS" "$PYTHON" "$script" --json "$OUT/$name.json" 2>&1 | tee "$OUT/$name.log" | cut -c 1-150
        code=${PIPESTATUS[0]}
        [ "$code" = 0 ] || status=1
        case $code in 0) said=ok ;; 124) said="stopped after $BENCH_SECONDS s" ;; *) said="failed ($code)" ;; esac
        summary="$summary
bench $name: $said"
      done
      ;;
  esac
done

echo "---- summary, after $((SECONDS - started)) s$summary"
exit $status
