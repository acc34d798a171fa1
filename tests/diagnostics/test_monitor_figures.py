"""Every figure that a monitor records against a slow loop: a raw copy of the network, plain autograd and numpy."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stablegrad.diagnostics import Monitor

EVERY, PROBE_EVERY, STEPS, CLIP = 2, 4, 12, 0.5
RATES = {False: 1e-2, True: 2e-2}  # of the other layers, of the head
METRICS = {
    *("dormant", "gradient_dormant", "dead", "saturated", "error_signal", "input_mean", "input_std", "output_size"),
    *("output_spread", "srank", "effective_rank", "feature_rank", "churn", "churn_encoder", "churn_head"),
    *("target_drift", "update_ratio", "normalised_step", "gradient_cosine", "gradient_snr", "weight_norm"),
    *("effective_learning_rate", "weight_gain", "gradient_norm"),
}


class Dense(nn.Module):
    """A module, a method and a function; a normalisation that is no layer, and dropout that a probing leaves out."""

    layers, shape = ("first", "second", "third", "head"), (8,)

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.squash = nn.Linear(8, 24), nn.LayerNorm(24), nn.Tanh()
        self.second, self.drop, self.third = nn.Linear(24, 32), nn.Dropout(0.2), nn.Linear(32, 20)
        self.head = nn.Linear(20, 5)
        with torch.no_grad():
            self.norm.weight[:12] *= 4  # saturates
            self.second.bias[:5] = -100.0  # dead
            self.second.weight[5:9] *= 1e-3  # dormant
            self.second.bias[5:9] = 1e-3
            self.third.weight[:, 9:13] *= 1e-3  # no gradient to speak of
            self.third.weight[:4] *= 30
            self.third.weight[10:] = self.third.weight[10:11] + 0.02 * self.third.weight[10:]  # of a low rank

    def through(self, x):
        """What passes through the network, by the site that a monitor should give it."""
        seen = {"squash": self.squash(self.norm(self.first(x)))}
        seen["relu"] = self.second(seen["squash"]).relu()
        seen["sigmoid"] = torch.sigmoid(self.third(self.drop(seen["relu"])))
        seen["relu#2"] = F.relu(seen["sigmoid"] - 0.5)
        return seen | {"output": self.head(seen["relu#2"])}

    def forward(self, x):
        return self.through(x)["output"]


class Pixels(nn.Module):
    """Convolutions, whose units are channels, with modules and functions behind them."""

    layers, shape = ("encoder.0", "encoder.2", "hidden", "head"), (2, 8, 8)

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=False), nn.Sigmoid())
        self.hidden, self.head = nn.Linear(96, 24), nn.Linear(24, 5)
        with torch.no_grad():
            self.encoder[0].bias[:2] = -100.0
            self.encoder[0].weight[2:4] *= 1e-3
            self.encoder[0].bias[2:4] = 1e-3
            self.encoder[2].weight[:3] *= 20
            self.encoder[2].weight[:, 6:] *= 1e-4
            self.hidden.weight[:8] *= 10
            self.hidden.weight[16:] = self.hidden.weight[16:17] + 0.02 * self.hidden.weight[16:]

    def through(self, x):
        seen = {"encoder.1": self.encoder[1](self.encoder[0](x))}
        seen["encoder.3"] = self.encoder[3](self.encoder[2](seen["encoder.1"]))
        seen["tanh"] = torch.tanh(self.hidden(seen["encoder.3"].flatten(1)))
        seen["relu"] = F.relu(seen["tanh"])
        return seen | {"output": self.head(seen["relu"])}

    def forward(self, x):
        features = torch.tanh(self.hidden(self.encoder(x).flatten(1)))
        return self.head(F.relu(features))


def optimizer_of(network, kind):
    """The head learns at a rate of its own."""
    head = list(network.head.parameters())
    rest = [p for name, p in network.named_parameters() if not name.startswith("head")]
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    return kind([{"params": rest, "lr": RATES[False]}, {"params": head, "lr": RATES[True]}], **options)


def train(network, optimizer, data, clear):
    torch.manual_seed(3)
    for parts in data:
        if clear:
            optimizer.zero_grad()
        for x, y in parts:
            F.cross_entropy(network(x), y).backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()


class Step:
    """All there is to keep of a step: what was left of the last one's gradients, the passes' inputs with what passed
    through, gradients before clipping, the networks before and after."""

    def __init__(self, network, optimizer, parts, clear):
        self.before = copy.deepcopy(network)
        if clear:
            optimizer.zero_grad()
        self.left, self.passes = gradients_of(network), []
        for x, y in parts:
            seen = network.through(x)
            for tensor in seen.values():
                tensor.retain_grad()
            F.cross_entropy(seen["output"], y).backward()
            self.passes.append((x, seen))
        self.gradients = gradients_of(network)
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        self.after = copy.deepcopy(network)


def numbers(tensor):
    return tensor.detach().double().numpy().copy()


def gradients_of(network):
    return {name: numbers(torch.zeros_like(p) if p.grad is None else p.grad) for name, p in network.named_parameters()}


def weights_of(network):
    return {name: numbers(p) for name, p in network.named_parameters()}


def flat(arrays, layer):
    """One vector of a layer's weight and bias."""
    return np.concatenate([array.ravel() for name, array in arrays.items() if name.rpartition(".")[0] == layer])


