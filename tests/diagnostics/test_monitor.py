"""The monitor against a slow loop that does the same by hand, and on everything people build."""

import copy
import gc
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stablegrad.diagnostics import Monitor, metrics, stopwatch
from stablegrad.diagnostics import monitor as monitor_module
from stablegrad.diagnostics.activations import ActivationWatch
from stablegrad.diagnostics.probe import Probe
from stablegrad.diagnostics.updates import UpdateWatch
from stablegrad.errors import UsageError
from stablegrad.optimizers import Kron

UNWATCHED = nn.Module.__call__


class Residual(nn.Module):
    """Functional activations, a skip, one ReLU module used twice."""

    def __init__(self, width=16):
        super().__init__()
        self.first = nn.Linear(8, width)
        self.inner1 = nn.Linear(width, width)
        self.inner2 = nn.Linear(width, width)
        self.relu = nn.ReLU()
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = self.relu(self.first(x))
        x = x + F.relu(self.inner2(F.relu(self.inner1(x))))
        return self.head(self.relu(x))


def batches(count, rows=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(rows, 8, generator=generator), torch.randint(4, (rows,), generator=generator))
        for _ in range(count)
    ]


def make(model=Residual, optimizer=torch.optim.Adam, lr=1e-3, seed=0):
    torch.manual_seed(seed)
    network = model()
    return network, optimizer(network.parameters(), lr=lr)


def train(network, optimizer, data, clip=None):
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()


def row(monitor, step):
    return dict(monitor.fetch().rows)[step]


def test_layer_figures_are_those_of_a_loop_by_hand():
    data = batches(10)
    network, optimizer = make()
    twin, twin_optimizer = copy.deepcopy(network), None
    twin_optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3)
    with Monitor(network, optimizer, every=5, probe_every=0) as monitor:
        train(network, optimizer, data, clip=0.1)

    gradients, weights = {}, {}
    for step, (x, y) in enumerate(data, start=1):
        twin_optimizer.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        gradients[step] = {name: p.grad.clone() for name, p in twin.named_parameters()}
        weights[step] = {name: p.detach().clone() for name, p in twin.named_parameters()}
        nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
        twin_optimizer.step()
        weights[step, "after"] = {name: p.detach().clone() for name, p in twin.named_parameters()}

    def flat(tensors, layer):
        return torch.cat([tensors[f"{layer}.{part}"].flatten() for part in ("weight", "bias")]).double()

    assert [step for step, _ in monitor.fetch().rows] == [2, 5, 10]
    for step in (2, 5, 10):
        figures = row(monitor, step)
        for layer in ("first", "inner1", "inner2", "head"):
            now, before = flat(gradients[step], layer), flat(gradients[step - 1], layer)
            weight, change = (
                flat(weights[step], layer),
                flat(weights[step, "after"], layer) - flat(weights[step], layer),
            )
            noise = (now - before).square().sum() / 2
            expected = {
                "gradient_norm": now.norm(),
                "weight_norm": weight.norm(),
                "update_ratio": change.norm() / weight.norm(),
                "gradient_cosine": now @ before / now.norm() / before.norm(),
                "gradient_snr": now @ before / noise,
                "effective_learning_rate": 1e-3 / weight.norm() ** 2,
            }
            for metric, value in expected.items():
                assert figures[f"{metric}/{layer}"] == pytest.approx(value.item(), rel=2e-4), (metric, layer, step)


def test_activations_functional_ones_and_a_module_used_twice():
    network, optimizer = make()
    with torch.no_grad():
        # Half of the units of inner1 can never fire.
        network.inner1.weight[:8] = 0
        network.inner1.bias[:8] = -1
        network.inner1.bias[8:] = 1
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        train(network, optimizer, batches(2))
    figures = row(monitor, 2)
    sites = monitor.history.series("dormant").sites
    assert sites == ["relu", "relu#2", "relu#3", "relu#4"]
    assert max(figures[f"dead/{site}"] for site in sites) == 0.5
    assert all(0 <= figures[f"gradient_dormant/{site}"] <= 1 for site in sites)
    assert monitor.history.order[0] == "first"


def test_every_activation_is_seen_once_module_or_function():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 16), nn.Tanh())
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            return self.head(torch.sigmoid(self.layers(x).relu()))

    network, optimizer = make(Both)
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        train(network, optimizer, batches(2))
    assert monitor.fetch().series("dormant").sites == ["layers.1", "layers.3", "relu", "sigmoid"]
    assert monitor.history.series("saturated").sites == ["layers.3", "sigmoid"]


def test_the_training_and_the_random_streams_are_untouched():
    class WithDropout(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(16), nn.Linear(16, 4)
            )

        def forward(self, x):
            return self.layers(x)

    results = []
    for watched in (False, True):
        network, optimizer = make(WithDropout)
        monitor = Monitor(network, optimizer, every=2, probe_every=2) if watched else None
        train(network, optimizer, batches(8))
        if monitor is not None:
            assert monitor.fetch().series("effective_rank")
            monitor.close()
        results.append(copy.deepcopy(network.state_dict()) | {"next random": torch.rand(3)})
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_nothing_stays_registered_between_looks_and_after_close():
    network, optimizer = make()
    monitor = Monitor(network, optimizer, every=50, probe_every=0)
    train(network, optimizer, batches(5))
    for module in network.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert all(not p._post_accumulate_grad_hooks for p in network.parameters())
    monitor.close()
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    Monitor(network, optimizer).close()


def test_a_copy_or_a_pickle_made_while_a_look_is_taken_carries_no_hook():
    network, optimizer = make()
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        train(network, optimizer, batches(3))
        assert nn.Module.__call__ is not UNWATCHED
        for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            twin(torch.zeros(2, 8)).sum().backward()
        train(network, optimizer, batches(1))
    assert monitor.history.series("dormant").sites == ["relu", "relu#2", "relu#3", "relu#4"]
    assert row(monitor, 4)["output_size/network"] > 0


def test_tied_parameters_count_once_and_frozen_ones_are_named():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
            self.b.weight = self.a.weight
            self.b.bias = self.a.bias
            for parameter in self.c.parameters():
                parameter.requires_grad_(False)

        def forward(self, x):
            return self.c(F.relu(self.b(F.relu(self.a(x)))))

    network, _ = make(Tied)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        train(network, optimizer, batches(8))
    assert monitor.fetch().series("gradient_norm").sites == ["a"]
    assert monitor.history.frozen == ["c"]
    assert monitor.report().verdict == "healthy"


