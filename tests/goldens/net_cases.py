"""Network goldens: one small Attention U-Net, its first step and ten steps of AdamW, in both skip variants."""
import numpy as np
import torch

import reference

BASE, CHANNELS, PATCH_PX, BATCH = 8, 2, 64, 4
# Of 400 seeds the one whose gradients depend least on rounding: no ReLU or pooling window sits so near its kink that
# an f32 run takes the other side. With most seeds a few do, and single gradients differ by percents.
SEED = 249
STEPS, LR, WEIGHT_DECAY = 10, 1e-3, 0.01
# The published run's learning rate: steps small enough for losses to be compared closely (see README.md).
SLOW_LR = 1e-4
# One batch norm per kind of place: encoder, bridge, all three of a gate, decoder.
WATCHED = ("enc1.1", "enc3.4", "bridge.4", "att4.W_g.1", "att4.W_x.1", "att4.psi.1", "att1.psi.1", "dec1.4")


def initial_state():
    """PyTorch's default initialisation in f32, batch norms moved off their trivial values."""
    torch.manual_seed(SEED)
    model = reference.AttentionUNet(CHANNELS, BASE)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.add_(0.2 * torch.randn_like(norm.weight))
            norm.bias.add_(0.1 * torch.randn_like(norm.bias))
            norm.momentum = 1.0
        # Running statistics near the batch's own: far from them, evaluation flattens the signal layer by layer and
        # a wrong result would look right.
        model.logits(batch()[0])
        for norm in norms:
            norm.running_mean.add_(0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean))
            norm.running_var.mul_(1 + 0.3 * torch.rand_like(norm.running_var))
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def tissue(random):
    """Cells as nearest-seed regions: (boundaries, cells, target), each [PATCH_PX, PATCH_PX]; the target is blobs."""
    yy, xx = np.mgrid[:PATCH_PX, :PATCH_PX].astype(float)
    seeds = random.rand(60, 2) * PATCH_PX
    labels = np.argmin((yy[..., None] - seeds[:, 0]) ** 2 + (xx[..., None] - seeds[:, 1]) ** 2, -1) + 1
    labels[labels % 11 == 0] = 0
    padded = np.pad(labels, 1, mode="edge")
    around = np.stack([padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
    boundaries = (around.max(0) != around.min(0)).astype(float)
    target = np.zeros_like(boundaries)
    for _ in range(3):
        cy, cx = 8 + random.rand(2) * (PATCH_PX - 16)
        ry, rx = 6 + 6 * random.rand(2)
        target[((yy - cy) / ry) ** 2 + ((xx - cx) / rx) ** 2 < 1] = 1
    # A faint slope tied to the target gives the ten steps something to learn and no two windows the same maximum.
    slope = 0.1 * np.sin(yy / 9 + xx / 13) + 0.05 * target + 0.01 * random.rand(PATCH_PX, PATCH_PX)
    return boundaries + slope, (labels > 0) - slope, target


def batch():
    """x [BATCH, 2, H, W] and y [BATCH, 1, H, W], f32."""
    random = np.random.RandomState(SEED)
    planes = [tissue(random) for _ in range(BATCH)]
    x = np.stack([np.stack(p[:2]) for p in planes]).astype(np.float32)
    y = np.stack([p[2:] for p in planes]).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(y)


def build(skip, dtype):
    model = reference.AttentionUNet(CHANNELS, BASE, skip)
    model.load_state_dict(initial_state())
    return model.to(dtype)


def statistics(model, prefix):
    """The running statistics of the watched batch norms."""
    state = model.state_dict()
    names = [f"{norm}.{kind}" for norm in WATCHED for kind in ("running_mean", "running_var")]
    return {f"{prefix}.{name}": state[name].clone() for name in names}


def train(model, x, y, lr):
    """What the first step gives (logits, gradients, running statistics), and the loss before each of the steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)
    first, losses = {}, []
    for step in range(STEPS):
        optimizer.zero_grad()
        out = model.logits(x)
        loss = reference.bce_dice_from_logits(out, y)
        loss.backward()
        losses.append(loss.detach())
        if step == 0:
            first = {"logits": out.detach()[:, 0], **statistics(model, "first")}
            first.update({f"grad.{name}": p.grad.clone() for name, p in model.named_parameters()})
        optimizer.step()
    return first, torch.stack(losses)


def results(skip, dtype):
    """name -> tensor of everything that a run in `dtype` gives."""
    x, y = (t.to(dtype) for t in batch())
    model = build(skip, dtype)
    with torch.no_grad():
        logits_eval = model.eval().logits(x)
    first, losses = train(model.train(), x, y, LR)
    _, slow = train(build(skip, dtype).train(), x, y, SLOW_LR)
    out = {"x": x.permute(0, 2, 3, 1), "y": y[:, 0], "logits_eval": logits_eval[:, 0], "loss": losses[0]}
    out.update(losses=losses, losses_slow=slow, **first, **statistics(model, "after"))
    return out


def deviation(truth, other):
    """The largest |difference| of `other` from the f64 truth, over the truth's largest |value|."""
    return ((truth - other.double()).abs().max() / truth.abs().max()).item()


def f32_noise(truth, single):
    """What PyTorch's own f32 run deviates by: the floor under any tolerance. One number per group of tensors."""
    biases = cancelled_biases(truth)
    weights = [name for name in truth if name.startswith("grad.") and name not in biases]
    return {
        "logits": deviation(truth["logits"], single["logits"]),
        "logits_eval": deviation(truth["logits_eval"], single["logits_eval"]),
        "losses": deviation(truth["losses"], single["losses"]),
        "losses_slow": deviation(truth["losses_slow"], single["losses_slow"]),
        "worst_grad": max(deviation(truth[name], single[name]) for name in weights),
        "zero_bias_grads": max(single[name].abs().max().item() for name in biases),
        "worst_first": max(deviation(truth[name], single[name]) for name in truth if name.startswith("first.")),
        "worst_after": max(deviation(truth[name], single[name]) for name in truth if name.startswith("after.")),
    }


def cancelled_biases(truth):
    """Gradients of biases that a batch norm's mean removes again: zero but for rounding."""
    largest = max(value.abs().max() for name, value in truth.items() if name.startswith("grad."))
    return [name for name, value in truth.items() if name.startswith("grad.") and value.abs().max() < 1e-12 * largest]
