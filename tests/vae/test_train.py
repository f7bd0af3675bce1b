import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from neuroshare.vae import train
from neuroshare.vae.history import History, as_arrays
from neuroshare.vae.likelihoods import Gaussian
from neuroshare.vae.multimodal import MultimodalVAE
from neuroshare.vae.networks import Decoder, Encoder
from neuroshare.vae.objectives import MMVM, Independent
from neuroshare.vae.schedule import Schedule
from neuroshare.vae.train import Training, Watch, evaluate

FEATURES, L = (5, 3), 2


class Data:
    """Two modalities of one code; partners of the second are drawn anew at every epoch."""

    def __init__(self, n=40, seed=0, n_calls=math.inf, error=RuntimeError):
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(n, L, generator=generator)
        weights = torch.Generator().manual_seed(99)
        self.x = [z @ torch.randn(L, f, generator=weights) for f in FEATURES]
        self.order = torch.arange(n)
        self.redrawn = []
        self.n_calls, self.error = n_calls, error

    def __len__(self):
        return len(self.order)

    def redraw(self, epoch):
        self.redrawn.append(epoch)
        self.order = torch.randperm(len(self), generator=torch.Generator().manual_seed(epoch))

    def batch(self, index):
        self.n_calls -= 1
        if self.n_calls < 0:
            raise self.error
        observed = torch.ones(2, len(index), dtype=torch.bool)
        return [self.x[0][index], self.x[1][self.order[index]]], observed


def make(objective=None, hidden=4):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return MultimodalVAE(
            [Encoder(f, L, (hidden,), dropout=0.2) for f in FEATURES],
            [Decoder(L, f, (hidden,)) for f in FEATURES],
            [Gaussian(), Gaussian()],
            MMVM() if objective is None else objective,
        )


def fit(vae, data, *, validation=None, watch=None, **settings):
    return train.fit(vae, data, Training(**settings), validation=validation, watch=watch)


SETTINGS = {
    "epochs": 6,
    "batch_size": 16,
    "lr": 1e-2,
    "beta": Schedule(0.1, 1.0, 4),
    "seed": 3,
    "progress": False,
}
N_BATCHES = 3  # of 40 samples


