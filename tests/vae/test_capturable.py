"""A step of training asks nothing of the host, so that it can be recorded as a CUDA graph.

Proven without a GPU: on the meta device, whose tensors have no values that could be asked for, and
on the CPU under a watch that refuses what would make a GPU wait or have a shape of the data's.
"""

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neuroshare.models.device_windows import ResidentWindows
from neuroshare.recordings.binning import bin_spikes
from neuroshare.recordings.simulate import simulate_sessions
from neuroshare.vae import step, train
from neuroshare.vae.history import as_arrays
from neuroshare.vae.likelihoods import LIKELIHOODS, Categorical, make_likelihood
from neuroshare.vae.multimodal import MultimodalVAE
from neuroshare.vae.networks import Decoder, Encoder
from neuroshare.vae.objectives import MMVM, OBJECTIVES, Autoencoder, MMVAEPlus, MoE, MoPoE, PoE
from neuroshare.vae.schedule import Schedule
from neuroshare.vae.stacked import fit_many
from neuroshare.vae.step import WARM_UP, RecordedStep, Sums, matmul_precision
from neuroshare.windows.pair import pair_subjects

FEATURES, L = (6, 4, 8), 6

OBJECTIVE_CASES = {
    **OBJECTIVES,
    "mmvm mixture": lambda: MMVM(bound="mixture", prior_weight=Schedule(1.0, 0.0, 2)),
    "mmvm private": lambda: MMVM(prior_weight=Schedule(1.0, 0.0, 2), private_dim=2),
    "mmvm recipe": lambda: MMVM(cross=0.8, combine="mean"),
    "poe sub_elbos": lambda: PoE(sub_elbos=True),
    "moe importance": lambda: MoE(n_importance=3),
    "moe dreg": lambda: MoE(n_importance=3, dreg=True),
    "mopoe n_subsets": lambda: MoPoE(n_subsets=3),
    "mmvae_plus private": lambda: MMVAEPlus(private_dim=2),
}
LIKELIHOOD_CASES = {
    **{name: lambda name=name: make_likelihood(name) for name in LIKELIHOODS},
    "categorical": lambda: Categorical(2),
}

FORBIDDEN = {
    "_local_scalar_dense": "reads a number",
    "equal": "reads a number",
    "is_nonzero": "reads a number",
    "nonzero": "has a shape that depends on the data",
    "masked_select": "has a shape that depends on the data",
    "_unique2": "has a shape that depends on the data",
    "repeat_interleave": "has a shape that depends on the data",
    "lift_fresh": "copies a Python value to the device",
}


class Watch(TorchDispatchMode):
    """Refuse what a CUDA graph cannot hold."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in FORBIDDEN:
            raise AssertionError(f"{func} {FORBIDDEN[name]}")
        if name in ("index", "index_put", "index_put_"):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            if masks:
                raise AssertionError(f"{func} by a mask has a shape that depends on the data")
        result = func(*args, **kwargs)
        devices = {t.device.type for t in tree_leaves((args, kwargs, result)) if is_tensor(t)}
        if len(devices) > 1:
            raise AssertionError(f"{func} mixes devices: {devices}")
        return result


def is_tensor(value):
    return isinstance(value, torch.Tensor)


class OnMeta(Watch):
    """Refuse, besides, tensors made anywhere else than on the meta device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(func, types, args, kwargs)
        strays = {t.device.type for t in tree_leaves(result) if is_tensor(t)} - {"meta"}
        if strays:
            raise AssertionError(f"{func} makes a tensor on {strays}")
        return result


def make(objective=MMVM, likelihood=lambda: make_likelihood("poisson"), **encoder):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objective = objective()
        objective.build(len(FEATURES), L)
        vae = MultimodalVAE(
            [Encoder(f, L, (8,), dropout=0.2, **encoder) for f in FEATURES],
            [Decoder(L, f, (8,)) for f in FEATURES],
            [likelihood().sized(f) for f in FEATURES],
            objective,
        )
    for module in vae.modules():
        if hasattr(module, "fused"):  # shortcuts of the CPU
            module.fused = False
    return vae.train()


class Samples:
    """Counts of three modalities, of which now and then one is absent."""

    def __init__(self, n=40):
        generator = torch.Generator().manual_seed(0)
        self.x = [torch.poisson(torch.ones(n, f), generator=generator) for f in FEATURES]
        self.observed = torch.rand(len(FEATURES), n, generator=generator) > 0.2
        self.observed[0] |= ~self.observed.any(0)

    def __len__(self):
        return self.observed.shape[1]

    def redraw(self, epoch):
        pass

    def batch(self, index):
        return [x[index] for x in self.x], self.observed[:, index]


