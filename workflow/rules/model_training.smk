# The model training module of the pipeline, with rosette in place of its scripts. Only paths and names pass to the
# binary; every setting is in the module's config.yaml.
#
#   include: "PATH/workflow/rules/model_training.smk"
#
# What may be set under `model_training:` of the pipeline's own configuration (`--config` works, too):
#   rosette: rosette                                # the binary
#   config_file: modules/model_training/config.yaml
#   data_dir: results/training_data_preparation     # SAMPLE/processed_data_SAMPLE.h5
#   output_dir: results/model_training
#   log_dir: logs/model_training
#   samples: [T1_1, T1_2]                           # all that data_dir holds where none are named

import yaml
from pathlib import Path

mt = config.get("model_training", {})
MT_ROSETTE = mt.get("rosette", "rosette")
MT_CONFIG = mt.get("config_file", "modules/model_training/config.yaml")
MT_DATA = mt.get("data_dir", "results/training_data_preparation")
MT_OUTPUT = mt.get("output_dir", "results/model_training")
MT_LOGS = mt.get("log_dir", "logs/model_training")
MT_H5 = MT_DATA + "/{sample}/processed_data_{sample}.h5"

with open(MT_CONFIG) as file:
    MT_EXPERIMENTS = [experiment["name"] for experiment in yaml.safe_load(file)["experiments"]]

MT_SAMPLES = mt.get("samples") or sorted(
    path.parent.name for path in Path(MT_DATA).glob("*/processed_data_*.h5")
)


wildcard_constraints:
    experiment="|".join(MT_EXPERIMENTS),


rule model_training_split:
    input:
        config=MT_CONFIG,
        samples=expand(MT_H5, sample=MT_SAMPLES),
    output:
        MT_OUTPUT + "/split_manifest_{experiment}.json",
    params:
        samples=MT_SAMPLES,
        directory=lambda wildcards, output: str(Path(output[0]).parent),
        name=lambda wildcards, output: Path(output[0]).name,
    localrule: True
    shell:
        "{MT_ROSETTE} split --samples {params.samples} --config-dir {params.directory:q}"
        " --config-file {input.config:q} --experiment-name {wildcards.experiment} --output-name {params.name}"


# A job that is killed leaves its checkpoint beside the outputs: the next one goes on from there.
rule model_training_train:
    input:
        config=MT_CONFIG,
        split=MT_OUTPUT + "/split_manifest_{experiment}.json",
        samples=expand(MT_H5, sample=MT_SAMPLES),
    output:
        model=MT_OUTPUT + "/{experiment}/best_model.pth",
        record=MT_OUTPUT + "/{experiment}/config.json",
        plots=MT_OUTPUT + "/{experiment}/training_plots.png",
        metrics=MT_OUTPUT + "/{experiment}/metrics.csv",
    params:
        directory=lambda wildcards, output: str(Path(output.model).parent),
    log:
        MT_LOGS + "/{experiment}.log",
    threads: 1
    resources:
        gpu=1,
    shell:
        "{MT_ROSETTE} train --split-manifest {input.split:q} --data-dir {MT_DATA:q} --output-dir {params.directory:q}"
        " --config {input.config:q} --experiment-name {wildcards.experiment} --no-timestamp --log-file {log:q}"


rule model_training_summary:
    input:
        expand(MT_OUTPUT + "/{experiment}/config.json", experiment=MT_EXPERIMENTS),
    output:
        MT_OUTPUT + "/experiment_summary.csv",
    params:
        directory=lambda wildcards, output: str(Path(output[0]).parent),
    localrule: True
    shell:
        "{MT_ROSETTE} summary --output-dir {params.directory:q}"


rule model_training_all:
    input:
        expand(MT_OUTPUT + "/{experiment}/best_model.pth", experiment=MT_EXPERIMENTS),
        MT_OUTPUT + "/experiment_summary.csv",
    output:
        touch(MT_OUTPUT + "/model_training.flag"),
    localrule: True
