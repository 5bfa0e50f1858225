"""Prediction of whole images by rosette and by PyTorch, in alternation on this machine: megapixels per second.

    python3 benches/compare/predict.py --rosette target/release/rosette

Both take the same weights, the same windows (512 px that overlap by half) in the same batches and average them with the
same Gaussian weights. Timed is the image from its planes to its probabilities, as `rosette predict` writes it into
inference_metrics.csv; loading, compiling and drawing are not. One image warms up. A ratio above 1 means that rosette is
the faster one. Needs torch, h5py and scikit-image.
"""
import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch
from skimage.segmentation import find_boundaries

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))
import rosette_unet  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rosette", default="target/release/rosette")
    parser.add_argument("--base", type=int, default=16)
    parser.add_argument("--size", type=int, default=1024, help="side of the images")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="f32", help="rosette's; PyTorch takes f32, or autocast on a GPU with f16")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def starts(length, window):
    last = max(length - window, 0)
    return [*range(0, last, window - window // 2), last]


def planes(path):
    with h5py.File(path) as file:
        labels = file["segmentation_outlines"][()]
    return np.stack([find_boundaries(labels, mode="thick"), labels > 0]).astype(np.float32)


def predict(model, image, options):
    """The probabilities [H, W] of an image [2, H, W] that is no smaller than a window."""
    window, side = options.window, image.shape[1:]
    line = np.maximum(np.exp(-0.5 * ((np.arange(window) - (window - 1) / 2) / (window / 8)) ** 2), 0.01)
    weight = np.outer(line, line).astype(np.float32)
    total, weights = np.zeros(side, np.float32), np.zeros(side, np.float32)
    corners = [(top, left) for top in starts(side[0], window) for left in starts(side[1], window)]
    half = options.precision == "f16" and options.device != "cpu"
    for at in range(0, len(corners), options.batch):
        batch = corners[at:at + options.batch]
        x = np.stack([image[:, top:top + window, left:left + window] for top, left in batch])
        with torch.no_grad(), torch.autocast(options.device, enabled=half):
            found = model(torch.from_numpy(x).to(options.device)).float().cpu().numpy()
        for (top, left), p in zip(batch, found):
            total[top:top + window, left:left + window] += p[0] * weight
            weights[top:top + window, left:left + window] += weight
    return total / weights


def time_torch(model, image, options):
    started = time.perf_counter()
    found = predict(model, image, options)
    return time.perf_counter() - started, found


def time_rosette(options, folder, weights, images):
    command = [options.rosette, "predict", "--model", weights, "--skip", "full", "--window", str(options.window),
               "--batch-size", str(options.batch), "--precision", options.precision, "--no-pictures", "--quiet",
               "--output-dir", folder / "out", "--input", *images]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    with open(folder / "out" / "inference_metrics.csv") as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    name = Path(images[1]).stem.removeprefix("processed_data_")
    with h5py.File(folder / "out" / f"predictions_{name}.h5") as file:
        return seconds[1], file["predictions"][()]


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        subprocess.run([options.rosette, "synth", "--output-dir", folder / "data", "--samples", "2", "--size",
                        str(options.size)], check=True, stdout=subprocess.DEVNULL)
        images = sorted((folder / "data").glob("*/*.h5"))
        model = rosette_unet.RosetteUNet(base_channels=options.base)
        torch.save(model.state_dict(), folder / "w.pth")
        model = model.eval().to(options.device)
        image = planes(images[1])
        predict(model, planes(images[0])[:, :options.window, :options.window], options)
        times = {"torch": [], "rosette": []}
        for _ in range(options.rounds):
            seconds, theirs = time_torch(model, image, options)
            times["torch"].append(seconds)
            seconds, ours = time_rosette(options, folder, folder / "w.pth", images)
            times["rosette"].append(seconds)
    pixels = image[0].size / 1e6
    speed = {name: [pixels / s for s in seconds] for name, seconds in times.items()}
    median = {name: statistics.median(values) for name, values in speed.items()}
    best = {name: max(values) for name, values in speed.items()}
    result = {
        "base": options.base, "image_px": list(image.shape[1:]), "window_px": options.window, "batch": options.batch,
        "mpx_per_s": speed, "ratio_of_medians": median["rosette"] / median["torch"],
        "ratio_of_best": best["rosette"] / best["torch"], "largest_difference": float(np.abs(ours - theirs).max()),
        "torch": torch.__version__, "threads": options.threads, "device": options.device,
    }
    print(f"base {options.base}, {image.shape[2]} x {image.shape[1]} px, windows of {options.window} px: PyTorch "
          f"{median['torch']:.3f}, rosette {median['rosette']:.3f} Mpx/s; ratio {result['ratio_of_medians']:.2f}, "
          f"of the best {result['ratio_of_best']:.2f}; largest difference {result['largest_difference']:.1e}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