SETTINGS = {"epochs": 4, "batch_size": 16, "seed": 3, "progress": False}
BETA = Schedule(0.1, 1.0, 3)


def on_meta(vae):
    """Forward and backward, where no value exists. (Adam is not made for that device.)"""
    device = torch.device("meta")
    x, observed = Samples().batch(torch.arange(16))
    there, sums = copy.deepcopy(vae).to(device), Sums((), len(FEATURES), device)
    x, observed = [part.to(device) for part in x], observed.to(device)
    with OnMeta():
        sums.add(there.elbo(x, observed), observed).backward()
    assert any(parameter.grad is not None for parameter in there.parameters())


@pytest.fixture
def watched(monkeypatch):
    """Watch every step that is prepared for recording; the shapes of their indices."""
    shapes = []
    call = RecordedStep.__call__

    def watch(self, index):
        shapes.append(tuple(index.shape))
        with Watch():
            call(self, index)

    monkeypatch.setattr(RecordedStep, "__call__", watch)
    return shapes


def in_fit(vae, **settings):
    before = copy.deepcopy(vae.state_dict())
    training = train.Training(beta=BETA, graphs=True, **SETTINGS, **settings)
    train.fit(vae, Samples(), training)
    assert any(not torch.equal(before[name], value) for name, value in vae.state_dict().items())


@pytest.mark.parametrize("case", OBJECTIVE_CASES)
def test_a_step_of_every_objective_stays_on_the_device(case, watched):
    vae = make(OBJECTIVE_CASES[case])
    on_meta(vae)
    in_fit(vae)
    assert watched == [(16,), (16,), (8,)] * 4


@pytest.mark.parametrize("case", LIKELIHOOD_CASES)
def test_a_step_of_every_likelihood_stays_on_the_device(case, watched):
    vae = make(likelihood=LIKELIHOOD_CASES[case])
    on_meta(vae)
    in_fit(vae)


@pytest.mark.parametrize(
    "encoder", [{"n_units": 2, "pool": "lags"}, {"bottleneck": True}], ids=["default", "paper"]
)
def test_a_step_of_every_encoder_stays_on_the_device(encoder, watched):
    vae = make(transform="sqrt", standardise=True, linear=True, **encoder)
    on_meta(vae)
    in_fit(vae)


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"weight_decay": 0.1}], ids=str)
def test_a_step_of_every_setting_stays_on_the_device(settings, watched):
    in_fit(make(), **settings)


@pytest.mark.parametrize("case", OBJECTIVE_CASES)
def test_a_step_of_stacked_models_stays_on_the_device(case, watched):
    """Each with batches and noise of its own, beside models of another kind."""
    vaes = [make(OBJECTIVE_CASES[case]), make(Autoencoder), make(OBJECTIVE_CASES[case])]
    histories = fit_many(
        vaes, Samples(), train.Training(graphs=True, **SETTINGS), betas=[1.0, BETA, 1.0]
    )
    assert watched == [(3, 16), (3, 16), (3, 8)] * 4
    assert histories[0].loss != histories[2].loss


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x * torch.tensor(2.0),
    ],
)
@pytest.mark.parametrize(("watch", "device"), [(Watch, "cpu"), (OnMeta, "meta")])
def test_the_watch_notices(act, watch, device):
    x = torch.ones(3, device=device)
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), watch():
        act(x)


def test_the_watch_notices_an_index_made_by_python():
    with pytest.raises(AssertionError, match="Python value"), Watch():
        torch.ones(3)[[0, 1]]


# ---------------------------------------------------------------------------- data


@pytest.fixture(scope="module")
def paired():
    sessions = simulate_sessions({"mitt": 6, "stella": 4, "barat": 5}, n_trials=8)
    counts = {name: bin_spikes(session) for name, session in sessions.items()}
    return pair_subjects(counts, by="odor", width=0.1, step=0.05)


@pytest.mark.parametrize("present", [("mitt", "stella", "barat"), ("barat", "mitt")])
def test_resident_windows_are_gathered_on_the_device(paired, present):
    every = {"mitt": 60, "stella": 40, "barat": 50}
    data = ResidentWindows(paired.select(present), torch.device("cpu"), every)
    index = torch.arange(7)
    expected, _ = data.batch(index)
    assert data.resident
    with Watch():
        x, observed = data.batch(index)
    for one, other in zip(x, expected, strict=True):
        assert torch.equal(one, other)
    assert observed.any(1).tolist() == [name in present for name in every]


