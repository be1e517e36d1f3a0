"""lm-evaluation-harness on our models: it must find what we find, on real questions."""

import copy
import json
import os

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # read at the import

import pytest

pytest.importorskip("lm_eval")

import lm_eval
import torch
from tiny import tiny_config

from minillama.apps import cli
from minillama.config import ModelConfig
from minillama.errors import CheckpointError, ConfigError, DataError
from minillama.evaluate.multiple_choice import encode, log_likelihoods
from minillama.evaluate.tasks import find_task, load_questions, open_library
from minillama.evaluate.tasks.task import Question
from minillama.inference import Decoder, Sampling, generate, generate_tokens
from minillama.interop import huggingface
from minillama.interop import lm_eval as module
from minillama.interop.lm_eval import HarnessModel, find_harness_tasks, harness
from minillama.model import Llama
from minillama.tokenizer import Tokenizer
from minillama.train.loop import train

PARITY = ("hellaswag", "piqa", "arc_easy", "winogrande", "socialiqa")
DOCUMENTS = 200


@pytest.fixture(scope="module")
def mini(tiny_corpus):
    """A random model that disagrees with itself from token to token, and a trained tokenizer."""
    torch.manual_seed(7)
    tokenizer = Tokenizer.load(tiny_corpus.folder / "tokenizer.model")
    config = ModelConfig(dim=32, n_layers=2, n_heads=2, vocab_size=tokenizer.vocab_size,
                         multiple_of=8, max_seq_len=256)  # fmt: skip
    model = Llama(config).eval()
    with torch.no_grad():
        model.output.weight.mul_(5)
    return model, tokenizer


def request(*arguments):
    """What the harness hands a model."""
    from lm_eval.api.instance import Instance

    return Instance("any", {}, arguments, 0)


@torch.no_grad()
def brute_force(model, ids, start):
    """log P of ids[start:], one token at a time, from the last ids that fit the model."""
    total, likeliest = 0.0, True
    first = max(0, len(ids) - 1 - model.config.max_seq_len)
    for i in range(start, len(ids)):
        log_p = model(torch.tensor([ids[first:i]])).double()
        log_p = log_p[0, -1].log_softmax(-1)
        total += float(log_p[ids[i]])
        likeliest &= int(log_p.argmax()) == ids[i]
    return total, likeliest


def write_task(questions, folder, name):
    """Write questions as a task of the harness, ``NAME.yaml`` beside ``NAME.jsonl``.

    Where the choices are in the context (WinoGrande), the harness wants the two sides exchanged:
    contexts to choose from, and one ending.
    """
    swapped = any(len({context for context, _ in question.requests}) > 1 for question in questions)
    rows = []
    for question in questions:
        contexts, endings = zip(*question.requests, strict=True)
        rows.append({
            "query": endings[0] if swapped else contexts[0],
            "choices": contexts if swapped else [text.removeprefix(" ") for text in endings],
            "gold": question.answer,
        })  # fmt: skip
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = ("acc",) if swapped else ("acc", "acc_norm")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "gold" if swapped else "{{query}}",
        "doc_to_choice": "choices",
        "doc_to_target": "query" if swapped else "gold",
        "target_delimiter": "" if swapped else " ",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in metrics
        ],
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(task))  # JSON is YAML, too
    return path


def points(scores, answer):
    """1 if the answer's score is the highest; no two are equal here."""
    assert len(set(scores)) == len(scores)
    return float(max(range(len(scores)), key=scores.__getitem__) == answer)


def run_task(model, task):
    """The harness's results on a task file: those of the task, and each sample."""
    results = lm_eval.simple_evaluate(
        model=model, tasks=[str(task)], task_manager=find_harness_tasks((str(task),), None),
        bootstrap_iters=0, log_samples=True,
    )  # fmt: skip
    return results["results"][task.stem], results["samples"][task.stem]


