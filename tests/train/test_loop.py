"""The loop: what a batch is cut into does not matter, nor where a run was stopped."""

import dataclasses
import errno
import json
import math
import os
import shutil
import signal
import traceback

import pytest
import torch
from killing import assert_same_run, records
from tiny import TinyCorpus, tiny_config

from minillama.corpus.token_files import open_corpus
from minillama.errors import CheckpointError, ConfigError, DataError
from minillama.model import Llama
from minillama.train import checkpoint, loop
from minillama.train.backend import LocalBackend
from minillama.train.config import read_config
from minillama.train.dataloader import StatelessDataLoader
from minillama.train.log import append_metrics, read_metrics, rewind_metrics
from minillama.train.loop import Interrupted, backward, train
from minillama.train.optimizer import OptimizerConfig, learning_rate
from minillama.train.validation import valid_bits_per_byte


@pytest.fixture
def config(tiny_corpus, tmp_path):
    return tiny_config(tiny_corpus.folder, tmp_path / "runs")


@pytest.fixture(scope="module")
def finished(tiny_corpus, tmp_path_factory):
    """A run that was never stopped. Do not change it."""
    config = tiny_config(tiny_corpus.folder, tmp_path_factory.mktemp("finished"))
    train(config)
    return config


def named(config, name, **changes):
    return dataclasses.replace(config, name=name, **changes)


def stop_after(monkeypatch, step, error):
    """Make the loop fail once ``step`` is logged and before its checkpoint is written."""

    def append(run, record):
        append_metrics(run, record)
        if record["step"] == step:
            raise error

    monkeypatch.setattr(loop, "append_metrics", append)


# gradient accumulation


def gradients(config, batch):
    torch.manual_seed(0)
    model = Llama(config.model)
    loss = backward(model, batch, config, LocalBackend("cpu"))
    return loss, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4, 5, 100])
def test_the_gradient_does_not_depend_on_how_the_batch_is_cut(config, tiny_corpus, micro_batch):
    order = StatelessDataLoader(open_corpus(tiny_corpus.folder), 16, 8, seed=0)
    batch = order.batch(0)
    torch.manual_seed(0)
    model = Llama(config.model)
    logits = model(batch[:, :-1]).flatten(0, 1)
    whole = torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten())
    whole.backward()
    loss, cut = gradients(dataclasses.replace(config, micro_batch=micro_batch), batch)
    assert float(loss) == pytest.approx(whole.item(), rel=1e-6)
    for ours, theirs in zip(cut, model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, rtol=1e-4, atol=1e-7)


def test_whole_runs_agree_however_batches_are_cut(config, finished):
    for micro_batch in (4, 2, 1):
        run = train(named(config, f"by-{micro_batch}", micro_batch=micro_batch))
        for ours, theirs in zip(read_metrics(run), read_metrics(finished.run), strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=2e-4)


# a run from beginning to end


def test_two_runs_are_the_same_bit_for_bit_and_another_seed_is_not(config, finished):
    train(config)
    assert_same_run(config.run, finished.run)
    other = train(named(config, "other", seed=1))
    assert read_metrics(other)[0]["loss"] != read_metrics(finished.run)[0]["loss"]


def test_what_a_run_writes(finished):
    run = finished.run
    assert read_config(run / "config.toml") == finished
    assert checkpoint.steps(run) == [1, 9, 12]  # the milestones 1 and 12, and the newest two
    told = read_metrics(run)
    assert [r["step"] for r in told] == list(range(1, 13))
    assert [r["tokens"] for r in told] == [128 * step for step in range(1, 13)]
    assert [r["lr"] for r in told] == [
        learning_rate(s, 12, finished.optimizer) for s in range(1, 13)
    ]
    assert told[2]["lr"] == 1e-2 and told[-1]["lr"] == pytest.approx(1e-3)
    assert told[0]["loss"] == pytest.approx(math.log(320), abs=0.1)  # it knows nothing yet
    assert told[-1]["loss"] < told[0]["loss"] - 0.5
    assert [r["step"] for r in told if "valid_bpb" in r] == [1, 6, 12]
    for record in told:
        assert record["tokens_per_s"] == pytest.approx(128 / record["seconds"], rel=0.02)