def norm(vector):
    return np.sqrt(np.sum(vector**2))


def update_figures(layer, first, second, rate, normalises):
    """Of a layer in two consecutive steps."""
    old, new = flat(first.gradients, layer), flat(second.gradients, layer)
    weights = flat(weights_of(second.before), layer)
    change = flat(weights_of(second.after), layer) - weights
    figures = {
        "gradient_norm": norm(new),
        "weight_norm": norm(weights),
        "update_ratio": norm(change) / norm(weights),
        "effective_learning_rate": rate / norm(weights) ** 2,
        "gradient_cosine": old @ new / (norm(old) * norm(new)),
        "gradient_snr": old @ new / (norm(old - new) ** 2 / 2),
    }
    if normalises:
        figures["normalised_step"] = np.sqrt(np.mean(change**2)) / rate
    return figures


def unit_figures(site, step):
    """Of an activation in the passes of a step: units in rows, values of all passes in columns."""

    def of_all(of):
        def units(tensor):  # the second axis is the units'
            return np.moveaxis(numbers(tensor), 1, 0).reshape(tensor.shape[1], -1)

        return np.concatenate([units(of(seen[site])) for _, seen in step.passes], axis=1)

    values, size = of_all(lambda h: h), np.abs(of_all(lambda h: h)).mean(axis=1)
    error = np.abs(of_all(lambda h: h.grad)).mean(axis=1)
    figures = {
        "dormant": np.mean(size <= 0.025 * size.mean()),
        "dead": np.mean((values == 0).all(axis=1)),
        "gradient_dormant": np.mean(error <= 0.01 * error.mean()),
    }
    ends = {"squash": (-1, 1), "tanh": (-1, 1), "sigmoid": (0, 1), "encoder.3": (0, 1)}.get(site)
    if ends is not None:
        figures["saturated"] = np.mean((values - ends[0] <= 0.03) | (ends[1] - values <= 0.03))
    return figures


def pass_figures(step):
    """Of the network's input and output, means over a step's passes."""
    inputs = [numbers(x) for x, _ in step.passes]
    outputs = [numbers(seen["output"]) for _, seen in step.passes]
    return {
        "error_signal": norm(np.concatenate([numbers(seen["output"].grad) for _, seen in step.passes])),
        "input_mean": np.mean([x.mean() for x in inputs]),
        "input_std": np.mean([np.sqrt(np.mean((x - x.mean()) ** 2)) for x in inputs]),
        "output_size": np.mean([np.sqrt(np.mean(y**2)) for y in outputs]),
        "output_spread": np.mean([y.std(axis=0).mean() for y in outputs]),
    }


