#!/usr/bin/env python3
"""What the compilers of AMD's and NVIDIA's GPUs (RADV and NVK, of Mesa) make of every kernel, on a machine without a GPU:
registers, what is spilled, warps, instructions.

    benches/compilers/statistics.py [--gpu navi31] [--rosette target/release/rosette] [--filter TEXT] [--code FOLDER]
                                    [-- ARGS OF ROSETTE]

Without ARGS every kernel that `rosette doctor` checks. With --code, NVIDIA's machine code goes into a folder, a file a kernel.
Needs x86-64, a C compiler and libvulkan-dev; for AMD a Mesa that still has RADV's null device (25.0 does; matrix units from
23.3 on), for NVIDIA one with NVK (matrix units from 25.2 on). VK_DRIVER_FILES names the driver's manifest where it is not among
the system's.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
AMD = {"VGPRs": "vgpr", "Spilled VGPRs": "spilled", "Scratch size": "scratch", "LDS size": "shared",
       "Subgroups per SIMD": "waves", "Instructions": "instr", "VMEM": "vmem"}
# Cycles are those of the instructions in a row: loops count once.
NVIDIA = {"Number of GPRs": "regs", "Spills to memory": "spilled", "SLM size": "local", "Max warps/SM": "warps",
          "Instruction count": "instr", "Static cycle count": "cycles"}
# Chipset, generation of its classes, PCI device.
CHIPS = {"rtx2080ti": ("162", "c5", "1e04"), "rtx3090": ("172", "c7", "2204"), "h100": ("180", "cb", "2330"),
         "rtx4090": ("192", "c9", "2684"), "rtx5090": ("1b2", "ce", "2b85")}
MANIFESTS = ("/usr/share/vulkan/icd.d", "nouveau_icd*.json")


def pipelines(log):
    """Name and statistics of every pipeline in what the shim and the driver print; the code under `code`."""
    statistics, by_handle, by_name, code = {}, {}, {}, None
    for line in log.splitlines():
        if line == "@BEGIN":
            statistics = {"code": []}
        elif line.startswith("@END"):
            by_handle[line.split()[1]] = statistics
        elif line.startswith("@NAME"):
            _, handle, name = line.split(" ", 2)
            # Looked up now: a handle is given out again once its pipeline is gone.
            if found := by_handle.get(handle):
                by_name.setdefault(name, found)
        elif line.startswith("@CODE"):
            code = statistics["code"]
        elif line == "@EDOC":
            code = None
        elif code is not None:
            code.append(line)
        elif found := re.match(r"([A-Za-z /]+): (\d+)$", line):
            statistics[found.group(1)] = int(found.group(2))
    return by_name


def run(options, folder):
    """What is printed with the GPU that is not there."""
    chip = CHIPS.get(options.gpu)
    shim = Path(folder) / "shim.so"
    source = HERE / ("nvk.c" if chip else "radv.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    # A GPU that computes nothing fails every check, and what failed is remembered: not among what was found on real ones.
    environment = dict(os.environ, WGPU_DEBUG="1", MESA_SHADER_CACHE_DISABLE="true", LD_PRELOAD=str(shim), HOME=folder,
                       ROSETTE_CACHE_DIR=folder, ROSETTE_ADAPTER="0")
    if chip:
        environment |= dict(zip(("GPU_CHIPSET", "GPU_CLASS", "GPU_PCI"), chip), GPU_FOLDER=folder,
                            WGPU_ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER="1", NVK_I_WANT_A_BROKEN_VULKAN_DRIVER="1")
        found = sorted(Path(MANIFESTS[0]).glob(MANIFESTS[1]))
        if "VK_DRIVER_FILES" not in environment and not found:
            sys.exit(f"no {'/'.join(MANIFESTS)}: install a Mesa with NVK, or name its manifest in VK_DRIVER_FILES")
        environment.setdefault("VK_DRIVER_FILES", str(found[0]) if found else "")
        if options.code:
            environment["GPU_CODE"] = "1"
    else:
        environment |= dict(RADV_FORCE_FAMILY=options.gpu, RADV_DEBUG="shaderstats")
    command = [options.rosette, *(options.args or ["doctor"])]
    return subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace").stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = f"one of {', '.join(CHIPS)}, or a family as RADV calls it"
    parser.add_argument("--gpu", default="navi31", help=known)
    parser.add_argument("--rosette", default=str(HERE.parent.parent / "target/release/rosette"))
    parser.add_argument("--filter", default="")
    parser.add_argument("--code", type=Path)
    parser.add_argument("args", nargs="*", default=[])
    options = parser.parse_args()
    if options.code and options.gpu not in CHIPS:
        parser.error("--code is for NVIDIA's GPUs")
    with tempfile.TemporaryDirectory() as folder:
        log = run(options, folder)
    every = pipelines(log)
    if not every:
        sys.exit(f"{log[-2000:]}\nno pipeline was compiled for '{options.gpu}': expected {known}")
    found = {name: of for name, of in every.items() if options.filter in name}
    columns = NVIDIA if options.gpu in CHIPS else AMD
    print(*columns.values(), "kernel", sep="\t")
    for name, of in sorted(found.items()):
        print(*(of.get(column, "") for column in columns), name, sep="\t")
        if options.code:
            options.code.mkdir(parents=True, exist_ok=True)
            file = options.code / f"{re.sub(r'[^A-Za-z0-9_=,.-]', '_', name)[:180]}_{zlib.crc32(name.encode()):08x}.txt"
            file.write_text("\n".join(of["code"]) + "\n")


if __name__ == "__main__":
    main()
