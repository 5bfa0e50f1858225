"""Patches a second that albumentations prepares on this processor with the pipeline's six transforms, for comparison
with the `data` part of `rosette bench --step --base 8 --patch PX --batch N` (milliseconds for N patches).

    python3 benches/compare/albumentations_patches.py --patch 512 --seconds 10

The crop, the transforms with their default probabilities and magnitudes, and the conversion to float32, as the
pipeline's data loader does them; one process. Needs albumentations.
"""
import argparse
import time

import albumentations as A
import numpy as np


def transforms(side):
    scale = side / 512
    return A.Compose([
        A.HorizontalFlip(p=0.5),
        A.VerticalFlip(p=0.5),
        A.RandomRotate90(p=0.5),
        A.ElasticTransform(alpha=120 * scale * scale, sigma=6 * scale, p=0.25),
        A.Affine(scale=(0.9, 1.1), translate_percent=(-0.1, 0.1), rotate=(-15, 15), p=0.5),
        A.CoarseDropout(num_holes_range=(1, 5), hole_height_range=(int(10 * scale) or 1, int(40 * scale) or 1),
                        hole_width_range=(int(10 * scale) or 1, int(40 * scale) or 1), p=0.2),
    ])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    side = options.patch
    random = np.random.default_rng(1)
    image = (random.random((2 * side, 2 * side, 2)) > 0.5).astype(np.float32)
    target = (random.random((2 * side, 2 * side)) > 0.8).astype(np.uint8)
    augment = transforms(side)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < options.seconds:
        top, left = random.integers(0, side + 1, 2)
        window = (slice(top, top + side), slice(left, left + side))
        made = augment(image=np.ascontiguousarray(image[window]), mask=np.ascontiguousarray(target[window]))
        np.ascontiguousarray(made["image"].transpose(2, 0, 1))
        done += 1
    took = time.perf_counter() - started
    print(f"albumentations {A.__version__}: {done / took:.1f} patches/s of {side} px ({took / done * 1e3:.2f} ms each)")


if __name__ == "__main__":
    main()
