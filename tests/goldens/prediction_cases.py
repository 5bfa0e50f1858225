"""Prediction goldens: whole images of awkward sizes in overlapping windows, by PyTorch and numpy alone."""
import numpy as np
import torch

import net_cases
import reference

WINDOW, OVERLAP = 48, 24
SIZES = [(33, 47), (64, 64), (50, 97), (16, 130), (101, 75)]


def labels(height, width):
    """Brick-like cells with holes; tests/predict.rs makes the same."""
    y, x = np.mgrid[:height, :width]
    shifted = x + 5 * ((y // 9) % 2)
    cells = 1 + (y // 9) * 40 + shifted // 11
    return np.where(cells % 7 == 0, 0, cells)


def channels(cells):
    padded = np.pad(cells, 1, mode="edge")
    around = np.stack([padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
    return np.stack([around.max(0) != around.min(0), cells > 0]).astype(np.float32)


def starts(length):
    last = max(length - WINDOW, 0)
    return list(range(0, last, WINDOW - OVERLAP)) + [last]


def predict(model, planes):
    _, height, width = planes.shape
    pad = [(0, 0), (0, max(WINDOW - height, 0)), (0, max(WINDOW - width, 0))]
    planes = np.pad(planes, pad, mode="reflect")
    at = np.arange(WINDOW)
    line = np.maximum(np.exp(-0.5 * ((at - (WINDOW - 1) / 2) / (WINDOW / 8)) ** 2), 0.01)
    weight = np.outer(line, line)
    total, weights = np.zeros(planes.shape[1:]), np.zeros(planes.shape[1:])
    for top in starts(height):
        for left in starts(width):
            window = (slice(top, top + WINDOW), slice(left, left + WINDOW))
            with torch.no_grad():
                p = model(torch.from_numpy(planes[(slice(None), *window)].copy())[None])[0, 0].numpy()
            total[window] += p * weight
            weights[window] += weight
    return (total / weights)[:height, :width]


def results(skip):
    """Every third probability of each image; numpy pads by more than an image's size in several turns, as we do."""
    model = reference.AttentionUNet(net_cases.CHANNELS, net_cases.BASE, skip)
    model.load_state_dict(net_cases.initial_state())
    model.eval()
    images = {f"{h}x{w}": predict(model, channels(labels(h, w))) for h, w in SIZES}
    return {f"{skip}.{name}": torch.from_numpy(p.ravel()[::3].copy()) for name, p in images.items()}
