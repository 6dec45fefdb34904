"""A trained folder in TRL: reads {folder, rows, document, url} from standard input, takes the functions of
the document, makes a step each of SFTTrainer and GRPOTrainer on the file of rows, and saves the model in
{folder}/trl. Writes what SFTTrainer learnt from, and what answers GRPOTrainer sampled and were worth."""

import contextlib
import json
import re
import sys

import torch
from datasets import load_dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

job = json.load(sys.stdin)
torch.set_num_threads(1)
with open(job["document"]) as document:
    blocks = re.findall(r"```python\n(.*?)```", document.read(), re.S)
for block in blocks:
    if "def for_sft" in block or "def sluice_reward" in block:
        exec(block.partition("\ntrainer = ")[0])
URL = job["url"]

tokenizer = AutoTokenizer.from_pretrained(job["folder"])
rows = load_dataset("json", data_files=job["rows"], cache_dir=job["folder"] + "/cache")["train"]
texts = rows.map(for_sft, fn_kwargs={"tokenizer": tokenizer}, remove_columns=rows.column_names)
prompts = rows.map(for_sampling, remove_columns=rows.column_names)
sampled = []


def judged(prompts, completions, **columns):
    rewards = sluice_reward(prompts, completions, **columns)
    for prompt, completion, reward in zip(prompts, completions, rewards):
        sampled.append({"prompt": text(prompt), "completion": text(completion), "reward": reward})
    return rewards


common = {
    "output_dir": job["folder"] + "/trl",
    "max_steps": 1,
    "per_device_train_batch_size": 4,
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
    "save_strategy": "no",
}
with contextlib.redirect_stdout(sys.stderr):
    given = {"model": job["folder"], "processing_class": tokenizer}
    sft = SFTTrainer(args=SFTConfig(**common), train_dataset=texts, **given)
    samples = [{"ids": row["input_ids"], "labels": row["labels"]} for row in sft.train_dataset]
    sft.train()
    args = GRPOConfig(num_generations=4, max_completion_length=32, **common)
    grpo = GRPOTrainer(args=args, reward_funcs=judged, train_dataset=prompts, **given)
    grpo.train()
    grpo.save_model()
json.dump({"samples": samples, "sampled": sampled}, sys.stdout)