def test_a_gradient_left_from_before_a_layer_was_frozen_is_none():
    network, optimizer = make()
    train(network, optimizer, batches(1))
    first = next(iter(network.parameters()))
    owner = next(name for name, parameter in network.named_parameters() if parameter is first).rpartition(".")[0]
    for parameter in network.get_submodule(owner).parameters():
        parameter.requires_grad_(False)
        assert parameter.grad is not None
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        train(network, optimizer, batches(8))
    assert owner not in monitor.fetch().series("gradient_norm").sites
    assert monitor.report().verdict == "healthy"


def test_a_layer_that_no_pass_calls_is_a_note_and_one_that_is_cut_off_a_finding():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
            self.weights_only = nn.Linear(4, 4)

        def forward(self, x):
            self.b(x)
            return F.linear(self.c(F.relu(self.a(x))), self.weights_only.weight)

    network, optimizer = make(Unused)
    network.d = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        train(network, optimizer, batches(8))
        report = monitor.report()
    assert {finding.site for finding in report.findings if finding.rule == "no_gradient"} == {"b"}
    assert [note for note in report.notes if "no forward pass before" in note] == [
        "'d' gets no gradient, as no forward pass before the watched steps calls it"
    ]


def test_gradient_accumulation_takes_the_whole_gradient():
    network, optimizer = make()
    twin = copy.deepcopy(network)
    data = batches(6)
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        for start in (0, 3):
            optimizer.zero_grad()
            for x, y in data[start : start + 3]:
                F.cross_entropy(network(x), y).backward()
            if start == 3:
                expected = {name: p.grad.norm().item() for name, p in network.named_parameters()}
            nn.utils.clip_grad_norm_(network.parameters(), 1e-3)
            optimizer.step()
    del twin
    got = row(monitor, 2)["gradient_norm/head"]
    assert got == pytest.approx((expected["head.weight"] ** 2 + expected["head.bias"] ** 2) ** 0.5, rel=1e-5)


def test_a_grad_scaler_is_divided_out():
    norms = []
    for scale in (1.0, 1024.0):
        network, optimizer = make(optimizer=torch.optim.SGD)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        with Monitor(network, optimizer, every=2, probe_every=0, grad_scaler=scaler) as monitor:
            for x, y in batches(2):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16):
                    loss = F.cross_entropy(network(x).float(), y)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(network.parameters(), 0.01)
                scaler.step(optimizer)
                scaler.update()
        figures = row(monitor, 2)
        norms.append((figures["gradient_norm/first"], figures["error_signal/network"], figures["gradient_snr/first"]))
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


def scaled_training(data, fused=False, enabled=True, passed=True, clip=False, overflow=None):
    network, _ = make()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=enabled)
    with Monitor(network, optimizer, every=4, probe_every=0, grad_scaler=scaler if passed else None) as monitor:
        for number, (x, y) in enumerate(data):
            optimizer.zero_grad()
            loss = (network(x) - y[:, None]).square().mean() * (torch.inf if number == overflow else 1)
            scaler.scale(loss).backward()
            if clip:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(network.parameters(), 0.01)
            scaler.step(optimizer)
            scaler.update()
    return monitor


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("clip", [False, True])
def test_a_grad_scaler_that_was_not_passed_is_said(fused, clip):
    data = batches(4)
    unknown, known = (scaled_training(data, fused=fused, clip=clip, passed=passed) for passed in (False, True))
    (note,) = unknown.notes
    assert "pass grad_scaler=" in note and not known.notes
    assert not scaled_training(data, fused=fused, clip=clip, passed=False, enabled=False).notes
    for key in ("gradient_norm/first", "error_signal/network"):
        assert row(unknown, 4)[key] == pytest.approx(1024 * row(known, 4)[key])


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("overflow", [0, 1, 2, 3])
def test_an_update_that_a_grad_scaler_leaves_out_is_none(fused, overflow):
    """A scaler does so while it looks for its scale; here at all places that a look can begin with or end at."""
    data = batches(9)
    with_overflow = scaled_training([*data[:overflow], data[0], *data[overflow:]], fused, overflow=overflow)
    without = scaled_training(data, fused)
    assert with_overflow.report().verdict == without.report().verdict == "healthy"
    expected = dict(without.fetch().rows)
    for step, figures in with_overflow.fetch().rows:
        if fused:
            assert figures == pytest.approx(expected.pop(step), rel=1e-4)
        else:  # of the passes nothing tells the network that they are in vain
            by_layer = {key: value for key, value in expected.pop(step).items() if key.partition("/")[2] == "inner1"}
            assert {key: figures[key] for key in by_layer} == pytest.approx(by_layer, rel=1e-4)
            assert np.isfinite(figures.get("error_signal/network", 0.0))
    assert not expected


def test_actor_critic_with_a_shared_encoder_and_two_optimizers():
    torch.manual_seed(0)
    encoder = nn.Linear(8, 8)
    actor = nn.Sequential(encoder, nn.ReLU(), nn.Linear(8, 2))
    critic = nn.Sequential(encoder, nn.ReLU(), nn.Linear(8, 1))
    first = torch.optim.Adam(actor.parameters(), lr=1e-3)
    second = torch.optim.Adam(critic[2].parameters(), lr=1e-3)
    with Monitor({"actor": actor, "critic": critic}, [first, second], every=2, probe_every=0) as monitor:
        for number, (x, _) in enumerate(batches(8)):
            first.zero_grad()
            second.zero_grad()
            (actor(x).square().mean() + critic(x).square().mean()).backward()
            first.step()
            if number % 2:
                second.step()
    series = monitor.fetch().series("gradient_norm")
    assert series.sites == ["actor.0", "actor.2", "critic.2"]
    assert (series.site("actor.0")[~torch.tensor(series.site("actor.0")).isnan().numpy()] > 0).all()
    assert {"error_signal/actor", "error_signal/critic"} <= set(row(monitor, 2))


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3), nn.Tanh())
        self.critic = nn.Sequential(nn.Linear(11, 16), nn.ReLU(), nn.Linear(16, 1))


def alternate(model, critic_optimizer, actor_optimizer, updates, delay=1, seen=None):
    """As in TD3 and SAC: the critic's update, then the actor's pass and update."""
    for number, (x, _) in enumerate(batches(updates), start=1):
        critic_optimizer.zero_grad()
        actions = torch.randn(len(x), 3, generator=torch.Generator().manual_seed(number))
        model.critic(torch.cat([x, actions], 1)).square().mean().backward()
        critic_optimizer.step()
        if number % delay == 0:
            if seen is not None:
                seen.append(copy.deepcopy(model.actor[:2])(x).detach())
            actor_optimizer.zero_grad()
            (-model.critic(torch.cat([x, model.actor(x)], 1))).mean().backward()
            actor_optimizer.step()


