"""Serve tiny.gguf with the real llama.cpp HTTP server, from the prebuilt CPU wheel `xllamacpp`.

    python serve.py        listens on a free loopback port until killed; prints `ready URL` once

OpenAI-compatible: models, chat completions (streams, usage, tool grammar), completions, health, metrics. The weights
are random, so the text is noise; the protocol, the tokenizer, the timing and the token counts are an engine's own.
"""

import pathlib
import signal

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = str(pathlib.Path(__file__).with_name("tiny.gguf"))
params.port = 0
params.n_ctx = 8192
params.n_parallel = 4
params.endpoint_metrics = True
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
print("ready", server.listening_address, flush=True)
signal.pause()
