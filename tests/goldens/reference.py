"""The oracle in PyTorch: the network, its loss, its metrics. Goldens come from it; the benchmark trains it.

Module names are those of the state dict that the inference pipeline loads (`enc1.0.weight` ... `final.0.bias`).
The one function that the two skip variants do not share is where a skip is taken:
`full` before the pooling, at the block's own resolution (Oktay et al. 2018); `pooled` after it, in which case the gate
resizes its signal down to the skip and the decoder resizes the gated skip up again.
"""
import torch
import torch.nn.functional as F
from torch import nn

LEVELS = (1, 2, 3, 4)


def resize_like(x, like):
    """Bilinear resize of x [N, C, h, w] to the height and width of `like`, where they differ."""
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def conv_block(c_in, c_out, pool):
    """(3x3 convolution, batch norm, ReLU) twice, then 2x2 max pooling where asked."""
    layers = [
        nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(),
        nn.Conv2d(c_out, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.MaxPool2d(2)) if pool else nn.Sequential(*layers)


class AttentionGate(nn.Module):
    """x * psi, psi = sigmoid(BN(conv1x1(relu(BN(conv1x1(g)) + BN(conv1x1(x)))))), one channel."""

    def __init__(self, c_gate, c_skip, c_inner):
        super().__init__()
        self.W_g = nn.Sequential(nn.Conv2d(c_gate, c_inner, 1), nn.BatchNorm2d(c_inner))
        self.W_x = nn.Sequential(nn.Conv2d(c_skip, c_inner, 1), nn.BatchNorm2d(c_inner))
        self.psi = nn.Sequential(nn.Conv2d(c_inner, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, g, x):
        inner = self.W_x(x)
        return x * self.psi(F.relu(resize_like(self.W_g(g), inner) + inner))


class AttentionUNet(nn.Module):
    """[N, n_channels, H, W] to probabilities [N, 1, H, W]; H and W are multiples of 16."""

    def __init__(self, n_channels=2, base=64, skip="full"):
        super().__init__()
        if skip not in ("full", "pooled"):
            raise ValueError(f"skip: expected full or pooled, found {skip}")
        width = [base * 2**level for level in range(5)]
        self.skip = skip
        for level in LEVELS:
            c_in = width[level - 2] if level > 1 else n_channels
            self.add_module(f"enc{level}", conv_block(c_in, width[level - 1], pool=True))
        self.bridge = conv_block(width[3], width[4], pool=False)
        for level in reversed(LEVELS):
            low, high = width[level - 1], width[level]
            self.add_module(f"att{level}", AttentionGate(low, low, low // 2))
            self.add_module(f"upconv{level}", nn.ConvTranspose2d(high, low, 2, stride=2))
            self.add_module(f"dec{level}", conv_block(2 * low, low, pool=False))
        self.final = nn.Sequential(nn.Conv2d(width[0], 1, 1), nn.Sigmoid())

    def logits(self, x):
        skips = {}
        for level in LEVELS:
            block = getattr(self, f"enc{level}")
            full = block[:-1](x)
            x = block[-1](full)
            skips[level] = full if self.skip == "full" else x
        x = self.bridge(x)
        for level in reversed(LEVELS):
            up = getattr(self, f"upconv{level}")(x)
            gated = getattr(self, f"att{level}")(up, skips[level])
            x = getattr(self, f"dec{level}")(torch.cat([up, resize_like(gated, up)], 1))
        return self.final[0](x)

    def forward(self, x):
        return torch.sigmoid(self.logits(x))


def dice_loss(p, y):
    """1 - the mean over samples of the Dice coefficient, smoothed by 1e-6; p, y [N, 1, H, W]."""
    both, total = (p * y).sum((1, 2, 3)), (p + y).sum((1, 2, 3))
    return 1 - ((2 * both + 1e-6) / (total + 1e-6)).mean()


def bce_dice(p, y, dice_weight=0.5):
    """The training loss on probabilities, as the pipeline writes it."""
    return (1 - dice_weight) * F.binary_cross_entropy(p, y) + dice_weight * dice_loss(p, y)


def bce_dice_from_logits(logits, y, dice_weight=0.5):
    """The same from logits: the same value, and a gradient that does not vanish where p rounds to 0 or 1."""
    bce = F.binary_cross_entropy_with_logits(logits, y)
    return (1 - dice_weight) * bce + dice_weight * dice_loss(torch.sigmoid(logits), y)


def counts(p, y, threshold=0.5):
    """True positives, false positives, false negatives per sample, each [N]."""
    hit, want = p > threshold, y > 0.5
    return [t.sum((1, 2, 3)).to(p.dtype) for t in (hit & want, hit & ~want, ~hit & want)]


def iou_f1(tp, fp, fn):
    """Intersection over union and F1 per sample, smoothed by 1e-6."""
    return (tp + 1e-6) / (tp + fp + fn + 1e-6), (2 * tp + 1e-6) / (2 * tp + fp + fn + 1e-6)


def conv_flops(model, patch_px, n_channels=2):
    """Multiply-adds times two of all convolutions in one forward pass of one patch."""
    probe_px, total = 32, 0

    def count(module, inputs, output):
        nonlocal total
        grid = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        total += 2 * module.weight.numel() * grid.shape[2] * grid.shape[3]

    convolutions = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    hooks = [m.register_forward_hook(count) for m in convolutions]
    was_training = model.training
    weight = next(model.parameters())
    with torch.no_grad():
        model.eval()(torch.zeros(1, n_channels, probe_px, probe_px, device=weight.device, dtype=weight.dtype))
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return total * (patch_px / probe_px) ** 2