def assert_same(one, other):
    """Bit-identical weights."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def assert_same_history(one, other):
    ours, theirs = as_arrays(one), as_arrays(other)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert one.best_epoch == other.best_epoch


# ---------------------------------------------------------------------------- learning


def test_training_lowers_the_loss_and_keeps_its_history():
    vae, data = make(), Data()
    history = fit(vae, data, **{**SETTINGS, "epochs": 20, "beta": 0.1})
    assert history.n_epochs == 20
    assert history.loss[-1] < history.loss[0]
    arrays = as_arrays(history)
    assert arrays["log_likelihood"].shape == (20, 2)
    np.testing.assert_allclose(
        arrays["loss"], 0.1 * arrays["rate"] - arrays["log_likelihood"].sum(1), rtol=1e-6
    )
    assert np.isnan(arrays["validation_loss"]).all()
    assert history.best_epoch is None
    assert not history.interrupted
    assert not vae.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    models = []
    for seed in (3, 3, 4):
        models.append(make())
        fit(models[-1], Data(), **{**SETTINGS, "seed": seed})
    assert_same(models[0], models[1])
    assert not torch.equal(models[0].encoders[0].loc.weight, models[2].encoders[0].loc.weight)


def test_beta_follows_its_schedule():
    history = fit(make(), Data(), **SETTINGS)
    assert history.beta == pytest.approx([0.1, 0.325, 0.55, 0.775, 1.0, 1.0])


def test_the_learning_rate_follows_its_schedule():
    whole, part = make(), make()
    fit(whole, Data(), **{**SETTINGS, "lr": Schedule(1e-2, 0.0, 3)})  # nothing is learned after 3
    fit(part, Data(), **{**SETTINGS, "lr": Schedule(1e-2, 0.0, 3), "epochs": 3})
    assert_same(whole, part)
    constant, scheduled = make(), make()
    fit(constant, Data(), **SETTINGS)
    fit(scheduled, Data(), **{**SETTINGS, "lr": Schedule(1e-2, 1e-2, 3)})
    assert_same(constant, scheduled)
    assert not torch.equal(whole.encoders[0].loc.weight, constant.encoders[0].loc.weight)


def test_the_objective_is_told_every_epoch_and_pairs_are_redrawn():
    objective = MMVM(prior_weight=Schedule(1.0, 0.0, 4))
    data = Data()
    seen = []
    start = objective.start_epoch
    objective.start_epoch = lambda epoch: (start(epoch), seen.append(objective.alpha.item()))
    fit(make(objective), data, **SETTINGS)
    assert seen == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0, 0.0])
    assert data.redrawn == list(range(6))


def test_the_beta_of_zero_is_the_autoencoding_part_alone():
    history = fit(make(), Data(), **{**SETTINGS, "beta": 0.0})
    np.testing.assert_allclose(history.loss, [-sum(each) for each in history.log_likelihood])


def test_weight_decay_shrinks_the_weights():
    plain, decayed = make(), make()
    fit(plain, Data(), **SETTINGS)
    fit(decayed, Data(), **SETTINGS, weight_decay=10.0)

    def norm(vae):
        return sum(p.square().sum().item() for p in vae.parameters())

    assert norm(decayed) < 0.5 * norm(plain)


def test_every_sample_is_seen_once_per_epoch_and_some_at_the_end():
    seen = []

    class Watched(Data):
        def batch(self, index):
            seen.append(index)
            return super().batch(index)

    fit(make(), Watched(), **{**SETTINGS, "epochs": 2})
    assert [len(i) for i in seen] == [16, 16, 8] * 2 + [16]
    for epoch in (seen[:3], seen[3:6]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(40))


def test_the_global_generators_are_left_alone():
    torch.manual_seed(11), np.random.seed(11), random.seed(11)  # noqa: NPY002
    expected = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    fit(make(), Data(), **SETTINGS, validation=Data(8, seed=1))
    assert torch.equal(torch.get_rng_state(), expected[0])
    assert np.random.get_state()[1].tolist() == expected[1]  # noqa: NPY002
    assert random.getstate() == expected[2]


def test_the_global_generators_have_no_influence():
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(make())
        fit(models[-1], Data(), **SETTINGS)
    assert_same(*models)


# ---------------------------------------------------------------------------- validation


def test_the_weights_of_the_best_epoch_are_restored():
    validation = Data(16, seed=5)
    vae = make()
    history = fit(
        vae, Data(), **{**SETTINGS, "beta": 1.0, "lr": 0.1, "epochs": 15}, validation=validation
    )
    losses = history.validation_loss
    assert history.best_epoch == int(np.argmin(losses))
    assert evaluate(vae, validation, beta=1.0, batch_size=16, seed=3) == losses[history.best_epoch]
    # Not merely the last: this rate of learning overshoots.
    assert history.best_epoch < 14


def test_training_stops_when_validation_has_not_improved_for_so_long():
    settings = {**SETTINGS, "beta": 1.0, "lr": 0.1, "epochs": 200}
    history = fit(make(), Data(), **settings, validation=Data(16, seed=5), patience=3)
    assert history.n_epochs < 200
    assert history.n_epochs - 1 - history.best_epoch == 3
    assert min(history.validation_loss) == history.validation_loss[history.best_epoch]


def test_validation_does_not_change_training():
    watched, plain = [], []
    for losses, validation in ((watched, Data(16, seed=5)), (plain, None)):
        losses += fit(make(), Data(), **SETTINGS, validation=validation).loss
    assert watched == plain


def test_validation_may_be_rare():
    history = fit(make(), Data(), **SETTINGS, validation=Data(8, seed=5), validate_every=4)
    assert np.isfinite(history.validation_loss).tolist() == [True, False, False, False, True, True]


def test_evaluation_depends_on_its_seed_alone():
    vae = make()
    first, again, other = (evaluate(vae, Data(), beta=1.0, seed=s) for s in (1, 1, 2))
    assert first == again != other


def test_a_validation_loss_that_is_not_finite_is_never_the_best():
    class Poisoned(Data):
        def batch(self, index):
            x, observed = super().batch(index)
            return [torch.full_like(x[0], math.nan), x[1]], observed

    vae = make()
    history = History()
    try:
        history = fit(vae, Data(), **SETTINGS, validation=Poisoned(8))
    except ValueError as error:
        assert "loss" in str(error)  # noqa: PT017
    assert history.best_epoch is None


# ---------------------------------------------------------------------------- watched


def test_who_looks_on_without_a_word_changes_nothing():
    looked = []

    def look(n_steps):
        torch.randn(3)
        looked.append(n_steps)
        return "go on"

    plain, watched = make(), make()
    expected = fit(plain, Data(), **SETTINGS)
    assert_same_history(fit(watched, Data(), **SETTINGS, watch=Watch(4, look)), expected)
    assert_same(watched, plain)
    assert looked == [4, 8, 12, 16, 18], "every fourth of 18 steps, and the last"


def test_a_watch_stops_between_epochs_and_the_weights_it_kept_come_back():
    held, losses, kept = Data(16, seed=5), [], []

    def look(n_steps):
        assert not vae.training
        losses.append(evaluate(vae, held, beta=1.0))
        if losses[-1] == min(losses):
            kept.append(n_steps)
            return "keep"
        return "stop" if n_steps >= kept[-1] + 6 else "go on"

    vae = make()
    settings = {**SETTINGS, "beta": 1.0, "lr": 0.1, "epochs": 200}
    history = fit(vae, Data(), **settings, watch=Watch(2, look))
    assert history.stopped
    assert history.n_steps == kept[-1] + 6 < 200 * N_BATCHES
    assert history.best_step == kept[-1]
    assert evaluate(vae, held, beta=1.0) == min(losses)
    lengths = {name: len(values) for name, values in as_arrays(history).items()}
    assert set(lengths.values()) == {history.n_epochs}
    # The history of an epoch that was cut short is of the samples it saw.
    assert np.isfinite(history.loss).all()


def test_stopping_after_so_many_steps_is_training_for_so_many():
    whole, stopped = make(), make()
    settings = {**SETTINGS, "beta": 1.0}
    fit(whole, Data(), **{**settings, "epochs": 2})
    watch = Watch(2 * N_BATCHES, lambda n_steps: "stop")
    assert fit(stopped, Data(), **settings, watch=watch).n_steps == 2 * N_BATCHES
    assert_same(whole, stopped)


def test_a_training_that_was_stopped_is_not_continued(tmp_path):
    path = tmp_path / "state"
    watch = Watch(7, lambda n_steps: "stop")
    first, again, data = make(), make(), Data()
    history = fit(first, Data(), **SETTINGS, watch=watch, checkpoint=path)
    assert_same_history(fit(again, data, **SETTINGS, watch=watch, checkpoint=path), history)
    assert data.redrawn == []
    assert_same(first, again)


def test_validation_and_watch_are_not_given_together():
    with pytest.raises(ValueError, match="validation or watch"):
        fit(make(), Data(), **SETTINGS, validation=Data(8), watch=Watch(1, lambda n: "go on"))


# ---------------------------------------------------------------------------- threads


def test_threads_that_train_at_once_train_as_one_after_another():
    alone, together = [make() for _ in range(4)], [make() for _ in range(4)]

    def learn(seed, vae):
        fit(vae, Data(), **{**SETTINGS, "seed": seed})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(learn, range(4), together))
    for seed, (one, other) in enumerate(zip(alone, together, strict=True)):
        learn(seed, one)
        assert_same(one, other)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_process_forked_in_the_middle_of_a_training_can_train():
    code = """
