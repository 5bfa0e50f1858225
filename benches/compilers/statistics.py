#!/usr/bin/env python3
"""What the compilers of AMD's, Apple's, Intel's and NVIDIA's GPUs (Mesa's RADV, Honeykrisp, ANV and NVK) make of every kernel, on
a machine without a GPU: registers, what is spilled, warps, instructions.

    benches/compilers/statistics.py [--gpu navi31] [--rosette target/release/rosette] [--filter TEXT] [--code FOLDER]
                                    [-- ARGS OF ROSETTE]

Without ARGS every kernel that `rosette doctor` checks. With --code, Intel's and NVIDIA's machine code goes into a folder, a file
a kernel. Needs x86-64, a C compiler and libvulkan-dev; for AMD a Mesa that still has RADV's null device (25.0 does; matrix units
from 23.3 on), for Intel the kernel's headers of 6.11 or later, for Apple a Mesa with Honeykrisp, for NVIDIA one with NVK (matrix
units from 25.2 on). VK_DRIVER_FILES names the driver's manifest where it is not among the system's.
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
# Width is that of the widest subgroup compiled; one that spills at it is compiled for a narrower one too.
INTEL = {"GRF registers": "grf", "Max live registers": "live", "Spills": "spilled", "Scratch Memory Size": "scratch",
         "Workgroup Memory Size": "shared", "Max dispatch width": "width", "Instructions": "instr", "SENDs": "sends",
         "Cycles": "cycles"}
# Of 16 bits: 256 at most, threads by them alone. Spilled are instructions, scratch also holds arrays that the driver keeps there.
APPLE = {"GPRs": "halves", "Threads": "threads", "Spills": "spilled", "Scratch": "scratch", "Instructions": "instr",
         "ALU": "cycles"}
# Chipset or graphics version, generation of NVIDIA's classes, PCI device.
NVIDIAS = {"rtx2080ti": ("162", "c5", "1e04"), "rtx3090": ("172", "c7", "2204"), "h100": ("180", "cb", "2330"),
           "rtx4090": ("192", "c9", "2684"), "rtx5090": ("1b2", "ce", "2b85")}
INTELS = {"a770": ("0c37", "0", "56a0"), "b580": ("1401", "0", "e20b")}
APPLES = {"m1": ("8103", "0", "0"), "m1max": ("6001", "0", "0"), "m2": ("8112", "0", "0")}
CHIPS = NVIDIAS | INTELS | APPLES
MATRIX = ("matrix", "matrix narrow", "matrix tall", "matrix rows")
MANIFESTS = "/usr/share/vulkan/icd.d"


def kind(gpu):
    """The shim for a GPU, its manifest's name, its statistics."""
    if gpu in NVIDIAS:
        return "nvk.c", "nouveau_icd*.json", NVIDIA
    if gpu in INTELS:
        return "xe.c", "intel_icd*.json", INTEL
    if gpu in APPLES:
        return "asahi.c", "asahi_icd*.json", APPLE
    return "radv.c", None, AMD


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
    source, manifest, _ = kind(options.gpu)
    shim = Path(folder) / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, HERE / source, "-ldl"], check=True)
    # A GPU that computes nothing fails every check, and what failed is remembered: not among what was found on real ones.
    environment = dict(os.environ, WGPU_DEBUG="1", MESA_SHADER_CACHE_DISABLE="true", LD_PRELOAD=str(shim), HOME=folder,
                       ROSETTE_CACHE_DIR=folder, ROSETTE_ADAPTER="0")
    if manifest:
        environment |= dict(zip(("GPU_CHIPSET", "GPU_CLASS", "GPU_PCI"), CHIPS[options.gpu]), GPU_FOLDER=folder,
                            WGPU_ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER="1", NVK_I_WANT_A_BROKEN_VULKAN_DRIVER="1")
        found = sorted(Path(MANIFESTS).glob(manifest))
        if "VK_DRIVER_FILES" not in environment and not found:
            sys.exit(f"no {MANIFESTS}/{manifest}: install the Mesa that has it, or name its manifest in VK_DRIVER_FILES")
        environment.setdefault("VK_DRIVER_FILES", str(found[0]) if found else "")
        if options.code:
            environment["GPU_CODE"] = "1"
    else:
        environment |= dict(RADV_FORCE_FAMILY=options.gpu, RADV_DEBUG="shaderstats")
    # A driver's matrix units are tried by a process of their own, of which `doctor` tells nothing.
    commands = [options.args] if options.args else [["doctor"], ["probe", *MATRIX]]
    logs = []
    for command in commands:
        done = subprocess.run([options.rosette, *command], env=environment, capture_output=True, text=True, errors="replace")
        # 1: kernels compute nothing here.
        if done.returncode not in (0, 1):
            print(f"`rosette {' '.join(command)}` ended with {done.returncode}: kernels may be missing", file=sys.stderr)
        logs.append(done.stderr)
    return logs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = f"one of {', '.join(CHIPS)}, or a family as RADV calls it"
    parser.add_argument("--gpu", default="navi31", help=known)
    parser.add_argument("--rosette", default=str(HERE.parent.parent / "target/release/rosette"))
    parser.add_argument("--filter", default="")
    parser.add_argument("--code", type=Path)
    parser.add_argument("args", nargs="*", default=[])
    options = parser.parse_args()
    if options.code and options.gpu not in NVIDIAS | INTELS:
        parser.error("--code is for Intel's and NVIDIA's GPUs")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        logs = run(options, folder)
    every = {name: of for log in logs for name, of in pipelines(log).items()}
    if not every:
        sys.exit(f"{logs[0][-2000:]}\nno pipeline was compiled for '{options.gpu}': expected {known}")
    found = {name: of for name, of in every.items() if options.filter in name}
    columns = kind(options.gpu)[2]
    print(*columns.values(), "kernel", sep="\t")
    for name, of in sorted(found.items()):
        print(*(of.get(column, "") for column in columns), name, sep="\t")
        if options.code:
            options.code.mkdir(parents=True, exist_ok=True)
            file = options.code / f"{re.sub(r'[^A-Za-z0-9_=,.-]', '_', name)[:180]}_{zlib.crc32(name.encode()):08x}.txt"
            file.write_text("\n".join(of["code"]) + "\n")


if __name__ == "__main__":
    main()
