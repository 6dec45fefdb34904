"""Hugging Face's view of a trained tokenizer: reads {folder, texts, training, messages, vocabulary}
from standard input, writes what its libraries make of it."""

import json
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

job = json.load(sys.stdin)
theirs = Tokenizer.from_file(job["folder"] + "/tokenizer.json")
own = json.load(open(job["folder"] + "/tokenizer.json"))

trained = Tokenizer(models.BPE())
trained.pre_tokenizer = theirs.pre_tokenizer
trained.train_from_iterator(
    job["training"],
    trainers.BpeTrainer(
        vocab_size=job["vocabulary"],
        min_frequency=2,
        special_tokens=[token["content"] for token in own["added_tokens"]],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    ),
)
model = json.loads(trained.to_str())["model"]

chat = None
try:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    chat = [
        tokenizer.apply_chat_template(
            job["messages"], add_generation_prompt=generate, tokenize=False
        )
        for generate in (True, False)
    ]
except ImportError:
    pass

json.dump(
    {
        "ids": [theirs.encode(text, add_special_tokens=False).ids for text in job["texts"]],
        "withSpecial": theirs.encode("a").ids,
        "merges": [list(merge) for merge in model["merges"]],
        "vocab": model["vocab"],
        "chat": chat,
    },
    sys.stdout,
)