def probe_figures(rows, step, last):
    """Of the networks before and after a step on a probe's rows; ``last``: the step of the probing before."""

    def outputs(network):
        with torch.no_grad():
            return numbers(copy.deepcopy(network).eval()(rows))

    def crossed(encoder, head):
        mixed = copy.deepcopy(encoder)
        mixed.head = copy.deepcopy(head.head)
        return outputs(mixed)

    def changed(old, new):
        return np.mean(old.argmax(axis=1) != new.argmax(axis=1))

    before, after = outputs(step.before), outputs(step.after)
    with torch.no_grad():
        features = numbers(list(copy.deepcopy(step.after).eval().through(rows).values())[-2])
    sigma = np.linalg.svd(features, compute_uv=False)
    share = sigma / sigma.sum()
    figures = {
        "srank": 1 + np.argmax(np.cumsum(share) >= 0.99),
        "effective_rank": np.exp(-np.sum(share[share > 0] * np.log(share[share > 0]))),
        "feature_rank": np.sum(sigma / np.sqrt(len(rows)) > 0.01),
        "feature_count": features.shape[1],
        "churn": changed(before, after),
        "churn_encoder": changed(before, crossed(step.after, step.before)),
        "churn_head": changed(before, crossed(step.before, step.after)),
        "output_std": after.std(axis=0, ddof=1).mean(),
    }
    if last is not None:
        earlier = outputs(last.after)
        figures["target_drift"] = np.sqrt(np.mean((after - earlier) ** 2)) / earlier.std()
    return figures


def by_hand(steps, number, probing, normalises):
    """All figures of the look at a step, counted from 1, by ``<metric>/<site>``."""
    step, network = steps[number - 1], steps[0].before
    by_site = {
        layer: update_figures(layer, steps[number - 2], step, RATES[layer == "head"], normalises)
        for layer in network.layers
    }
    if number == 2:
        for layer in network.layers:
            weight = numbers(network.get_submodule(layer).weight)
            by_site[layer]["weight_gain"] = norm(weight.ravel()) / np.sqrt(len(weight))
    by_site[network.layers[0]]["leftover_gradient"] = norm(step.left[f"{network.layers[0]}.weight"].ravel())
    by_site |= {site: unit_figures(site, step) for site in step.passes[0][1] if site != "output"}
    by_site["network"] = pass_figures(step) | (probe_figures(probing[0], step, probing[1]) if probing else {})
    return {f"{metric}/{site}": value for site, figures in by_site.items() for metric, value in figures.items()}


@pytest.mark.parametrize("given", [True, False], ids=["a probe", "gathered rows"])
@pytest.mark.parametrize(
    ("kind", "passes", "clear"),
    [(torch.optim.Adam, 1, True), (torch.optim.SGD, 2, True), (torch.optim.SGD, 1, False)],
    ids=["Adam", "two passes a step", "never cleared"],
)
@pytest.mark.parametrize("make", [Dense, Pixels])
def test_every_figure_is_that_of_a_slow_loop(make, kind, passes, clear, given):
    torch.manual_seed(0)
    network = make()
    twin = copy.deepcopy(network)
    shape = make.shape
    data = [[(0.3 + torch.randn(32, *shape), torch.randint(5, (32,))) for _ in range(passes)] for _ in range(STEPS)]
    probe = torch.randn(300, *shape)  # more than the probe takes at once

    optimizer = optimizer_of(network, kind)
    options = {"probe": probe} if given else {}
    with Monitor(network, optimizer, every=EVERY, probe_every=PROBE_EVERY, **options) as monitor:
        train(network, optimizer, data, clear)

    slow = optimizer_of(twin, kind)
    torch.manual_seed(3)
    steps = [Step(twin, slow, parts, clear) for parts in data]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))

    def probing(number):
        """(rows, the step of the probing before); rows are gathered in the looks up to that one, at first to this."""
        end = max(number - PROBE_EVERY, PROBE_EVERY)
        looks = [look for look in range(end - PROBE_EVERY + 1, end + 1) if look % EVERY == 0]
        rows = probe if given else torch.cat([x for look in looks for x, _ in data[look - 1]])
        return rows, steps[number - PROBE_EVERY - 1] if number > PROBE_EVERY else None

    figures = dict(monitor.fetch().rows)
    assert list(figures) == list(range(EVERY, STEPS + 1, EVERY))
    telling = set()
    for number, found in figures.items():
        probed = probing(number) if number % PROBE_EVERY == 0 else None
        expected = by_hand(steps, number, probed, normalises=kind is torch.optim.Adam)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key] == pytest.approx(value, rel=1e-4, abs=1e-7), (key, number)
        telling |= {key.partition("/")[0] for key, value in expected.items() if value not in (0, 1)}
    # What is zero throughout, or one, would be right by chance.
    assert telling >= METRICS - (set() if kind is torch.optim.Adam else {"normalised_step"})
    assert ("leftover_gradient" in telling) is not clear