import os, threading, sys
from neuroshare.vae.step import generators_of
import torch
cpu, held, done = torch.device("cpu"), threading.Event(), threading.Event()
def hold():
    with generators_of(cpu, 0):
        held.set(), done.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
if not (child := os.fork()):
    with generators_of(cpu, 1):
        os._exit(7)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
done.set()
sys.exit(code)
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    assert subprocess.run(command, timeout=60, check=False).returncode == 7


# ---------------------------------------------------------------------------- trouble


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_an_error_with_advice(value):
    data = Data()
    data.x[0][3, 1] = value
    with pytest.raises(ValueError, match=r"loss became .* in epoch 1\..*learning rate.*data"):
        fit(make(), data, **SETTINGS)


def test_a_last_step_after_which_nothing_is_finite_is_an_error_with_advice():
    data = Data()
    settings = {**SETTINGS, "epochs": 1, "batch_size": len(data), "lr": 1e30}
    with pytest.raises(ValueError, match=r"loss became .* with the last step\..*learning rate"):
        fit(make(), data, **settings)


def test_an_interruption_leaves_a_usable_model_and_a_warning():
    data = Data(n_calls=2 * N_BATCHES + 1, error=KeyboardInterrupt)
    vae = make()
    with pytest.warns(UserWarning, match=r"interrupted after 2 of 6 epochs"):
        history = fit(vae, data, **SETTINGS)
    assert history.interrupted
    assert history.n_epochs == 2
    assert not vae.training
    assert math.isfinite(evaluate(vae, Data(), beta=1.0))


