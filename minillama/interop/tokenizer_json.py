"""``tokenizer.json``: the same pieces as merge rules, for the ``tokenizers`` library.

SentencePiece joins, again and again, the two neighbors whose union has the best score; here the
rules "join these two" are listed, best first. That is the same but for one case, where several
unions of one score overlap: SentencePiece takes the first in the text, here the first in the list.
Also, a visible blank (U+2581) in the text is a space to it, as in every other program for LLaMA,
where ``Tokenizer`` keeps it apart. No SentencePiece or protobuf is needed to read the file.
"""

from typing import Any

import sentencepiece

from minillama.errors import ConfigError
from minillama.tokenizer import SPACE, Tokenizer

MARKS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
"""The control pieces 0, 1 and 2."""


def merges(processor: sentencepiece.SentencePieceProcessor) -> list[tuple[str, str]]:
    """All pairs of pieces whose union is a piece, the best union first."""
    normal = {}
    for i in range(processor.get_piece_size()):
        if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i)):
            normal[processor.id_to_piece(i)] = processor.get_score(i)
    rules = []
    for piece in sorted(normal, key=normal.__getitem__, reverse=True):
        halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        rules += [pair for pair in halves if normal.keys() >= set(pair)]
    return rules


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of ``tokenizer.json``.

    Raises:
        ConfigError: the tokenizer is no BPE, or changes the text before it cuts it.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    if processor.normalize(" ﬁ  x ") != f"{SPACE * 2}ﬁ{SPACE * 2}x{SPACE}":
        raise ConfigError("the tokenizer normalizes text", "use one that leaves text as it is")
    if any(processor.get_score(i) % 1 for i in range(tokenizer.vocab_size)):
        raise ConfigError("the tokenizer is no BPE (its scores are no ranks)", "use one that is")
    pieces = [processor.id_to_piece(i) for i in range(tokenizer.vocab_size)]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    blank = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    mark = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    begin = {"SpecialToken": {"id": MARKS["bos_token"], "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": m, **mark} for i, m in enumerate(MARKS.values())],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": SPACE}, space],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, first],
            "pair": [begin, first, second],
            "special_tokens": {
                "<s>": {"id": "<s>", "ids": [Tokenizer.bos_id], "tokens": ["<s>"]},
            },
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                blank,
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": MARKS["unk_token"],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": merges(processor),
        },
    }


def tokenizer_config(max_seq_len: int) -> dict[str, Any]:
    """The content of ``tokenizer_config.json``: use ``tokenizer.json`` exactly as it is.

    ``split_special_tokens``: marks typed as text, such as "<s>", are ordinary characters.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **MARKS,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_seq_len,
    }
