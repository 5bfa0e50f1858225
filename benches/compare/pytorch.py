"""Times the training step of the same network in PyTorch, on random data.

    python3 benches/compare/pytorch.py --configs 16:128:4,32:128:2,8:64:4 --threads 2
    python3 benches/compare/pytorch.py --device cuda --precision autocast --channels-last --compile --json out.json

A step is zero_grad, forward, loss, backward, AdamW. FLOPs are those of the convolutions, forward pass times three.
"""
import argparse
import json
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "goldens"))
import reference  # noqa: E402

CHANNELS = 2


def parse_configs(text):
    """"16:128:4,..." to [(base, patch_px, batch), ...]."""
    return [tuple(int(number) for number in config.split(":")) for config in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=parse_configs, default="16:128:4,32:128:2,8:64:4", metavar="BASE:PATCH:BATCH,...")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("f32", "tf32", "autocast"), default="f32")
    parser.add_argument("--skip", choices=("full", "pooled"), default="full")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=7, help="steps timed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    return parser.parse_args()


def set_up(options):
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    tf32 = options.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True


def optimizer_of(model, options):
    # The fused kernel is the fastest that PyTorch offers; older versions and the CPU lack it.
    arguments = {"lr": 1e-3, "weight_decay": 0.01}
    if options.device == "cuda":
        try:
            return torch.optim.AdamW(model.parameters(), fused=True, **arguments)
        except (TypeError, RuntimeError):
            pass
    return torch.optim.AdamW(model.parameters(), **arguments)


def scaler_of(options):
    """Only f16 needs its gradients scaled; a disabled scaler passes everything through."""
    enabled = options.precision == "autocast" and options.device == "cuda"
    # Newer versions have it for any device and warn of the older name.
    newer = getattr(torch.amp, "GradScaler", None)
    return newer("cuda", enabled=enabled) if newer else torch.cuda.amp.GradScaler(enabled=enabled)


def precision_context(options):
    if options.precision != "autocast":
        return nullcontext()
    half = torch.float16 if options.device == "cuda" else torch.bfloat16
    return torch.autocast(options.device, dtype=half)


def loss_function(model, options):
    """(x, y) -> loss, compiled where asked."""
    forward = torch.compile(model.logits) if options.compile else model.logits

    def loss(x, y):
        with precision_context(options):
            logits = forward(x)
        return reference.bce_dice_from_logits(logits.float(), y)

    return loss


def step_function(options, base, patch_px, batch):
    """One training step on a fixed random batch, and the FLOPs of a step."""
    model = reference.AttentionUNet(CHANNELS, base, options.skip).to(options.device)
    flops = 3 * batch * reference.conv_flops(model, patch_px, CHANNELS)
    x = torch.rand(batch, CHANNELS, patch_px, patch_px, device=options.device)
    y = (torch.rand(batch, 1, patch_px, patch_px, device=options.device) > 0.8).float()
    if options.channels_last:
        model, x = (thing.to(memory_format=torch.channels_last) for thing in (model, x))
    optimizer, loss = optimizer_of(model, options), loss_function(model.train(), options)
    scaler = scaler_of(options)

    def step():
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss(x, y)).backward()
        scaler.step(optimizer)
        scaler.update()

    return step, flops


def synchronize(device):
    if device != "cpu":
        getattr(torch, device).synchronize()


def measure(options, base, patch_px, batch):
    step, flops = step_function(options, base, patch_px, batch)
    times_ms = []
    for index in range(options.warmup + options.steps):
        synchronize(options.device)
        start = time.perf_counter()
        step()
        synchronize(options.device)
        if index >= options.warmup:
            times_ms.append((time.perf_counter() - start) * 1e3)
    best, median = min(times_ms), statistics.median(times_ms)
    return {
        "base": base, "patch_px": patch_px, "batch": batch, "step_ms_best": best, "step_ms_median": median,
        "gflop_per_step": flops / 1e9, "gflop_per_s_best": flops / best / 1e6,
    }


def device_name(device):
    return torch.cuda.get_device_name() if device == "cuda" else device


def main():
    options = arguments()
    set_up(options)
    setting = {name: getattr(options, name) for name in ("precision", "skip", "channels_last", "compile", "threads")}
    setting.update(torch=torch.__version__, device=device_name(options.device))
    print(" ".join(f"{name}={value}" for name, value in setting.items()))
    print(f"{'base':>5} {'patch':>6} {'batch':>6} {'best ms':>9} {'median ms':>10} {'GFLOP':>8} {'GFLOP/s':>9}")
    results = []
    for config in options.configs:
        r = measure(options, *config)
        results.append(r)
        print(f"{r['base']:>5} {r['patch_px']:>6} {r['batch']:>6} {r['step_ms_best']:>9.1f} "
              f"{r['step_ms_median']:>10.1f} {r['gflop_per_step']:>8.1f} {r['gflop_per_s_best']:>9.1f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"setting": setting, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
