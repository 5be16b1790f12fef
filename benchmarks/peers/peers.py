"""Other programs on the same shapes in the same run, and how many times as fast ours is.

    python peers.py run DIR FIGURES.json --bench build/release/bin/bench [--only PART…]      # needs requirements.txt beside this file
    python peers.py table FIGURES.json

DIR is a model that Hugging Face's code loads, of full size or not; `synthesize` makes one. Parts run one after the other, each in a process
of its own on the same number of threads; what one finds is added to FIGURES.json at once, so that they may run in pieces: `--only ours`
`--only transformers llama`. `--list` names them.

* ours/STAGE/POLICY: our program. Its decoding reads the same weights as all the others': those of the self-attention layers and the head.
* transformers/TYPE[-kept]: transformers with bitsandbytes, as installed; kept: malloc keeps freed memory, so that each product's decoded
  matrix does not come from fresh pages (MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_).
* torch/TYPE: dense products of one text layer and the head, as many layers as the model has: what an unquantised model would take at least.
* llama/FORMAT: llama.cpp through llama-cpp-python (--llama-python) on a random GGUF of the same text layers (--gguf: a folder for them).
  llama/depth: two layers with a narrow MLP, whose attention is the same, at some depth: a prompt of this length for all layers takes too long.
* vision/TYPE: one layer of transformers' vision encoder for all tiles, times the number of layers: extrapolated.
* processor, tokenizers: one thread.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
POLICIES = ("f32", "int16", "int8")
FORMATS = ("q4_0", "iq4_nl")
TYPES = ("float32", "bfloat16")
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36), "MALLOC_TOP_PAD_": str(1 << 28)}


def seconds(run, times=3):
    """Median of some runs after a first one; of the first alone if it takes long."""
    begin = time.perf_counter()
    run()
    first = time.perf_counter() - begin
    if first > 10:
        return first
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        run()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def transformers_figures(given, kind):
    """Tokens per second: a prompt, and single tokens behind it."""
    import torch
    from transformers import MllamaForConditionalGeneration

    torch.set_num_threads(given.threads)
    with torch.no_grad():
        dtype = getattr(torch, kind)
        model = MllamaForConditionalGeneration.from_pretrained(given.folder, dtype=dtype, device_map={"": "cpu"}).eval()
        vocabulary = model.config.text_config.vocab_size
        ids = torch.arange(given.prompt)[None] * 7919 % vocabulary
        token = ids[:, :1]
        cache = model(input_ids=token, use_cache=True).past_key_values
        times = []
        for _ in range(given.steps):
            begin = time.perf_counter()
            model(input_ids=token, past_key_values=cache, use_cache=True)
            times.append(time.perf_counter() - begin)
            if sum(times) > 60:
                break
        figures = {"tg at 0": 1 / statistics.median(times)}
        if 1 / figures["tg at 0"] < 10:  # else a prompt takes minutes
            begin = time.perf_counter()
            model(input_ids=ids, use_cache=True, logits_to_keep=1)
            figures[f"pp {given.prompt}"] = given.prompt / (time.perf_counter() - begin)
        return figures


def torch_figures(given, kind):
    """Tokens per second of the dense products alone."""
    import torch

    torch.set_num_threads(given.threads)
    text = config_of(given.folder)["text_config"]
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    kv = hidden // text["num_attention_heads"] * text["num_key_value_heads"]
    layers = text["num_hidden_layers"] - len(text["cross_attention_layers"])
    dtype = getattr(torch, kind)
    with torch.no_grad():
        shapes = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden), (hidden, inner), (hidden, inner), (inner, hidden)]
        layer = [torch.nn.Linear(a, b, bias=False).to(dtype) for a, b in shapes]
        head = torch.nn.Linear(hidden, text["vocab_size"], bias=False).to(dtype)
        figures = {}
        for name, rows in (("tg at 0", 1), (f"pp {given.prompt}", given.prompt)):
            inputs = {width: torch.randn(rows, width).to(dtype) for width in {hidden, inner}}

            def products():
                for linear in layer:
                    linear(inputs[linear.in_features])

            last = inputs[hidden][:1]
            figures[name] = rows / (layers * seconds(products) + seconds(lambda: head(last)))
        return figures


def vision_figures(given, kind):
    """Pictures of all tiles per second, extrapolated from one layer."""
    import torch
    from transformers import MllamaConfig
    from transformers.models.mllama.modeling_mllama import MllamaVisionEncoderLayer

    torch.set_num_threads(given.threads)
    config = MllamaConfig.from_pretrained(given.folder).vision_config
    config._attn_implementation = "sdpa"
    rows = config.max_num_tiles * (((config.image_size // config.patch_size) ** 2 + 1 + 7) // 8 * 8)
    with torch.no_grad():
        layer = MllamaVisionEncoderLayer(config, is_gated=False).to(getattr(torch, kind)).eval()
        x = torch.randn(1, rows, config.hidden_size).to(getattr(torch, kind))
        mask = torch.zeros(1, 1, rows, rows, dtype=x.dtype)
        layers = config.num_hidden_layers + config.num_global_layers
        return {f"enc {config.max_num_tiles} tiles": 1 / (layers * seconds(lambda: layer(x, attention_mask=mask), 2))}


def processor_figures(given):
    """Photos of 12 megapixels per second, random as ours."""
    import numpy
    import torch
    from PIL import Image
    from transformers import MllamaImageProcessor

    torch.set_num_threads(1)
    processor = MllamaImageProcessor.from_pretrained(given.folder)
    levels = numpy.random.default_rng(1).integers(0, 256, (3000, 4000, 3), dtype=numpy.uint8)
    photo = Image.fromarray(levels)
    return {"img 4000x3000": 1 / seconds(lambda: processor([photo], return_tensors="pt"))}


def tokenizers_figures(given):
    """Megabytes per second of the text that our program takes."""
    import numpy
    from tokenizers import Tokenizer

    words = ["the ", "picture ", "shows ", "two ", "people, ", "who ", "walk ", "along ", "a ", "river", ". ", "In 2024 "]
    random = numpy.random.MT19937()
    random._legacy_seeding(1)  # std::mt19937(1)
    text, size = [], 0
    while size < 1_000_000:
        text.append(words[int(random.random_raw()) % len(words)])
        size += len(text[-1])
    text = "".join(text)
    tokenizer = Tokenizer.from_file(str(given.folder / "tokenizer.json"))
    return {"tok 1 MB": len(text) / 1e6 / seconds(lambda: tokenizer.encode(text))}


def llama_figures(given, kind):
    """Of llama.cpp; the GGUF is made if it is not there."""
    text = config_of(given.folder)["text_config"]
    layers = text["num_hidden_layers"] - len(text["cross_attention_layers"])
    depth = kind == "depth"
    form = "q4_0" if depth else kind
    file = given.gguf / f"random-{kind}.gguf"
    if not file.exists():
        part = file.with_suffix(".part")
        size = ["--layers", "2", "--inner", "256"] if depth else ["--layers", str(layers)]
        subprocess.run([given.llama_python, HERE / "gguf_model.py", part, "--format", form, *size], check=True)
        part.rename(file)
    command = [given.llama_python, HERE / "llama_cpp_run.py", file, "--threads", str(given.threads), "--steps", str(2 * given.steps)]
    command += ["--depths", "0", str(given.depth)] if depth else ["--prompt", str(given.prompt), "--depths", "0"]
    figures = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    if depth:  # bytes of keys and values in float16, per second of what a token takes longer
        width = text["hidden_size"] // text["num_attention_heads"] * text["num_key_value_heads"]
        longer = 1 / figures.pop(f"tg at {given.depth}") - 1 / figures.pop("tg at 0")
        figures[f"attn GB/s at {given.depth}"] = 2 * 2 * 2 * width * given.depth / longer / 1e9
    return figures


def our_figures(given, stage, policy):
    """All lines of our program's table."""
    command = [given.bench, stage, "--model", given.folder, "--threads", str(given.threads), "--prompt", str(given.prompt)]
    command += ["--depth", f"0,{given.depth}", "--tiles", "4", "--seconds", "2", "-o", "json"]
    command += ["--policy", policy] if policy else []
    return json.loads(subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True).stdout)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def parts():
    """Name of each part, what computes it, and its environment."""
    one = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    found = {}
    for stage in ("load", "img", "tok"):
        found[f"ours/{stage}"] = (lambda given, stage=stage: our_figures(given, stage, None), {})
    found["ours/attn"] = (lambda given: our_figures(given, "attn", "f32"), {})
    found["processor"] = (processor_figures, one)
    found["tokenizers"] = (tokenizers_figures, one)
    for stage in ("tg", "pp"):
        for policy in POLICIES:
            found[f"ours/{stage}/{policy}"] = (lambda given, s=stage, p=policy: our_figures(given, s, p), {})
    for kind in (*FORMATS, "depth"):
        found[f"llama/{kind}"] = (lambda given, kind=kind: llama_figures(given, kind), {})
    for kind in TYPES:
        found[f"torch/{kind}"] = (lambda given, kind=kind: torch_figures(given, kind), {})
        found[f"vision/{kind}"] = (lambda given, kind=kind: vision_figures(given, kind), {})
        found[f"transformers/{kind}"] = (lambda given, kind=kind: transformers_figures(given, kind), {})
        found[f"transformers/{kind}-kept"] = (lambda given, kind=kind: transformers_figures(given, kind), KEPT)
    for policy in POLICIES:
        found[f"ours/enc/{policy}"] = (lambda given, p=policy: our_figures(given, "enc", p), {})
    return found


