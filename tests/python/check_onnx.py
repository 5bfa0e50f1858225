"""Checks what `rosette export` writes with the programs it is meant for: the ONNX checker and onnxruntime, both skips.

    python3 tests/python/check_onnx.py --rosette target/release/rosette

Needs numpy, h5py, pillow, onnx and onnxruntime; with torch the PyTorch module of python/rosette_unet.py is compared,
too. Predictions of `rosette predict` on images of awkward sizes, in windows, are made again with onnxruntime, all windows
of an image in one batch; then heights and widths that differ. Prints a PASS or FAIL line per check; the exit code is 0
only if all pass.
"""
import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import onnx
import onnxruntime
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SIZES = [(16, 16), (33, 47), (64, 64), (50, 97), (101, 75), (16, 130)]
SHAPES = [(1, 16, 16), (3, 16, 48), (2, 64, 32), (1, 160, 112), (5, 32, 32)]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rosette", default=str(ROOT / "target/release/rosette"))
    parser.add_argument("--weights", type=Path, default=ROOT / "tests/goldens/net_weights.safetensors")
    parser.add_argument("--window", type=int, default=48)
    parser.add_argument("--atol", type=float, default=1e-4)
    return parser.parse_args()


def labels(height, width):
    """Brick-like cells with holes."""
    y, x = np.mgrid[:height, :width]
    cells = 1 + (y // 9) * 40 + (x + 5 * ((y // 9) % 2)) // 11
    return np.where(cells % 7 == 0, 0, cells).astype(np.uint16)


def planes(cells):
    around = np.pad(cells, 1, mode="edge")
    near = np.stack([around[1:-1, 1:-1], around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]])
    return np.stack([near.max(0) != near.min(0), cells > 0]).astype(np.float32)


def starts(length, window):
    last = max(length - window, 0)
    return [*range(0, last, window - window // 2), last]


def in_windows(session, image, window):
    """The probabilities of an image [C, H, W], its windows averaged with Gaussian weights."""
    _, height, width = image.shape
    image = np.pad(image, [(0, 0), (0, max(window - height, 0)), (0, max(window - width, 0))], mode="reflect")
    corners = [(top, left) for top in starts(height, window) for left in starts(width, window)]
    batch = np.stack([image[:, top:top + window, left:left + window] for top, left in corners])
    found = session.run(None, {"image": batch})[0][:, 0].astype(np.float64)
    line = np.maximum(np.exp(-0.5 * ((np.arange(window) - (window - 1) / 2) / (window / 8)) ** 2), 0.01)
    weight = np.outer(line, line)
    total, weights = np.zeros(image.shape[1:]), np.zeros(image.shape[1:])
    for (top, left), p in zip(corners, found):
        total[top:top + window, left:left + window] += p * weight
        weights[top:top + window, left:left + window] += weight
    return (total / weights)[:height, :width], len(corners)


class Checks:
    def __init__(self):
        self.failed = 0

    def __call__(self, passed, what):
        print("PASS" if passed else "FAIL", what)
        self.failed += not passed


def rosette(options, *more):
    subprocess.run([options.rosette, *map(str, more)], check=True, stdout=subprocess.DEVNULL)


def check_predictions(check, options, skip, session, folder):
    files = []
    for size in SIZES:
        files.append(folder / "{}x{}.png".format(*size))
        Image.fromarray(labels(*size)).save(files[-1])
    rosette(options, "predict", "--model", options.weights, "--skip", skip, "--window", options.window, "--quiet",
            "--no-pictures", "--output-dir", folder / skip, "--input", *files)
    for size, file in zip(SIZES, files):
        with h5py.File(folder / skip / f"predictions_{file.stem}.h5") as found:
            ours = found["predictions"][()]
        theirs, windows = in_windows(session, planes(labels(*size)), options.window)
        apart = float(np.abs(ours - theirs).max())
        check(apart <= options.atol, f"{skip} {file.stem} px, a batch of {windows}: predict and onnxruntime {apart:.1e}")


def check_shapes(check, options, skip, session, folder):
    try:
        import torch
    except ImportError:
        print("torch is not installed: shapes are run, not compared")
        torch = None
    if torch:
        sys.path.insert(0, str(ROOT / "python"))
        import rosette_unet

        rosette(options, "export", "--model", options.weights, "--skip", skip, "--format", "pth", "--output",
                folder / "w.pth")
        width = session.get_modelmeta().custom_metadata_map["rosette.base_channels"]
        module = rosette_unet.load(folder / "w.pth", int(width), skip)
    random = np.random.default_rng(0)
    for n, height, width in SHAPES:
        x = random.random((n, 2, height, width), dtype=np.float32)
        found = session.run(None, {"image": x})[0]
        check(found.shape == (n, 1, height, width), f"{skip} {n} x {height} x {width}: onnxruntime's shape")
        if torch:
            with torch.no_grad():
                apart = float(np.abs(module(torch.from_numpy(x)).numpy() - found).max())
            check(apart <= options.atol, f"{skip} {n} x {height} x {width}: PyTorch and onnxruntime {apart:.1e}")


def main():
    options, check = arguments(), Checks()
    print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, numpy {np.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for skip in ("full", "pooled"):
            path = folder / f"{skip}.onnx"
            rosette(options, "export", "--model", options.weights, "--skip", skip, "--format", "onnx", "--output", path)
            onnx.checker.check_model(onnx.load(path), full_check=True)
            check(True, f"{skip}: onnx.checker, full_check")
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            check_predictions(check, options, skip, session, folder)
            check_shapes(check, options, skip, session, folder)
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
