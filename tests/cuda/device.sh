#!/usr/bin/env bash
# Everything about the CUDA kernels that needs a GPU, in one run of a few minutes: tests, then benchmarks. build/cuda must be there (`make cuda`, here
# or on another machine); Python needs numpy, ml_dtypes, pytest and PyTorch, not Ingot.
#
#   tests/cuda/device.sh [tests] [bench] [sanitize] [-- arguments for pytest]
#
# With none of these words: tests and bench. Environment: PYTHON (python3), OUT (build/cuda-results) for logs and JSON files, JOBS (4) processes of
# tests, BENCH (names of scripts, such as "attention matmul"; all by default), BENCH_SECONDS (45) for each script, SANITIZE_SECONDS (200) for all that
# compute-sanitizer runs.
set -u
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-build/cuda-results}
JOBS=${JOBS:-4}
BENCH_SECONDS=${BENCH_SECONDS:-45}
SANITIZE_SECONDS=${SANITIZE_SECONDS:-200}
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

# A row: tool, file, which of its tests. compute-sanitizer makes kernels a hundred times slower, so these are one small case of each kernel's paths, the
# most telling ones first: what the emulator does not see.
SANITIZED="memcheck|test_matmul.py|test_16_bit_tiles and bfloat16 or test_tiles_of_float32 and 52 or test_tf32 or test_few_rows and 11 or test_few_rows_of_float32 and 43
racecheck|test_matmul.py|test_16_bit_tiles and bfloat16 or test_tiles_of_float32 and 52 or test_tf32 or test_few_rows and 11 or test_few_rows_of_float32 and 43
memcheck|test_quantized_matmul.py|test_many_rows_with_wgmma and 128 or test_few_rows_with_bulk_copies and bfloat16 or test_many_rows and float16
racecheck|test_quantized_matmul.py|test_many_rows_with_wgmma and 128 or test_few_rows_with_bulk_copies and bfloat16
memcheck|test_attention_prefill.py|test_sizes_between_are_padded or test_groups_of_heads_read_their_own_keys
racecheck|test_attention_prefill.py|test_groups_of_heads_read_their_own_keys
memcheck|test_attention.py|lengths_rings_and_pages or parts_without_keys
racecheck|test_attention.py|parts_without_keys
memcheck|test_convolution.py|test_tiles or test_first_layer or test_depthwise_with_large_kernels
memcheck|test_normalization.py|rows_that_do_not_fit
memcheck|test_sampling.py|equal_logits or first_of_the_largest
racecheck|test_emulator.py|barriers or asynchronous or ldmatrix"

sanitize() {
  if ! command -v compute-sanitizer >/dev/null; then
    summary="$summary
sanitize: skipped, compute-sanitizer was not found"
    return
  fi
  local until=$((SECONDS + SANITIZE_SECONDS)) tool file chosen left log code said
  while IFS="|" read -r tool file chosen; do
    left=$((until - SECONDS))
    if [ "$left" -lt 5 ]; then
      said="skipped, the $SANITIZE_SECONDS s of SANITIZE_SECONDS are over"
    else
      log="$OUT/sanitize-$tool-${file%.py}.log"
      # Without PyTorch's cache each tensor is memory of its own, whose ends memcheck knows.
      # shellcheck disable=SC2086
      PYTORCH_NO_CUDA_MEMORY_CACHING=1 INGOT_CUDA_PATIENCE=$left timeout -k 5 "$left" compute-sanitizer --tool "$tool" --target-processes all \
        --error-exitcode 9 $pytest "tests/cuda/$file" -k "$chosen" </dev/null >"$log" 2>&1
      code=$?
      said="$(grep -E "(ERROR|RACECHECK) SUMMARY" "$log" | tail -n 1 | sed "s/^=* *//"), $(tail -n 30 "$log" | grep -E " in [0-9.]+s" | tail -n 1)"
      case $code in
        0) ;;
        124 | 137) said="skipped the rest after $left s" ;;
        *) status=1 said="failed ($code), see $log: $said" ;;
      esac
    fi
    summary="$summary
sanitize $tool $file: $said"
  done <<<"$SANITIZED"
}

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
      sanitize
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
