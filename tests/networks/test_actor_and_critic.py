import torch

from stablegrad.networks import Critic, DeterministicActor, EncoderConfig, GaussianActor, TorsoConfig

TORSO = TorsoConfig(kind="multi_skip", depth=2, width=8)


def test_critics_read_state_and_action_and_are_independent():
    critic = Critic((2, 3), 2, 3, encoder=EncoderConfig(), torso=TORSO)
    inputs = torch.randn(5, 8)
    values = critic(inputs)
    assert values.shape == (5, 3)
    for column, member in enumerate(critic.members):
        torch.testing.assert_close(values[:, column], member(inputs)[:, 0])
    assert not torch.equal(values[:, 0], values[:, 1])


def test_the_first_policy_is_nearly_a_standard_gaussian_everywhere():
    torch.manual_seed(0)
    actor = GaussianActor((4,), 3, encoder=EncoderConfig(), torso=TORSO)
    outputs = actor(10 * torch.randn(50, 4))
    assert outputs.shape == (50, 6)
    assert outputs.abs().max() < 0.1


def test_deterministic_actions_are_near_zero_at_first_and_never_leave_their_bounds():
    torch.manual_seed(0)
    actor = DeterministicActor((2, 2), 3, encoder=EncoderConfig(), torso=TORSO)
    inputs = 10 * torch.randn(50, 2, 2)
    actions = actor(inputs)
    assert actions.shape == (50, 3)
    assert 0 < actions.abs().max() < 0.1
    torch.testing.assert_close(actions, torch.tanh(actor.head(actor.torso(actor.encoder(inputs)))))
    with torch.no_grad():
        actor.head.weight *= 1e4
    assert 0.99 < actor(inputs).abs().max() <= 1.0