@pytest.mark.parametrize("whole", [True, False], ids=["one network", "two networks"])
@pytest.mark.parametrize("delay", [1, 2])
def test_an_actors_pass_after_the_critics_step_is_seen(whole, delay):
    torch.manual_seed(0)
    model, seen = ActorCritic(), []
    with torch.no_grad():
        model.actor[0].bias[:5] = -100.0  # five dead units
    critic = torch.optim.Adam(model.critic.parameters(), lr=1e-3)
    actor = torch.optim.Adam(model.actor.parameters(), lr=1e-3)
    watched = model if whole else {"actor": model.actor, "critic": model.critic}
    with Monitor(watched, [critic, actor], every=4, probe_every=0) as monitor:
        alternate(model, critic, actor, 24, delay, seen)
    history = monitor.fetch()
    steps = [step for step in (2, 4, 8, 12, 16, 20, 24) if step <= len(seen)]
    dormant = history.series("dormant").site("actor.1")
    by_hand = [metrics.dormant_fraction(metrics.unit_mean_abs(seen[step - 1])).item() for step in steps]
    assert dormant[~np.isnan(dormant)].tolist() == pytest.approx(by_hand)
    assert min(by_hand) >= 5 / 16
    for metric in ("gradient_dormant", "saturated"):
        values = history.series(metric).site("actor.1" if metric == "gradient_dormant" else "actor.3")
        assert np.isfinite(values).sum() == len(steps)
    critics = history.series("dormant").site("critic.1")
    assert 5 <= np.isfinite(critics).sum() <= 8, "a figure a look, and not the actor's looks once more"
    assert not monitor.notes


def test_a_report_before_the_actors_first_step():
    torch.manual_seed(0)
    model = ActorCritic()
    model.target = copy.deepcopy(model.critic)  # neither called nor trained
    critic = torch.optim.Adam(model.critic.parameters(), lr=1e-3)
    actor = torch.optim.Adam(model.actor.parameters(), lr=1e-3)
    with Monitor({"actor": model.actor, "rest": model}, [critic, actor], every=2, probe_every=0) as monitor:
        alternate(model, critic, actor, 6, delay=1000)
        assert not monitor.report().notes
        assert monitor.history.frozen == [], "what was not looked at yet may well be called"
        alternate(model, critic, actor, 12)
        assert monitor.report().notes == []
        assert not any("target" in finding.site for finding in monitor.report().findings)


def test_an_optimizer_that_steps_no_more_is_not_waited_for():
    torch.manual_seed(0)
    model = ActorCritic()
    critic = torch.optim.Adam(model.critic.parameters(), lr=1e-3)
    actor = torch.optim.Adam(model.actor.parameters(), lr=1e-3)
    with Monitor(model, [critic, actor], every=2, probe_every=0) as monitor:
        alternate(model, critic, actor, 3)
        alternate(model, critic, actor, 20, delay=1000)
    values = monitor.fetch().series("dormant").site("critic.1")
    assert np.isfinite(values).sum() >= 9


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.LBFGS])
def test_a_step_that_takes_a_closure(optimizer):
    """As Lightning's automatic optimization does: gradients are made inside the step."""
    network, inside = make(optimizer=optimizer)
    twin, outside = make(optimizer=torch.optim.Adam)
    calls = []
    with (
        Monitor(network, inside, every=4, probe_every=0) as monitor,
        Monitor(twin, outside, every=4, probe_every=0) as expected,
    ):
        for x, y in batches(13):

            def closure(x=x, y=y):
                calls.append(1)
                inside.zero_grad()
                loss = F.cross_entropy(network(x), y)
                loss.backward()
                return loss

            inside.step(closure) if len(calls) % 2 else inside.step(closure=closure)
        train(twin, outside, batches(13))
    assert not monitor.notes
    if optimizer is torch.optim.Adam:
        assert len(calls) == 13
        assert monitor.fetch().rows == expected.fetch().rows
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))
    else:
        for metric in ("gradient_norm", "update_ratio", "dormant"):
            assert monitor.fetch().series(metric).sites


@pytest.mark.parametrize(
    "build",
    [
        lambda: [nn.Conv1d(8, 6, 3, padding=1), nn.ReLU()],  # [batch, units, length]
        lambda: [nn.Linear(5, 6), nn.ReLU()],  # [batch, tokens, units]
        lambda: [nn.Conv1d(8, 7, 1), nn.Linear(5, 6), nn.ReLU()],
        lambda: [nn.Conv3d(1, 6, 1), nn.ReLU()],
    ],
    ids=["conv1d", "tokens", "tokens after conv1d", "conv3d"],
)
def test_units_of_every_layout(build):
    torch.manual_seed(0)
    layers, units = build(), 6
    with torch.no_grad():  # two of six are dead, the others are not
        layers[-2].bias.copy_(torch.tensor([-1000.0, -1000, 1, 1, 1, 1]))
    head = nn.LazyLinear(2)
    network = nn.Sequential(*layers, nn.Flatten(), head)
    x = torch.randn(16, 1, 2, 4, 5) if isinstance(layers[0], nn.Conv3d) else torch.randn(16, 8, 5)
    network(x)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        for _ in range(4):
            network(x).square().mean().backward()
            optimizer.step()
    figures = row(monitor, 2)
    site = str(len(layers) - 1)
    assert figures[f"dormant/{site}"] == pytest.approx(2 / units)
    assert figures[f"dead/{site}"] == pytest.approx(2 / units)
    assert figures[f"gradient_dormant/{site}"] < 1


def test_an_activation_of_six_dimensions_ends_no_training():
    network = nn.Sequential(nn.Unflatten(1, (2, 2, 2, 1, 1)), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4))
    optimizer = torch.optim.Adam(network.parameters())
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        train(network, optimizer, batches(4))
    assert any("6 dimensions" in note for note in monitor.notes)
    assert monitor.fetch().series("gradient_norm").sites == ["3"]


