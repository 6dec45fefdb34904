"""Drives native llama.cpp through llama-cpp-python, as src/bench/wire.ts describes.

Arguments: the model's path, threads, tokens of context. Decoding feeds given tokens, so that
llama.cpp is not charged for sampling in Python; the first token is sampled greedily by llama.cpp.
"""
import ctypes
import json
import sys
import time

import llama_cpp as api

MARK = "@bench "


def say(**message):
    print(MARK + json.dumps(message), flush=True)


def main():
    path, threads, context_tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
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
    params.n_ctx = context_tokens
    params.n_batch = params.n_ubatch = min(512, context_tokens)
    params.n_threads = params.n_threads_batch = threads
    context = api.llama_init_from_model(model, params)
    sampler = api.llama_sampler_init_greedy()
    memory = api.llama_get_memory(context)
    load_seconds = time.perf_counter() - start

    def decode(tokens):
        array = (api.llama_token * len(tokens))(*tokens)
        status = api.llama_decode(context, api.llama_batch_get_one(array, len(tokens)))
        if status != 0:
            sys.exit("llama_decode returned %d" % status)

    features = api.llama_print_system_info().decode()
    enabled = [part.split(" = ")[0].strip().split(":")[-1].strip()
               for part in features.split("|") if part.strip().endswith("= 1")]
    version = "llama-cpp-python " + api.__version__ + " (" + " ".join(enabled) + ")"
    say(ready={"loadSeconds": load_seconds, "version": version})

    for line in sys.stdin:
        request = json.loads(line)
        prompt, generate = request["prompt"], request["generate"]
        api.llama_memory_clear(memory, True)
        start = time.perf_counter()
        for at in range(0, len(prompt), params.n_batch):
            decode(prompt[at:at + params.n_batch])
        prefilled = time.perf_counter()
        api.llama_sampler_sample(sampler, context, -1)
        first = time.perf_counter()
        for i in range(generate - 1):
            decode([prompt[i % len(prompt)]])
        # The last step may still run where decoding is asynchronous.
        api.llama_synchronize(context)
        end = time.perf_counter()
        say(timing={
            "promptTokens": len(prompt),
            "prefillSeconds": prefilled - start,
            "firstSeconds": first - start,
            "decodeTokens": generate - 1,
            "decodeSeconds": end - first,
        })


main()
