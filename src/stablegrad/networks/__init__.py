"""Observations to outputs: encoder, torso, head. Plain ``nn.Module``s, each usable alone."""

from stablegrad.networks.config import EncoderConfig, TorsoConfig, make_encoder, make_torso
from stablegrad.networks.counting import parameter_count
from stablegrad.networks.critic import Critic
from stablegrad.networks.deterministic_actor import DeterministicActor
from stablegrad.networks.dueling import DuelingHead
from stablegrad.networks.encoders import HadamaxCNN, ImpalaCNN, NatureCNN, VectorEncoder
from stablegrad.networks.gaussian_actor import GaussianActor
from stablegrad.networks.noisy import NoisyLinear, make_noisy, noise
from stablegrad.networks.q_network import QNetwork
from stablegrad.networks.simba import SimbaTorso
from stablegrad.networks.simba_v2 import SimbaV2Torso
from stablegrad.networks.torsos import DenseNetTorso, MLPTorso, MultiSkipTorso, ResidualTorso

__all__ = [
    "Critic",
    "DenseNetTorso",
    "DeterministicActor",
    "DuelingHead",
    "EncoderConfig",
    "GaussianActor",
    "HadamaxCNN",
    "ImpalaCNN",
    "MLPTorso",
    "MultiSkipTorso",
    "NatureCNN",
    "NoisyLinear",
    "QNetwork",
    "ResidualTorso",
    "SimbaTorso",
    "SimbaV2Torso",
    "TorsoConfig",
    "VectorEncoder",
    "make_encoder",
    "make_noisy",
    "make_torso",
    "noise",
    "parameter_count",
]
