"""A whole agent: a linear policy, and steps away from it that are kept where the reward of ``num_steps`` steps grew."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from stablegrad.agents.contract import AgentConfig, Algorithm
from stablegrad.environments import Discrete


@dataclass(frozen=True)
class RandomSearchConfig(AgentConfig):
    """Options of random search."""

    num_envs: int = 8
    num_steps: int = 100
    """Steps for which each policy is tried."""
    noise: float = 0.5
    """Standard deviation of a step."""

    @property
    def horizon(self) -> int:
        return self.num_steps


class RandomSearch:
    replay, outputs = None, {"policy": "argmax"}

    def __init__(self, config, spec, *, total_steps, device, seed, average_gradients=None):
        self.config, self.spec, self.optimizers, self.updates, self.best = config, spec, {}, 0, -np.inf
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.networks, self.tried = build_networks(config, spec), build_networks(config, spec)["policy"]
        self.reseed(seed)

    def begin(self, observation):
        self.observation, self.reward, self.steps = observation, 0.0, 0

    def act(self, env_steps):
        return self._actions(self.tried, self.observation)

    def policy(self, observation):
        return self._actions(self.networks["policy"], observation)

    @torch.no_grad()
    def _actions(self, network, observation):
        return network(torch.from_numpy(observation)).argmax(1).numpy()

    def observe(self, result):
        self.observation = result.observation
        self.reward += float((result.reward - result.terminated).sum())

    def learn(self, env_steps):
        reward, self.reward, network = self.reward, 0.0, self.networks["policy"]
        if reward >= self.best:
            self.best = reward
            network.load_state_dict(self.tried.state_dict())
        with torch.no_grad():
            for tried, best in zip(self.tried.parameters(), network.parameters(), strict=True):
                tried.copy_(best + self.config.noise * torch.randn(best.shape, generator=self.generator))
        self.updates += 1
        return {"values/reward": torch.tensor([reward])}

    def probe(self, rows):
        return {"policy": torch.from_numpy(self.observation)}

    def objectives(self, rows):
        return {}

    def scalars(self, env_steps):
        return {"search/best": self.best} if np.isfinite(self.best) else {}

    def make_networks(self):
        return build_networks(self.config, self.spec)

    def reseed(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def state_dict(self):
        return {"tried": self.tried.state_dict(), "best": self.best, "updates": self.updates}

    def load_state_dict(self, state):
        self.tried.load_state_dict(state["tried"])
        self.best, self.updates = state["best"], state["updates"]


def build_networks(config, spec):
    return {"policy": nn.Linear(spec.observation_shape[0], spec.action_space.n)}


ALGORITHM = Algorithm(
    title="Random search",
    agent=RandomSearch,
    config=RandomSearchConfig,
    supports=lambda spec: None if isinstance(spec.action_space, Discrete) else "needs discrete actions",
    defaults=lambda spec: RandomSearchConfig(),
    build_networks=build_networks,
    experience_bytes=lambda config, spec: 0,
    metrics=("values/reward",),
)
