"""A training script in the shape of CleanRL's: one file, no classes but the network, the loop at module level."""

import sys

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim
from torch.distributions.categorical import Categorical

NUM_ENVS, NUM_STEPS, ITERATIONS, EPOCHS, MINIBATCHES = 4, 32, 6, 2, 4


def layer_init(layer, std=2**0.5):
    torch.nn.init.orthogonal_(layer.weight, std)
    torch.nn.init.constant_(layer.bias, 0.0)
    return layer


class Agent(nn.Module):
    def __init__(self, envs):
        super().__init__()
        inputs = int(np.prod(envs.single_observation_space.shape))
        self.critic = nn.Sequential(layer_init(nn.Linear(inputs, 64)), nn.Tanh(), layer_init(nn.Linear(64, 1), std=1.0))
        self.actor = nn.Sequential(
            layer_init(nn.Linear(inputs, 64)),
            nn.Tanh(),
            layer_init(nn.Linear(64, envs.single_action_space.n), std=0.01),
        )

    def get_action_and_value(self, x, action=None):
        probs = Categorical(logits=self.actor(x))
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action), probs.entropy(), self.critic(x)


torch.manual_seed(1)
envs = gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1") for _ in range(NUM_ENVS)])
agent = Agent(envs)
optimizer = optim.Adam(agent.parameters(), lr=2.5e-4, eps=1e-5)
# PATCH

obs = torch.zeros((NUM_STEPS, NUM_ENVS, 4))
actions = torch.zeros((NUM_STEPS, NUM_ENVS), dtype=torch.int64)
logprobs, rewards, values = (torch.zeros((NUM_STEPS, NUM_ENVS)) for _ in range(3))
next_obs = torch.tensor(envs.reset(seed=1)[0])
for _ in range(ITERATIONS):
    for step in range(NUM_STEPS):
        obs[step] = next_obs
        with torch.no_grad():
            actions[step], logprobs[step], _, value = agent.get_action_and_value(next_obs)
            values[step] = value.flatten()
        next_obs, reward, _, _, _ = envs.step(actions[step].numpy())
        next_obs, rewards[step] = torch.tensor(next_obs), torch.tensor(reward)
    returns = rewards.flip(0).cumsum(0).flip(0)
    advantages = returns - values
    b = [x.flatten(0, 1) for x in (obs, actions, logprobs, advantages, returns)]
    for _ in range(EPOCHS):
        for rows in torch.randperm(NUM_STEPS * NUM_ENVS).chunk(MINIBATCHES):
            _, newlogprob, entropy, newvalue = agent.get_action_and_value(b[0][rows], b[1][rows])
            ratio = (newlogprob - b[2][rows]).exp()
            pg_loss = -torch.min(b[3][rows] * ratio, b[3][rows] * ratio.clamp(0.8, 1.2)).mean()
            loss = pg_loss - 0.01 * entropy.mean() + 0.5 * (newvalue.flatten() - b[4][rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()

torch.save(agent.state_dict(), sys.argv[1])