@pytest.mark.parametrize("name", PARITY)
def test_parity_on_real_questions(mini, tmp_path, name):
    """Two roads: the harness's prompts, pairs and points; and ours, from text to accuracy."""
    try:
        questions = load_questions(find_task(name), open_library(), DOCUMENTS)
    except DataError:
        pytest.skip("the benchmarks are not fetched")
    assert len(questions) == DOCUMENTS
    model, tokenizer = mini
    found, samples = run_task(HarnessModel(mini), write_task(questions, tmp_path, name))
    encoded = [encode(tokenizer, pair) for question in questions for pair in question.requests]
    values = iter(log_likelihoods(model, encoded))
    raw, normalized = [], []
    for question, sample in zip(questions, samples, strict=True):
        ours = [next(values) for _ in question.requests]
        theirs = [value for value, _ in sample["filtered_resps"]]
        assert ours == pytest.approx(theirs, abs=1e-4)
        lengths = [len(text) - 1 for _, text in question.requests]  # but for the space
        raw.append(points(ours, question.answer))
        normalized.append(
            points([v / n for v, n in zip(ours, lengths, strict=True)], question.answer)
        )
        assert sample["acc"] == raw[-1]
    assert found["acc,none"] == sum(raw) / DOCUMENTS
    if name != "winogrande":
        assert found["acc_norm,none"] == sum(normalized) / DOCUMENTS


def test_a_continuation_is_scored_as_by_hand(mini):
    model, tokenizer = mini
    pairs = [
        ("The old miller", " walked along river"),
        ("The old miller ", "walked along river"),  # the blank goes to the continuation
        ("", "rain fell on quiet hills"),
        ("rain fell\n\n", "a"),
        ("the lamp burned all night " * 12, "but every child of village said it was for sailors"),
    ]
    with pytest.warns(UserWarning, match="1 of 5 prompts are longer than the model's context"):
        answers = HarnessModel(mini).loglikelihood([request(*pair) for pair in pairs])
    for pair, (value, greedy) in zip(pairs, answers, strict=True):
        expected, likeliest = brute_force(model, *encode(tokenizer, pair))
        assert value == pytest.approx(expected, abs=1e-3) and greedy == likeliest


def test_what_the_model_writes_itself_is_greedy(mini):
    model, tokenizer = mini
    with torch.no_grad():
        ids = tokenizer.encode("nobody knew why", bos=True)
        for _ in range(6):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    start = len(ids) - 6
    adapter = HarnessModel(mini)
    pairs = [(("", ""), ids[:start], ids[start:]), (("", ""), ids[:start], [*ids[start:-1], 9])]
    assert ids[-1] != 9
    answers = adapter._loglikelihood_tokens(pairs)
    assert [greedy for _, greedy in answers] == [True, False]


TEXT = "nobody knew why lamp in his window burned all night, but every child of village said so. "


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("max_length", [32, 47, 256])
def test_rolling_predicts_every_token_once_from_all_that_fits(mini, repeats, max_length):
    model, tokenizer = mini
    adapter = HarnessModel(mini, max_length=max_length)
    ids = tokenizer.encode(TEXT * repeats, bos=True)
    expected, at = 0.0, 1
    with torch.no_grad():
        while at < len(ids):  # the first max_length ids behind <s>, the next max_length, ...
            end = min(at + max_length, len(ids))
            window = ids[max(0, end - max_length - 1) : end]
            log_p = model(torch.tensor([window[:-1]])).double().log_softmax(-1)[0]
            expected += sum(float(log_p[i - end, ids[i]]) for i in range(at, end))
            at = end
    [value] = adapter.loglikelihood_rolling([request(TEXT * repeats)])
    assert value == pytest.approx(expected, abs=1e-3)


def test_rolling_windows_that_hold_the_whole_text_agree(mini):
    short = TEXT[:40]
    assert len(mini[1].encode(short)) < 48
    values = [
        HarnessModel(mini, max_length=n).loglikelihood_rolling([request(short), request("")])
        for n in (48, 64, 96, None)
    ]
    for value, empty in values:
        assert value == pytest.approx(brute_force(mini[0], mini[1].encode(short, bos=True), 1)[0])
        assert empty == 0


GREEDY = {"until": [], "max_gen_toks": 20, "do_sample": False}
PROMPTS = ["the old miller", "rain", TEXT, "nobody knew why lamp", "a small boat under"]


def test_texts_written_side_by_side_are_those_of_one_at_a_time(mini, monkeypatch):
    made = []
    monkeypatch.setattr(module, "Decoder", lambda model: made.append(1) or Decoder(model))
    monkeypatch.setattr(module, "BATCH_SIZE", 3)
    adapter = HarnessModel(mini)
    texts = adapter.generate_until([request(prompt, GREEDY) for prompt in PROMPTS])
    alone = [generate(*mini, p, max_new_tokens=20, temperature=0.0) for p in PROMPTS]
    assert texts == [text.removeprefix(" ") for text in alone]
    assert len(made) == 1  # the weights are packed once for all prompts


