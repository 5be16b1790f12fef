"""llama.cpp on one GGUF file: tokens per second, as JSON.

    python llama_cpp_run.py FILE --threads 2 --prompt 512 --steps 8 --depths 0 4096      # needs llama-cpp-python

A prompt of the given length is timed if it is not 0, and single tokens behind each of the depths. Ids are made up.
"""

import argparse
import json
import time

import llama_cpp as api


class Model:
    def __init__(self, path, threads, positions):
        self.quiet = api.llama_log_callback(lambda level, text, data: None)
        api.llama_log_set(self.quiet, None)
        api.llama_backend_init()
        settings = api.llama_model_default_params()
        self.model = api.llama_model_load_from_file(path.encode(), settings)
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp does not load it")
        settings = api.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = positions, 512, 512
        settings.n_threads = settings.n_threads_batch = threads
        self.context = api.llama_init_from_model(self.model, settings)
        self.batch = api.llama_batch_init(512, 0, 1)
        self.memory = api.llama_get_memory(self.context)

    def forget(self, length):
        """All positions from `length` on."""
        api.llama_memory_seq_rm(self.memory, 0, length, -1)

    def run(self, count, depth):
        """`count` tokens behind `depth` positions; logits of the last one. Seconds."""
        begin = time.perf_counter()
        for first in range(0, count, 512):
            size = min(512, count - first)
            self.batch.n_tokens = size
            for i in range(size):
                self.batch.token[i] = (first + i) * 7919 % 128256
                self.batch.pos[i] = depth + first + i
                self.batch.n_seq_id[i] = 1
                self.batch.seq_id[i][0] = 0
                self.batch.logits[i] = first + i + 1 == count
            status = api.llama_decode(self.context, self.batch)
            if status != 0:
                raise SystemExit(f"llama_decode: {status}")
        api.llama_get_logits(self.context)  # waits
        return time.perf_counter() - begin


def main(given):
    model = Model(given.file, given.threads, max([given.prompt, *given.depths]) + given.steps + 64)
    figures = {"version": api.__version__, "system": api.llama_print_system_info().decode()}
    model.run(1, 0)
    model.forget(0)
    if given.prompt:
        figures[f"pp {given.prompt}"] = given.prompt / model.run(given.prompt, 0)
        model.forget(0)
    length = 0
    for depth in sorted(given.depths):
        if depth > length:
            model.run(depth - length, length)
        length = depth
        seconds = []
        for _ in range(given.steps):
            seconds.append(model.run(1, depth))
            model.forget(depth)
        figures[f"tg at {depth}"] = 1 / sorted(seconds)[len(seconds) // 2]
    print(json.dumps(figures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=0)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--depths", type=int, nargs="*", default=[0])
    main(parser.parse_args())