def test_a_parallel_wrapper_is_looked_into(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        network, optimizer = make()
        wrapped = nn.parallel.DistributedDataParallel(network)
        with Monitor(wrapped, optimizer, every=2, probe_every=0) as monitor:
            train(wrapped, optimizer, batches(4))
            with pytest.raises(UsageError, match="monitor already"):
                Monitor(network, optimizer)
    finally:
        torch.distributed.destroy_process_group()
    assert "relu" in monitor.fetch().series("dormant").sites
    assert not monitor.notes


def test_layers_outside_the_optimizer():
    network, _ = make()
    optimizer = torch.optim.Adam([p for n, p in network.named_parameters() if not n.startswith("inner1")], lr=1e-3)
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        train(network, optimizer, batches(10))
    report = monitor.report()
    assert [(finding.rule, finding.site) for finding in report.findings] == [("no_update", "inner1")]
    assert report.layers()["inner1"] == "collapsing"
    assert report.layers()["head"] == "healthy"


def test_a_detached_encoder_gets_no_gradient():
    class Cut(Residual):
        def forward(self, x):
            return self.head(F.relu(self.inner1(self.first(x).detach())))

    network, optimizer = make(Cut)
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        train(network, optimizer, batches(10))
    found = {(finding.rule, finding.site) for finding in monitor.report().findings}
    assert ("no_gradient", "first") in found
    assert monitor.report().verdict == "collapsed"


def test_nan_is_found_with_its_step_and_layer():
    network, optimizer = make()
    data = batches(20)
    data[13][0][3, 2] = float("nan")
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        train(network, optimizer, data)
    found = {finding.rule: finding for finding in monitor.report().findings}
    assert (found["nonfinite"].level, found["nonfinite"].since) == ("collapsed", 14)
    # It came in with the data, and that is what is answered.
    assert found["nonfinite_input"].since == 14
    assert monitor.report().prescriptions[0].name == "normalise_inputs"


def test_gradients_that_never_were_numbers():
    network, optimizer = make()
    data = [(x * float("nan"), y) for x, y in batches(8)]
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        train(network, optimizer, data)
    assert monitor.report().verdict == "collapsed"
    assert {"nonfinite", "nonfinite_input"} <= {finding.rule for finding in monitor.report().findings}


def test_a_compiled_network_says_what_cannot_be_seen(monkeypatch):
    # Another test, or the user's environment, may have switched the compiler off for the whole process.
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    with torch._dynamo.config.patch(disable=False):
        network, optimizer = make()
        compiled = torch.compile(network, backend="eager")
        with Monitor(compiled, optimizer, every=2, probe_every=2) as monitor:
            train(compiled, optimizer, batches(24))
    history = monitor.fetch()
    assert history.series("gradient_norm").sites == ["first", "inner1", "inner2", "head"]
    assert history.series("error_signal") and history.series("effective_rank")
    assert not history.series("dormant")
    assert any("compiled" in note for note in monitor.notes)


@pytest.mark.parametrize("part", ["a module", "in place", "a function"])
def test_compiled_parts_are_said(part, monkeypatch):
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(disable=False):
        torch.manual_seed(0)
        inner: nn.Module = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        if part == "a module":
            inner = torch.compile(inner, backend="eager")
        elif part == "in place":
            inner.compile(backend="eager")
        network = nn.Sequential(inner, nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 4))
        optimizer = torch.optim.Adam(network.parameters())

        def loss(x, y):
            return F.cross_entropy(network(x), y)

        if part == "a function":
            loss = torch.compile(loss, backend="eager")
        with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
            for x, y in batches(6):
                optimizer.zero_grad()
                loss(x, y).backward()
                optimizer.step()
    assert len(monitor.fetch().series("gradient_norm").sites) == 3
    assert any("compiled" in note for note in monitor.notes)
    assert len(monitor.notes) == 1


class Around(nn.Module):
    """A network with something in its middle."""

    def __init__(self, middle):
        super().__init__()
        self.first, self.middle, self.head = nn.Linear(8, 16), middle, nn.Linear(16, 4)

    def forward(self, x):
        passed = self.middle(F.relu(self.first(x)))
        return self.head(passed[0] if isinstance(passed, tuple) else passed)


class OwnLSTM(nn.LSTM):
    pass


@pytest.mark.parametrize(
    ("part", "note"),
    [
        (lambda: nn.LSTM(16, 16), "activations inside nn.LSTM are not seen"),
        (lambda: OwnLSTM(16, 16), "activations inside nn.LSTM are not seen"),
        (lambda: nn.Sequential(nn.GRU(16, 16)), "activations inside nn.GRU are not seen"),
        (lambda: nn.RNN(16, 16), "activations inside nn.RNN are not seen"),
        (lambda: nn.GRUCell(16, 16), "activations inside nn.GRUCell are not seen"),
        (
            lambda: torch.jit.script(nn.Sequential(nn.Linear(16, 16), nn.ReLU())),
            "activations inside a scripted module are not seen",
        ),
        (
            lambda: torch.jit.trace(nn.Sequential(nn.Linear(16, 16), nn.ReLU()), torch.zeros(2, 16)),
            "activations inside a scripted module are not seen",
        ),
    ],
    ids=["LSTM", "an LSTM of one's own", "GRU", "RNN", "a cell", "scripted", "traced"],
)
def test_activations_in_one_piece_are_said_and_end_no_training(part, note):
    torch.manual_seed(0)
    network = Around(part())
    optimizer = torch.optim.Adam(network.parameters())
    with Monitor({"memory": network}, optimizer, every=2, probe_every=2) as monitor:
        train(network, optimizer, batches(6))
    assert monitor.notes == [note.replace(" are", " of memory are")]
    monitor = Monitor(network, optimizer, every=2, probe_every=2)
    train(network, optimizer, batches(6))
    assert monitor.report().notes == [note]
    assert monitor.history.series("dormant").sites == ["relu"]
    assert "gradient_norm/head" in row(monitor, 6) and "effective_rank/network" in row(monitor, 6)


def test_a_network_scripted_as_a_whole_is_trained_all_the_same():
    network = torch.jit.script(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)))
    optimizer = torch.optim.Adam(network.parameters())
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        train(network, optimizer, batches(6))
    assert "activations inside a scripted module are not seen" in monitor.report().notes
    assert "gradient_norm/2" in row(monitor, 6)


@pytest.mark.parametrize("part", [lambda part: torch.compile(part, backend="eager"), torch.jit.script])
def test_a_layer_behind_a_dead_one_in_a_part_out_of_sight_is_a_finding(part, monkeypatch):
    """Whether it is called cannot be seen, so that it is not said either."""
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    with torch.no_grad():
        inner[0].bias.fill_(-1000.0)
    with torch._dynamo.config.patch(disable=False):
        network = Around(part(inner))
        optimizer = torch.optim.Adam(network.parameters())
        with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
            train(network, optimizer, batches(8))
    report = monitor.report()
    cut_off = {finding.site for finding in report.findings if finding.rule == "no_gradient"}
    assert any(site.endswith("0") for site in cut_off) and monitor.history.frozen == []
    assert not any("no forward pass calls it" in note for note in report.notes)