def test_windows_paired_anew_are_where_the_old_ones_were(paired):
    """For that is where a recorded step looks for them."""
    data = ResidentWindows(paired, torch.device("cpu"))
    memory = {name: part.data_ptr() for name, part in vars(data).items() if is_tensor(part)}
    before = data.batch(torch.arange(len(data)))[0][1]
    data.redraw(1)
    assert not torch.equal(data.batch(torch.arange(len(data)))[0][1], before)
    moved = {name: part.data_ptr() for name, part in vars(data).items() if is_tensor(part)}
    assert memory == moved


# ---------------------------------------------------------------------------- recording


@pytest.mark.parametrize("case", OBJECTIVE_CASES)
def test_a_prepared_step_learns_what_a_plain_one_does(case):
    """Bit for bit; the last batch of an epoch, of 8 samples, is not replayed."""
    plain, prepared = (make(OBJECTIVE_CASES[case]) for _ in range(2))
    histories = [
        train.fit(vae, Samples(), train.Training(beta=BETA, graphs=graphs, **SETTINGS))
        for vae, graphs in ((plain, False), (prepared, True))
    ]
    for name, value in plain.state_dict().items():
        assert torch.equal(prepared.state_dict()[name], value), name
    for one, other in zip(*(as_arrays(h).values() for h in histories), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_step_is_called_to_warm_up_then_recorded_once_then_replayed(monkeypatch):
    done = []
    static = torch.zeros(3, dtype=torch.long)

    def recorded(call, device):
        done.append("record")
        return lambda: done.append(("replay", static.tolist()))

    monkeypatch.setattr(step, "_recorded", recorded)
    repeated = RecordedStep(lambda index: done.append(("call", index.tolist())), static)
    for i in range(WARM_UP + 2):
        repeated(torch.full((3,), i))
    repeated(torch.tensor([7, 7]))
    assert done == [
        *[("call", [i] * 3) for i in range(WARM_UP)],
        "record",
        *[("replay", [WARM_UP + i] * 3) for i in range(2)],
        ("call", [7, 7]),
    ]


def test_a_step_that_waits_is_not_recorded_but_done(monkeypatch):
    """As with an objective of one's own that reads a number."""
    done, strict = [], []

    @contextmanager
    def refusing(device):
        strict.append(True)
        yield
        strict.clear()

    def waits(index):
        if strict:
            strict.clear()
            raise RuntimeError("called a synchronizing CUDA operation")
        done.append(index.tolist())

    monkeypatch.setattr(step, "_refusing_to_wait", refusing)
    monkeypatch.setattr(step, "_recorded", None)  # which is not called
    repeated = RecordedStep(waits, torch.zeros(2, dtype=torch.long))
    for i in range(WARM_UP - 1):
        repeated(torch.tensor([i, i]))
    with pytest.warns(UserWarning, match="not recorded as a CUDA graph.*synchronizing"):
        repeated(torch.tensor([7, 7]))
    repeated(torch.tensor([8, 8]))
    assert done == [*([i, i] for i in range(WARM_UP - 1)), [7, 7], [8, 8]]


def test_precision_is_as_it_was_after_a_fit():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    for precision, inside in (("tf32", "tf32"), ("fp32", "ieee"), ("bf16", "ieee")):
        with matmul_precision(precision):
            assert matmul.fp32_precision == inside
        assert matmul.fp32_precision == before


def test_bfloat16_is_of_the_networks_alone():
    """Its losses are near those of float32, and neither weights nor objective ever leave it."""
    seen = []

    class Watched(MMVM):
        def loss(self, q, observed, log_lik):
            z = q.rsample()
            seen.append((q.loc.dtype, log_lik(z.unsqueeze(1)).dtype))
            return super().loss(q, observed, log_lik)

    losses = {}
    for precision in ("fp32", "bf16"):
        vae = make(Watched, transform="sqrt")
        training = train.Training(beta=BETA, precision=precision, **SETTINGS)
        history = train.fit(vae, Samples(), training)
        losses[precision] = np.array(history.loss)
        assert {p.dtype for p in vae.parameters()} == {torch.float32}
    assert set(seen) == {(torch.float32, torch.float32)}
    assert not np.array_equal(losses["fp32"], losses["bf16"])
    np.testing.assert_allclose(losses["bf16"], losses["fp32"], rtol=0.02)


def test_data_that_may_move_are_not_recorded():
    cuda = torch.device("cuda")
    data = Samples()
    assert not train.is_recorded("auto", data, cuda)
    with pytest.raises(ValueError, match=r"graphs=True needs data .*Samples is not"):
        train.is_recorded(True, data, cuda)
    data.resident = True
    assert train.is_recorded("auto", data, cuda)
    assert train.is_recorded(True, data, cuda)
    assert not train.is_recorded(False, data, cuda)
    assert not train.is_recorded("auto", data, torch.device("cpu"))
