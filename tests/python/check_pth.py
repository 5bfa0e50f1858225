"""Checks, with PyTorch itself, that a run's best_model.pth is what the inference pipeline expects.

    python3 tests/python/check_pth.py RUN_DIR
    python3 tests/python/check_pth.py RUN_DIR --sample processed_data_T1.h5 --predictions predictions_T1.h5
    python3 tests/python/check_pth.py RUN_DIR --input tile.npy --predictions tile_p.npy

Always: the file loads with `weights_only=True` and fits the network of config.json strictly, value types and
finiteness included. With an input and the probabilities that rosette gave for it: the forward passes agree.
Prints a PASS or FAIL line per check; the exit code is 0 only if all pass.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "goldens"))
import reference  # noqa: E402


# The pipeline's order of modules; within a module PyTorch's own.
MODULES = ["enc1", "enc2", "enc3", "enc4", "bridge", "att4", "att3", "att2", "att1"]
MODULES += [f"{module}{level}" for level in (4, 3, 2, 1) for module in ("upconv", "dec")] + ["final"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="holds best_model.pth and config.json")
    parser.add_argument("--weights", type=Path, help="another .pth than RUN_DIR/best_model.pth")
    parser.add_argument("--config", type=Path, help="another config than RUN_DIR/config.json")
    parser.add_argument("--input", type=Path, help=".npy with [H, W, channels] f32, H and W multiples of 16")
    parser.add_argument("--sample", type=Path, help="a sample's .h5, in place of --input")
    parser.add_argument("--predictions", type=Path, help="[H, W] probabilities: .npy, or .h5 with `predictions`")
    parser.add_argument("--tile", metavar="Y,X,SIDE", help="compare this square only (in pixels)")
    parser.add_argument("--atol", type=float, default=1e-4, help="largest difference of probabilities")
    return parser.parse_args()


class Checks:
    """Prints each check's outcome and remembers whether all passed."""

    def __init__(self):
        self.failed = 0

    def __call__(self, passed, what):
        print("PASS" if passed else "FAIL", what)
        self.failed += not passed
        return passed


def find(config, key, default=None):
    """The value of `key` at the top of a nested dict or, failing that, anywhere below."""
    if key in config:
        return config[key]
    below = (find(value, key) for value in config.values() if isinstance(value, dict))
    return next((value for value in below if value is not None), default)


def network(config):
    channels = find(config, "channels") or (3 if find(config, "use_intensity") else 2)
    return reference.AttentionUNet(int(channels), int(find(config, "base_channels", 64)), find(config, "skip", "full"))


def check_state(check, state, model):
    want = model.state_dict()
    missing, extra = sorted(want.keys() - state.keys()), sorted(state.keys() - want.keys())
    check(not missing, f"no key is missing {missing[:3]}")
    check(not extra, f"no key is unknown {extra[:3]}")
    both = [name for name in want if name in state]
    wrong = [name for name in both if state[name].shape != want[name].shape or state[name].dtype != want[name].dtype]
    check(not wrong, f"shapes and types {wrong[:3]}")
    check(list(state) == sorted(want, key=lambda name: MODULES.index(name.split(".")[0])), "order of the keys")
    check(all(torch.isfinite(tensor).all() for tensor in state.values()), "all values are finite")
    negative = [name for name in state if name.endswith("running_var") and (state[name] < 0).any()]
    check(not negative, f"no variance is negative {negative[:3]}")
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        return check(False, f"load_state_dict(strict=True): {error}")
    return check(True, f"load_state_dict(strict=True), {sum(p.numel() for p in model.parameters())} parameters")


def check_total(check, config, model):
    total = find(config, "total_parameters")
    if total is not None:
        check(total == sum(p.numel() for p in model.parameters()), f"config.json's total_parameters: {total}")


def sample_planes(path, channels):
    """The network's input [H, W, channels] from a sample's file, in either layout."""
    import h5py
    from skimage.segmentation import find_boundaries

    with h5py.File(path, "r") as file:
        if "data" in file:
            labels, raw = (np.squeeze(file["data"][()])[i] for i in (0, 3))
        else:
            labels = np.squeeze(file["segmentation_outlines"][()])
            raw = next((np.squeeze(file[name][()]) for name in ("raw_image", "raw_data") if name in file), None)
    labels = labels.astype(np.int64)
    planes = [find_boundaries(labels, mode="thick"), labels > 0]
    if channels == 3:
        raw = raw.astype(np.float32)
        planes.append(raw / (raw.max() + 1e-8) if raw.max() > 1 else raw)
    return np.stack(planes, -1).astype(np.float32)


def read_array(path):
    if path.suffix == ".npy":
        return np.load(path)
    import h5py

    with h5py.File(path, "r") as file:
        return np.squeeze(file["predictions"][()])


def check_forward(check, options, model):
    channels = model.enc1[0].in_channels
    x = np.load(options.input) if options.input else sample_planes(options.sample, channels)
    found = read_array(options.predictions)
    if options.tile:
        y0, x0, side = map(int, options.tile.split(","))
        x, found = (array[y0:y0 + side, x0:x0 + side] for array in (x, found))
    sides = "{}x{}".format(*x.shape[:2])
    if not check(x.shape[0] % 16 == 0 and x.shape[1] % 16 == 0, f"input {sides} is in multiples of 16 px (see --tile)"):
        return
    if not check(x.shape[2] == channels, f"the input has {channels} channels"):
        return
    if not check(found.shape == x.shape[:2], f"predictions {found.shape} cover the input {sides}"):
        return
    with torch.no_grad():
        p = model.eval()(torch.from_numpy(x).permute(2, 0, 1)[None])[0, 0].numpy()
    worst = float(np.abs(p - found).max())
    check(worst <= options.atol, f"probabilities: largest difference {worst:.2e}, allowed {options.atol:.0e}")


def main():
    options, check = arguments(), Checks()
    weights = options.weights or options.run_dir / "best_model.pth"
    config = json.loads((options.config or options.run_dir / "config.json").read_text())
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises is the finding
        check(False, f"torch.load({weights}, weights_only=True): {error}")
        return 1
    check(True, f"torch.load({weights}, weights_only=True), {len(state)} tensors")
    model = network(config)
    check_total(check, config, model)
    if check_state(check, state, model) and options.predictions and (options.input or options.sample):
        check_forward(check, options, model)
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
