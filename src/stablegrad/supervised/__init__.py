"""Classification with labels that change: what a network unlearns to learn (arXiv 2506.15544, figure on CIFAR-10)."""

from stablegrad.supervised.config import ImageEncoderConfig, SupervisedConfig, preset_config
from stablegrad.supervised.data import DataSet, load_data
from stablegrad.supervised.labels import phase_labels, reshuffle_epochs
from stablegrad.supervised.network import CifarCNN, Classifier
from stablegrad.supervised.relabelling import resume_supervised, train_supervised

__all__ = [
    "CifarCNN",
    "Classifier",
    "DataSet",
    "ImageEncoderConfig",
    "SupervisedConfig",
    "load_data",
    "phase_labels",
    "preset_config",
    "reshuffle_epochs",
    "resume_supervised",
    "train_supervised",
]
