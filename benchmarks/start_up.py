"""`attar --help` from a cold start: seconds of a whole process, and whether it imports torch.

python benchmarks/start_up.py            # a quarter of a minute
"""

from __future__ import annotations

import subprocess
import sys

from measuring import Figure, Goal, Result, in_turn, main

HELP = [sys.executable, "-m", "attar", "--help"]
IMPORTED = """
import sys
from attar.cli import main
sys.argv = ["attar", "--help"]
try:
    main()
except SystemExit:
    pass
print("torch" in sys.modules)
"""


def run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def measure(quick: bool, threads: int) -> Result:
    cases = {"attar --help": lambda: run(HELP), "python -c pass": lambda: run([sys.executable, "-c", "pass"])}
    times = in_turn(cases, 3 if quick else 31)
    imported = run([sys.executable, "-c", IMPORTED]).split()[-1] == "True"
    result = Result("start_up", "Start-up", {"command": "python -m attar --help"}, threads)
    result.figures = [Figure.of(name, "s", values) for name, values in times.items()]
    result.goals = [
        Goal("seconds of attar --help", Figure.of("", "s", times["attar --help"]), 0.25, at_least=False),
        Goal("torch imported (1 is yes)", Figure.of("", "", [float(imported)]), 0, at_least=False),
    ]
    return result


if __name__ == "__main__":
    main(measure, __doc__, threads=1)
