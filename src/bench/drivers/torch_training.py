"""Trains the dense model of src/bench/training_peers.ts with PyTorch on the CPU.

Arguments: the model as JSON (PeerModel of src/bench/training_model.ts), `eager` or `compile`, the update
rule as JSON (RULE).
Attention is PyTorch's own fused one, the norms its own rms_norm, and AdamW its fused form, which is
its fastest on a CPU.
"""
import json
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

MARK = "@bench "


def say(**message):
    print(MARK + json.dumps(message), flush=True)


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def angles(length, size):
    """cos and sin of rotations, [length, size / 2] each."""
    frequencies = 10000.0 ** (-torch.arange(0, size, 2).float() / size)
    turns = torch.outer(torch.arange(length).float(), frequencies)
    return turns.cos(), turns.sin()


def rotate(x, cos, sin):
    """Rotates halves of heads: x [samples, heads, length, size]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Layer(nn.Module):
    def __init__(self, width, heads, intermediate):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.feed_forward_norm = nn.RMSNorm(width, eps=1e-6)
        self.query, self.key, self.value, self.output = (linear(width, width) for _ in range(4))
        self.gate, self.up = linear(width, intermediate), linear(width, intermediate)
        self.down = linear(intermediate, width)

    def forward(self, x, cos, sin):
        samples, length, width = x.shape
        split = lambda y: y.view(samples, length, self.heads, -1).transpose(1, 2)
        a = self.attention_norm(x)
        query = rotate(split(self.query(a)), cos, sin)
        key = rotate(split(self.key(a)), cos, sin)
        mixed = F.scaled_dot_product_attention(query, key, split(self.value(a)), is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(samples, length, width))
        m = self.feed_forward_norm(x)
        return x + self.down(F.silu(self.gate(m)) * self.up(m))


class Llama(nn.Module):
    def __init__(self, model):
        super().__init__()
        width = model["width"]
        self.embedding = nn.Embedding(model["vocabulary"], width)
        self.layers = nn.ModuleList(
            Layer(width, model["heads"], model["intermediate"]) for _ in range(model["layers"]))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = linear(width, model["vocabulary"])
        cos, sin = angles(model["length"], width // model["heads"])
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, ids, targets):
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main():
    model, mode, rule = json.loads(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    start = time.perf_counter()
    torch.set_num_threads(model["threads"])
    torch.manual_seed(1)
    llama = Llama(model)
    matrices = [p for p in llama.parameters() if p.dim() > 1]
    vectors = [p for p in llama.parameters() if p.dim() == 1]
    for matrix in matrices:
        nn.init.normal_(matrix, std=0.02)
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": rule["decay"]},
         {"params": vectors, "weight_decay": 0.0}],
        lr=rule["rate"], betas=(rule["beta1"], rule["beta2"]), eps=rule["eps"], fused=True)
    loss_of = torch.compile(llama) if mode == "compile" else llama
    parameters = sum(p.numel() for p in llama.parameters())
    say(ready={"loadSeconds": time.perf_counter() - start,
               "version": "PyTorch %s, %s" % (torch.__version__, mode)})

    ids = None
    for line in sys.stdin:
        request = json.loads(line)
        if ids is None:
            ids = torch.tensor(request["tokens"]["inputs"])
            targets = torch.tensor(request["tokens"]["targets"])
        seconds, losses = [], []
        for _ in range(request["steps"]):
            begun = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(ids, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(llama.parameters(), rule["maxNorm"])
            optimizer.step()
            losses.append(loss.item())
            seconds.append(time.perf_counter() - begun)
        say(training={"parameters": parameters, "losses": losses, "seconds": seconds})


main()
