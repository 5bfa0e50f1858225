#!/bin/sh
# The Snakemake rules on synthetic tissue: one experiment, then all, then two at once; the weights must be those of
# `rosette run`. Needs snakemake 9 on the PATH; ROSETTE names the binary.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
rosette=${ROSETTE:-$here/../target/release/rosette}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

data=results/training_data_preparation
"$rosette" synth --output-dir $data --samples 6 --size 150
# The description's five experiments, small: overrides cannot pass through Snakemake, so they are in the file.
sed -e 's/patch_size: 512/patch_size: 64/' -e 's/base_channels: 64/base_channels: 8/' \
    -e 's/num_epochs: [0-9]*/num_epochs: 2/' "$here/../config.yaml" > config.yaml

run() {
    # --config last: it takes every word that follows.
    snakemake -s "$here/Snakefile" "$@" --quiet progress --config "model_training={\"rosette\": \"$rosette\"}"
}

run results/model_training/baseline_test/best_model.pth -c1
test ! -e results/model_training/baseline_full
run model_training_all -c1
test -e results/model_training/model_training.flag
cp -r results/model_training one_at_a_time
rm -r results/model_training
run model_training_all -c2 --resources gpu=2
rm -r logs

"$rosette" run --config config.yaml --data-dir $data --output-dir by_run --quiet
for experiment in baseline_test baseline_full higher_lr larger_batch no_augmentation; do
    for other in one_at_a_time results/model_training; do
        cmp by_run/$experiment/best_model.pth $other/$experiment/best_model.pth
    done
    test -s logs/model_training/$experiment.log
done
echo "five experiments, three ways, the same weights"
