"""How near the hardware's limit? Run: python -m benchmarks speed.

At the shapes of the five rats (2,560 windows, inputs 920, 790, 1040, 490 and 460, batch 128, two
latents, networks as wide as their input, MMVM pairwise, float32, one thread) one process measures
in turn, so that all meet the same machine:

floor
    The matrix products of one epoch in the order of training, with matrices of their own into
    memory that exists, and one fused Adam over flat parameters. Nothing that multiplies these
    matrices one after another does less.
plain loop
    What one would write by hand in PyTorch: one tensor per subject, index batches, fused Adam.
neuroshare
    `neuroshare.vae.train.fit`, history and all; also in bfloat16.
CEBRA, multisession
    Where it is installed: as many steps of batches as large, on windows of the same shapes.

whole job
    What a user waits for, by stage: see `benchmarks.whole`, of which these are the four mice, given
    their recordings, and five simulated animals.

Peers that are installed are measured beside them. Times are CPU-seconds per epoch of 20 steps,
median over the rounds; GFLOP/s count the matrix products alone. ``--only`` measures a part anew and
leaves the others of the file as they are; what each was measured with stands beside them.
"""

import argparse
import importlib.util
import itertools
import json
import math
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import binning, whole
from benchmarks.provenance import provenance
from neuroshare.vae import train
from neuroshare.vae.likelihoods import Gaussian
from neuroshare.vae.multimodal import MultimodalVAE
from neuroshare.vae.networks import Decoder, Encoder
from neuroshare.vae.objectives import MMVM

HERE = Path(__file__).parent
RATS = (920, 790, 1040, 490, 460)
SLOPE = 0.01


class Arrays:
    """Windows of every subject, all of them observed, as `train.fit` asks for its data."""

    resident = True

    def __init__(self, x):
        self.x = x
        self.observed = torch.ones(len(x), len(x[0]), dtype=torch.bool)

    def __len__(self):
        return len(self.x[0])

    def redraw(self, epoch):
        pass

    def batch(self, index):
        return [part.index_select(0, index) for part in self.x], self.observed[:, : len(index)]


