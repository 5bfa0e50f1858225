#!/bin/sh
# Everything that is worth knowing of rosette on a GPU, in one go: first whether every kernel and variant computes what it
# should there, then what is fastest, then the training step beside PyTorch on the same device.
#
#   benches/gpu.sh RESULTS_DIR      with ROSETTE (the binary) and PYTHON (with a torch that sees the GPU) from the environment
#
# BASE, PATCH and BATCHES change the sizes (64, 512, "4 8").
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
"$rosette" doctor 2>/dev/null | tee "$out/doctor.txt"

cat > "$out/config.yaml" <<YAML
model: {base_channels: $base, patch_size: $patch}
experiments: [{name: gpu}]
YAML
for precision in f16 f32; do
    for batch in $batches; do
        say "tuning, $precision, batch $batch"
        "$rosette" tune --config "$out/config.yaml" --experiment-name gpu --override precision=$precision \
            --override batch_size="$batch" 2>/dev/null | tee "$out/tune_${precision}_$batch.txt"
        say "step by kernel, $precision, batch $batch"
        "$rosette" bench --step --base "$base" --patch "$patch" --batch "$batch" --precision $precision --repeats 20 \
            | tee "$out/step_${precision}_$batch.txt"
    done
done

configs=$(for batch in $batches; do printf '%s:%s:%s ' "$base" "$patch" "$batch"; done | sed 's/ $//; s/ /,/g')
compare() {
    say "beside PyTorch: $1"
    "$python" "$here/compare/compare.py" --rosette "$rosette" --configs "$configs" --rounds 2 --torch-args "$2" \
        --rosette-args "$3" --json "$out/compare_$1.json"
}
compare autocast "--device cuda --precision autocast --channels-last --steps 20" "--precision f16 --repeats 20"
compare autocast_compiled "--device cuda --precision autocast --channels-last --compile --steps 20" \
    "--precision f16 --repeats 20"
compare tf32 "--device cuda --precision tf32 --channels-last --steps 20" "--precision f16 --repeats 20"
compare f32 "--device cuda --precision f32 --steps 20" "--precision f32 --repeats 20"

say "every kernel for each of its shapes"
"$rosette" bench --base "$base" --patch "$patch" --batch 4 --precision f16 --json > "$out/kernels_f16.json"
"$rosette" bench --base "$base" --patch "$patch" --batch 4 --precision f32 --json > "$out/kernels_f32.json"
