#!/bin/sh
# Everything that is worth knowing of rosette on a GPU, in one go: first whether every kernel and variant computes what it
# should there, then what is fastest, then the training step beside PyTorch on the same device.
#
#   benches/gpu.sh RESULTS_DIR      with ROSETTE (the binary) and PYTHON (with a torch that sees the GPU) from the environment
#
# BASE, PATCH and BATCHES change the sizes (64, 512, "4 8"). What matters most comes first.
set -u

here=$(cd "$(dirname "$0")" && pwd)
out=${1:?a directory for the results}
rosette=${ROSETTE:-$here/../target/release/rosette}
python=${PYTHON:-python3}
base=${BASE:-64}
patch=${PATCH:-512}
batches=${BATCHES:-4 8}
mkdir -p "$out"

say() { printf '\n== %s (%s)\n' "$1" "$(date +%T)"; }

say "device"
"$rosette" devices
"$python" -c 'import torch; print("torch", torch.__version__, torch.cuda.get_device_name(), "cuDNN", torch.backends.cudnn.version())'

say "numerics of every kernel and variant"
if ! "$rosette" doctor > "$out/doctor.txt" 2>&1; then
    say "with the driver's checks of bounds"
    ROSETTE_BOUNDS_CHECKS=1 "$rosette" doctor > "$out/doctor_checks.txt" 2>&1 && export ROSETTE_BOUNDS_CHECKS=1
fi
cat "$out"/doctor*.txt

cat > "$out/config.yaml" <<YAML
model: {base_channels: $base, patch_size: $patch}
experiments: [{name: gpu}]
YAML

# measure PRECISION BATCH: what is fastest there, and the step with it, kernel by kernel.
measure() {
    say "tuning, $1, batch $2"
    "$rosette" tune --config "$out/config.yaml" --experiment-name gpu --override precision="$1" \
        --override batch_size="$2" 2> "$out/tune_$1_$2.log" | tee "$out/tune_$1_$2.txt"
    say "step by kernel, $1, batch $2"
    "$rosette" bench --step --base "$base" --patch "$patch" --batch "$2" --precision "$1" --repeats 20 --markdown \
        | tee "$out/step_$1_$2.md"
}

# compare NAME BATCH TORCH_ARGS ROSETTE_ARGS: both in turn.
compare() {
    say "beside PyTorch, batch $2: $1"
    "$python" "$here/compare/compare.py" --rosette "$rosette" --configs "$base:$patch:$2" --rounds 2 --torch-args "$3" \
        --rosette-args "$4" --json "$out/compare_$1_$2.json"
}

# The first batch is measured in full before the next, since the time on a machine may end before the script does.
first=${batches%% *}
for batch in $batches; do
    measure f16 "$batch"
    compare autocast "$batch" "--device cuda --precision autocast --channels-last --steps 20" \
        "--precision f16 --repeats 20"
    measure f32 "$batch"
    compare f32 "$batch" "--device cuda --precision f32 --steps 20" "--precision f32 --repeats 20"
    compare tf32 "$batch" "--device cuda --precision tf32 --channels-last --steps 20" "--precision f16 --repeats 20"
    compare autocast_compiled "$batch" "--device cuda --precision autocast --channels-last --compile --steps 20" \
        "--precision f16 --repeats 20"
    if [ "$batch" = "$first" ]; then
        say "what the driver's checks of bounds would cost"
        for checks in without with without with; do
            case $checks in
                with) set -- env ROSETTE_BOUNDS_CHECKS=1 ;;
                *) set -- env -u ROSETTE_BOUNDS_CHECKS ;;
            esac
            printf '%s: ' "$checks"
            "$@" "$rosette" bench --step --base "$base" --patch "$patch" --batch "$batch" --precision f16 --repeats 10 | grep -m1 best
        done
        say "every kernel for each of its shapes"
        for precision in f16 f32; do
            "$rosette" bench --base "$base" --patch "$patch" --batch "$batch" --precision $precision --json \
                > "$out/kernels_$precision.json"
        done
    fi
done