def windows(widths, n_windows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [0.1 * torch.poisson(torch.full((n_windows, d), 0.3), generator) for d in widths]


def paper_model(widths, n_latents, seed=0):
    """The networks of the rat experiment; squared error."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoders = [Encoder(d, n_latents, (d, d), bottleneck=True) for d in widths]
        decoders = [Decoder(n_latents, d, (d, d)) for d in widths]
    objective = MMVM()
    objective.build(len(widths), n_latents)
    return MultimodalVAE(encoders, decoders, [Gaussian(math.sqrt(0.5)) for _ in widths], objective)


class PlainLoop:
    """The same model and loss written out, without this package."""

    def __init__(self, widths, n_latents, lr=1e-3, beta=1e-3, seed=0):
        def body(*sizes):
            layers = []
            for n_in, n_out in itertools.pairwise(sizes):
                layers += [nn.Linear(n_in, n_out), nn.LeakyReLU(SLOPE)]
            return layers

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            k = n_latents
            self.encoders = nn.ModuleList(nn.Sequential(*body(d, d, d, k)) for d in widths)
            self.heads = nn.ModuleList(
                nn.ModuleList([nn.Linear(k, k), nn.Linear(k, k)]) for _ in widths
            )
            self.decoders = nn.ModuleList(
                nn.Sequential(*body(k, d, d), nn.Linear(d, d)) for d in widths
            )
        parts = (self.encoders, self.heads, self.decoders)
        self.parameters = [p for part in parts for p in part.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, fused=True)
        self.beta = beta

    def take_weights(self, vae):
        """Copy the weights of a `paper_model`."""
        with torch.no_grad():
            for m in range(len(self.encoders)):
                encoder, decoder = vae.encoders[m], vae.decoders[m]
                for mine, other in (
                    (self.encoders[m], encoder.body),
                    (self.heads[m][0], encoder.loc),
                    (self.heads[m][1], encoder.log_scale),
                    (self.decoders[m], nn.Sequential(decoder.body, decoder.output)),
                ):
                    for a, b in zip(mine.parameters(), other.parameters(), strict=True):
                        a.copy_(b)

    def step(self, x):
        """One batch; the loss before it."""
        loc, log_scale = [], []
        for encoder, (to_loc, to_scale), x_m in zip(self.encoders, self.heads, x, strict=True):
            features = encoder(x_m)
            loc.append(to_loc(features))
            log_scale.append(to_scale(features))
        loc, log_scale = torch.stack(loc), torch.stack(log_scale)
        z = loc + torch.randn_like(loc) * log_scale.exp()
        error = sum(
            (decoder(z_m) - x_m).square().sum(-1)
            for decoder, z_m, x_m in zip(self.decoders, z, x, strict=True)
        )
        variance = (2 * log_scale).exp()
        ratio = (variance[:, None] + (loc[:, None] - loc[None]).square()) / variance[None]
        pairwise = (log_scale[None] - log_scale[:, None] + 0.5 * (ratio - 1)).sum(-1)
        loss = (error + self.beta * pairwise.mean(1).sum(0)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def epoch(self, data, batch_size):
        for index in torch.randperm(len(data[0])).split(batch_size):
            self.step([part[index] for part in data])


def largest_difference(n_steps=20, widths=(48, 40), n_latents=2, batch_size=16, beta=1e-3):
    """Relative difference of the losses to the plain loop's, same weights, batches and noise.

    The loop's loss leaves out the constant of the squared error's Gaussian; so does this.
    """
    data = windows(widths, n_steps * batch_size)
    vae = paper_model(widths, n_latents)
    plain = PlainLoop(widths, n_latents, beta=beta)
    plain.take_weights(vae)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    constant = sum(widths) * 0.5 * math.log(math.pi)
    worst = 0.0
    arrays = Arrays(data)
    for step, index in enumerate(torch.arange(len(arrays)).split(batch_size)):
        x, observed = arrays.batch(index)
        losses = []
        for of in ("ours", "plain"):
            with torch.random.fork_rng():
                torch.manual_seed(step)
                if of == "plain":
                    losses.append(float(plain.step(x)))
                    continue
                elbo = vae.elbo(x, observed)
                loss = (beta * elbo.rate - elbo.log_lik.sum(0)).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach().double() - constant))
        worst = max(worst, abs(losses[0] - losses[1]) / abs(losses[1]))
    return worst


def floor(widths, n_batches, batch_size):
    """Return a function that does an epoch's matrix products, and one that does its Adam passes.

    Per subject: four products of a batch with a (d, d) matrix forward, three for the gradients of
    their inputs (the first has no use for it), four for those of the weights.
    """
    forward, backward = [], []
    for d in widths:
        x, grad, y = (torch.randn(batch_size, d) for _ in range(3))
        for layer in range(4):
            weight, grad_weight = torch.randn(d, d), torch.empty(d, d)
            forward.append(lambda x=x, w=weight, y=y: torch.mm(x, w.T, out=y))
            backward.append(lambda g=grad, x=x, w=grad_weight: torch.mm(g.T, x, out=w))
            if layer:
                backward.append(lambda g=grad, w=weight, y=y: torch.mm(g, w, out=y))
    products = [*forward, *reversed(backward)]
    n = sum(4 * d * d for d in widths)
    flat, grad, mean, square = (torch.rand(n) for _ in range(4))
    step = torch.tensor(1.0)

    def multiply():
        for _ in range(n_batches):
            for product in products:
                product()

    def adam():
        for _ in range(n_batches):
            torch._fused_adam_(
                [flat], [grad], [mean], [square], [], [step], lr=1e-3, beta1=0.9, beta2=0.999,
                weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
            )  # fmt: skip

    return multiply, adam


def timed(function):
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall


def trainings(widths, n_windows, batch_size, n_latents, rounds, epochs):
    """CPU and wall seconds per epoch of every contestant, (round,) each."""
    data = windows(widths, n_windows)
    arrays = Arrays(data)
    n_batches = -(-n_windows // batch_size)
    multiply, adam = floor(widths, n_batches, batch_size)
    plain = PlainLoop(widths, n_latents)

    def ours(precision):
        vae = paper_model(widths, n_latents)
        training = train.Training(
            epochs=epochs, batch_size=batch_size, beta=1e-3, precision=precision, progress=False
        )
        return lambda: train.fit(vae, arrays, training)

    contestants = {
        "floor: products": lambda: [multiply() for _ in range(epochs)],
        "floor: Adam": lambda: [adam() for _ in range(epochs)],
        "plain loop": lambda: [plain.epoch(data, batch_size) for _ in range(epochs)],
        "neuroshare": ours("fp32"),
        "neuroshare bf16": ours("bf16"),
    }
    if importlib.util.find_spec("cebra"):
        contestants["CEBRA, multisession"] = cebra(data, batch_size, n_latents, epochs)
    seconds = {name: {"cpu": [], "wall": []} for name in contestants}
    for repeat in range(rounds + 1):
        for name, contestant in contestants.items():
            cpu, wall = timed(contestant)
            if repeat:  # the first round makes memory and picks kernels
                seconds[name]["cpu"].append(cpu / epochs)
                seconds[name]["wall"].append(wall / epochs)
    return seconds


def cebra(data, batch_size, n_latents, epochs):
    """CEBRA of all sessions at once: as many steps of as many windows, each beside a negative one.

    Its objective is another; what compares is the time that as much data takes.
    """
    import cebra as package

    label = [np.linspace(0, 1, len(x), dtype=np.float32)[:, None] for x in data]
    steps = epochs * -(-len(data[0]) // batch_size)

    def fit():
        model = package.CEBRA(
            model_architecture="offset1-model", output_dimension=max(n_latents, 2),
            batch_size=batch_size, max_iterations=steps, conditional="time_delta", device="cpu",
            verbose=False,
        )  # fmt: skip
        model.fit([x.numpy() for x in data], label)

    return fit


def bins(rounds):
    """CPU and wall seconds of binning, ours and the peers' that are installed."""
    session = binning.recording()
    contestants = {
        "one pass over the spikes": lambda: binning.one_pass(session),
        "neuroshare": lambda: binning.ours(session),
        "plain numpy": lambda: binning.plain_numpy(session),
    }
    if importlib.util.find_spec("pynapple"):
        import pynapple

        contestants["pynapple"] = binning.with_pynapple(pynapple, session)
    seconds = {name: {"cpu": [], "wall": []} for name in contestants}
    for repeat in range(rounds + 1):
        for name, contestant in contestants.items():
            cpu, wall = timed(contestant)
            if repeat:
                seconds[name]["cpu"].append(cpu)
                seconds[name]["wall"].append(wall)
    return seconds


def told(seconds):
    """Median, smallest and largest."""
    return {
        name: {
            kind: {
                "median": round(statistics.median(values), 4),
                "min": round(min(values), 4),
                "max": round(max(values), 4),
            }
            for kind, values in kinds.items()
        }
        for name, kinds in seconds.items()
    }


def ratio(seconds, over, under):
    """Median over rounds of the ratio of CPU-seconds, each taken within one round."""
    sums = [
        [sum(values) for values in zip(*(seconds[n]["cpu"] for n in names), strict=True)]
        for names in (over, under)
    ]
    return round(statistics.median(a / b for a, b in zip(*sums, strict=True)), 3)


PARTS = ("training", "binning", "whole job")
JOBS = ("mice", "mice, quick", "5 animals")
"""Of the whole job; mice need their recordings."""


def main(argv=None):
    parser = argparse.ArgumentParser("python -m benchmarks speed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4, help="per round")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to see that it runs")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, help="measure these anew; the others stay in the file"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "speed.json")
    default = os.environ.get("NEUROSHARE_DATA")
    parser.add_argument("--data", type=Path, default=default, help="of the whole job")
    parser.add_argument("--jobs", nargs="+", choices=list(whole.JOBS), help="of the whole job")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    document = {}
    if arguments.only and arguments.out.exists():
        document = json.loads(arguments.out.read_text(encoding="utf-8"))
    made = {
        **provenance("torch", "numpy", "scipy", "scikit-learn", "xarray", "matplotlib"),
        "machine": {"processor": processor(), "isa": torch.backends.cpu.get_cpu_capability()},
        "load": round(os.getloadavg()[0], 2),
    }
    document |= made
    of_parts = document.setdefault("measured with", {})
    tiny = [part for part in PARTS if part != "binning"]  # which has one size
    for part in arguments.only or (tiny if arguments.tiny else PARTS):
        measure = {"training": training, "binning": binned, "whole job": whole_job}[part]
        document |= measure(arguments)
        of_parts[part] = {**made, "rounds": arguments.rounds}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def training(arguments):
    """How near the hardware's limit an epoch is."""
    widths = (48, 32) if arguments.tiny else RATS
    n_windows, batch_size = (64, 16) if arguments.tiny else (2560, 128)
    seconds = trainings(widths, n_windows, batch_size, 2, arguments.rounds, arguments.epochs)
    floors = ["floor: products", "floor: Adam"]
    gflop = 2 * 11 * sum(d * d for d in widths) * n_windows / 1e9
    ratios = {
        "floor / neuroshare": ratio(seconds, floors, ["neuroshare"]),
        "floor / plain loop": ratio(seconds, floors, ["plain loop"]),
        "neuroshare / plain loop": ratio(seconds, ["neuroshare"], ["plain loop"]),
        "bf16 / fp32": ratio(seconds, ["neuroshare bf16"], ["neuroshare"]),
    }
    rates = {
        name: round(gflop / statistics.median(seconds[name]["cpu"]), 1)
        for name in ("floor: products", "plain loop", "neuroshare", "neuroshare bf16")
    }
    found = told(seconds)
    for name, kinds in found.items():
        shown = f", {rates[name]} GFLOP/s" if name in rates else ""
        print(f"{name:17s} {kinds['cpu']['median']:.3f} CPU-s per epoch "
              f"({kinds['cpu']['min']:.3f}-{kinds['cpu']['max']:.3f}){shown}")  # fmt: skip
    print("; ".join(f"{name} {value:.2f}" for name, value in ratios.items()))
    return {
        "what": f"{n_windows} windows x {len(widths)} subjects, inputs {list(widths)}, "
        f"batch {batch_size}, 2 latents, one thread; seconds per epoch",
        "gflop_per_epoch": round(gflop, 2),
        "gflop_per_second": rates,
        "training": found,
        "ratios": ratios,
        "largest relative difference of losses in 20 steps": largest_difference(),
        "peers": {
            name: "installed" if importlib.util.find_spec(name) else "not installed, not measured"
            for name in ("cebra", "multivae", "pynapple")
        },
    }


def binned(arguments):
    """Binning beside the peers that are installed."""
    found = told(bins(arguments.rounds))
    own = found["neuroshare"]["cpu"]["median"]
    for name, kinds in found.items():
        kinds["cpu_over_neuroshare"] = round(kinds["cpu"]["median"] / own, 3)
        print(f"binning, {name}: {kinds['cpu']['median']:.4f} CPU-s")
    return {"binning": found}


def whole_job(arguments):
    """What a user waits for, by stage."""
    jobs = arguments.jobs or (["tiny"] if arguments.tiny else JOBS)
    return {"whole job": whole.measured(jobs, arguments.data, min(arguments.rounds, 3))}


def processor():
    """Model name of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