def test_an_interruption_during_validation_leaves_a_whole_history():
    validation = Data(8, seed=5, n_calls=2, error=KeyboardInterrupt)
    with pytest.warns(UserWarning, match="interrupted"):
        history = fit(make(), Data(), **SETTINGS, validation=validation)
    lengths = {name: len(values) for name, values in as_arrays(history).items()}
    assert set(lengths.values()) == {history.n_epochs}, lengths


def test_an_interruption_tells_where_to_continue(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "state"
    data = Data(n_calls=2 * N_BATCHES + 1, error=KeyboardInterrupt)
    with pytest.warns(UserWarning, match=r"Call fit again to continue from .*state"):
        fit(make(), data, **SETTINGS, checkpoint=path)
    assert path.exists()


# ---------------------------------------------------------------------------- resumption


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize("n_batches", [3 * N_BATCHES, 4 * N_BATCHES + 2])
def test_a_resumed_training_ends_with_the_weights_of_an_unbroken_one(
    tmp_path, monkeypatch, n_batches, validated
):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    settings = {**SETTINGS, "lr": Schedule(1e-2, 1e-3, 6)}

    def more():
        return {"validation": Data(8, seed=5) if validated else None}

    unbroken = make()
    expected = fit(unbroken, Data(), **settings, **more())

    broken, path = make(), tmp_path / "state"
    with pytest.raises(RuntimeError):
        fit(broken, Data(n_calls=n_batches), **settings, **more(), checkpoint=path)
    resumed, data = make(), Data()
    history = fit(resumed, data, **settings, **more(), checkpoint=path)
    assert data.redrawn[0] == n_batches // N_BATCHES  # it did not begin anew
    assert_same(resumed, unbroken)
    assert_same_history(history, expected)


def test_a_resumed_early_stopping_ends_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    settings = {**SETTINGS, "beta": 1.0, "lr": 0.1, "epochs": 200, "patience": 3}
    unbroken = make()
    expected = fit(unbroken, Data(), **settings, validation=Data(16, seed=5))
    stop = N_BATCHES * (expected.best_epoch + 2)  # after the best epoch, before the end
    path = tmp_path / "state"
    with pytest.raises(RuntimeError):
        fit(make(), Data(n_calls=stop), **settings, validation=Data(16, seed=5), checkpoint=path)
    resumed = make()
    history = fit(resumed, Data(), **settings, validation=Data(16, seed=5), checkpoint=path)
    assert_same(resumed, unbroken)
    assert_same_history(history, expected)


def test_a_finished_training_is_not_trained_again(tmp_path):
    path = tmp_path / "state"
    first, again = make(), make()
    history = fit(first, Data(), **SETTINGS, checkpoint=path)
    data = Data()
    assert_same_history(fit(again, data, **SETTINGS, checkpoint=path), history)
    assert data.redrawn == []
    assert_same(first, again)


def test_a_checkpoint_is_written_whole_and_leaves_nothing_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "deep" / "state"
    fit(make(), Data(), **SETTINGS, checkpoint=path)
    before = path.read_bytes()

    def fails(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(OSError, match="disk full"):
        fit(make(), Data(), **SETTINGS, checkpoint=tmp_path / "deep" / "other")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["state"]


def test_checkpoints_are_rare(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(train._State, "save", lambda *args: written.append(args))
    fit(make(), Data(), **SETTINGS, checkpoint=tmp_path / "state")
    assert len(written) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.5}, r"lr was 0.01, is 0.5"),
        ({"seed": 4}, r"seed was 3, is 4"),
        ({"beta": 1.0}, r"beta was Schedule.*is 1.0"),
        ({"batch_size": 8}, r"batch_size was 16, is 8"),
        ({"data": Data(30)}, r"n_samples was 40, is 30"),
        ({"vae": lambda: make(hidden=9)}, r"other network shapes"),
        ({"vae": lambda: make(Independent())}, r"objective"),
    ],
    ids=["lr", "seed", "beta", "batch_size", "data", "shapes", "objective"],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, change, message):
    path = tmp_path / "state"
    fit(make(), Data(), **SETTINGS, checkpoint=path)
    change = dict(change)
    vae = change.pop("vae", make)()
    data = change.pop("data", Data())
    with pytest.raises(ValueError, match=f"another training.*{message}"):
        fit(vae, data, **{**SETTINGS, **change}, checkpoint=path)


class Named(Data):
    """Says which data it is."""

    def __init__(self, name, **more):
        super().__init__(**more)
        self.name = name

    def fingerprint(self):
        return self.name


