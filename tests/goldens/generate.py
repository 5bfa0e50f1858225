"""Writes the goldens that tests/ compares with: `python3 tests/goldens/generate.py`. See README.md beside this file."""
import json
import re
from pathlib import Path

import torch

import net_cases
import op_cases
import prediction_cases
import tensorfile
import whole_cases

HERE = Path(__file__).resolve().parent


def report(path, size_bytes):
    print(f"{path.relative_to(HERE)}: {size_bytes / 1024:.0f} KiB")


def write_op(make):
    """One operation: case<i>.<name> tensors, metadata case<i> with the attributes as JSON."""
    # Each operation has a seed of its own, so that a new case in one file leaves the others as they are.
    torch.manual_seed(sum(map(ord, make.__name__)))
    tensors, metadata = {}, {"op": make.__name__}
    cases = make()
    for i, (attributes, case) in enumerate(cases):
        metadata[f"case{i}"] = json.dumps(attributes)
        tensors.update({f"case{i}.{name}": value for name, value in case.items()})
    metadata["cases"] = str(len(cases))
    path = HERE / "ops" / f"{make.__name__}.safetensors"
    report(path, tensorfile.write(path, tensors, metadata))


def write_net(skip):
    truth, single = (net_cases.results(skip, dtype) for dtype in (torch.float64, torch.float32))
    noise = net_cases.f32_noise(truth, single)
    attributes = {
        "skip": skip, "base_channels": net_cases.BASE, "channels": net_cases.CHANNELS, "lr": net_cases.LR,
        "slow_lr": net_cases.SLOW_LR,
        "weight_decay": net_cases.WEIGHT_DECAY, "steps": net_cases.STEPS,
    }
    metadata = {"attributes": json.dumps(attributes), "f32_noise": json.dumps(noise)}
    path = HERE / f"net_{skip}.safetensors"
    report(path, tensorfile.write(path, truth, metadata))
    print("  losses", " ".join(f"{loss:.6f}" for loss in truth["losses"].tolist()))
    print("  f32 noise", {name: f"{value:.1e}" for name, value in noise.items()})


def write_whole():
    """What the program itself carries, since it examines devices with it; a line for each quantity."""
    path = HERE.parents[1] / "src" / "train" / "whole.json"
    text = json.dumps({"made_with": tensorfile.versions(), **whole_cases.results()}, indent=1)
    text = re.sub(r"\[\s+|(?<=[\d],)\s+(?=[-\d])|(?<=\d)\s+\]", lambda m: m[0].strip(), text)
    path.write_text(text + "\n")
    print(f"{path.name}: {len(text) / 1024:.0f} KiB")


def main():
    print(tensorfile.versions())
    torch.set_num_threads(1)
    (HERE / "ops").mkdir(exist_ok=True)
    for make in op_cases.ALL:
        write_op(make)
    path = HERE / "net_weights.safetensors"
    attributes = {"base_channels": net_cases.BASE, "channels": net_cases.CHANNELS}
    report(path, tensorfile.write(path, net_cases.initial_state(), {"attributes": json.dumps(attributes)}))
    for skip in ("full", "pooled"):
        write_net(skip)
    predictions = {**prediction_cases.results("full"), **prediction_cases.results("pooled")}
    attributes = {"window": prediction_cases.WINDOW, "overlap": prediction_cases.OVERLAP}
    path = HERE / "predictions.safetensors"
    report(path, tensorfile.write(path, predictions, {"attributes": json.dumps(attributes)}))
    write_whole()


if __name__ == "__main__":
    main()
