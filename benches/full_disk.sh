#!/bin/sh
# Trainings on disks of many sizes that fill up (a tmpfs each; needs root): each must end with a clear error and no
# damaged file, and end with the same weights once there is room. ROSETTE names the binary.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
rosette=${ROSETTE:-$here/../target/release/rosette}
work=$(mktemp -d)
trap 'umount "$work/disk" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
mkdir disk

"$rosette" synth --output-dir data --samples 4 --size 140
sed -e 's/patch_size: 512/patch_size: 64/' -e 's/base_channels: 64/base_channels: 8/' "$here/../config.yaml" > config.yaml
"$rosette" split --samples T1_1 T1_2 T2_1 T2_2 --config-dir . --config-file config.yaml \
    --experiment-name baseline_full --output-name split.json

train() {
    "$rosette" train --split-manifest split.json --data-dir data --config config.yaml --experiment-name baseline_full \
        --no-timestamp --quiet --override num_epochs=6 --checkpoint-every 0 --output-dir "$1"
}

train whole
filled=0
for kib in 1000 3000 5000 7000 9000 11000 13000 15000 17000 19000; do
    mount -t tmpfs -o size=${kib}k tmpfs disk
    if train disk/out > out.txt 2>&1; then
        echo "$kib KiB: enough"
    else
        filled=$((filled + 1))
        echo "$kib KiB: $(grep error: out.txt | tail -1)"
        mount -o remount,size=80m disk
        train disk/out > out.txt 2>&1
    fi
    cmp whole/best_model.pth disk/out/best_model.pth
    umount disk
done
echo "$filled trainings ran into a full disk and ended with the same weights"