def test_the_logged_validation_is_that_of_the_saved_weights(finished, tiny_corpus):
    corpus = open_corpus(tiny_corpus.folder)
    last = read_metrics(finished.run)[-1]
    model, _ = checkpoint.load_model(finished.run, 12)
    again = valid_bits_per_byte(model, corpus, finished.eval_tokens, finished.seq_len)
    assert (last["valid_loss"], last["valid_bpb"]) == (again["loss"], again["bpb"])
    assert last["valid_bpb_by_slice"] == again["bpb_by_slice"]


def test_a_complete_run_is_left_alone(finished, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.run.rglob("*.safetensors")}
    lines = read_metrics(finished.run)
    train(finished)
    assert "is complete (12 steps)" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in finished.run.rglob("*.safetensors")} == before
    assert read_metrics(finished.run) == lines


# stopping and going on


@pytest.mark.parametrize("step", [2, 3, 8, 9, 11])
def test_a_crash_at_a_step_changes_nothing(config, finished, monkeypatch, step):
    stop_after(monkeypatch, step, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        train(config)
    assert read_metrics(config.run)[-1]["step"] == step
    monkeypatch.undo()
    train(config)
    assert_same_run(config.run, finished.run)


def test_a_damaged_checkpoint_is_skipped_and_written_again(config, finished, monkeypatch):
    stop_after(monkeypatch, 11, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        train(config)
    monkeypatch.undo()
    (checkpoint.folder(config.run, 9) / "optimizer.pt").write_bytes(b"no")
    with pytest.warns(UserWarning, match="step-00000009/optimizer.pt is damaged"):
        train(config)
    assert records(config.run) == records(finished.run)
    assert checkpoint.steps(config.run) == [1, 9, 12]
    checkpoint.verify(checkpoint.folder(config.run, 9))


def test_a_full_disk_stops_the_run_and_it_goes_on_when_there_is_room(config, finished, monkeypatch):
    real, calls = checkpoint.save_file, []

    def fails_at_the_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", fails_at_the_third)
    with pytest.raises(CheckpointError, match="disk is full. The checkpoint of step 3 is intact"):
        train(config)
    train(config)
    assert_same_run(config.run, finished.run)


def test_left_overs_of_a_crash_are_cleared(config, finished):
    for name in (".step-00000003.0a1b2c3d.tmp", ".step-00000001.tmp"):
        (config.run / "checkpoints" / name).mkdir(parents=True)
        (config.run / "checkpoints" / name / "model.safetensors").write_bytes(b"half")
    (config.run / ".metrics.jsonl.0a1b2c3d.tmp").write_text("half")
    train(config)
    assert_same_run(config.run, finished.run)


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    for step in range(1, 6):
        append_metrics(tmp_path, {"step": step, "loss": step / 3})
    whole = (tmp_path / "metrics.jsonl").read_text()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # cut short by a crash
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    rewind_metrics(tmp_path, 5)
    assert (tmp_path / "metrics.jsonl").read_text() == whole
    rewind_metrics(tmp_path, 3)
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(whole.splitlines(True)[:3])
    rewind_metrics(tmp_path, 0)
    assert read_metrics(tmp_path) == []


def test_metrics_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="metrics.jsonl does not exist"):
        read_metrics(tmp_path)
    for content in (b"{\n", b"\0\0\0\n", b"\xff\n"):
        (tmp_path / "metrics.jsonl").write_bytes(content)
        with pytest.raises(DataError, match="metrics.jsonl is damaged"):
            read_metrics(tmp_path)


# refusals


def test_a_changed_corpus_is_refused_and_nothing_is_changed(
    config, tiny_corpus, tmp_path, monkeypatch
):
    folder = shutil.copytree(tiny_corpus.data, tmp_path / "data")
    config = dataclasses.replace(config, corpus=str(folder / "corpus" / "tiny"))
    stop_after(monkeypatch, 5, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        train(config)
    monkeypatch.undo()
    before = {p: p.read_bytes() for p in config.run.rglob("*") if p.is_file()}
    TinyCorpus(folder).build(slice_mb=0.011)
    with pytest.raises(CheckpointError, match="was trained on another build of"):
        train(config)
    assert {p: p.read_bytes() for p in config.run.rglob("*") if p.is_file()} == before


def test_changed_settings_are_refused_and_harmless_ones_are_not(config, finished, monkeypatch):
    stop_after(monkeypatch, 5, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        train(config)
    monkeypatch.undo()
    for change in ({"seed": 3}, {"optimizer": OptimizerConfig(lr=1.0)}, {"tokens": 128 * 20}):
        with pytest.raises(ConfigError, match="was started with"):
            train(dataclasses.replace(config, **change))
    train(dataclasses.replace(config, micro_batch=4))
    for ours, theirs in zip(read_metrics(config.run), read_metrics(finished.run), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=2e-4)


def test_a_tokenizer_of_another_size_is_refused(config):
    other = dataclasses.replace(config.model, vocab_size=512)
    with pytest.raises(CheckpointError, match="has 320 pieces but the model has 512"):
        train(dataclasses.replace(config, model=other))
    assert not config.run.exists()


def test_a_start_that_failed_does_not_bind_the_next_one(config, monkeypatch):
    monkeypatch.setattr(loop, "build_optimizer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(config)
    monkeypatch.undo()
    train(dataclasses.replace(config, optimizer=OptimizerConfig(lr=5e-3, warmup_steps=2)))
    assert read_metrics(config.run)[1]["lr"] == 5e-3


@pytest.mark.parametrize("which", ["loss", "gradient"])
def test_numbers_that_are_none_stop_the_run_before_it_saves(config, monkeypatch, which):
    def broken(*arguments):
        value = real(*arguments)
        return value * math.nan if order.steps == 6 else value

    class Counting(StatelessDataLoader):
        steps = 0

        def batch(self, step, *rest):
            order.steps = step + 1
            return super().batch(step, *rest)

    order = Counting
    name = "backward" if which == "loss" else "clip_gradients"
    real = getattr(loop, name)
    monkeypatch.setattr(loop, "StatelessDataLoader", Counting)
    monkeypatch.setattr(loop, name, broken)
    with pytest.raises(
        CheckpointError, match=r"step 6 has a loss of .*nan.*lower optimizer.lr|Lower"
    ):
        train(config)
    assert checkpoint.last_good(config.run) == 3
    assert all(math.isfinite(r["loss"]) for r in read_metrics(config.run))


def test_a_rate_far_too_high_is_told(config):
    wild = OptimizerConfig(lr=1e30, warmup_steps=0, weight_decay=0.0)
    with pytest.raises(CheckpointError, match=r"Lower optimizer.lr \(now 1e\+30\)"):
        train(dataclasses.replace(config, optimizer=wild))


# Ctrl-C


def interrupted(config, signals, during):
    """Train in a forked process that sends itself signals in a step; what it ended with."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        result = {}
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

            steps, clip = iter(range(1, 100)), loop.clip_gradients

            def clip_and_signal(*arguments):
                for number in signals if next(steps) == during else ():
                    os.kill(os.getpid(), number)
                return clip(*arguments)

            loop.clip_gradients = clip_and_signal
            before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
            train(config)
        except Interrupted as stop:
            result = {"exit": stop.exit_code, "told": str(stop)}
        except KeyboardInterrupt:
            result = {"exit": "at once"}
        except BaseException:
            result = {"exit": traceback.format_exc()}
        finally:
            after = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
            os.write(write, json.dumps(result | {"restored": before == after}).encode())
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read, "rb") as pipe:
        return json.load(pipe)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_the_step_saves_and_says_so(config, finished, number, code):
    told = interrupted(config, [number], during=5)
    expected = "stopped after step 5; run the same command to go on"
    assert told == {"exit": code, "told": expected, "restored": True}
    assert checkpoint.steps(config.run)[-1] == 5
    checkpoint.verify(checkpoint.folder(config.run, 5))
    assert [r["step"] for r in read_metrics(config.run)] == [1, 2, 3, 4, 5]
    train(config)
    assert records(config.run) == records(finished.run)
    last = (checkpoint.folder(c.run, 12) / "model.safetensors" for c in (config, finished))
    assert len({p.read_bytes() for p in last}) == 1


def test_ctrl_c_twice_stops_at_once(config):
    told = interrupted(config, [signal.SIGINT, signal.SIGINT], during=4)
    assert told == {"exit": "at once", "restored": True}
    assert checkpoint.steps(config.run) == [1, 3]
    assert [r["step"] for r in read_metrics(config.run)] == [1, 2, 3]


def test_ctrl_c_in_the_last_step_ends_the_run(config, finished):
    assert interrupted(config, [signal.SIGINT], during=12) == {"restored": True}
    assert_same_run(config.run, finished.run)
