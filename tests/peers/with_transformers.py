"""transformers' view of a trained folder: reads {folder, sequences, messages} from standard input, loads
the folder in float32 and writes the logits of the sequences to {folder}/peer.safetensors."""

import json
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

job = json.load(sys.stdin)
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(job["folder"])
with torch.no_grad():
    logits = {
        f"seq{i}.logits": model(torch.tensor([ids])).logits[0].contiguous()
        for i, ids in enumerate(job["sequences"])
    }
save_file(logits, job["folder"] + "/peer.safetensors")
chat = tokenizer.apply_chat_template(
    job["messages"], add_generation_prompt=True, tokenize=False
)
json.dump(
    {"chat": chat, "ids": tokenizer(chat, add_special_tokens=False)["input_ids"]}, sys.stdout
)
