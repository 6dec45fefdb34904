"""llama.cpp's view of a GGUF file: reads {file, texts, sequences} from standard input, evaluates the
sequences on one thread and writes the logits of all positions, float32, to {file}.logits."""

import ctypes
import json
import sys

import llama_cpp as api
import numpy

job = json.load(sys.stdin)
silence = api.llama_log_callback(lambda level, text, data: None)
api.llama_log_set(silence, ctypes.c_void_p(0))
api.llama_backend_init()
model_params = api.llama_model_default_params()
model_params.n_gpu_layers = 0
model = api.llama_model_load_from_file(job["file"].encode(), model_params)
if not model:
    sys.exit("llama.cpp does not load the file")
vocab = api.llama_model_get_vocab(model)
params = api.llama_context_default_params()
params.n_ctx = params.n_batch = params.n_ubatch = 128
params.n_threads = params.n_threads_batch = 1
params.type_k = params.type_v = 0  # F32
params.flash_attn_type = 0  # off: it computes in halves
context = api.llama_init_from_model(model, params)


def tokens_of(text):
    out = (api.llama_token * 512)()
    data = text.encode()
    count = api.llama_tokenize(vocab, data, len(data), out, 512, False, True)
    return list(out[:count])


with open(job["file"] + ".logits", "wb") as file:
    width = api.llama_vocab_n_tokens(vocab)
    for ids in job["sequences"]:
        api.llama_memory_clear(api.llama_get_memory(context), True)
        batch = api.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, True
        if api.llama_decode(context, batch) != 0:
            sys.exit("llama.cpp does not evaluate the sequence")
        logits = numpy.ctypeslib.as_array(api.llama_get_logits(context), (len(ids), width))
        file.write(logits.astype("<f4").tobytes())
        api.llama_batch_free(batch)

template = api.llama_model_chat_template(model, None)
json.dump(
    {
        "ids": [tokens_of(text) for text in job["texts"]],
        "template": template.decode() if template else None,
        "bos": api.llama_vocab_bos(vocab),
        "eos": api.llama_vocab_eos(vocab),
    },
    sys.stdout,
)
