#!/bin/sh
# Everything that is worth knowing of rosette on a GPU: first whether every kernel, form and whole step computes what it
# should there, then what is fastest, then the training step beside PyTorch on the same device.
#
#   benches/gpu.sh RESULTS_DIR [STAGE ...]
#
#   check    numerics of everything, matrix units included                            1 to 3 minutes
#   half     f16 at the first batch: tuning, kernels, beside PyTorch's autocast       1 to 3
#   single   f32 at the first batch, beside PyTorch in f32 and TF32                   2 to 4
#   demo     a small training in f16 and in f32                                       1
#   rest     the other batches; PyTorch compiled; the driver's checks of bounds       4 to 8
#
# All of them, in this order, where none is named. The environment says which ROSETTE (the binary), which PYTHON (with a
# torch that sees the GPU), which ROSETTE_ADAPTER, and other sizes: BASE, PATCH, BATCHES (64, 512, "4 8").
#
# A step that hangs is ended, and no step keeps the next from running. RESULTS_DIR has two files: gpu.log, with all that was
# said and, at its end, how every step ended, and gpu.tar.gz, with that and everything that was written, up to date after
# each step. What `check` decides for the rest (a device that computes some of it wrongly is used all the same; the driver's
# checks of bounds where it is lost without) is kept in RESULTS_DIR/decided for stages that are run later.
set -u

here=$(cd "$(dirname "$0")" && pwd)
results=${1:?a directory for the results}
shift
stages=${*:-check half single demo rest}
rosette=${ROSETTE:-$here/../target/release/rosette}
python=${PYTHON:-python3}
base=${BASE:-64}
patch=${PATCH:-512}
batches=${BATCHES:-4 8}
first=${batches%% *}
others=${batches#"$first"}
mkdir -p "$results"
results=$(cd "$results" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=$work/gpu
mkdir "$out"
log=$results/gpu.log
# Nothing that was measured on another day, and a place that takes what is measured now.
export ROSETTE_CACHE_DIR="$work/cache" PYTHONUNBUFFERED=1
mkdir -p "$ROSETTE_CACHE_DIR"
failed=0

say() { printf '\n== %s (%s)\n' "$1" "$(date +%T)" | tee -a "$log"; }

# step SECONDS NAME FILE COMMAND...: runs it for so long at most; its output goes to FILE, the log and the terminal.
step() {
    limit=$1 name=$2 file=$3
    shift 3
    say "$name"
    begun=$(date +%s)
    timeout -k 10 "$limit" "$@" > "$out/$file" 2> "$out/$file.err"
    code=$?
    cat "$out/$file.err" "$out/$file" | tail -n 400 | tee -a "$log"
    [ -s "$out/$file.err" ] || rm -f "$out/$file.err"
    how=ok
    [ $code -eq 0 ] || how="ENDED WITH $code"
    [ $code -ne 124 ] && [ $code -ne 137 ] || how="TOOK OVER $limit s"
    [ "$how" = ok ] || failed=$((failed + 1))
    printf '%-60s %4d s  %s\n' "$name" "$(($(date +%s) - begun))" "$how" >> "$out/steps.txt"
    archive
    return $code
}

# Answers of the tuner too, but neither a driver's compiled kernels nor weights, which may be large.
archive() {
    cp "$log" "$out/gpu.log"
    cp "$ROSETTE_CACHE_DIR"/*.json "$out" 2> /dev/null
    tar -C "$work" --exclude='*.pth' --exclude='*.safetensors' -czf "$work/gpu.tar.gz" gpu && mv "$work/gpu.tar.gz" "$results/gpu.tar.gz"
}

skipped() { printf '%-60s         skipped: %s\n' "$1" "$2" >> "$out/steps.txt"; }

# decide VARIABLE: set to 1 for what follows, in later runs too.
decide() {
    export "$1=1"
    echo "export $1=1" >> "$results/decided"
}

has_torch=0
is_torch_there() { step 180 "PyTorch" torch.txt "$python" -c 'import torch; x = torch.zeros(1).cuda(); print("torch", torch.__version__, torch.cuda.get_device_name(), "cuDNN", torch.backends.cudnn.version())'; }

# The first that is no processor.
gpu_of() { sed -n 's/^│ \([0-9]*\) .*/\1 &/p' "$1" | grep -v software | head -n 1 | cut -d ' ' -f 1; }

device() {
    step 60 "devices" devices.txt "$rosette" devices
    : "${ROSETTE_ADAPTER:=$(gpu_of "$out/devices.txt")}"
    # Where the loader does not look, containers have the driver's file at times.
    for json in /usr/share/vulkan/icd.d /etc/vulkan/icd.d /usr/local/nvidia/share/vulkan/icd.d; do
        json=$json/nvidia_icd.json
        [ -z "$ROSETTE_ADAPTER" ] && [ -f "$json" ] || continue
        export VK_DRIVER_FILES="$json"
        step 60 "devices by $json" devices.txt "$rosette" devices
        ROSETTE_ADAPTER=$(gpu_of "$out/devices.txt")
    done
    if [ -z "$ROSETTE_ADAPTER" ]; then
        say "no GPU: install libvulkan1, and set VK_DRIVER_FILES to the driver's file where the loader does not find it"
        return 1
    fi
    export ROSETTE_ADAPTER
    say "adapter $ROSETTE_ADAPTER"
}

check() {
    step 300 "numerics of every kernel, form and whole step" doctor.txt "$rosette" doctor
    case $? in
        0) return ;;
        124 | 137) say "the examination did not end: what follows is of a device of which that is not known" ;;
        *)
            if grep -q "device was lost" "$out/doctor.txt.err" 2> /dev/null &&
                step 240 "the same with the driver's checks of bounds" doctor_checks.txt env ROSETTE_BOUNDS_CHECKS=1 "$rosette" doctor; then
                say "all that follows is with the driver's checks of bounds"
                decide ROSETTE_BOUNDS_CHECKS
                return
            fi
            say "what follows is of a device that computes some of it wrongly: see above"
            ;;
    esac
    decide ROSETTE_USE_UNSOUND
}