def test_stop_strings_and_samples(mini):
    adapter = HarnessModel(mini)
    [text] = adapter.generate_until([request("the old miller", GREEDY)])
    stop = text[4:6]
    settings = GREEDY | {"until": ["\0", "", stop]}
    [cut] = adapter.generate_until([request("the old miller", settings)])
    assert cut == text[: text.index(stop)] and len(text) > 6
    drawn = {"until": "\0", "max_gen_toks": 12, "do_sample": True, "temperature": 1.5}
    several = adapter.generate_until([request("the old miller", drawn)] * 4)
    assert len(set(several)) == 4  # the harness repeats a request for maj1@k
    assert several == adapter.generate_until([request("the old miller", drawn)] * 4)


def test_texts_are_those_of_the_harness_s_own_backend(mini, tmp_path):
    """Stripped alike: an exact match without filters depends on the blank before the first word."""
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = copy.deepcopy(mini[0]), mini[1]
    with torch.no_grad():
        model.output.weight[: 3 + 256] = 0  # bytes that make no character are decoded differently
        model.output.weight[tokenizer.piece_bytes.index(b" ", 259)] *= 3  # blanks are likely
    folder = huggingface.save(model, tokenizer, tmp_path / "exported")
    backend = HFLM(str(folder), device="cpu", dtype="float32", batch_size=2)
    settings = [GREEDY, GREEDY | {"until": ["e", "\n"]}]
    asked = [request(prompt, each) for prompt in PROMPTS for each in settings]
    reference = backend.generate_until(asked, disable_tqdm=True)
    assert HarnessModel((model, tokenizer)).generate_until(asked) == reference
    settings = {"max_new_tokens": 20, "temperature": 0.0}
    blank = [generate(model, tokenizer, prompt, **settings) for prompt in PROMPTS]
    assert any(text.startswith(" ") for text in blank)  # else this test would show nothing


def test_a_long_prompt_leaves_room_for_the_answer(mini):
    model, tokenizer = mini
    asked = [
        request(TEXT * 20, {"until": ["\0"]}),
        request("rain", {"until": [], "max_gen_toks": 5}),
    ]
    with pytest.warns(UserWarning, match="1 of 1 prompts are longer"):
        texts = HarnessModel(mini).generate_until(asked)
    ids = tokenizer.encode(TEXT * 20, bos=True)[-128:]
    expected = generate_tokens(model, [ids], Sampling(temperature=0), 200)[0]
    end = expected.index(2) if 2 in expected else len(expected)
    assert texts[0] == tokenizer.decode(expected[:end])


@pytest.fixture(scope="module")
def trained(tiny_corpus, tmp_path_factory):
    return train(tiny_config(tiny_corpus.folder, tmp_path_factory.mktemp("runs")))


def test_from_the_command_line(trained, tmp_path, capsys):
    choices = [(" river", " boat"), (" a small boat", " hills")]
    asked = [
        Question(tuple((f"the {i} old miller", c) for c in choices[i % 2]), i % 2) for i in range(6)
    ]
    task = write_task(asked, tmp_path, "ours")
    out = tmp_path / "out.json"
    cli.run(["harness", str(trained), "--tasks", str(task), "--limit", "4", "--output", str(out)])
    assert "acc_norm" in capsys.readouterr().out
    told = json.loads(out.read_text())
    assert len(told["samples"]["ours"]) == 4 and 0 <= told["results"]["ours"]["acc,none"] <= 1
    cli.run(["harness", str(trained), "--tasks", "ours", "--include-path", str(tmp_path)])
    assert "|ours" in capsys.readouterr().out


def test_mistakes(trained, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="nowhere has no checkpoint"):
        harness(tmp_path / "nowhere", ("ours",))
    write_task([Question((("a", " b"), ("a", " c")), 0)], tmp_path, "riddles")
    real = module.TaskManager  # to look through all of the harness's own tasks takes long
    monkeypatch.setattr(
        module, "TaskManager", lambda include_path, **_: real(None, include_path, False)
    )
    with pytest.raises(ConfigError, match="has no task 'ridles'. Did you mean 'riddles'"):
        harness(trained, ("ridles",), tmp_path)
    for tasks, limit in (((), None), (("riddles",), 0)):
        with pytest.raises(ConfigError, match="nothing to ask"):
            harness(trained, tasks, tmp_path, limit=limit)
    (tmp_path / "riddles.jsonl").unlink()  # as a data set that no network brings
    with pytest.raises(DataError, match="a task's data cannot be had: .*riddles.jsonl"):
        harness(trained, (str(tmp_path / "riddles.yaml"),))
