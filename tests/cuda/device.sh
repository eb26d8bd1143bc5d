#!/usr/bin/env bash
# Everything about CUDA that needs a GPU, in one run of some minutes: tests of kernels, tests of models, then benchmarks. The libraries of build/cuda
# must be there (`make cuda`, here or on another machine), for models build/cuda-models too (`make cuda-models`); Python needs numpy, ml_dtypes,
# pytest and PyTorch, not Ingot.
#
#   tests/cuda/device.sh [tests] [models] [bench] [sanitize] [-- arguments for pytest, of tests]
#
# With none of these words: tests, models and bench. The last lines say what each part did. Tests of models that have nothing to run are skipped,
# which is a failure where "models" was asked for; so is sanitize without compute-sanitizer. Environment: PYTHON (python3), OUT (build/cuda-results)
# for logs and JSON files, JOBS (4) processes of tests, BENCH (names of scripts, such as "attention_decode matmul"; all by default), BENCH_SECONDS
# (45) for each script, MODEL_SECONDS (150) for the one of whole models, SANITIZER (compute-sanitizer), SANITIZE_SECONDS (200) for all that it runs.
set -u
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-build/cuda-results}
JOBS=${JOBS:-4}
BENCH_SECONDS=${BENCH_SECONDS:-45}
MODEL_SECONDS=${MODEL_SECONDS:-150}
SANITIZER=${SANITIZER:-compute-sanitizer}
SANITIZE_SECONDS=${SANITIZE_SECONDS:-200}
mkdir -p "$OUT"
export OUT
rm -f "$OUT/crashes.log"

parts=""
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    tests | models | bench | sanitize) parts="$parts $1" ;;
    *)
      echo "device.sh: '$1' is none of tests, models, bench, sanitize" >&2
      exit 2
      ;;
  esac
  shift
done
[ $# -gt 0 ] && shift
asked=$parts
[ -n "$parts" ] || parts="tests models bench"
started=$SECONDS
status=0
summary=""

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
export PYTHONDONTWRITEBYTECODE=1
pytest="$PYTHON -m pytest -p no:cacheprovider -q --tb=short"
"$PYTHON" -c "import xdist" 2>/dev/null && spread="-n $JOBS --max-worker-restart 20" || spread=""

# Tests of models, which have the GPU for themselves: one of them fills its memory.
models() {
  local folder name log code said
  for folder in tests/runtime/gpu tests/lower/cuda/gpu; do
    name=${folder#tests/}
    log="$OUT/models-${name%%/*}.log"
    # shellcheck disable=SC2086
    timeout 120 $pytest --confcutdir=$folder $folder >"$log" 2>&1
    code=$?
    grep -E "^(FAILED|ERROR)" "$log" | cut -c 1-200 | head -40
    said=$(tail -n 1 "$log")
    case $code in
      0) ;;
      5) # pytest found no test
        said="skipped, $(sed -n "s/^SKIPPED [^ ]* [^ ]* //p" "$log" | head -n 1)"
        case $asked in *models*) status=1 ;; esac
        ;;
      124) status=1 said="stopped after 120 s" ;;
      *) status=1 ;;
    esac
    summary="$summary
models $folder: $said"
  done
}

# Runs the rows of sanitized.txt.
sanitize() {
  if ! command -v "$SANITIZER" >/dev/null; then
    status=1
    summary="$summary
sanitize: not done, there is no $SANITIZER: it comes with the CUDA toolkit, and SANITIZER says where it is"
    return
  fi
  local until=$((SECONDS + SANITIZE_SECONDS)) number=0 tool file chosen left log code said
  while IFS="|" read -r tool file chosen; do
    number=$((number + 1))
    left=$((until - SECONDS))
    if [ "$left" -lt 5 ]; then
      said="skipped, the $SANITIZE_SECONDS s of SANITIZE_SECONDS are over"
    else
      log="$OUT/sanitize-$number-$tool-${file%.py}.log"
      # Without PyTorch's cache each tensor is memory of its own, whose ends memcheck knows.
      # shellcheck disable=SC2086
      PYTORCH_NO_CUDA_MEMORY_CACHING=1 INGOT_CUDA_PATIENCE=$left timeout -k 5 "$left" "$SANITIZER" --tool "$tool" --target-processes all \
        --error-exitcode 9 $pytest --confcutdir=tests/cuda "tests/cuda/$file" -k "$chosen" </dev/null >"$log" 2>&1
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
  done < <(grep -v "^#" tests/cuda/sanitized.txt)
}

for part in $parts; do
  case $part in
    tests)
      # shellcheck disable=SC2086
      timeout 240 $pytest --confcutdir=tests/cuda $spread tests/cuda "$@" >"$OUT/tests.log" 2>&1 || status=1
      grep -E "^(FAILED|ERROR)" "$OUT/tests.log" | cut -c 1-200 | head -40
      [ ! -e "$OUT/crashes.log" ] || cut -c 1-300 "$OUT/crashes.log"
      summary="$summary
tests: $(tail -n 1 "$OUT/tests.log")"
      ;;
    models) models ;;
    sanitize) sanitize ;;
    bench)
      for script in benchmarks/cuda/bench_*.py; do
        name=$(basename "$script" .py)
        name=${name#bench_}
        case " ${BENCH:-$name} " in *" $name "*) ;; *) continue ;; esac
        seconds=$BENCH_SECONDS
        [ "$name" != models ] || seconds=$MODEL_SECONDS
        timeout "$seconds" "$PYTHON" "$script" --json "$OUT/$name.json" 2>&1 | tee "$OUT/$name.log" | cut -c 1-150
        code=${PIPESTATUS[0]}
        case $code in
          0) said=ok ;;
          77) said=$(tail -n 1 "$OUT/$name.log") ;; # skipped, and why
          124) status=1 said="stopped after $seconds s" ;;
          *) status=1 said="failed ($code)" ;;
        esac
        summary="$summary
bench $name: $said"
      done
      ;;
  esac
done

echo "---- summary, after $((SECONDS - started)) s$summary"
exit $status
