"""Seams: how far the prediction of an image in windows is from that of the whole image in one window.

    python3 benches/seams.py --model results/model_training/baseline_full --input SAMPLE.h5 ...

For each overlap the largest and the mean difference of probabilities in the interior: the pixels that are half a window
or more away from the image's border, where neither way of predicting sees anything mirrored. Needs h5py.
"""
import argparse
import subprocess
import tempfile
from pathlib import Path

import h5py
import numpy as np


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rosette", default="target/release/rosette")
    parser.add_argument("--model", required=True)
    parser.add_argument("--input", nargs="+", required=True)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--overlaps", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75])
    return parser.parse_args()


def predictions(options, window, overlap):
    """The probabilities of every image, by name."""
    with tempfile.TemporaryDirectory() as folder:
        command = [options.rosette, "predict", "--model", options.model, "--window", str(window), "--overlap",
                   str(overlap), "--batch-size", "1", "--no-pictures", "--quiet", "--output-dir", folder, "--input"]
        subprocess.run([*command, *options.input], check=True, stdout=subprocess.DEVNULL)
        found = {}
        for path in sorted(Path(folder).glob("*.h5")):
            with h5py.File(path) as file:
                found[path.stem] = file["predictions"][()]
    return found


def side_of(path):
    with h5py.File(path) as file:
        return max(file["segmentation_outlines"].shape[-2:])


def main():
    options = arguments()
    whole = predictions(options, max(map(side_of, options.input)) + 15 & ~15, 0)
    rim = options.window // 2
    print(f"windows of {options.window} px against whole images, {rim} px from the border")
    for overlap in options.overlaps:
        cut = predictions(options, options.window, overlap)
        apart = [np.abs(cut[name] - whole[name])[rim:-rim, rim:-rim] for name in whole]
        flipped = [((cut[name] > 0.5) != (whole[name] > 0.5))[rim:-rim, rim:-rim] for name in whole]
        print(f"overlap {overlap:4.2f}: largest {max(a.max() for a in apart):.4f}, mean "
              f"{np.mean([a.mean() for a in apart]):.2e}, pixels that change sides "
              f"{100 * np.mean([f.mean() for f in flipped]):.3f} %")


if __name__ == "__main__":
    main()