def test_a_step_captured_into_a_cuda_graph_is_said(monkeypatch):
    network, optimizer = make()
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        train(network, optimizer, batches(3))
        with monkeypatch.context() as capturing:
            capturing.setattr(torch.cuda, "is_available", lambda: True)
            capturing.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            train(network, optimizer, batches(2))
        train(network, optimizer, batches(3))
    assert any("CUDA graph" in note for note in monitor.notes)
    assert [step for step, _ in monitor.fetch().rows] == [2, 6, 8]


def test_gradients_without_a_backward_pass_are_said():
    network, optimizer = make()
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        for x, y in batches(4):
            gradients = torch.autograd.grad(F.cross_entropy(network(x), y), list(network.parameters()))
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
    assert any("without a backward pass" in note for note in monitor.notes)


class Crossings(TorchDispatchMode):
    """Operations that bring a tensor from the host to the meta device, which stands for any other."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        where = {one.device.type for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        if where == {"cpu"} and isinstance(result, torch.Tensor) and result.device.type == "meta":
            self.found.append(str(func))
        return result


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_look_reads_no_value_and_sends_none(optimizer, monkeypatch):
    """Tensors on the meta device have no values, so whatever would wait for one raises."""
    with torch.device("meta"):
        network = Residual()
        steps = optimizer(network.parameters(), lr=1e-3)
        x, y = torch.zeros(32, 8), torch.zeros(32, dtype=torch.int64)
    with Monitor(network, steps, every=2, probe_every=0) as monitor:
        monkeypatch.setattr(monitor, "_read", lambda keep: None)
        train(network, steps, [(x, y)] * 3)
        tensor, made = torch.tensor, []
        with Crossings() as crossings, monkeypatch.context() as making:
            making.setattr(torch, "tensor", lambda *args, **kwargs: made.append(kwargs) or tensor(*args, **kwargs))
            train(network, steps, [(x, y)])
    assert [step for step, *_ in monitor._pending] == [2, 4]
    assert not crossings.found
    assert not [one for one in made if str(one.get("device", "cpu")) != "cpu"]
    keys = monitor._pending[-1][1]
    assert {"gradient_norm/head", "effective_learning_rate/head", "dormant/relu", "gradient_cosine/first"} <= set(keys)


class Rated(torch.optim.Optimizer):
    """Steps of a size of its own; its learning rate, None for that of Adafactor say, is only kept."""

    def step(self):
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.sub_(0.01 * parameter.grad)


@pytest.mark.parametrize(
    ("defaults", "rate"),
    [
        ({"lr": None, "weight_decay": 0.1, "decoupled_weight_decay": True}, math.nan),
        ({"step_size": 1.0}, math.nan),
        ({"lr": torch.tensor([0.5])}, 0.5),
        ({"lr": np.float32(0.5)}, 0.5),
    ],
)
def test_a_learning_rate_that_is_no_number_ends_no_training(defaults, rate):
    network, _ = make()
    optimizer = Rated(network.parameters(), defaults)
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        train(network, optimizer, batches(4))
    figures = monitor.report().history
    found = figures.series("effective_learning_rate")
    if math.isnan(rate):
        assert not found
    else:
        weights = figures.series("weight_norm").values
        assert found.values * weights**2 == pytest.approx(np.full_like(weights, rate), rel=1e-5)


def test_a_network_that_was_moved_is_watched_on():
    network, optimizer = make()
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        (update,) = monitor._updates
        for name in ("_layer_of", "_sizes", "_multiplied", "_outputs"):
            setattr(update, name, getattr(update, name).to("meta"))
        train(network, optimizer, batches(4))
    assert [step for step, _ in monitor.fetch().rows] == [2, 4]


@pytest.mark.parametrize("wrap", [lambda y: (y, None), lambda y: {"q": y}, lambda y: [y]])
def test_outputs_that_are_not_a_tensor(wrap):
    class Wrapped(Residual):
        def forward(self, x):
            return wrap(super().forward(x))

    network, optimizer = make(Wrapped)
    with Monitor(network, optimizer, every=2, probe_every=2) as monitor:
        for x, y in batches(6):
            optimizer.zero_grad()
            output = network(x)
            output = output["q"] if isinstance(output, dict) else output[0]
            F.cross_entropy(output, y).backward()
            optimizer.step()
    assert monitor.fetch().series("error_signal")
    assert monitor.history.series("churn")


def test_churn_and_its_split_are_those_of_copies():
    data = batches(4)
    probe = torch.randn(64, 8, generator=torch.Generator().manual_seed(9))
    network, optimizer = make(lr=0.05)
    with Monitor(network, optimizer, every=2, probe=probe, probe_every=4) as monitor:
        train(network, optimizer, data[:3])
        old = copy.deepcopy(network)
        train(network, optimizer, data[3:])
    crossed = copy.deepcopy(network)
    crossed.head = old.head
    crossed_head = copy.deepcopy(old)
    crossed_head.head = network.head

    def best(model):
        return model(probe).argmax(1)

    figures = row(monitor, 4)
    assert figures["churn/network"] == pytest.approx((best(old) != best(network)).float().mean().item())
    assert figures["churn_encoder/network"] == pytest.approx((best(old) != best(crossed)).float().mean().item())
    assert figures["churn_head/network"] == pytest.approx((best(old) != best(crossed_head)).float().mean().item())
    assert figures["churn/network"] > 0


def test_logged_figures_and_callback():
    network, optimizer = make()
    seen = []
    with Monitor(
        network, optimizer, every=2, probe_every=0, on_record=lambda step, f: seen.append((step, f))
    ) as monitor:
        for x, y in batches(4):
            train(network, optimizer, [(x, y)])
            monitor.log(loss=torch.tensor(0.5), episode_return=3)
    assert monitor.fetch().network("loss")[0].tolist() == [1, 2, 3, 4]
    assert dict(monitor.history.rows)[4]["episode_return/network"] == 3
    assert [step for step, figures in seen if "gradient_norm/head" in figures] == [2, 4]


def test_what_is_logged_between_two_looks_is_not_waited_for():
    """Figures are read when all of a look's steps lie behind them, and numbers are not sent to the device."""
    network, optimizer = make()
    known = []
    with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
        for step, batch in enumerate(batches(8), 1):
            train(network, optimizer, [batch])
            known.append(monitor.history.rows[-1][0] if monitor.history.rows else 0)
            monitor.log(loss=torch.tensor(0.5), episode_return=3)
            if step == 6:
                assert monitor.fetch().rows[-1][0] == 6
    assert known == [0, 0, 0, 2, 2, 4, 6, 6]
    assert monitor.fetch().network("episode_return")[0].tolist() == list(range(1, 9))
    with torch.device("meta"):
        network = Residual()
    with Monitor(network, torch.optim.SGD(network.parameters(), lr=0.1), probe_every=0) as monitor:
        with Crossings() as crossings:
            monitor.log(loss=torch.zeros((), device="meta"), episode_return=3, length=np.int64(4))
        assert not crossings.found


