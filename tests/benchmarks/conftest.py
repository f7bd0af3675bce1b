import sys
from pathlib import Path

# The benchmarks are not installed: they are imported from the checkout.
sys.path.insert(0, str(Path(__file__).parents[2]))
