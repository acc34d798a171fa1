import numpy as np
import pytest


@pytest.fixture
def vec_normalize():
    """Stable-Baselines3's normalisation of rewards by the discounted return of one environment."""
    pytest.importorskip("stable_baselines3")
    import gymnasium
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    class Env(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-9.0, 9.0, (3,), np.float32)
        action_space = gymnasium.spaces.Discrete(4)

    return VecNormalize(DummyVecEnv([Env]), norm_obs=False, gamma=0.99)