def test_curvature_of_a_quadratic_is_its_matrix():
    network = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 3]])
    with Monitor(network, optimizer, probe_every=0) as monitor:
        found = monitor.measure_curvature(lambda: network(x).square().sum() / 2, iterations=3)
    # The Hessian is diag(1, 4, 9): its trace has no variance under Rademacher vectors.
    assert found["hessian_trace"].value == pytest.approx(14, rel=1e-5)
    assert found["hessian_top"].value == pytest.approx(9, rel=1e-4)
    assert monitor.fetch().network("hessian_top")[1] == pytest.approx([9], rel=1e-4)
    assert network.weight.grad is None


def dense_rank(gradients):
    """Effective rank of the Gram matrix of some gradients, [n, parameters], by NumPy in float64."""
    eigenvalues = np.linalg.eigvalsh(gradients @ gradients.T).clip(0)
    shares = eigenvalues[eigenvalues > 0] / eigenvalues.sum()
    return np.exp(-(shares * np.log(shares)).sum())


def test_gradient_ranks_are_those_of_gradients_taken_one_by_one():
    network, optimizer = make()
    network.train()
    x, y = torch.randn(20, 8), torch.randint(0, 4, (20,))
    weights = copy.deepcopy(network.state_dict())
    with Monitor(network, optimizer, probe_every=0) as monitor:
        found = monitor.measure_gradient_ranks(x, F.cross_entropy, y)
    rows = {"loss": [], "outputs": []}
    parameters = list(network.parameters())
    for row, label in zip(x, y, strict=True):
        output = network(row[None])
        for name, value in (("loss", F.cross_entropy(output, label[None])), ("outputs", output.sum())):
            gradients = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
            rows[name].append(torch.cat([one.flatten() for one in gradients]).double().numpy())
    losses, outputs = (np.stack(rows[name]) for name in ("loss", "outputs"))
    unit = losses / np.linalg.norm(losses, axis=1, keepdims=True)
    assert found["gradient_covariance_rank"].item() == pytest.approx(dense_rank(unit), rel=1e-3)
    assert found["ntk_rank"].item() == pytest.approx(dense_rank(outputs), rel=1e-3)
    figures = monitor.fetch()
    for name in found:
        assert figures.network(name)[1] == pytest.approx([found[name].item()])
    assert network.training
    assert all(parameter.grad is None for parameter in parameters)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in weights.items())


def test_rows_that_do_not_interfere_and_rows_that_are_one():
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1, bias=False))  # no random number is drawn
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    random = torch.get_rng_state()
    with Monitor(network, optimizer, probe_every=0) as monitor:
        apart = monitor.measure_gradient_ranks(torch.eye(3), torch.sum)
        alike = monitor.measure_gradient_ranks(torch.ones(3, 3), torch.sum)
    assert {name: round(rank.item(), 4) for name, rank in apart.items()} == dict.fromkeys(apart, 3)
    assert {name: round(rank.item(), 4) for name, rank in alike.items()} == dict.fromkeys(alike, 1)
    assert torch.equal(random, torch.get_rng_state())


def test_gradients_that_would_fill_the_memory_are_not_taken(monkeypatch):
    monkeypatch.setattr(monitor_module, "MOST_GRADIENTS", 11)
    network = nn.Linear(3, 1)
    with Monitor(network, torch.optim.SGD(network.parameters(), lr=0.1), probe_every=0) as monitor:
        assert monitor.measure_gradient_ranks(torch.eye(3), torch.sum) == {}
        assert monitor.notes == ["no gradient ranks: gradients of 3 rows are 12 values, above 11"]
        assert len(monitor.measure_gradient_ranks(torch.eye(3)[:2], torch.sum)) == 2
    assert monitor.fetch().metrics() == ["gradient_covariance_rank", "ntk_rank"]