def run(given):
    if given.part:  # in a process of its own
        print(json.dumps(parts()[given.part][0](given)))
        return
    file = given.figures
    figures = json.loads(file.read_text()) if file.exists() else {}
    for name, (_, environment) in parts().items():
        if given.only and not any(name.startswith(prefix) for prefix in given.only):
            continue
        if name.startswith("llama/") and not given.llama_python:
            continue
        begin = time.perf_counter()
        command = [*given.wrap.split(), sys.executable, __file__, *sys.argv[1:], "--part", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}, check=False)
        print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        if done.returncode != 0:
            print(f"{name}: failed", file=sys.stderr)
            continue
        figures[name] = json.loads(done.stdout.splitlines()[-1])
        part = file.with_suffix(".part")
        part.write_text(json.dumps(figures, indent=1) + "\n")
        part.rename(file)


def table(given):
    figures = json.loads(given.figures.read_text())
    ours = {}
    read = []
    for name, lines in figures.items():
        if not name.startswith("ours/"):
            continue
        for line in lines:
            policy = line["policy"].split(" ")[0] if line["policy"] else ""
            scale = {"s": 1, "ms": 1e3}.get(line["unit"])
            if line["bench"] == "read":
                read.append(line["value"])
            ours[line["bench"], policy] = scale / line["value"] if scale else line["value"]
    print("| what | peer | per second | " + " | ".join(f"`{policy}`: times as fast" for policy in POLICIES) + " |")
    print("|---|---|---" + "|---:" * len(POLICIES) + "|")
    for name, found in figures.items():
        if name.startswith("ours/"):
            continue
        for bench, value in found.items():
            if not isinstance(value, float):
                continue
            cells = []
            for policy in POLICIES:
                mine = ours.get((bench, policy), ours.get((bench, "")))
                cells.append(f"{mine / value:.2f} ({mine:.3g})" if mine else "")
            share = f" ({100 * value / max(read):.0f} % of reading)" if bench.startswith("attn") and read else ""
            print(f"| {bench} | {name} | {value:.4g}{share} | " + " | ".join(cells) + " |")
    for (bench, policy), value in ours.items():
        if bench.startswith("attn decode") and read:
            print(f"| {bench} | ours, GB/s of keys and values | {value:.4g} ({100 * value / max(read):.0f} % of reading) |" + " |" * 3)


if __name__ == "__main__":
    if "--list" in sys.argv:
        sys.exit(print("\n".join(parts())))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("run")
    verb.add_argument("folder", type=Path)
    verb.add_argument("figures", type=Path)
    verb.add_argument("--bench", required=True, help="path of our own program")
    verb.add_argument("--llama-python", help="the Python that has llama-cpp-python and gguf; without it, no llama.cpp")
    verb.add_argument("--gguf", type=Path, default=Path("."), help="folder for random GGUF files, 10 GB")
    verb.add_argument("--threads", type=int, default=2)
    verb.add_argument("--prompt", type=int, default=512)
    verb.add_argument("--depth", type=int, default=4096)
    verb.add_argument("--steps", type=int, default=4)
    verb.add_argument("--only", nargs="+", help="parts whose names begin so")
    verb.add_argument("--wrap", default="", help="a command to run each part with")
    verb.add_argument("--part", help=argparse.SUPPRESS)
    verb.set_defaults(do=run)
    verb = verbs.add_parser("table")
    verb.add_argument("figures", type=Path)
    verb.set_defaults(do=table)
    arguments = parser.parse_args()
    arguments.do(arguments)
