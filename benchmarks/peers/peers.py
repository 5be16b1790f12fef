"""Other programs on the same folder in the same run, and how many times as long they take.

    python peers.py DIR --bench build/release/bin/bench          # needs requirements.txt beside this file

DIR is a model that Hugging Face's code loads, of full size or not; `synthesize` makes one. Everything runs on the same number of
threads, one after the other: transformers with bitsandbytes as it comes, in float32 and in bfloat16, and PyTorch's dense products of
the shapes of a text layer. Prompts are made-up ids; no picture is encoded unless --encode is given, because that takes minutes.
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import torch
from transformers import MllamaForConditionalGeneration


def seconds(run, times=3):
    """Median of some runs after a first one."""
    run()
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        run()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


@torch.no_grad()
def transformers_figures(folder, dtype, prompt, steps, encode):
    """Tokens per second of a prompt and of single tokens, and seconds for a picture of all tiles."""
    model = MllamaForConditionalGeneration.from_pretrained(folder, dtype=dtype, device_map={"": "cpu"}).eval()
    text, vision = model.config.text_config, model.config.vision_config
    ids = torch.arange(prompt)[None] * 7919 % text.vocab_size
    figures = {f"pp {prompt}": prompt / seconds(lambda: model(input_ids=ids, use_cache=True), 1)}
    cache = model(input_ids=ids[:, :1], use_cache=True).past_key_values
    token = ids[:, 1:2]
    model(input_ids=token, past_key_values=cache, use_cache=True)
    begin = time.perf_counter()
    for _ in range(steps):
        model(input_ids=token, past_key_values=cache, use_cache=True)
    figures["tg at 0"] = steps / (time.perf_counter() - begin)
    if encode:
        tiles, size = vision.max_num_tiles, vision.image_size
        pixels = torch.randn(1, 1, tiles, 3, size, size, dtype=model.dtype)
        ratio = torch.tensor([[len(vision.supported_aspect_ratios)]])
        begin = time.perf_counter()
        model.model.vision_model(pixels, ratio, torch.ones(1, 1, tiles, dtype=torch.long))
        figures[f"enc {tiles} tiles"] = 1 / (time.perf_counter() - begin)
    return figures


@torch.no_grad()
def dense_figures(config, dtype, rows):
    """Billions of operations per second of PyTorch's linear layer, of the largest matrix of a text layer."""
    layer = torch.nn.Linear(config["hidden_size"], config["intermediate_size"], bias=False).to(dtype)
    x = torch.randn(rows, config["hidden_size"], dtype=dtype)
    return 2e-9 * rows * layer.weight.numel() / seconds(lambda: layer(x))


def main(arguments):
    torch.set_num_threads(arguments.threads)
    prompt = arguments.prompt
    config = json.loads((arguments.folder / "config.json").read_text())["text_config"]
    shape = f"{config['hidden_size']}x{config['intermediate_size']}"
    stages = ["pp", "tg", "mm"] + ["enc"] * arguments.encode
    command = [arguments.bench, *stages, "--model", str(arguments.folder), "--threads", str(arguments.threads)]
    command += ["--prompt", str(prompt), "--depth", "0", "-o", "json"]
    ours = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    policies = list(dict.fromkeys(line["policy"] for line in ours if line["bench"] == "tg at 0"))
    of = {(line["bench"], line["policy"]): 1 / line["value"] if line["unit"] == "s" else line["value"] for line in ours}

    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        for bench, value in transformers_figures(arguments.folder, dtype, prompt, arguments.steps, arguments.encode).items():
            rows.append((bench, f"transformers + bitsandbytes, {name}", value))
        for count in (1, 512):
            rows.append((f"mm {count}x{shape}", f"PyTorch, {name}", dense_figures(config, dtype, count)))
    print("| what | peer | per second | " + " | ".join(f"`{policy}`: times as fast" for policy in policies) + " |")
    print("|---" * (3 + len(policies)) + "|")
    for bench, peer, value in rows:
        ratios = " | ".join(f"{of[bench, policy] / value:.2f} ({of[bench, policy]:.4g})" for policy in policies)
        print(f"| {bench} | {peer} | {value:.4g} | {ratios} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bench", required=True, help="path of our own program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--encode", action="store_true", help="a picture, too")
    main(parser.parse_args())