class TestWrongUse:
    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ([torch.zeros(0, 8)], r"at least one; got \[0\]"),
            ([torch.zeros(8, 8), torch.zeros(7)], r"as many rows of all tensors.*\[8, 7\]"),
            ([torch.zeros(9, 8), torch.zeros(7)], r"\[9, 7\]"),
            ([torch.zeros(8, 8), torch.zeros(())], r"\[8, 0\]"),
            ([torch.zeros(8, 8), 3.0], "take tensors of rows, got float"),
            ([(torch.zeros(8, 8),)], "take tensors of rows, got tuple"),
        ],
    )
    def test_gradient_ranks_of_rows_that_do_not_fit(self, tensors, message):
        network, optimizer = make()
        inputs, *others = tensors
        with Monitor(network, optimizer) as monitor, pytest.raises(UsageError, match=message):
            monitor.measure_gradient_ranks(inputs, lambda output, *rest: output.sum(), *others)

    def test_gradient_ranks_of_several_networks(self):
        actor, critic = nn.Linear(3, 2), nn.Linear(3, 1)
        optimizer = torch.optim.SGD([*actor.parameters(), *critic.parameters()], lr=0.1)
        with Monitor({"actor": actor, "critic": critic}, optimizer) as monitor:
            with pytest.raises(UsageError, match="of one network; name it: network= one of actor, critic"):
                monitor.measure_gradient_ranks(torch.eye(3), torch.sum)
            with pytest.raises(UsageError, match="unknown network 'acter'; did you mean 'actor'"):
                monitor.measure_gradient_ranks(torch.eye(3), torch.sum, network="acter")
            with pytest.raises(UsageError, match="unknown network 'q'"):
                monitor.measure_curvature(lambda: critic.weight.sum(), network="q")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"probe": torch.eye(3)}, "one probe was given for several networks; give a dictionary"),
            ({"probe": {"acter": torch.eye(3)}}, "unknown network 'acter'; did you mean 'actor'"),
            ({"probe": {"actor": 3.0}}, "probe must be a tensor .* got float"),
            ({"churn": {"critik": None}}, "unknown network 'critik'; did you mean 'critic'"),
            ({"churn": {"actor": "actions"}}, "unknown churn 'actions'; did you mean 'action'"),
            (
                {"churn": "mode"},
                r"unknown churn 'mode'.*\(valid: action, argmax, expected_argmax, gaussian, tanh_gaussian\)",
            ),
        ],
    )
    def test_probes_and_churns_of_several_networks(self, options, message):
        networks = {"actor": nn.Linear(3, 2), "critic": nn.Linear(3, 1)}
        optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in networks.values()]
        with pytest.raises(UsageError, match=message):
            Monitor(networks, optimizers, **options)

    def test_no_parameters(self):
        _, optimizer = make()
        with pytest.raises(UsageError, match="no parameters"):
            Monitor(nn.ReLU(), optimizer)

    def test_another_networks_optimizer(self):
        network, _ = make()
        _, optimizer = make()
        with pytest.raises(UsageError, match="trains none"):
            Monitor(network, optimizer)

    def test_not_a_network_and_not_an_optimizer(self):
        network, optimizer = make()
        with pytest.raises(UsageError, match=r"torch\.nn\.Module"):
            Monitor("network", optimizer)
        with pytest.raises(UsageError, match=r"torch\.optim\.Optimizer"):
            Monitor(network, "adam")

    def test_second_monitor(self):
        network, optimizer = make()
        with Monitor(network, optimizer), pytest.raises(UsageError, match="close"):
            Monitor(network, optimizer)
        Monitor(network, optimizer).close()

    @pytest.mark.parametrize("other", [lambda n: n.inner1, lambda n: nn.Sequential(n), torch.compile])
    def test_second_monitor_on_a_part_a_whole_or_a_compiled_form(self, other):
        network, optimizer = make()
        with Monitor(network, optimizer), pytest.raises(UsageError, match="has a monitor already"):
            Monitor(other(network), optimizer)
        Monitor(other(network), optimizer).close()

    @pytest.mark.parametrize(
        ("probe", "message"),
        [
            (torch.zeros(64, 9), r"does not take the probe, a tensor of shape \[64, 9\]: mat1 and mat2"),
            (np.zeros((64, 8)), "probe must be a tensor of inputs .* got ndarray"),
            ((torch.zeros(64, 8),), "probe must be a tensor of inputs .* got tuple"),
        ],
    )
    def test_probe_that_is_none(self, probe, message):
        network, optimizer = make()
        with pytest.raises(UsageError, match=message) as caught:
            Monitor(network, optimizer, probe=probe)
        assert "\n" not in str(caught.value)
        Monitor(network, optimizer).close()

    def test_no_gradient_ever_seen(self):
        network, optimizer = make()
        with Monitor(network, optimizer) as monitor, pytest.raises(UsageError, match="no gradient was ever seen"):
            monitor.report()

    def test_probe_smaller_than_the_features(self):
        network, optimizer = make()
        with pytest.raises(UsageError, match="16"):
            Monitor(network, optimizer, probe=torch.zeros(8, 8))

    @pytest.mark.parametrize("options", [{"every": 1}, {"every": 10, "probe_every": 15}, {"probe_every": -1}])
    def test_cadence(self, options):
        network, optimizer = make()
        with pytest.raises(UsageError, match="every"):
            Monitor(network, optimizer, **options)

    def test_a_probe_that_would_never_be_run(self):
        network, optimizer = make()
        with pytest.raises(UsageError, match="never be run"):
            Monitor(network, optimizer, probe=torch.zeros(64, 8), probe_every=0)

    def test_model_on_another_device(self):
        network, optimizer = make()
        with pytest.raises(UsageError, match="meta"):
            Monitor(network, optimizer, probe=torch.zeros(64, 8, device="meta"))


def test_the_report_prescribes_what_fits_the_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=60.0)
    with Monitor(model, optimizer, every=4) as monitor:
        for _ in range(160):
            optimizer.zero_grad()
            x = torch.randn(32, 4)
            nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
            optimizer.step()
    report = monitor.report()
    assert report.prescriptions[0].name == "weaker_decay"
    assert "layer_norm" in report.fitting
    assert "multi_skip" not in report.fitting


@pytest.mark.parametrize("zero", ["before the pass", "after the step", "between loss and pass", "to zeros", "never"])
def test_gradients_that_were_not_cleared_are_seen(zero):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer, every=5) as monitor:
        for _ in range(20):
            if zero in ("before the pass", "to zeros"):
                optimizer.zero_grad(set_to_none=zero == "before the pass")
            for part in range(2):  # accumulated over two batches, which is no fault
                loss = model(torch.randn(16, 4)).square().mean()
                if zero == "between loss and pass" and part == 0:
                    optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            if zero == "after the step":
                optimizer.zero_grad()
    found = [finding.rule for finding in monitor.report().findings]
    assert ("leftover_gradient" in found) is (zero == "never")


@pytest.mark.parametrize("lr", [1e-3, 20.0])
def test_the_gain_is_that_of_the_weights_before_the_first_step(lr):
    network, optimizer = make(lr=lr)
    gains = {
        name: layer.weight.norm().item() / len(layer.bias) ** 0.5
        for name, layer in network.named_children()
        if isinstance(layer, nn.Linear)
    }
    with Monitor(network, optimizer, every=2) as monitor:
        train(network, optimizer, batches(6))
    seen = {
        step: {key: value for key, value in figures.items() if key.startswith("weight_gain/")}
        for step, figures in monitor.fetch().rows
    }
    assert seen[2] == pytest.approx({f"weight_gain/{name}": gain for name, gain in gains.items()})
    assert not seen[4] and not seen[6]


def test_only_matrices_that_multiply_inputs_have_a_gain():
    """A row of an embedding is an output, not a row of weights of one."""
    network = nn.Sequential(nn.Embedding(10, 6), nn.Flatten(), nn.Linear(12, 4))
    optimizer = torch.optim.Adam(network.parameters())
    with Monitor(network, optimizer, every=2) as monitor:
        for _ in range(2):
            optimizer.zero_grad()
            network(torch.randint(10, (8, 2))).square().mean().backward()
            optimizer.step()
    figures = row(monitor, 2)
    assert figures["weight_gain/2"] > 0 and "weight_norm/0" in figures
    assert not figures.get("weight_gain/0", float("nan")) > 0


def test_a_network_that_takes_no_other_rows_is_trained_all_the_same():
    """Messages along the edges of one graph: rows cannot be taken apart or put together."""

    class Messages(nn.Module):
        def __init__(self):
            super().__init__()
            self.known = torch.eye(20) / 2
            self.first, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.known @ F.relu(self.first(x)))

    network, optimizer = make(Messages)
    with Monitor(network, optimizer, every=2, probe_every=2) as monitor:
        for _ in range(8):
            optimizer.zero_grad()
            network(torch.randn(20, 8)).square().mean().backward()
            optimizer.step()
    report = monitor.report()
    assert any("does not take the probe's rows (RuntimeError: " in note for note in report.notes)
    assert "gradient_norm/first" in row(monitor, 8) and "churn/network" not in row(monitor, 8)


