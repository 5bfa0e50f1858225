"""The network of rosette in PyTorch, for `best_model.pth` as rosette writes it.

    model = load("best_model.pth", base_channels=64, skip="full")   # the values of config.json
    probability = model(image)          # [N, 2 or 3, H, W] to [N, 1, H, W]; H and W are multiples of 16

Channels: cell boundaries, cells, and with `use_intensity` the microscope's intensity from 0 to 1.
"""
import torch
from torch import nn
from torch.nn.functional import interpolate


def block(inputs, outputs, *after):
    layers = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, *after)


def pointwise(inputs, outputs, *after):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs), *after)


def fit(x, like):
    """`x` at the height and width of `like`."""
    return x if x.shape[2:] == like.shape[2:] else interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


class Gate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.W_g = pointwise(channels, channels // 2)
        self.W_x = pointwise(channels, channels // 2)
        self.psi = pointwise(channels // 2, 1, nn.Sigmoid())

    def forward(self, signal, skip):
        own = self.W_x(skip)
        return skip * self.psi((own + fit(self.W_g(signal), own)).relu())


class RosetteUNet(nn.Module):
    """`skip`: "full" takes the skip connections before the pooling, "pooled" after it. The weights fit either."""

    def __init__(self, in_channels=2, base_channels=64, skip="full"):
        super().__init__()
        assert skip in ("full", "pooled"), skip
        self.skip, (a, b, c, d, e) = skip, (base_channels << level for level in range(5))
        self.enc1, self.enc2 = block(in_channels, a, nn.MaxPool2d(2)), block(a, b, nn.MaxPool2d(2))
        self.enc3, self.enc4 = block(b, c, nn.MaxPool2d(2)), block(c, d, nn.MaxPool2d(2))
        self.bridge = block(d, e)
        self.att4, self.att3, self.att2, self.att1 = Gate(d), Gate(c), Gate(b), Gate(a)
        for level, low in ((4, d), (3, c), (2, b), (1, a)):
            setattr(self, f"upconv{level}", nn.ConvTranspose2d(2 * low, low, 2, stride=2))
            setattr(self, f"dec{level}", block(2 * low, low))
        self.final = nn.Sequential(nn.Conv2d(a, 1, 1), nn.Sigmoid())

    def forward(self, x):
        skips = []
        for encode in (self.enc1, self.enc2, self.enc3, self.enc4):
            before = encode[:-1](x)
            x = encode[-1](before)
            skips.append(before if self.skip == "full" else x)
        x = self.bridge(x)
        for level in (4, 3, 2, 1):
            x = getattr(self, f"upconv{level}")(x)
            gated = getattr(self, f"att{level}")(x, skips[level - 1])
            x = getattr(self, f"dec{level}")(torch.cat([x, fit(gated, x)], 1))
        return self.final(x)


def load(path, base_channels=64, skip="full", in_channels=2):
    model = RosetteUNet(in_channels, base_channels, skip)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()
