#!/usr/bin/env bash
# Build, check and measure on a machine that has a GPU, python with torch and a C++ compiler, and no nagfast installed.
#
#   benchmarks/gpu_suite.sh            everything, within BUDGET seconds
#   benchmarks/gpu_suite.sh --smoke    a little of it on the CPU with a tiny model: is the script right?
#
# OUT     where results and logs go               (default: benchmarks/results)
# BUDGET  seconds in all                          (default: 480)
# ONLY    steps to run, separated by spaces       (default: all)
# SKIP    steps to leave out
# PYTHON  interpreter                             (default: python3)
#
# Every step has a time limit of its own and ends when the whole budget does. Results are appended as each comparison
# ends, so a step that is cut short keeps what it has. The exit code is 1 if a step failed; running out of time is none.
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
out=${OUT:-$root/benchmarks/results}
mkdir -p "$out" && out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
budget=${BUDGET:-480}
smoke=
[ "${1:-}" = --smoke ] && smoke=1
began=$SECONDS failed=() report=()

# nagfast.kernels and nagfast.benchmarks lie beside nagfast/ in a checkout: a folder of links puts them where an
# install would, and takes the extension, so that the checkout stays as it is.
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir "$tree/nagfast"
for path in "$root"/nagfast/*; do
  case $path in *__pycache__ | *.so) ;; *) ln -s "$path" "$tree/nagfast/" ;; esac
done
ln -s "$root/kernels" "$tree/nagfast/kernels"
ln -s "$root/benchmarks" "$tree/nagfast/benchmarks"
ln -s "$root/csrc" "$root/setup.py" "$tree/"
printf '[pytest]\n' > "$tree/pytest.ini"
cd "$tree" || exit 1
export PYTHONPATH=$tree${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

left() { echo $((budget - (SECONDS - began))); }

wanted() { # NAME
  case " ${SKIP:-} " in *" $1 "*) return 1 ;; esac
  [ -z "${ONLY:-}" ] && return 0
  case " $ONLY " in *" $1 "*) return 0 ;; esac
  return 1
}

step() { # NAME SECONDS COMMAND...: run within the smaller of SECONDS and what is left, output to NAME.log and here
  local name=$1 limit=$2 start=$SECONDS code state
  shift 2
  wanted "$name" || return 0
  [ "$(left)" -lt "$limit" ] && limit=$(left)
  if [ "$limit" -lt 5 ]; then
    report+=("$name: no time left")
    return 0
  fi
  echo "== $name (at most $limit s)"
  timeout -k 5 "$limit" "$@" 2>&1 | tee "$out/$name.log"
  code=${PIPESTATUS[0]}
  case $code in
    0) state=done ;;
    124 | 137) state="cut short" ;;
    *) state="failed ($code)" && failed+=("$name") ;;
  esac
  report+=("$name: $state after $((SECONDS - start)) s")
}

bench() { # NAME SECONDS BENCHMARK OPTIONS...
  local name=$1 limit=$2
  shift 2
  step "$name" "$limit" "$python" -m nagfast.benchmarks "$@" --out "$out"
}

build() {
  "$python" setup.py -q build_ext --inplace && return 0
  echo "the extension did not build; an earlier one is used, or plain numpy and torch"
  return 1
}

if [ -n "$smoke" ]; then
  ln -s "$root"/nagfast/*.so "$tree/nagfast/" 2> /dev/null
  tiny=(--shape tiny --documents 4 --rounds 1 --threads 1 --batch-tokens 256 --lengths 120)
  bench extract-tiny 60 extract "${tiny[@]}" --no-bfloat16 --variants padded nagfast text
  bench breakdown-tiny 60 breakdown "${tiny[@]}"
else
  export -f build
  export python
  step build 180 bash -c build
  ls "$tree"/nagfast/_C*.so > /dev/null 2>&1 || ln -s "$root"/nagfast/_C*.so "$tree/nagfast/" 2> /dev/null
  step doctor 30 "$python" -m nagfast.cli doctor
  if "$python" -c 'import pytest' 2> /dev/null; then
    # Compiling ahead of time and interpreting are for machines without a GPU.
    step tests 90 "$python" -m pytest -q -c "$tree/pytest.ini" -p no:cacheprovider \
      --ignore-glob='*test_compile*' --ignore-glob='*test_interpreter*' "$root/tests/kernels"
  else
    report+=("tests: pytest is not installed; every benchmark has its own check")
  fi
  cuda=(--device cuda --rounds 3 --budget 15)
  bench kernels 50 kernels
  bench extract-0.6b 75 extract "${cuda[@]}" --shape qwen3-0.6b
  bench extract-1.7b 75 extract "${cuda[@]}" --shape qwen3-1.7b
  bench breakdown-1.7b 30 breakdown --device cuda --shape qwen3-1.7b
  bench breakdown-0.6b 30 breakdown --device cuda --shape qwen3-0.6b
  bench actgrad-1.7b 45 actgrad "${cuda[@]}" --shape qwen3-1.7b --lengths 120
  bench actgrad-0.6b 45 actgrad "${cuda[@]}" --shape qwen3-0.6b --lengths 120
  bench invariance-0.6b 30 invariance --device cuda --shape qwen3-0.6b
  bench topk 20 topk --device cuda
  for shape in qwen3-4b qwen3-8b llama-3.2-3b smollm3-3b; do
    bench "extract-$shape" 60 extract "${cuda[@]}" --shape "$shape" --lengths 120 --variants padded hf-body nagfast
  done
  for shape in qwen3-0.6b qwen3-1.7b; do
    bench "extract-512-$shape" 60 extract "${cuda[@]}" --shape "$shape" --lengths 512
  done
fi

echo "== results in $out, $((SECONDS - began)) s"
"$python" -m nagfast.benchmarks summary "$out"
printf '%s\n' "${report[@]}"
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" && exit 1; }