# measure PRECISION BATCH: what is fastest there, and the step with it, kernel by kernel.
measure() {
    printf 'model: {base_channels: %s, patch_size: %s}\nexperiments: [{name: gpu}]\n' "$base" "$patch" > "$out/config.yaml"
    step 180 "tuning, $1, batch $2" "tune_$1_$2.txt" "$rosette" tune --config "$out/config.yaml" --experiment-name gpu \
        --override precision="$1" --override batch_size="$2"
    set -- "$1" "$2" --base "$base" --patch "$patch" --batch "$2" --precision "$1" --repeats 20
    precision=$1 batch=$2
    shift 2
    step 90 "step, $precision, batch $batch" "step_${precision}_$batch.json" "$rosette" bench --step "$@" --json
    step 90 "step by kernel, $precision, batch $batch" "step_${precision}_$batch.md" "$rosette" bench --step "$@" --markdown
}

# compare NAME BATCH ROUNDS TORCH_ARGS ROSETTE_ARGS: both in turn.
compare() {
    [ $has_torch -eq 1 ] || { skipped "beside PyTorch, batch $2: $1" "no PyTorch that sees the GPU" && return; }
    step "${6:-150}" "beside PyTorch, batch $2: $1" "compare_$1_$2.txt" "$python" "$here/compare/compare.py" --rosette "$rosette" \
        --configs "$base:$patch:$2" --rounds "$3" --torch-args "$4 --steps 20" --rosette-args "$5 --repeats 20" \
        --json "$out/compare_$1_$2.json"
}

half() {
    measure f16 "$1"
    compare autocast "$1" 2 "--device cuda --precision autocast --channels-last" "--precision f16"
}

single() {
    measure f32 "$1"
    compare f32 "$1" 2 "--device cuda --precision f32" "--precision f32"
    compare tf32_beside_f32 "$1" 1 "--device cuda --precision tf32 --channels-last" "--precision f32"
    compare tf32_beside_f16 "$1" 1 "--device cuda --precision tf32 --channels-last" "--precision f16"
}

demo() {
    for precision in f16 f32; do
        step 120 "a small training in $precision" "demo_$precision.txt" "$rosette" demo --output-dir "$work/demo_$precision" \
            --override precision=$precision --override num_epochs=40
        cp "$work/demo_$precision/demo/metrics.csv" "$out/demo_$precision.csv" 2> /dev/null
    done
}

rest() {
    for batch in $others; do
        half "$batch"
        single "$batch"
    done
    compare autocast_compiled "$first" 1 "--device cuda --precision autocast --channels-last --compile" "--precision f16" 300
    round=0
    for checks in without without with with; do
        round=$((round + 1))
        case $checks in
            with) set -- env ROSETTE_BOUNDS_CHECKS=1 ;;
            *) set -- env -u ROSETTE_BOUNDS_CHECKS ;;
        esac
        step 90 "step $checks the driver's checks of bounds" "bounds_${checks}_$round.txt" "$@" "$rosette" bench --step --base "$base" \
            --patch "$patch" --batch "$first" --precision f16 --repeats 10
    done
    for precision in f16 f32; do
        step 90 "every kernel for each of its shapes, $precision" "kernels_$precision.txt" "$rosette" bench --base "$base" \
            --patch "$patch" --batch "$first" --precision $precision
    done
}

# shellcheck source=/dev/null
[ ! -f "$results/decided" ] || . "$results/decided"
if device; then
    is_torch_there && has_torch=1
    for stage in $stages; do
        case $stage in
            check | demo | rest) $stage ;;
            half | single) $stage "$first" ;;
            *) say "no stage '$stage': check, half, single, demo, rest" && failed=$((failed + 1)) ;;
        esac
    done
else
    failed=$((failed + 1))
fi
say "how every step ended"
tee -a "$log" < "$out/steps.txt"
archive
[ $failed -eq 0 ]
