"""Processes that train together, without the seconds that torchrun and an import for each of them take.

``python forked_ranks.py '[[label, function, arguments ...], ...]'`` forks two ranks for each entry, one entry after the
other. Each rank writes what its function returns, and its standard error, to ``<label>.rank<n>.pt`` and ``.err``.
"""

import dataclasses
import json
import os
import signal
import socket
import sys
from pathlib import Path

import torch

from stablegrad.agents import PQN
from stablegrad.agents.pqn import ALGORITHM, defaults
from stablegrad.cli.main import main
from stablegrad.environments import environment_spec, make_vector_env
from stablegrad.errors import StablegradError
from stablegrad.optimizers.config import OptimizerConfig
from stablegrad.training import interaction
from stablegrad.training.distributed import Ranks
from stablegrad.training.run_folder import RunFolder

SIZE = 2
CPU = torch.device("cpu")


def resume(run, killed_rank=None, updates=0):
    """Start or continue a run by its command; ``killed_rank`` kills itself in an update."""
    agents, seeds, valid = [], [], []

    class RecordedPQN(PQN):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            agents.append(self)

        def learn(self, *arguments):
            if Ranks().rank == killed_rank and self.updates >= updates:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().learn(*arguments)

    def recorded_env(*arguments, **options):
        seeds.append(options["seeds"])
        env = make_vector_env(*arguments, **options)
        step = env.step

        def recorded(action):
            result = step(action)
            valid.append(int(result.valid.sum()))
            return result

        env.step = recorded
        return env

    recorded = dataclasses.replace(ALGORITHM, agent=RecordedPQN)
    interaction.find_algorithm, interaction.make_vector_env = lambda name: recorded, recorded_env
    code = main(["resume", run, "--quiet"])
    return {
        "code": code,
        "summary": RunFolder(run).read_summary(),
        "seeds": seeds,
        "steps": sum(valid),
        "weights": agents[-1].network.state_dict(),
    }


def averaged_update():
    """One step of SGD on a rollout of each rank's own."""
    ranks = Ranks()
    with ranks.joined(CPU):
        agent = one_step_agent(ranks.average_gradients)
        fill_rollout(agent, ranks.rank)
        agent.learn(0)
        return {"code": 0, "weights": agent.network.state_dict()}


def disagree():
    ranks = Ranks()
    with ranks.joined(CPU):
        try:
            ranks.require_agreement(ranks.rank, "their weather")
        except StablegradError as error:
            return str(error)


def one_step_agent(average_gradients=None):
    """An agent whose update is one step, linear in the gradient."""
    spec = environment_spec("CartPole-v1")
    config = defaults(spec)
    config = dataclasses.replace(
        config,
        torso=dataclasses.replace(config.torso, width=8, depth=1),
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.1),
        num_envs=4,
        num_steps=5,
        num_minibatches=1,
        num_epochs=1,
        max_grad_norm=1e9,
    )
    return PQN(config, spec, total_steps=100, device=CPU, seed=0, average_gradients=average_gradients)


def fill_rollout(agent, seed):
    """Fill the agent's rollout with steps of environments of its own."""
    config = agent.config
    env = make_vector_env("CartPole-v1", config.num_envs, seeds=[100 * seed + i for i in range(config.num_envs)])
    agent.begin(env.reset())
    agent.reseed(seed)
    for _ in range(config.num_steps):
        agent.observe(env.step(agent.act(0)))


def fork(label, function, arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(SIZE):
        child = os.fork()
        if child:
            children.append(child)
            continue
        variables = {"WORLD_SIZE": SIZE, "RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": SIZE}
        os.environ.update({name: str(value) for name, value in variables.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        with Path(f"{label}.rank{rank}.err").open("w") as errors:
            os.dup2(errors.fileno(), 2)
        torch.save(globals()[function](*arguments), f"{label}.rank{rank}.pt")
        os._exit(0)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for label, function, *arguments in json.loads(sys.argv[1]):
        fork(label, function, arguments)
