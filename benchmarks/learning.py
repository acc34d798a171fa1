"""Every agent on the field's smallest tasks.

    python benchmarks/learning.py [--seeds 5] [--workers 2] [--only LunarLander]

The bars. PQN: CartPole >= 475, Acrobot >= -100 (CleanRL: 495.1 and -95.6), with the defaults Acrobot >= -120 in 300k
steps and the other two not below the former defaults; LunarLander: 4 layers >= 150, 12 layers
failing, 5 multi-skip blocks with Kron within the interval of the 4 layers or better. DQN: CartPole >= 450, LunarLander
>= 150; Rainbow not below DQN's interval. SAC, TD3 and DDPG: Pendulum >= -170 in 20k steps. PPO: CartPole >= 475,
LunarLander >= 200, Acrobot >= -90; HalfCheetah beside Tianshou's 5784 +- 1244. PQN's returns are those of the last 100
episodes, the others' those of 100 greedy episodes after training.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass

import tyro

from common import PQN_64X16, RESULTS, over_seeds, save, train_all
from stablegrad.training.config import RunConfig, default_run

LARGE = "+torso.depth=large"
#: CleanRL's settings for these two: few environments and many updates.
CLEANRL = (
    "baseline+num_envs=4+num_steps=128+num_minibatches=4+num_epochs=4"
    "+exploration_fraction=0.5+epsilon_end=0.05+optimizer.adam_learning_rate=2.5e-4"
)
#: Many environments, more updates and a higher rate than PQN had by default then; the deep networks are trained alike.
LUNAR_LANDER = f"{PQN_64X16}+num_epochs=4+optimizer.adam_learning_rate=1e-3"
#: For rewards that come late.
LONG_ROLLOUTS = "baseline+num_steps=64+num_minibatches=8"
#: RL Baselines3 Zoo's settings for CartPole; those for LunarLander are our defaults for state vectors.
ZOO_CARTPOLE = (
    "baseline+optimizer.adam_learning_rate=2.3e-3+batch_size=64+buffer_size=100000+learning_starts=1000+target_every=10"
    "+train_every=256+gradient_steps=128+exploration_fraction=0.16+epsilon_end=0.04"
)
#: CleanRL's, but for its networks of 120 and 84 units.
CLEANRL_CARTPOLE = (
    "baseline+torso.width=128+optimizer.adam_learning_rate=2.5e-4+buffer_size=10000+learning_starts=10000"
    "+target_every=500+train_every=10+gradient_steps=1+max_grad_norm=none+value_loss=squared+exploration_fraction=0.5"
    "+epsilon_end=0.05"
)
#: RL Baselines3 Zoo's rate; its run begins to learn after 100 steps.
ZOO_PENDULUM = "baseline+optimizer.adam_learning_rate=1e-3+temperature_learning_rate=1e-3+learning_starts=100"
#: RL Baselines3 Zoo's settings of TD3 and DDPG for Pendulum, but for its networks of 400 and 300 units: ours have 256.
ZOO_TD3_PENDULUM = (
    "baseline+optimizer.adam_learning_rate=1e-3+learning_starts=10000+discount=0.98+buffer_size=200000+batch_size=256"
)
#: RL Baselines3 Zoo's settings for LunarLander; for the other tasks of PPO they are our defaults.
ZOO_PPO_LUNAR_LANDER = (
    "baseline+num_envs=16+num_steps=1024+num_minibatches=256+gae_lambda=0.98+discount=0.999"
    "+optimizer.adam_learning_rate=3e-4+optimizer.schedule=constant+clip_value=false"
)
#: name: (algorithm, environment, steps, setting)
TASKS = {
    "CartPole-v1 baseline, 4 layers": ("pqn", "CartPole-v1", 500_000, CLEANRL),
    "Acrobot-v1 baseline, 4 layers": ("pqn", "Acrobot-v1", 500_000, CLEANRL),
    "LunarLander-v3 baseline, 4 layers": ("pqn", "LunarLander-v3", 300_000, "baseline" + LUNAR_LANDER),
    "LunarLander-v3 baseline, 12 layers": ("pqn", "LunarLander-v3", 300_000, "baseline" + LUNAR_LANDER + LARGE),
    "LunarLander-v3 stable, 5 blocks": ("pqn", "LunarLander-v3", 300_000, "stable" + LUNAR_LANDER + LARGE),
    "PQN CartPole-v1, defaults": ("pqn", "CartPole-v1", 300_000, "baseline"),
    "PQN Acrobot-v1, defaults": ("pqn", "Acrobot-v1", 300_000, "baseline"),
    "PQN CartPole-v1, long rollouts": ("pqn", "CartPole-v1", 300_000, LONG_ROLLOUTS),
    "PQN Acrobot-v1, long rollouts": ("pqn", "Acrobot-v1", 300_000, LONG_ROLLOUTS),
    "PQN LunarLander-v3, defaults": ("pqn", "LunarLander-v3", 300_000, "baseline"),
    "DQN CartPole-v1": ("dqn", "CartPole-v1", 50_000, ZOO_CARTPOLE),
    "DQN CartPole-v1, CleanRL's settings": ("dqn", "CartPole-v1", 500_000, CLEANRL_CARTPOLE),
    "DQN LunarLander-v3": ("dqn", "LunarLander-v3", 100_000, "baseline"),
    "Rainbow CartPole-v1": ("rainbow", "CartPole-v1", 50_000, ZOO_CARTPOLE),
    "Rainbow LunarLander-v3": ("rainbow", "LunarLander-v3", 100_000, "baseline"),
    "SAC Pendulum-v1": ("sac", "Pendulum-v1", 20_000, ZOO_PENDULUM),
    "TD3 Pendulum-v1": ("td3", "Pendulum-v1", 20_000, ZOO_TD3_PENDULUM),
    "DDPG Pendulum-v1": ("ddpg", "Pendulum-v1", 20_000, ZOO_TD3_PENDULUM),
    "PPO CartPole-v1": ("ppo", "CartPole-v1", 500_000, "baseline"),
    "PPO Acrobot-v1": ("ppo", "Acrobot-v1", 500_000, "baseline"),
    "PPO LunarLander-v3": ("ppo", "LunarLander-v3", 1_000_000, ZOO_PPO_LUNAR_LANDER),
    "PPO HalfCheetah-v4": ("ppo", "HalfCheetah-v4", 1_000_000, "baseline"),
}
EVALUATED = 100


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    seeds: int = 3
    """Seeds of every task."""
    workers: int = 2
    """Runs at once."""
    only: str = ""
    """Run the tasks whose name contains this, and keep the results of the others."""


def config(task: str, seed: int) -> RunConfig:
    algorithm, env, steps, setting = TASKS[task]
    # Off-policy agents explore to the end, and their last 100 episodes may be all that there are.
    episodes = 0 if algorithm == "pqn" else EVALUATED
    run = default_run(algorithm, env, setting)
    return dataclasses.replace(run, total_steps=steps, seed=seed, threads=1, eval_episodes=episodes)


def main() -> None:
    arguments = tyro.cli(Arguments)
    chosen = [task for task in TASKS if arguments.only in task]
    if not chosen:
        sys.exit(f"no task's name contains {arguments.only!r}; there are: {', '.join(TASKS)}")
    names = {task: [f"{task}, seed {seed}" for seed in range(1, arguments.seeds + 1)] for task in chosen}
    # Seed by seed, so that all tasks meet the same moods of the machine.
    configs = {names[task][seed]: config(task, seed + 1) for seed in range(arguments.seeds) for task in chosen}
    results = train_all(configs, arguments.workers)
    tasks = {task: {"setting": TASKS[task][3], **over_seeds(results, names[task])} for task in chosen}
    for task, result in tasks.items():
        interval = "one seed" if result["interval"] is None else "[{:.1f}, {:.1f}]".format(*result["interval"])
        print(f"{task}: {result['mean']:.1f} {interval}")
    if arguments.only:
        tasks = {**json.loads((RESULTS / "learning.json").read_text())["tasks"], **tasks}
    save("learning", f"python benchmarks/learning.py {' '.join(sys.argv[1:])}".strip(), {"tasks": tasks})


if __name__ == "__main__":
    main()
