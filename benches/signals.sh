#!/bin/sh
# Trainings that are told to stop again and again (SIGTERM, at moments drawn from /dev/urandom) and go on: each must end
# with the weights of an undisturbed one. SIGNALS is how many are sent, ROSETTE names the binary.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
rosette=${ROSETTE:-$here/../target/release/rosette}
signals=${SIGNALS:-100}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

"$rosette" synth --output-dir data --samples 4 --size 140
sed -e 's/patch_size: 512/patch_size: 64/' -e 's/base_channels: 64/base_channels: 8/' "$here/../config.yaml" > config.yaml
"$rosette" split --samples T1_1 T1_2 T2_1 T2_2 --config-dir . --config-file config.yaml \
    --experiment-name baseline_full --output-name split.json

train() {
    exec "$rosette" train --split-manifest split.json --data-dir data --config config.yaml \
        --experiment-name baseline_full --no-timestamp --quiet --override num_epochs=5 \
        --override patches_per_sample=2 --override report.overlay_every=2 --output-dir "$1"
}

start=$(date +%s%N)
(train whole) > out.txt 2>&1
whole_ms=$((($(date +%s%N) - start) / 1000000))
sent=0 saved=0 early=0 ended=0 run=0
while [ $sent -lt "$signals" ]; do
    (train out$run) > out.txt 2>&1 &
    pid=$!
    # From before the first step to after the end of what is left.
    sleep "$(awk -v r="$(od -An -N2 -tu2 /dev/urandom)" -v w=$whole_ms 'BEGIN { printf "%.3f", r / 65536 * w / 1000 }')"
    if kill -TERM $pid 2>/dev/null; then sent=$((sent + 1)); fi
    code=0
    wait $pid || code=$?
    case $code in
        130) saved=$((saved + 1)) ;;
        143) early=$((early + 1)) ;;   # before anything had started
        0)
            cmp whole/best_model.pth out$run/best_model.pth
            ended=$((ended + 1)) run=$((run + 1))
            ;;
        *) cat out.txt; exit 1 ;;
    esac
done
(train out$run) > out.txt 2>&1
cmp whole/best_model.pth out$run/best_model.pth
echo "$sent signals: $saved saved and left, $early had not started; $((ended + 1)) trainings ended, all with the same weights"
