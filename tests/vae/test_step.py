import os
import subprocess
import sys

import pytest
import torch

from neuroshare.vae.step import HostAdam, adam


def test_a_forked_process_computes_after_its_parent_has_with_threads():
    code = (
        "import multiprocessing, os, torch, neuroshare.vae.step\n"
        "torch.set_num_threads(2)\n"
        "x = torch.ones(600, 600)\n"
        "work = lambda: float((x @ x).sin_().sum())\n"
        "work()\n"
        "def child():\n    os._exit(int(work() != work()))\n"
        "p = multiprocessing.get_context('fork').Process(target=child)\n"
        "p.start(); p.join(60); hung = p.is_alive(); p.kill(); print(hung, p.exitcode)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["False", "0"], done.stderr


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_takes_the_steps_of_torch_to_the_last_bit(weight_decay):
    torch.manual_seed(0)
    start = [torch.randn(7, 5), torch.randn(300), torch.randn(4)]
    kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
    found = []
    for own in (True, False):
        leaves = [value.clone().requires_grad_() for value in start]
        groups = [
            {"params": leaves[:2], "lr": 0.01, "rate": 1.0},
            {"params": leaves[2:], "lr": 0.1},
        ]
        if own:
            optimizer = adam(groups, 0.5, weight_decay, torch.device("cpu"))
            assert isinstance(optimizer, HostAdam)
        else:
            optimizer = kind(groups, 0.5, weight_decay=weight_decay, fused=True)
        for k in range(9):
            optimizer.zero_grad(set_to_none=True)
            moved = leaves[: 2 if k == 4 else 3]  # one that has no gradient stays
            sum(
                (leaf**2 * torch.arange(leaf.numel()).view_as(leaf)).sum() for leaf in moved
            ).backward()
            if own and k == 6:  # as from a checkpoint
                kept = optimizer.state_dict()
                optimizer = adam(groups, 0.5, weight_decay, torch.device("cpu"))
                optimizer.load_state_dict(kept)
            optimizer.step()
        found.append(leaves)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_training_does_not_import_the_compiler():
    code = (
        "import sys, neuroshare as ns\n"
        "sessions = ns.simulate_sessions({'a': 4, 'b': 3}, n_trials=6)\n"
        "counts = {name: ns.bin_spikes(session) for name, session in sessions.items()}\n"
        "ns.SharedLatentModel(epochs=1, latent_dim=2, progress=False).fit(\n"
        "    ns.pair_subjects(counts, by='odor', step=0.1))\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False"], done.stderr
