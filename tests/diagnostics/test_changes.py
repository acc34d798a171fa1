import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stablegrad.diagnostics import changes, optimizer_changes
from stablegrad.diagnostics.changes import CannotApply
from stablegrad.diagnostics.input_normaliser import InputNormaliser
from stablegrad.networks import EncoderConfig, MLPTorso, MultiSkipTorso, QNetwork, ResidualTorso, TorsoConfig
from stablegrad.optimizers import Kron, default_learning_rate


def stack(*sizes, activation=nn.ReLU, norm=False):
    parts = []
    for n, m in pairwise(sizes[:-1]):
        parts += [nn.Linear(n, m), *([nn.LayerNorm(m)] if norm else []), activation()]
    return nn.Sequential(*parts, nn.Linear(sizes[-2], sizes[-1]))


def adam(model, lr=1e-3):
    return torch.optim.Adam(model.parameters(), lr=lr)


def trained(optimizer):
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def everything(model):
    return {id(parameter) for parameter in model.parameters()}


def step(model, optimizer, inputs):
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()


class TwoHeads(nn.Module):
    """Functional activations, attributes, a policy and a value head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.body = nn.ModuleDict({"a": nn.Linear(16, 16), "b": nn.Linear(16, 16)})
        self.policy = nn.Linear(16, 4)
        self.value = nn.Linear(16, 1)

    def forward(self, x):
        x = F.relu(self.first(x))
        for layer in self.body.values():
            x = torch.tanh(layer(x))
        return torch.cat([self.policy(x), self.value(x)], dim=1)


class TestLayerNorm:
    def test_follows_every_hidden_layer_and_no_output(self):
        model = TwoHeads()
        optimizer = adam(model)
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        assert changes.layer_norm(model, optimizer) is optimizer
        x = torch.randn(5, 6)

        def layer(y, name):
            return F.layer_norm(F.linear(y, before[f"{name}.weight"], before[f"{name}.bias"]), (16,))

        y = F.relu(layer(x, "first"))
        y = torch.tanh(layer(torch.tanh(layer(y, "body.a")), "body.b"))
        expected = torch.cat(
            [F.linear(y, before[f"{name}.weight"], before[f"{name}.bias"]) for name in ("policy", "value")], dim=1
        )
        torch.testing.assert_close(model(x), expected)
        assert set(before) < set(dict(model.named_parameters()))
        assert trained(optimizer) == everything(model)

    def test_convolutions_get_one_group(self):
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2)
        )
        first = copy.deepcopy(model[0])
        changes.layer_norm(model, adam(model))
        x = torch.randn(3, 1, 8, 8)
        torch.testing.assert_close(model[0](x), F.group_norm(first(x), 1))
        assert [type(getattr(layer, "norm_after", None)) for layer in model if hasattr(layer, "weight")] == [
            nn.GroupNorm,
            nn.GroupNorm,
            type(None),
        ]

    @pytest.mark.parametrize(
        "model",
        [
            stack(4, 8, 8, 2, norm=True),
            nn.Linear(4, 2),
            MLPTorso(4, 8, 1),
            MultiSkipTorso(4, 8, 2),
            nn.ModuleDict(
                {
                    "layers": nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)]),
                    "norms": nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)]),
                }
            ),
        ],
    )
    def test_where_every_hidden_layer_has_a_norm_there_is_nothing_to_do(self, model):
        with pytest.raises(CannotApply, match="followed by a norm already"):
            changes.layer_norm(model, adam(model))

    def test_twice_is_refused(self):
        model = stack(4, 8, 8, 2)
        changes.layer_norm(model, adam(model))
        with pytest.raises(CannotApply):
            changes.layer_norm(model, adam(model))

    def test_a_copy_has_norms_of_its_own(self):
        model = stack(4, 8, 8, 2)
        changes.layer_norm(model, adam(model))
        other = copy.deepcopy(model)
        x = torch.randn(3, 4)
        before = model(x)
        with torch.no_grad():
            other[0].norm_after.weight.fill_(0)
        assert torch.equal(model(x), before)
        assert not torch.equal(other(x), before)


class TestResidual:
    def test_adds_the_input_around_square_hidden_layers_only(self):
        model = TwoHeads()
        parts = copy.deepcopy(model)
        changes.residual(model, adam(model))
        x = torch.randn(5, 6)
        y = F.relu(parts.first(x))
        for layer in parts.body.values():
            y = torch.tanh(y + layer(y))
        torch.testing.assert_close(model(x), torch.cat([parts.policy(y), parts.value(y)], dim=1))

    @pytest.mark.parametrize("model", [stack(4, 8, 6, 2), ResidualTorso(4, 8, 2)])
    def test_nothing_to_do(self, model):
        with pytest.raises(CannotApply, match="the shape of its input"):
            changes.residual(model, adam(model))


class TestMultiSkip:
    def test_rebuilds_a_plain_stack_and_leaves_the_rest(self):
        model = nn.Sequential()
        for name, part in [("flat", nn.Flatten()), *stack(6, *[16] * 6, 3, activation=nn.Tanh).named_children()]:
            model.add_module(name, part)
        optimizer = adam(model)
        step(model, optimizer, torch.randn(4, 6))
        head = model[-1]
        changes.multi_skip(model, optimizer)
        assert [type(part) for part in model] == [nn.Flatten, MultiSkipTorso, nn.Linear]
        assert model[-1] is head
        assert next(iter(model._modules)) == "flat"
        torso = model[1]
        # Six hidden layers: a projection, two blocks of two layers, an output layer.
        assert len(torso.blocks) == 2
        assert isinstance(torso.activation, nn.Tanh)
        assert trained(optimizer) == everything(model)
        assert all(id(parameter) in everything(model) for parameter in optimizer.state)
        before = torso.project.weight.clone()
        step(model, optimizer, torch.randn(4, 6))
        assert not torch.equal(torso.project.weight, before)

    @pytest.mark.parametrize("kind", ["mlp", "residual"])
    def test_rebuilds_our_torsos_at_their_size(self, kind):
        config = TorsoConfig(kind=kind, depth=3, width=16, out_features=12, activation="gelu", norm="none")
        model = QNetwork((5,), 4, encoder=EncoderConfig(), torso=config, is_image=False)
        optimizer = adam(model)
        changes.multi_skip(model, optimizer)
        assert type(model.torso) is MultiSkipTorso
        assert (len(model.torso.blocks), model.torso.skip_blocks, model.torso.out_features) == (3, 3, 12)
        assert not any(isinstance(module, nn.LayerNorm) for module in model.modules())
        assert any(isinstance(module, nn.GELU) for module in model.modules())
        assert model(torch.randn(2, 5)).shape == (2, 4)
        assert trained(optimizer) == everything(model)

    @pytest.mark.parametrize(
        "model", [stack(4, 8, 8, 2), stack(4, 8, 16, 8, 16, 2), MultiSkipTorso(4, 8, 2), TwoHeads()]
    )
    def test_says_where_it_takes_a_person(self, model):
        assert not changes.has_plain_stack(model)
        with pytest.raises(CannotApply, match="by hand"):
            changes.multi_skip(model, adam(model))


class TestSmallerNetwork:
    def test_the_first_and_the_last_layer_of_a_stack_stay(self):
        model = stack(6, *[16] * 6, 3, activation=nn.Tanh)
        optimizer, layers = adam(model), [part for part in model if isinstance(part, nn.Linear)]
        step(model, optimizer, torch.randn(4, 6))
        changes.smaller_network(model, optimizer)
        assert [part for part in model if isinstance(part, nn.Linear)] == [layers[0], layers[5], layers[6]]
        assert [type(part) for part in model] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
        assert trained(optimizer) == everything(model)
        assert all(id(parameter) in everything(model) for parameter in optimizer.state)
        x = torch.randn(4, 6)
        expected = layers[6](torch.tanh(layers[5](torch.tanh(layers[0](x)))))
        torch.testing.assert_close(model(x), expected)

    @pytest.mark.parametrize("kind", ["mlp", "residual"])
    def test_our_torsos_between_the_same_sizes(self, kind):
        config = TorsoConfig(kind=kind, depth=3, width=16, out_features=12, activation="gelu", norm="none")
        model = QNetwork((5,), 4, encoder=EncoderConfig(), torso=config, is_image=False)
        optimizer = adam(model)
        changes.smaller_network(model, optimizer)
        linear = [module for module in model.torso.modules() if isinstance(module, nn.Linear)]
        assert [(layer.in_features, layer.out_features) for layer in linear] == [(5, 16), (16, 12)]
        assert any(isinstance(module, nn.GELU) for module in model.torso.modules())
        assert not any(isinstance(module, nn.LayerNorm) for module in model.modules())
        assert model(torch.randn(2, 5)).shape == (2, 4)
        assert trained(optimizer) == everything(model)

    def test_says_where_it_takes_a_person(self):
        with pytest.raises(CannotApply, match="by hand"):
            changes.smaller_network(stack(4, 8, 8, 2), adam(stack(4, 8, 8, 2)))


class TestActivation:
    def test_replaces_modules_that_do_not_shape_the_output(self):
        model = nn.Sequential(
            nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Sequential(nn.Sigmoid()), nn.Linear(8, 2), nn.Tanh()
        )
        changes.activation(model, adam(model))
        assert [type(part) for part in model.modules() if not isinstance(part, nn.Linear | nn.Sequential)] == [
            nn.LeakyReLU,
            nn.GELU,
            nn.Tanh,
        ]

    def test_functions_take_a_person(self):
        model = TwoHeads()
        with pytest.raises(CannotApply, match="by hand"):
            changes.activation(model, adam(model))


def test_orthogonal_init_has_the_right_gains_and_forgets():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = adam(model)
    step(model, optimizer, torch.randn(2, 3, 4, 4))
    changes.orthogonal_init(model, optimizer)
    for layer, gain in ((model[0], 2**0.5), (model[3], 5 / 3), (model[5], 1.0)):
        rows = layer.weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, gain**2 * torch.eye(len(rows)), atol=1e-5, rtol=0)
        assert not layer.bias.any()
    assert not optimizer.state


class TestKron:
    def test_takes_over_parameters_and_rates(self):
        model = stack(4, 8, 8, 2)
        old = torch.optim.AdamW(
            [{"params": model[0].parameters()}, {"params": model[2:].parameters(), "lr": 1e-4}],
            lr=1e-3,
            weight_decay=0.1,
        )
        new = changes.kron(model, old)
        assert isinstance(new, Kron)
        assert [group["lr"] for group in new.param_groups] == [default_learning_rate("kron", lr) for lr in (1e-3, 1e-4)]
        assert [group["weight_decay"] for group in new.param_groups] == [0.1, 0.1]
        assert trained(new) == everything(model)
        step(model, new, torch.randn(4, 4))

    def test_the_rate_follows_from_adams(self):
        model = stack(4, 8, 2)
        new = changes.kron(model, torch.optim.SGD(model.parameters(), lr=0.4, weight_decay=0.1))
        assert new.param_groups[0]["lr"] == pytest.approx(default_learning_rate("kron", 0.01))
        assert new.param_groups[0]["weight_decay"] == 0
        with pytest.raises(CannotApply, match="already"):
            changes.kron(model, new)


def test_rates_are_scaled_for_good():
    model = stack(4, 8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer_changes.lower_learning_rate(model, optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    step(model, optimizer, torch.randn(2, 4))
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    optimizer_changes.raise_learning_rate(model, optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)
    held = torch.tensor(1.0)
    optimizer_changes.lower_learning_rate(
        model, torch.optim.Adam(model.parameters(), lr=held, capturable=False, foreach=False)
    )
    assert held == pytest.approx(0.1)


def test_clipping_holds_the_step():
    model = stack(4, 8, 2)
    optimizer = optimizer_changes.clip_gradients(model, torch.optim.SGD(model.parameters(), lr=1.0))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(1e3 * torch.randn(16, 4)).square().mean().backward()
    optimizer.step()
    moved = [(now.detach() - old).flatten() for now, old in zip(model.parameters(), before, strict=True)]
    assert torch.cat(moved).detach().norm().item() == pytest.approx(1.0, rel=1e-3)


def test_a_fresh_state_is_that_of_a_new_optimizer():
    model = stack(4, 8, 2)
    optimizer = adam(model)
    for _ in range(3):
        step(model, optimizer, torch.randn(8, 4))
    other = copy.deepcopy(model)
    optimizer_changes.reset_optimizer_state(model, optimizer)
    inputs = torch.randn(8, 4)
    step(model, optimizer, inputs)
    step(other, adam(other), inputs)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


class TestTrainLayer:
    @pytest.mark.parametrize("how", ["left out", "rate 0", "frozen"])
    def test_the_layer_moves_afterwards(self, how):
        model = stack(4, 8, 8, 2)
        groups = [{"params": list(model[0].parameters())}, {"params": list(model[4].parameters())}]
        if how == "rate 0":
            groups.append({"params": list(model[2].parameters()), "lr": 0.0})
        elif how == "frozen":
            groups.append({"params": list(model[2].parameters())})
            model[2].requires_grad_(False)
        optimizer = torch.optim.Adam(groups, lr=1e-2)
        before = model[2].weight.clone()
        step(model, optimizer, torch.randn(8, 4))
        assert torch.equal(model[2].weight, before)
        changes.train_layer(model, optimizer)
        step(model, optimizer, torch.randn(8, 4))
        assert not torch.equal(model[2].weight, before)
        with pytest.raises(CannotApply, match="already"):
            changes.train_layer(model, optimizer)

    @pytest.mark.parametrize(("kind", "rate"), [(torch.optim.SGD, 1e-2), (torch.optim.Adam, 1e-3)])
    def test_no_rate_to_go_by(self, kind, rate):
        model = stack(4, 8, 2)
        optimizer = kind(model.parameters(), lr=0.0)
        changes.train_layer(model, optimizer)
        assert optimizer.param_groups[0]["lr"] == rate


class TestRecycle:
    def test_dead_units_come_back_and_live_ones_stay(self):
        torch.manual_seed(0)
        model = stack(4, 32, 16, 2)
        with torch.no_grad():
            model[0].bias[:20] = -50
        inputs = torch.randn(64, 4)
        optimizer = adam(model)
        step(model, optimizer, inputs)
        before = copy.deepcopy(model[0])
        alive = (F.relu(before(inputs)) > 0).any(dim=0)
        assert not alive[:20].any()
        changes.recycle_dormant(model, optimizer)
        now = F.relu(model[0](inputs)) > 0
        assert now.any(dim=0)[:20].float().mean() > 0.9
        kept = model[0].weight.grad.abs().mean(dim=1) > 0.05 * model[0].weight.grad.abs().mean()
        assert torch.equal(model[0].weight[kept], before.weight[kept])
        assert not optimizer.state[model[0].weight]["exp_avg"][:20].any()
        assert optimizer.state[model[0].weight]["exp_avg"][20:].any()

    @pytest.mark.parametrize("make", [adam, lambda model: Kron(model.parameters(), 1e-3)], ids=["adam", "kron"])
    def test_judges_by_the_optimizers_mean_where_gradients_are_gone(self, make):
        model = stack(4, 32, 2)
        with torch.no_grad():
            model[0].bias.fill_(-50)
        optimizer = make(model)
        step(model, optimizer, torch.randn(64, 4))
        optimizer.zero_grad()
        changes.recycle_dormant(model, optimizer)
        assert model[0].bias.min() > -1

    def test_outputs_without_a_gradient_of_their_own_stay(self):
        model = stack(4, 16, 3)
        optimizer = adam(model)
        head = model[-1].weight.clone()
        model(torch.randn(32, 4))[:, 0].sum().backward()
        with pytest.raises(CannotApply, match="no unit is dormant"):
            changes.recycle_dormant(model, optimizer)
        assert torch.equal(model[-1].weight, head)

    def test_needs_a_backward_pass(self):
        model = stack(4, 8, 2)
        with pytest.raises(CannotApply, match="after a backward pass"):
            changes.recycle_dormant(model, adam(model))


class TestNormaliseInputs:
    @given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5), seed=st.integers(0, 1000))
    @settings(max_examples=30, deadline=None)
    def test_statistics_are_those_of_all_rows_together(self, sizes, seed):
        torch.manual_seed(seed)
        batches = [5 + 3 * torch.randn(size, 4) for size in sizes]  # too small for a jump to be believed
        normaliser = InputNormaliser()
        for batch in batches:
            normaliser(batch)
        rows = torch.cat(batches).double()
        torch.testing.assert_close(normaliser.mean.double(), rows.mean(dim=0), rtol=1e-4, atol=1e-4)
        variance = rows.var(dim=0, correction=0)
        torch.testing.assert_close((normaliser.square / normaliser.count).double(), variance, rtol=1e-4, atol=1e-4)

    def test_what_the_network_sees(self):
        model = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 2))
        plain = copy.deepcopy(model)
        changes.normalise_inputs(model, adam(model))
        x = 100 + 7 * torch.randn(50, 4)
        seen = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
        torch.testing.assert_close(model(x), plain(seen), rtol=1e-3, atol=1e-4)
        # Neither evaluation nor acting moves the statistics.
        model.eval()
        after = model(x)
        model(1000 * x)
        with torch.no_grad():
            model.train()(1000 * x)
        torch.testing.assert_close(model.eval()(x), after)
        with pytest.raises(CannotApply, match="already"):
            changes.normalise_inputs(model, adam(model))

    @pytest.mark.parametrize("move", [lambda x: x + 30, lambda x: 0.001 * x, lambda x: 300 * x + 3000])
    def test_inputs_that_jump_are_followed_at_once(self, move):
        normaliser = InputNormaliser()
        for _ in range(50):
            normaliser(torch.randn(32, 4))
        moved = normaliser(move(torch.randn(32, 4)))
        torch.testing.assert_close(moved.mean(dim=0), torch.zeros(4), atol=1e-3, rtol=0)
        torch.testing.assert_close(moved.std(dim=0, correction=0), torch.ones(4), atol=1e-3, rtol=0)

    def test_inputs_that_drift_are_followed_and_single_features_do_not_count_as_a_jump(self):
        torch.manual_seed(0)
        normaliser = InputNormaliser()
        for number in range(400):
            normaliser(torch.randn(32, 4) * torch.tensor([1.0, 1.0, 1.0, 1 + number / 40]))
        out = normaliser.eval()(torch.randn(1000, 4) * torch.tensor([1.0, 1.0, 1.0, 11.0]))
        torch.testing.assert_close(out.std(dim=0), torch.ones(4), atol=0.3, rtol=0)
        count = normaliser.count.clone()
        normaliser.train()(torch.randn(32, 4) * torch.tensor([1.0, 1.0, 1.0, 1e4]))
        assert normaliser.count > 0.9 * count  # nothing was forgotten

    def test_images_by_channel_bytes_too_and_token_ids_not(self):
        normaliser = InputNormaliser()
        images = torch.randint(0, 256, (6, 3, 5, 5), dtype=torch.uint8)
        out = normaliser(images)
        torch.testing.assert_close(out.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(out.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
        ids = torch.randint(0, 9, (4, 7))
        assert normaliser(ids) is ids

    def test_a_saved_network_keeps_its_statistics(self):
        model = stack(4, 8, 2)
        changes.normalise_inputs(model, adam(model))
        model(torch.randn(20, 4))
        other = stack(4, 8, 2)
        changes.normalise_inputs(other, adam(other))
        other.load_state_dict(model.state_dict())
        x = torch.randn(5, 4)
        assert torch.equal(other.eval()(x), model.eval()(x))


@given(
    widths=st.lists(st.sampled_from([3, 8, 16]), min_size=1, max_size=7),
    norm=st.booleans(),
    activation=st.sampled_from([nn.ReLU, nn.Tanh]),
    change=st.sampled_from(
        [
            changes.layer_norm,
            changes.residual,
            changes.multi_skip,
            changes.smaller_network,
            changes.activation,
            changes.orthogonal_init,
            changes.kron,
            changes.normalise_inputs,
        ]
    ),
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_changed_all_of_the_network_is_trained_and_it_still_runs(widths, norm, activation, change):
    model = stack(5, *widths, 2, norm=norm, activation=activation)
    head = model[-1]
    optimizer = adam(model)
    try:
        optimizer = change(model, optimizer)
    except CannotApply:
        assert everything(model) == trained(optimizer)
        return
    assert trained(optimizer) == everything(model)
    x = torch.randn(4, 5)
    assert model(x).isfinite().all()
    assert list(model.modules())[-1] is head or head in list(model.modules())
    step(model, optimizer, x)


def test_no_step_is_longer_than_the_limit_and_its_direction_stays():
    model = stack(8, 16, 2)
    optimizer = optimizer_changes.limit_updates(model, torch.optim.SGD(model.parameters(), lr=100.0))
    before = [one.detach().clone() for one in model.parameters()]
    step(model, optimizer, torch.randn(32, 8))
    for old, one in zip(before, model.parameters(), strict=True):
        moved = one.detach() - old
        least = 1e-2 if one.ndim == 2 else 1e-1
        assert moved.norm() <= 1.0001 * 0.02 * max(old.norm(), least * one.numel() ** 0.5)
        assert F.cosine_similarity(moved.flatten(), -one.grad.flatten(), dim=0) > 0.999


def test_short_steps_are_not_limited():
    model, other = stack(8, 16, 2), stack(8, 16, 2)
    other.load_state_dict(model.state_dict())
    x = torch.randn(32, 8)
    step(model, optimizer_changes.limit_updates(model, torch.optim.SGD(model.parameters(), lr=1e-3)), x)
    step(other, torch.optim.SGD(other.parameters(), lr=1e-3), x)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_gradients_are_cleared_after_the_step():
    model = stack(4, 8, 2)
    optimizer = optimizer_changes.clear_gradients(model, adam(model))
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    assert all(one.grad is None for one in model.parameters())


@pytest.mark.parametrize(
    ("make", "lr", "strong", "usual"),
    [(torch.optim.AdamW, 1e-2, 10.0, 1e-3), (torch.optim.SGD, 0.1, 0.5, 1e-4), (torch.optim.Adam, 1e-3, 0.5, 1e-4)],
)
def test_a_decay_that_takes_much_of_the_weights_is_made_usual(make, lr, strong, usual):
    model = stack(4, 8, 2)
    optimizer = optimizer_changes.weaker_decay(model, make(model.parameters(), lr=lr, weight_decay=strong))
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(usual)
    with pytest.raises(CannotApply, match="usual strength"):
        optimizer_changes.weaker_decay(model, optimizer)


def test_an_eps_above_gradients_goes_with_the_state():
    model = stack(4, 8, 2)
    optimizer = torch.optim.Adam(model.parameters(), eps=1e4)
    optimizer_changes.reset_optimizer_state(model, optimizer)
    assert optimizer.param_groups[0]["eps"] == 1e-8


def test_what_stands_behind_the_output_goes_and_what_stands_before_it_stays():
    model = nn.Sequential(*stack(4, 8, 2), nn.Hardtanh(-2.0, -1.0))
    optimizer = changes.free_output(model, adam(model))
    assert isinstance(model[-1], nn.Identity)
    assert isinstance(model[1], nn.ReLU)
    with pytest.raises(CannotApply, match="behind an output"):
        changes.free_output(model, optimizer)


def test_norms_over_next_to_nothing():
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.GroupNorm(6, 6), nn.ReLU(), nn.InstanceNorm2d(6), nn.Flatten(), nn.Linear(24, 2),
        nn.LayerNorm(2), nn.Linear(2, 8), nn.LayerNorm(8), nn.Linear(8, 2),
    )  # fmt: skip
    optimizer = changes.wider_norm(model, adam(model))
    assert [type(model[n]) for n in (1, 3, 6, 8)] == [nn.GroupNorm, nn.GroupNorm, nn.Identity, nn.LayerNorm]
    assert (model[1].num_groups, model[1].affine, model[3].affine) == (1, True, False)
    assert everything(model) <= trained(optimizer)
    assert model(torch.randn(3, 1, 4, 4)).shape == (3, 2)
    with pytest.raises(CannotApply, match="one or two values"):
        changes.wider_norm(model, optimizer)


@pytest.mark.parametrize(("channels", "groups", "narrow"), [(4, 2, True), (6, 2, False), (4, 1, False), (4, 4, True)])
def test_without_places_a_group_has_as_many_values_as_channels(channels, groups, narrow):
    norm = nn.GroupNorm(groups, channels)
    assert bool(changes.narrow_norms(nn.Sequential(nn.Linear(3, channels), norm, nn.Linear(channels, 2)))) is narrow
    images = nn.Sequential(nn.Conv2d(3, channels, 3), norm, nn.Conv2d(channels, 2, 3))
    assert bool(changes.narrow_norms(images)) is (channels == groups)


def test_recurrent_cells_become_orthogonal_gate_by_gate():
    model = nn.Sequential(nn.LSTM(5, 5))
    changes.orthogonal_init(model, adam(model))
    for gate in model[0].weight_hh_l0.split(5):
        torch.testing.assert_close(gate @ gate.T, torch.eye(5), atol=1e-5, rtol=0)
    assert not model[0].bias_hh_l0.any()


class TestSteadyRate:
    def rates(self, schedule, steps=8, lr=1e-2):
        model = stack(4, 8, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        optimizer_changes.steady_rate(model, optimizer)
        seen = []
        for number in range(steps):
            optimizer.param_groups[0]["lr"] = lr * schedule(number)
            step(model, optimizer, torch.randn(8, 4))
            seen.append(optimizer.param_groups[0]["lr"] / lr)
        return seen

    def test_leaps_and_falls_are_left_out(self):
        assert self.rates(lambda number: 50.0 if number == 2 else 1.0) == pytest.approx([1] * 8)
        assert self.rates(lambda number: 50.0 if number < 2 else 1.0) == pytest.approx([1] * 8)
        assert self.rates(lambda number: 0.5**number) == pytest.approx([1] * 8)
        assert self.rates(lambda number: (1.0, 1.5, 0.1)[number % 3])[2:] == pytest.approx([1.5] * 6)

    def test_what_a_schedule_took_away_comes_back(self):
        model = stack(4, 8, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda number: 0.1**number)
        for _ in range(5):
            step(model, optimizer, torch.randn(8, 4))
            schedule.step()
        optimizer_changes.steady_rate(model, optimizer)
        step(model, optimizer, torch.randn(8, 4))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-2)

    def test_a_warm_up_stays_one(self):
        assert self.rates(lambda number: number / 7) == pytest.approx([number / 7 for number in range(8)])

    def test_a_rate_on_the_device(self):
        model = stack(4, 8, 2)
        optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(1e-2), capturable=False, foreach=False)
        optimizer_changes.steady_rate(model, optimizer)
        optimizer.param_groups[0]["lr"].fill_(1.0)
        step(model, optimizer, torch.randn(8, 4))
        assert optimizer.param_groups[0]["lr"].item() == pytest.approx(1e-2)


def test_convolutions_that_keep_their_shape_get_residual_connections():
    keeps = torch.nn.Conv2d(4, 4, 3, padding=1)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), keeps, torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, stride=2, padding=1), torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3, padding="same"), torch.nn.Flatten(), torch.nn.Linear(4 * 9, 2),
    )  # fmt: skip
    assert changes.square_layers(model) == [keeps, model[8]]
    inputs = torch.randn(2, 4, 8, 8)
    plain = keeps(inputs)
    changes.residual(model, adam(model))
    assert torch.equal(keeps(inputs), inputs + plain)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 2)