@pytest.mark.parametrize(
    ("probe", "note"),
    [(lambda: [][0], "IndexError: list index out of range"), (lambda: [1.0], "gave no tensor but list")],
)
def test_a_probe_function_that_fails_is_said_and_ends_no_training(probe, note):
    network, optimizer = make()
    with Monitor(network, optimizer, every=2, probe=probe, probe_every=2) as monitor:
        train(network, optimizer, batches(4))
    assert [one for one in monitor.notes if "the probe's function failed" in one and note in one]
    assert "gradient_norm/first" in row(monitor, 4)


def test_a_record_function_that_fails_is_said_and_ends_no_training():
    network, optimizer = make()
    with Monitor(network, optimizer, every=2, on_record=lambda step, figures: 1 / 0) as monitor:
        train(network, optimizer, batches(6))
    assert [step for step, _ in monitor.fetch().rows] == [2, 4, 6]
    assert "on_record failed and is not called again: ZeroDivisionError: division by zero" in monitor.notes


@pytest.mark.parametrize("every", [1, 2, 3])
def test_measuring_curvature_leaves_the_looks_as_they_are(every):
    """Between two steps, whether the next one is looked at or not."""

    def looks(measure):
        network, optimizer = make()
        x, y = batches(1)[0]
        with Monitor(network, optimizer, every=4, probe_every=0) as monitor:
            for step in range(1, 13):
                optimizer.zero_grad()
                F.cross_entropy(network(x), y).backward()
                optimizer.step()
                if measure and step % every == 0:
                    monitor.measure_curvature(lambda: 100 * F.cross_entropy(network(x), y), samples=2, iterations=2)
                    monitor.measure_gradient_ranks(x, F.cross_entropy, y)
        taken = ("hessian", "gradient_covariance", "ntk")
        return [
            (step, {key: value for key, value in figures.items() if not key.startswith(taken)})
            for step, figures in monitor.fetch().rows
        ]

    plain, measured = looks(False), [one for one in looks(True) if one[1]]
    assert plain == measured


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_measuring_in_the_middle_of_an_update_leaves_the_looks_as_they_are(place):
    """After the forward or the backward pass of an update that is looked at, with passes through the same graph."""

    def looks(measure):
        network, optimizer = make()
        with Monitor(network, optimizer, every=2, probe_every=0) as monitor:
            for x, y in batches(6):
                optimizer.zero_grad()
                loss = F.cross_entropy(network(x), y)
                for here in ("forward", "backward"):
                    if measure and here == place:
                        monitor.measure_curvature(lambda loss=loss: 100 * loss, samples=2, iterations=2)
                        monitor.measure_gradient_ranks(x, F.cross_entropy, y)
                    if here == "forward":
                        loss.backward(retain_graph=True)
                optimizer.step()
        taken = ("hessian", "gradient_covariance", "ntk")
        rows = [
            (step, {key: value for key, value in figures.items() if not key.startswith(taken)})
            for step, figures in monitor.fetch().rows
        ]
        return [one for one in rows if one[1]], monitor.notes

    assert looks(True) == looks(False)


@pytest.mark.parametrize(
    ("place", "name", "calls"),
    [
        (metrics, "unit_mean_abs", 8),  # four activations and their gradients
        (ActivationWatch, "_enter", 7),  # the network and its five modules, one of them twice
        (ActivationWatch, "_end_pass", 1),
        (UpdateWatch, "_accumulate", 16),  # the parameters, in two steps
        (UpdateWatch, "_see_leftover", 1),
        (UpdateWatch, "_before_update", 2),  # where weights are copied
        (UpdateWatch, "_figures", 1),
        (monitor_module, "_shape", 1),
        (Probe, "before_step", 1),
        (Probe, "after_step", 1),
    ],
)
def test_the_time_of_all_that_a_look_does_is_counted(place, name, calls, monkeypatch):
    """Whatever part of it is slow shows in the seconds, once, and only where a look is taken."""
    network, optimizer = make()
    original, now, made = getattr(place, name), [0.0], []

    def slow(*args, **kwargs):
        made.append(name)
        now[0] += 1.0
        return original(*args, **kwargs)

    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(place, name, slow)
    with Monitor(network, optimizer, every=4, probe_every=4, probe=torch.zeros(32, 8)) as monitor:
        train(network, optimizer, batches(2))
        made.clear()
        monitor.seconds = 0.0
        train(network, optimizer, batches(2))
        assert monitor.seconds == len(made) == calls
        train(network, optimizer, batches(1))
        assert len(made) == calls, "a step that is not looked at"
        assert monitor.report().cost["seconds"] == calls


class EveryKind(nn.Module):
    """Activations that autograd keeps and such that it lets go, modules and functions."""

    def __init__(self):
        super().__init__()
        self.first, self.squash = nn.Conv2d(1, 4, 3), nn.Tanh()
        self.second, self.head = nn.Linear(144, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = self.squash(F.gelu(self.first(x))).flatten(1)
        return self.head(torch.sigmoid(F.relu(self.second(x)) * 2))


def held_bytes(rows, every, backward):
    """Memory that a pass leaves occupied while its loss is alive, as torch's profiler counts it."""
    network, optimizer = make(EveryKind)
    x = torch.randn(rows, 1, 8, 8)
    with Monitor(network, optimizer, every=every, probe_every=0):
        for _ in range(3):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
        optimizer.zero_grad()
        # What is collected meanwhile would count as memory that was given back.
        gc.collect()
        gc.disable()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            loss = network(x).square().mean()
            if backward:
                loss.backward()
        gc.enable()
    return sum(event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")


@pytest.mark.parametrize("backward", [False, True], ids=["after the pass", "after the backward pass"])
def test_no_activation_is_kept(backward):
    """A look holds figures of the units, however many rows there are."""
    few, many = (held_bytes(rows, 4, backward) - held_bytes(rows, 1000, backward) for rows in (16, 256))
    assert few == many
    assert 0 < few < 256 * 32 * 4, "less than one activation of the many"


@pytest.mark.parametrize(("make", "known"), [(Kron, True), (torch.optim.Adam, True), (torch.optim.SGD, False)])
def test_steps_are_of_known_size_where_they_are_whitened_or_normalised(make, known):
    model = nn.Linear(4, 2)
    optimizer = make(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer) as monitor:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
    assert bool(monitor.fetch().series("normalised_step")) is known
