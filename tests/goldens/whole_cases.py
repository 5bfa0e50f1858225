"""What a device is examined with (`src/train/whole.rs`): an evaluation and two steps of training of the whole network, from
numbers that a hash gives, so that nobody needs a file of weights to repeat it. Of every tensor the norm is kept, and a few
sums with signs by the same hash."""
import numpy as np
import torch

import reference

BASE, CHANNELS, PATCH_PX, BATCH = 8, 2, 64, 4
LR, WEIGHT_DECAY = 1e-3, 0.01
SUMS = 3
# Of 200 the one whose gradients depend least on rounding (see `sensitivity`, and net_cases.SEED).
SALT = 104


def pcg4d(counter):
    """The hash of Jarzynski and Olano (2020) that `shaders/shared/random.wgsl` has; counter [..., 4] u32."""
    v = counter.astype(np.uint32) * np.uint32(1664525) + np.uint32(1013904223)

    def mix():
        for to, a, b in ((0, 1, 3), (1, 2, 0), (2, 0, 1), (3, 1, 2)):
            v[..., to] += v[..., a] * v[..., b]

    mix()
    v ^= v >> np.uint32(16)
    mix()
    return v


def name_hash(name):
    """FNV-1a, 32 bits."""
    value = 0x811C9DC5
    for byte in name.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def words(name, count, purpose, salt):
    counter = np.zeros((count, 4), np.uint32)
    counter[:, 0] = np.arange(count)
    counter[:, 1:] = name_hash(name), purpose, salt
    return pcg4d(counter)[:, 0]


def noise(name, count, salt):
    """f32 in [-1, 1), multiples of 2^-23."""
    return ((words(name, count, 0, salt) >> 8).astype(np.float64) / 2**23 - 1).astype(np.float32)


def first_values(name, shape, salt):
    """f32: as PyTorch's default initialisation is spread, batch norms off their trivial values."""
    u = noise(name, int(np.prod(shape)), salt).reshape(shape)
    kind = name.rsplit(".", 1)[-1]
    if kind == "running_mean":
        return np.float32(0.125) * u
    if kind == "running_var":
        return np.float32(0.25) + np.float32(0.125) * u
    if kind == "bias":
        return np.float32(0.125) * u
    if len(shape) == 1:
        return np.float32(1) + np.float32(0.25) * u
    return np.float32(1 / np.sqrt(np.prod(shape[1:]))) * u


def batch(salt):
    """x [BATCH, 2, H, W], noise; y [BATCH, 1, H, W], a disc in each."""
    count = BATCH * PATCH_PX * PATCH_PX
    x = noise("x", count * CHANNELS, salt).reshape(BATCH, PATCH_PX, PATCH_PX, CHANNELS)
    n, row, column = np.ogrid[:BATCH, :PATCH_PX, :PATCH_PX]
    y = ((row - 20 - 6 * n) ** 2 + (column - 40 + 5 * n) ** 2 < 196).astype(np.float32)
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(y[:, None])


def build(skip, salt, dtype):
    model = reference.AttentionUNet(CHANNELS, BASE, skip)
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.dtype.is_floating_point:
            tensor.copy_(torch.from_numpy(first_values(name, tuple(tensor.shape), salt)))
    model.load_state_dict(state)
    return model.to(dtype)


def run(skip, salt, dtype):
    """name -> f64 array: logits in evaluation, losses before the first step and after it, gradients and statistics of the batch."""
    x, y = (t.to(dtype) for t in batch(salt))
    model = build(skip, salt, dtype)
    with torch.no_grad():
        out = {"logits": model.eval().logits(x)}
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    loss = reference.bce_dice_from_logits(model.logits(x), y)
    loss.backward()
    out["first loss"] = loss.detach()
    out.update({f"gradient of {name}": p.grad for name, p in model.named_parameters()})
    # Of the batch: in the running ones nine tenths are what they were.
    first = {name: torch.from_numpy(first_values(name, tuple(t.shape), salt)) for name, t in model.state_dict().items() if "running" in name}
    after = model.state_dict()
    out.update({name: (after[name].double() - 0.9 * was.double()) / 0.1 for name, was in first.items()})
    optimizer.step()
    with torch.no_grad():
        out["second loss"] = reference.bce_dice_from_logits(model.logits(x), y)
    return {name: tensor.double().numpy().ravel() for name, tensor in out.items()}


def kept(name, values, salt):
    """The norm, then sums with signs."""
    signs = (words(name, values.size, 1 + k, salt) >> 31 for k in range(SUMS))
    sums = [float(np.sum(np.where(sign == 1, -values, values))) for sign in signs]
    return [float(f"{value:.9e}") for value in (float(np.linalg.norm(values)), *sums)]


def results():
    skips = {skip: run(skip, SALT, torch.float64) for skip in ("full", "pooled")}
    return {
        "salt": SALT,
        "learning_rate": LR,
        "weight_decay": WEIGHT_DECAY,
        **{skip: {name: kept(name, v, SALT) for name, v in truth.items()} for skip, truth in skips.items()},
    }


def sensitivity(salt):
    """What f32 changes of the gradients, of the worst tensor's norm, in both skips."""
    worst = 0.0
    for skip in ("full", "pooled"):
        truth, single = (run(skip, salt, dtype) for dtype in (torch.float64, torch.float32))
        largest = max(np.linalg.norm(v) for name, v in truth.items() if name.startswith("gradient"))
        for name, value in truth.items():
            norm = np.linalg.norm(value)
            if name.startswith("gradient") and norm > 1e-6 * largest:
                worst = max(worst, np.linalg.norm(single[name] - value) / norm)
    return worst
