#!/usr/bin/env python3
"""What AMD's compiler (RADV, Mesa) makes of every kernel, on a machine without a GPU: registers, what is spilled, memory of a
workgroup, waves, instructions.

    benches/radv/statistics.py [--family navi31] [--rosette target/release/rosette] [--filter TEXT] [-- ARGS OF ROSETTE]

Without ARGS every kernel that `rosette doctor` checks. Needs a C compiler, libvulkan-dev, and a Mesa that still has RADV's null
device (25.0 does; matrix units from 23.3 on); VK_DRIVER_FILES names its radeon manifest where it is not the system's.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
COLUMNS = {"VGPRs": "vgpr", "Spilled VGPRs": "spilled", "Scratch size": "scratch", "LDS size": "shared",
           "Subgroups per SIMD": "waves", "Instructions": "instr", "VMEM": "vmem"}


def pipelines(log):
    """Name and statistics of every pipeline in what the shim and RADV print."""
    statistics, by_handle, by_name = {}, {}, {}
    for line in log.splitlines():
        if line == "@BEGIN":
            statistics = {}
        elif line.startswith("@END"):
            by_handle[line.split()[1]] = statistics
        elif line.startswith("@NAME"):
            _, handle, name = line.split(" ", 2)
            # Looked up now: a handle is given out again once its pipeline is gone.
            if found := by_handle.get(handle):
                by_name.setdefault(name, found)
        elif found := re.match(r"([A-Za-z ]+): (\d+)$", line):
            statistics[found.group(1)] = int(found.group(2))
    return by_name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="navi31")
    parser.add_argument("--rosette", default=str(HERE.parent.parent / "target/release/rosette"))
    parser.add_argument("--filter", default="")
    parser.add_argument("args", nargs="*", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shim = Path(folder) / "shim.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, HERE / "shim.c", "-ldl"], check=True)
        environment = dict(os.environ, RADV_FORCE_FAMILY=options.family, RADV_DEBUG="shaderstats", WGPU_DEBUG="1",
                           MESA_SHADER_CACHE_DISABLE="true", LD_PRELOAD=str(shim), HOME=folder)
        command = [options.rosette, *(options.args or ["doctor"])]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    found = pipelines(run.stderr)
    if not found:
        sys.exit(f"no pipeline was compiled:\n{run.stderr[-2000:]}")
    print(*COLUMNS.values(), "kernel", sep="\t")
    for name in sorted(name for name in found if options.filter in name):
        print(*(found[name].get(column, "") for column in COLUMNS), name, sep="\t")


if __name__ == "__main__":
    main()