def test_a_checkpoint_of_other_data_of_the_same_size_is_refused(tmp_path):
    path, held = tmp_path / "state", Named("held", n=8)
    fit(make(), Named("ours"), **SETTINGS, validation=held, checkpoint=path)
    vae, data = make(), Named("ours")
    fit(vae, data, **SETTINGS, validation=held, checkpoint=path)
    assert data.redrawn == []
    with pytest.raises(ValueError, match=r"another training \(other training samples\)"):
        fit(make(), Named("theirs"), **SETTINGS, validation=held, checkpoint=path)
    other = Named("other", n=8)
    with pytest.raises(ValueError, match=r"another training \(other validation samples\)"):
        fit(make(), Named("ours"), **SETTINGS, validation=other, checkpoint=path)


def test_a_killed_process_continues_where_it_was(tmp_path):
    """SIGKILL in the middle, at no convenient moment; then the same program again."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import importlib.util, sys, time
            spec = importlib.util.spec_from_file_location("helpers", sys.argv[1])
            helpers = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(helpers)
            helpers.train.CHECKPOINT_SECONDS = 0.0

            class Slow(helpers.Data):
                def batch(self, index):
                    time.sleep(float(sys.argv[3]))
                    return super().batch(index)

            settings = {**helpers.SETTINGS, "epochs": 40}
            vae = helpers.make()
            helpers.fit(vae, Slow(), **settings, checkpoint=sys.argv[2])
            """
        )
    )
    path = tmp_path / "state"
    command = [sys.executable, str(program), __file__, str(path)]
    process = subprocess.Popen([*command, "0.02"])
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert path.exists()

    settings = {**SETTINGS, "epochs": 40}
    unbroken, resumed, data = make(), make(), Data()
    expected = fit(unbroken, Data(), **settings)
    history = fit(resumed, data, **settings, checkpoint=path)
    assert 0 < len(data.redrawn) < 40
    assert_same(resumed, unbroken)
    assert_same_history(history, expected)


# ---------------------------------------------------------------------------- frozen parts


def test_frozen_networks_keep_their_weights():
    vae = make()
    for part in (vae.encoders[0], vae.decoders[0]):
        part.requires_grad_(False)
    before = make()
    fit(vae, Data(), **SETTINGS)
    for ours, theirs in ((vae.encoders, before.encoders), (vae.decoders, before.decoders)):
        for old, new in zip(theirs[0].parameters(), ours[0].parameters(), strict=True):
            assert torch.equal(old, new)
    assert not torch.equal(vae.encoders[1].loc.weight, before.encoders[1].loc.weight)


def test_without_epochs_there_is_no_optimizer(monkeypatch):
    monkeypatch.setattr(train, "adam", None)  # making one imports PyTorch's compiler
    vae = make()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    history = train.fit(vae, Data(), Training(epochs=0, progress=False))
    assert history.n_epochs == 0
    assert math.isfinite(history.final_loss)
    assert not vae.training
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_a_model_without_anything_to_train_is_no_silent_success():
    vae = make()
    vae.requires_grad_(False)
    with pytest.raises((ValueError, RuntimeError)):
        fit(vae, Data(), **SETTINGS)


# ---------------------------------------------------------------------------- running means


def test_the_running_mean_is_kept_and_looked_at():
    steps, looked = [], []
    vae = make()
    plain = make()
    watch = Watch(1, lambda step: looked.append(vae.state_dict()["decoders.0.output.bias"].clone()))
    seen = Watch(1, lambda step: steps.append(plain.state_dict()["decoders.0.output.bias"].clone()))
    first = vae.state_dict()["decoders.0.output.bias"].clone()
    fit(plain, Data(), watch=seen, **SETTINGS)
    fit(vae, Data(), watch=watch, average=0.9, **SETTINGS)
    mean = first
    for step, (own, shown) in enumerate(zip(steps, looked, strict=True), start=1):
        decay = min(0.9, step / (step + 9))
        mean = decay * mean + (1 - decay) * own
        torch.testing.assert_close(shown, mean)
    torch.testing.assert_close(vae.state_dict()["decoders.0.output.bias"], mean)


def test_a_running_mean_goes_on_from_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    whole, part = make(), make()
    fit(whole, Data(), average=0.9, **SETTINGS)
    path = tmp_path / "state"
    data = Data(n_calls=4 * N_BATCHES + 1)
    with pytest.raises(RuntimeError):
        fit(part, data, average=0.9, checkpoint=path, **SETTINGS)
    assert path.exists()
    again = make()
    fit(again, Data(), average=0.9, checkpoint=path, **SETTINGS)
    assert_same(again, whole)
