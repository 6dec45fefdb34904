"""Drives native llama.cpp with several sequences side by side, through llama-cpp-python's batches.

Arguments: the model's path, threads, tokens of context of each sequence, the most sequences. A
request has `prompts`, `generate` and `sample`; the answer is {"streams": [[seconds, ...], ...]}, the
moments since the request at which each sequence's tokens were there (src/bench/serving/streams.ts).

Steps are made up as llama.cpp's server does it: one token of every sequence that has begun, then
tokens of prompts up to the size of a batch. With `sample` each token is chosen greedily from its
logits by llama.cpp's own sampler and fed back; without it given tokens are fed, as llama-batched-bench
does, and nothing is chosen. Every sequence has cells of its own (kv_unified off): with 16 of them that
decodes 24 % more tokens per second of processor time than cells that all share.
"""
import ctypes
import json
import sys
import time

import llama_cpp as api

MARK = "@bench "
BATCH = 512


def say(**message):
    print(MARK + json.dumps(message), flush=True)


def main():
    path, threads = sys.argv[1], int(sys.argv[2])
    tokens_each, sequences = int(sys.argv[3]), int(sys.argv[4])
    silence = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(silence, ctypes.c_void_p(0))
    api.llama_backend_init()

    start = time.perf_counter()
    model_params = api.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = api.llama_model_load_from_file(path.encode(), model_params)
    if not model:
        sys.exit("llama.cpp cannot load " + path)
    params = api.llama_context_default_params()
    params.n_ctx = tokens_each * sequences
    params.n_batch = params.n_ubatch = BATCH
    params.n_seq_max = sequences
    params.kv_unified = False
    params.n_threads = params.n_threads_batch = threads
    context = api.llama_init_from_model(model, params)
    sampler = api.llama_sampler_init_greedy()
    memory = api.llama_get_memory(context)
    batch = api.llama_batch_init(BATCH, 0, 1)
    load_seconds = time.perf_counter() - start

    def add(token, position, sequence, logits):
        """Puts a token into the batch and returns its row."""
        row = batch.n_tokens
        batch.token[row] = token
        batch.pos[row] = position
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = sequence
        batch.logits[row] = logits
        batch.n_tokens = row + 1
        return row

    def run(prompts, generate, sample):
        api.llama_memory_clear(memory, True)
        count = len(prompts)
        fed = [0] * count
        following = [0] * count
        arrivals = [[] for _ in prompts]
        start = time.perf_counter()
        while any(len(times) < generate for times in arrivals):
            batch.n_tokens = 0
            rows = []
            for s in range(count):
                if arrivals[s] and len(arrivals[s]) < generate:
                    position = len(prompts[s]) + len(arrivals[s]) - 1
                    rows.append((s, add(following[s], position, s, 1)))
            for s in range(count):
                prompt = prompts[s]
                while fed[s] < len(prompt) and batch.n_tokens < BATCH:
                    last = fed[s] == len(prompt) - 1
                    row = add(prompt[fed[s]], fed[s], s, 1 if last else 0)
                    fed[s] += 1
                    if last:
                        rows.append((s, row))
            status = api.llama_decode(context, batch)
            if status != 0:
                sys.exit("llama_decode returned %d" % status)
            api.llama_synchronize(context)
            for s, row in rows:
                if sample:
                    following[s] = api.llama_sampler_sample(sampler, context, row)
                else:
                    following[s] = prompts[s][len(arrivals[s]) % len(prompts[s])]
                arrivals[s].append(time.perf_counter() - start)
        return arrivals

    features = api.llama_print_system_info().decode()
    enabled = [part.split(" = ")[0].strip().split(":")[-1].strip()
               for part in features.split("|") if part.strip().endswith("= 1")]
    version = "llama-cpp-python " + api.__version__ + " (" + " ".join(enabled) + ")"
    say(ready={"loadSeconds": load_seconds, "version": version})
    for line in sys.stdin:
        say(streams=run(**json.loads(line)))


main()
