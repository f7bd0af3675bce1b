import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_command_writes_all_its_figures_without_a_gpu(tmp_path):
    out = tmp_path / "deep" / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny"]
    subprocess.run([*command, "--out", str(out)], cwd=ROOT, check=True, capture_output=True)
    report = json.loads(out.read_text())
    assert report["machine"]["device"] == "cpu"
    assert {"commit", "versions", "cuda"} <= report["machine"].keys()
    one = {(row["precision"], row["graph"]): row for row in report["one"]}
    assert one["fp32", True]["last_loss"] == one["fp32", False]["last_loss"]
    assert one["bf16", True]["last_loss"] != one["fp32", True]["last_loss"]
    assert [row["models"] for row in report["stacked"]] == [1, 2] * 3
    methods = [row["method"] for row in report["sweep"]]
    assert methods == ["mopoe", "mmvm", "all"] * 2
    assert [(row["models"], row["graph"]) for row in report["profile"]] == [
        (1, False), (1, True), (2, True)
    ]  # fmt: skip


def test_the_bound_counts_the_products_of_an_epoch():
    data = gpu.windows(gpu.TINY, torch.device("cpu"))

    def products(epochs):
        with FlopCounterMode(display=False) as counter:
            training = gpu.Training(epochs=epochs, batch_size=48, progress=False)
            gpu.fit(gpu.make(data, "mmvm", 0), data, training)
        return counter.get_total_flops()

    # Not those of the last look at the weights, which every fit ends with.
    assert products(2) - products(1) == pytest.approx(gpu.bound(gpu.TINY, data)["gigaflop"] * 1e9)
