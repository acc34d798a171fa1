"""A loss that grows because values grow is progress; one that grows without is not."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stablegrad.diagnostics import History, Monitor
from stablegrad.diagnostics.rules import judge

LOSS_RULES = {"rising_loss", "not_learned_again"}


def q_learning(spoil_after=None):
    """(monitor, returns) of 6000 steps of DQN on CartPole; ``spoil_after`` so many, rewards are noise."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    env = gym.make("CartPole-v1")
    q = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    target, optimizer = copy.deepcopy(q), torch.optim.Adam(q.parameters(), lr=1e-3)
    monitor = Monitor(q, optimizer, every=20, probe_every=0)
    seen = np.zeros((6000, 4 + 4 + 3), np.float32)
    state, _ = env.reset(seed=0)
    returns = [0.0]
    for step in range(len(seen)):
        action = int(rng.integers(2)) if rng.random() < 1 - step / 10000 else int(q(torch.as_tensor(state)).argmax())
        following, reward, terminated, truncated, _ = env.step(action)
        returns[-1] += reward
        if spoil_after is not None and step > spoil_after:
            reward = 30.0 * rng.choice([-1.0, 1.0])
        seen[step] = [*state, *following, action, reward, terminated]
        state = following
        if terminated or truncated:
            state, _ = env.reset()
            returns.append(0.0)
        if step < 1000 or step % 2:
            continue
        batch = torch.as_tensor(seen[rng.integers(step, size=64)])
        with torch.no_grad():
            wanted = batch[:, 9] + 0.99 * (1 - batch[:, 10]) * target(batch[:, 4:8]).amax(dim=1)
        values = q(batch[:, :4]).gather(1, batch[:, 8:9].long()).squeeze(1)
        loss = F.mse_loss(values, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if monitor.steps == 2 or monitor.steps % 20 == 0:
            monitor.log(loss=loss)
        if step % 250 == 0:
            target.load_state_dict(q.state_dict())
    monitor.close()
    monitor.fetch()
    return monitor.history, returns


def alarms(history):
    """Rules about losses that spoke at any of the looks."""
    looks = history.series("output_size").steps.tolist()
    return LOSS_RULES & {finding.rule for look in looks[::5] for finding in judge(history.until(look))}


def with_changed(history, change):
    """The history with the figures of each row changed, None to leave a row out."""
    rows = [(step, change(step, figures)) for step, figures in history.rows]
    return History([row for row in rows if row[1] is not None])


@pytest.fixture(scope="module")
def learned():
    return q_learning()


def test_an_agent_that_learns_is_not_called_ill_because_its_values_grow(learned):
    history, returns = learned
    assert np.mean(returns[-11:-1]) > 2 * np.mean(returns[:10])
    assert alarms(history) == set()


def test_it_is_by_the_values_that_this_is_told(learned):
    """The same losses and errors with outputs that stay as large as they were are forgetting."""
    history, _ = learned
    size = history.series("output_size").values[0, 0]
    stays = with_changed(history, lambda step, figures: figures | {"output_size/network": size})
    assert alarms(stays) == LOSS_RULES


def test_where_outputs_were_not_seen_nothing_is_said_of_the_loss(learned):
    history, _ = learned
    unseen = with_changed(history, lambda step, figures: {k: x for k, x in figures.items() if "output" not in k})
    assert "rising_loss" not in {finding.rule for finding in judge(unseen)}


def test_nothing_is_said_of_losses_while_returns_are_near_their_best(learned):
    history, _ = learned
    size = history.series("output_size").values[0, 0]

    def returns(rise):
        return with_changed(
            history, lambda step, x: x | {"output_size/network": size, "episode_return/network": rise * step}
        )

    assert alarms(returns(1.0)) == set()
    assert alarms(returns(-1.0)) == LOSS_RULES


def test_a_loss_that_grows_far_beyond_the_values_is_found():
    history, _ = q_learning(spoil_after=3500)
    found = {finding.rule: finding for finding in judge(history)}
    assert "rising_loss" in found
    assert 1250 < found["rising_loss"].since < 1800
