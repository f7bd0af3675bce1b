import os
import subprocess
import sys


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
