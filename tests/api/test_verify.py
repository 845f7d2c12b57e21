"""verify-resume says yes where it is so, and no wherever something was not saved."""

from __future__ import annotations

import json

import pytest
import torch

import deitkit
from deitkit.api.verify import state_digest
from deitkit.cli.main import main
from deitkit.errors import CheckpointError, ConfigError
from deitkit.training import step as step_module
from deitkit.training.state import TrainState
from tests.api.conftest import tree


def test_an_interrupted_training_is_proved_identical(finished_once):
    before = tree(finished_once)
    proof = deitkit.verify_resume(finished_once, steps=7)
    assert proof.holds and proof.first_difference is None
    assert proof.uninterrupted_digest == proof.resumed_digest
    assert [record.step for record in proof.resumed] == list(range(1, 8))
    assert proof.interrupted_after == 3
    assert len({record.loss for record in proof.resumed}) == 7
    assert tree(finished_once) == before


def test_its_first_steps_are_those_of_the_run(finished_once):
    """Not some other training: the losses are the ones in metrics.jsonl."""
    lines = [json.loads(line) for line in (finished_once / "metrics.jsonl").open()]
    losses = [line["loss"] for line in lines if line["event"] == "step"]
    proof = deitkit.verify_resume(finished_once, steps=4)
    assert [float.fromhex(record.loss) for record in proof.uninterrupted] == losses[:4]


def forget_moments(monkeypatch) -> None:
    """A checkpoint that forgets the optimizer."""
    real = TrainState.unpack

    def unpack(self, tensors, numbers):
        fresh = self.optimizer.state_dict()
        real(self, tensors, numbers)
        self.optimizer.load_state_dict(fresh)

    monkeypatch.setattr(TrainState, "unpack", unpack)


def forget_updates(monkeypatch) -> None:
    """A checkpoint that forgets how often the average was updated: no loss shows it."""
    real = TrainState.unpack

    def unpack(self, tensors, numbers):
        real(self, tensors, numbers | {"num_updates": 0})

    monkeypatch.setattr(TrainState, "unpack", unpack)


def draw_from_a_generator(monkeypatch) -> None:
    """Chance with a state that no checkpoint holds."""
    real = step_module.train_step

    def noisy(state, batch, parts):
        with torch.no_grad():
            state.model.cls_token.add_(1e-2 * torch.rand_like(state.model.cls_token))
        return real(state, batch, parts)

    monkeypatch.setattr(step_module, "train_step", noisy)


@pytest.mark.parametrize(
    ("fault", "first_difference"),
    # Without its moments the first step has the right loss and moves the weights elsewhere.
    [(forget_moments, 5), (forget_updates, None), (draw_from_a_generator, 1)],
)
def test_hidden_state_is_found(finished_once, monkeypatch, fault, first_difference, capsys):
    fault(monkeypatch)
    proof = deitkit.verify_resume(finished_once, steps=6)
    assert not proof.holds
    assert proof.first_difference == first_difference
    assert proof.uninterrupted_digest != proof.resumed_digest
    assert main(["verify-resume", str(finished_once), "steps=6"]) == 4
    assert "DIFFERENT" in capsys.readouterr().out


def test_the_command_line_says_it_in_words_and_in_json(finished_once, capsys):
    assert main(["verify-resume", str(finished_once), "steps=4"]) == 0
    out = capsys.readouterr().out
    assert out.count(" same") == 4 and "identical in every bit" in out
    assert main(["verify-resume", str(finished_once), "--steps", "4", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["identical"] is True and said["first_difference"] is None


def test_a_digest_sees_every_part_but_the_time():
    tensors = {"a": torch.zeros(3), "b": torch.ones(2)}
    numbers = {"step": 3, "seconds": 1.0, "history": [1]}
    digest = state_digest(tensors, numbers)
    assert digest == state_digest(dict(reversed(tensors.items())), numbers | {"seconds": 9.0})
    nudged = tensors["a"].clone()
    nudged[0] = 1e-45
    for other_tensors, other_numbers in (
        (tensors | {"a": nudged}, numbers),
        (tensors, numbers | {"step": 4}),
        (tensors, numbers | {"history": [2]}),
    ):
        assert state_digest(other_tensors, other_numbers) != digest


def test_it_needs_a_run_and_two_steps(tmp_path, finished_once):
    with pytest.raises(CheckpointError, match=r"holds no config\.yaml"):
        deitkit.verify_resume(tmp_path)
    with pytest.raises(ConfigError, match="2 or more"):
        deitkit.verify_resume(finished_once, steps=1)
