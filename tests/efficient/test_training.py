"""One switch of the config: the same loss curve, whichever backward."""

import dataclasses

import pytest
import torch
from tiny import tiny_config

from minillama.efficient import block_backward
from minillama.model import Llama
from minillama.scale.runtime import DistributedBackend
from minillama.scale.runtime import train_distributed as train
from minillama.train import loop
from minillama.train.config import read_config
from minillama.train.log import read_metrics


@pytest.fixture
def calls(monkeypatch):
    """How often a block's backward by hand ran."""
    counted = []
    compute = block_backward._feed_forward_backward
    monkeypatch.setattr(
        block_backward, "_feed_forward_backward", lambda *a: counted.append(1) or compute(*a)
    )
    return counted


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_loss_curve_is_autograds(tiny_corpus, tmp_path, calls, dtype):
    config = tiny_config(tiny_corpus.folder, tmp_path, name="autograd", dtype=dtype)
    told = read_metrics(train(config))
    assert not calls
    mine = read_metrics(train(dataclasses.replace(config, name="by_hand", backward="by_hand")))
    assert len(calls) == 12 * config.model.n_layers  # every block in every step
    assert told[-1]["loss"] < told[0]["loss"] - 0.1
    tolerance = {"float32": 2e-6, "bfloat16": 5e-3}[dtype]
    for ours, theirs in zip(mine, told, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=tolerance)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=20 * tolerance)
    assert mine[-1]["valid_bpb"] == pytest.approx(told[-1]["valid_bpb"], rel=tolerance)


def test_a_run_may_change_its_backward(tiny_corpus, tmp_path, monkeypatch):
    """Begun with one and ended with the other: the losses of one run."""
    config = tiny_config(tiny_corpus.folder, tmp_path, name="whole")
    told = read_metrics(train(config))
    changed = dataclasses.replace(config, name="changed")

    def stop(run, record, append=loop.append_metrics):
        append(run, record)
        if record["step"] == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "append_metrics", stop)
        train(changed)
    run = train(dataclasses.replace(changed, backward="by_hand"))
    assert read_config(run / "config.toml").backward == "by_hand"
    assert [row["loss"] for row in read_metrics(run)] == pytest.approx(
        [row["loss"] for row in told], rel=2e-6
    )


def test_the_switch_changes_the_model_only_when_it_is_on(tiny_corpus, tmp_path):
    backend = DistributedBackend(0, 1, torch.device("cpu"))
    for choice in ("autograd", "by_hand"):
        config = tiny_config(tiny_corpus.folder, tmp_path, backward=choice)
        model = backend.wrap(Llama(config.model), config)
        changed = {isinstance(layer, block_backward.BlockByHand) for layer in model.layers}
        assert changed == {choice == "by_hand"}
