"""Shared set-up of the tests: few threads, so that parallel workers do not fight for the cores."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
