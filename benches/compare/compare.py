"""The training step of rosette and of PyTorch, run in alternation on this machine; one ratio per configuration.

    python3 benches/compare/compare.py --rosette target/release/rosette
    python3 benches/compare/compare.py --torch-args "--device cuda --precision tf32" --rosette-args "--precision f32"

rosette is called as `ROSETTE bench --step --base B --patch P --batch N --json` and prints a JSON object with
`step_ms_median` and `step_ms_best`. The two take turns so that what else the machine does falls on both. Reported
are the medians over the rounds; a ratio above 1 means that rosette is the faster one.
"""
import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEYS = ("step_ms_median", "step_ms_best")
# What a result of rosette's is worth nothing without.
FACTS = ("rosette", "device", "driver", "precision", "options", "convolutions", "measured", "step_ms_streamed")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rosette", default="target/release/rosette", help="the command, quoted if it has arguments")
    parser.add_argument("--rosette-args", default="", help="more arguments for `rosette bench`")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch")
    parser.add_argument("--torch-args", default="", help="more arguments for pytorch.py")
    parser.add_argument("--configs", default="16:128:4,32:128:2,8:64:4", metavar="BASE:PATCH:BATCH,...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    return parser.parse_args()


def run(command):
    """The command's standard output; its own error output ends the comparison if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)}\nended with code {done.returncode}")
    return done.stdout


def last_json(text, command):
    """The JSON object that the output is, or ends with (a log line may come first)."""
    start = 0 if text.lstrip().startswith("{") else text.rfind("\n{") + 1
    try:
        return json.loads(text[start:])
    except json.JSONDecodeError:
        sys.exit(f"{shlex.join(command)}\nprinted no JSON object:\n{text}")


def run_rosette(options, config):
    base, patch_px, batch = config.split(":")
    command = shlex.split(options.rosette) + ["bench", "--step", "--base", base, "--patch", patch_px, "--batch", batch]
    command += ["--json", *shlex.split(options.rosette_args)]
    result = last_json(run(command), command)
    missing = [key for key in KEYS if key not in result]
    if missing:
        sys.exit(f"{shlex.join(command)}\nprinted no {' and no '.join(missing)}")
    return {key: result[key] for key in KEYS}, {fact: result.get(fact) for fact in FACTS}


def run_torch(options, config):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [options.python, str(HERE / "pytorch.py"), "--configs", config, "--json", str(out)]
        run(command + shlex.split(options.torch_args))
        written = json.loads(out.read_text())
    return {key: written["results"][0][key] for key in KEYS}, written["setting"]


def compare(options, config):
    """Both sides' rounds for one configuration, and their medians' ratio."""
    torch_runs, rosette_runs = [], []
    for _ in range(options.rounds):
        # Rosette first: where PyTorch fails, its figures are there.
        result, facts = run_rosette(options, config)
        rosette_runs.append(result)
        print(f"{config:>16} rosette {result} on {facts['device']}, {facts['precision']}", file=sys.stderr, flush=True)
        result, setting = run_torch(options, config)
        torch_runs.append(result)
    figures = {"config": config, "setting": setting, "facts": facts, "torch": torch_runs, "rosette": rosette_runs}
    for key in KEYS:
        torch_ms, rosette_ms = (statistics.median(r[key] for r in runs) for runs in (torch_runs, rosette_runs))
        figures[key] = {"torch": torch_ms, "rosette": rosette_ms, "ratio": torch_ms / rosette_ms}
    return figures


def main():
    options = arguments()
    print(f"{'base:patch:batch':>16} {'PyTorch ms':>11} {'rosette ms':>11} {'ratio':>6} {'ratio of best':>14}")
    results = []
    for config in options.configs.split(","):
        figures = compare(options, config)
        results.append(figures)
        median, best = (figures[key] for key in KEYS)
        print(f"{config:>16} {median['torch']:>11.1f} {median['rosette']:>11.1f} {median['ratio']:>6.2f} "
              f"{best['ratio']:>14.2f}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=2) + "\n")
    for side, facts in (("PyTorch", "setting"), ("rosette", "facts")):
        print(f"{side}: " + " ".join(f"{name}={value}" for name, value in results[0][facts].items()))


if __name__ == "__main__":
    main()
