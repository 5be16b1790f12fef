"""How often Pocket answers exactly right, by Hugging Face's own code, on pictures that training never saw.

    python evaluate.py results                              # the table, and the pictures, questions and answers in results/
    python evaluate.py results --reuse --describe PROGRAM   # and how many texts of our own program are the same

Every picture has one random question; answers are generated greedily, one at a time, and must match to the letter.
"""

import argparse
import json
import os
import subprocess
from collections import defaultdict
from pathlib import Path

import bitsandbytes
import numpy as np
import torch
from torch import nn
from transformers import MllamaForConditionalGeneration, MllamaProcessor

import pictures
import profiles

HERE = Path(__file__).parent
RUNS = {  # name: (folder, profile)
    "float32 meta": ("model", "meta"),
    "float32 transformers_4_45": ("model", "transformers_4_45"),
    "float32 transformers_4_56": ("model", "transformers_4_56"),
    "float32 meta_rows": ("model", "meta_rows"),
    "nf4 meta": ("model-nf4", "meta"),
    "nf4 transformers_4_56": ("model-nf4", "transformers_4_56"),
}


def held_out_pairs(count):
    """Two pictures and a question that compares them."""
    for index in range(count):
        rng = np.random.default_rng([pictures.HELD_OUT, 1, index])
        scenes = [pictures.make_scene(rng, largest=4.0) for _ in range(2)]
        yield [pictures.paint(scene, rng) for scene in scenes], pictures.ask_pair(rng, *scenes)


def load(folder):
    """A model in float32; NF4 weights are those that bitsandbytes makes of them, in bfloat16, widened."""
    model = MllamaForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16, device_map={"": "cpu"})
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, bitsandbytes.nn.Linear4bit):
                weight = bitsandbytes.functional.dequantize_4bit(child.weight.data, child.weight.quant_state)
                linear = nn.Linear(child.in_features, child.out_features, bias=child.bias is not None)
                linear.weight.data = weight.to(torch.bfloat16).view(child.out_features, child.in_features)
                if child.bias is not None:
                    linear.bias.data = child.bias.data
                setattr(parent, name, linear)
    return nn.Module.to(model, torch.float32).eval()  # transformers' own `to` refuses, remembering that the file was quantised


def prompt(processor, question, images=1):
    content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


@torch.no_grad()
def answer(model, processor, images, question):
    """One greedy answer about one or several pictures."""
    text = prompt(processor, question, len(images))
    inputs = processor(images=list(images), text=text, add_special_tokens=False, return_tensors="pt")
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=48)[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(ids, skip_special_tokens=True)


def describe(program, folder, image, question):
    """The answer of our own program: its standard output."""
    command = [program, "--model", folder, "--image", image, question]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"})
    return done.stdout.strip() if done.returncode == 0 else f"error: {done.stderr.strip()}"


def print_table(records, names):
    """Share of exact answers by kind of question, by tiles and by number of shapes."""
    groups = {"all": records}
    for key in ("kind", "canvas", "shapes"):
        parts = defaultdict(list)
        for record in records:
            parts[f"{key} {record[key]}"].append(record)
        groups |= dict(sorted(parts.items()))
    print(f"{'':22}{'count':>6}" + "".join(f"{name.replace('transformers', 'tf'):>20}" for name in names))
    for title, group in groups.items():
        shares = (np.mean([record[name] == record["answer"] for record in group]) for name in names)
        print(f"{title:22}{len(group):>6}" + "".join(f"{share:>20.3f}" for share in shares))


def main(out, count, pair_count, root, names, program, reuse):
    out.mkdir(parents=True, exist_ok=True)
    processor = MllamaProcessor.from_pretrained(root / "model")
    examples = list(pictures.held_out(count))
    pairs = list(held_out_pairs(pair_count))
    records = []
    for index, (scene, image, question) in enumerate(examples):
        image.save(out / f"{index:04}.png")
        canvas = "x".join(map(str, scene.canvas))
        records.append(dict(file=f"{index:04}.png", kind=question.kind, canvas=canvas, shapes=len(scene.shapes),
                            question=question.text, answer=question.answer))  # fmt: skip
    if reuse:
        records = json.loads((out / "answers.json").read_text())
    for name in names:
        if name in records[0]:
            continue
        folder, profile = RUNS[name]
        model = load(root / folder)
        with profiles.apply(profile):
            for record, (_, image, _) in zip(records, examples):
                record[name] = answer(model, processor, [image], record["question"])
            pairs_right = sum(answer(model, processor, images, question.text) == question.answer for images, question in pairs)
        right = sum(record[name] == record["answer"] for record in records)
        print(f"{name}: {right} of {count} right" + f"; about two pictures {pairs_right} of {pair_count}" * bool(pairs), flush=True)
        (out / "answers.json").write_text(json.dumps(records, indent=1))
    print_table(records, names)
    if program:
        for name in ("float32 meta", "nf4 meta"):
            if name in names:
                folder = RUNS[name][0]
                for record in records:
                    record[f"describe {folder}"] = describe(program, str(root / folder), str(out / record["file"]), record["question"])
                same = sum(record[f"describe {folder}"] == record[name] for record in records)
                print(f"describe {folder}: {same} of {count} texts as {name}")
        (out / "answers.json").write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for pictures, questions and answers")
    parser.add_argument("--root", type=Path, default=HERE, help="folder that holds model and model-nf4")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=0, help="questions about two pictures, counted apart")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--describe", help="path of our own program")
    parser.add_argument("--reuse", action="store_true", help="keep the answers that the folder has already (of the same weights)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    main(arguments.out, arguments.pictures, arguments.pairs, arguments.root, arguments.runs, arguments.describe, arguments.reuse)
