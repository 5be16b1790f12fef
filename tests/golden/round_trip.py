"""Checks by hand, with transformers and bitsandbytes, what the programs write; `round_trip.txt` is its output.

    python round_trip.py --bin ../../build/test/bin > round_trip.txt

For each storage format `synthesize` writes a folder of Pocket's shape, and `quantize` makes one of Pocket. transformers must load
it without a missing, left-over or misshapen tensor, and save its tensors as the same bytes. Its processor must make the inputs of two questions, one about a picture,
from the folder's files; the logits that it computes, with bitsandbytes' layers, must be those of `logits`. LLM.int8() quantises
activations, too, which `logits` does not: there the comparison is with dequantised weights, and bitsandbytes' own result is
only reported.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import bitsandbytes
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, MllamaForConditionalGeneration

import make_models

POCKET = Path(__file__).parents[2] / "examples/pocket"
SYNTHESIZE, QUANTIZE = ["synthesize", "pocket"], ["quantize", "--model", POCKET / "model"]
FOLDERS = {
    "synthesize nf4 nested": SYNTHESIZE + ["--format", "nf4", "--nested"],
    "synthesize nf4 plain": SYNTHESIZE + ["--format", "nf4", "--plain"],
    "synthesize fp4 nested": SYNTHESIZE + ["--format", "fp4", "--nested"],
    "synthesize fp4 plain": SYNTHESIZE + ["--format", "fp4", "--plain"],
    "synthesize int8": SYNTHESIZE + ["--format", "int8"],
    "synthesize bf16": SYNTHESIZE + ["--format", "bf16"],
    "quantize nf4 nested": QUANTIZE + ["--format", "nf4", "--nested"],
    "quantize nf4 plain": QUANTIZE + ["--format", "nf4"],
    "quantize nf4, block 128": QUANTIZE + ["--format", "nf4", "--block", "128"],
    "quantize fp4 nested": QUANTIZE + ["--format", "fp4", "--nested"],
    "quantize int8": QUANTIZE + ["--format", "int8"],
    "quantize nf4, less": QUANTIZE + ["--format", "nf4", "--skip", "lm_head", "multi_modal_projector", "layers.1.mlp"],
}
TOLERANCE = 1e-5  # of the largest logit; float32 that is summed in different orders


def in_float32(folder, out):
    """The same folder for computations in float32: the type of activations is a setting, not a property of the weights."""
    config = json.loads((folder / "config.json").read_text())
    if config.get("quantization_config", {}).get("load_in_4bit"):
        config["quantization_config"]["bnb_4bit_compute_dtype"] = "float32"
    for file in folder.iterdir():
        (out / file.name).symlink_to(file.resolve())
    (out / "config.json").unlink()
    (out / "config.json").write_text(json.dumps(config))


def load(folder):
    model, found = MllamaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, device_map="cpu", attn_implementation="eager", output_loading_info=True
    )
    problems = {key: value for key, value in found.items() if value}
    assert not problems, problems
    for module in model.modules():
        module.support_avx512bf16_for_cpu = False  # else bitsandbytes computes in bfloat16, whatever it is told
    return model.eval()


def questions(folder):
    """The six inputs, or two, as the processor makes them from the folder's own files."""
    processor = AutoProcessor.from_pretrained(folder)
    picture = Image.open(POCKET / "pictures/shapes.png")

    def inputs(content, pictures):
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return dict(processor(images=pictures, text=text, add_special_tokens=False, return_tensors="pt"))

    yield "text", inputs([{"type": "text", "text": "What is a taso?"}], None)
    yield "picture", inputs([{"type": "image"}, {"type": "text", "text": "How many shapes are there?"}], [picture])


def same(a, b):
    return a.read_bytes() == b.read_bytes()


@torch.no_grad()
def logits_of(model, inputs):
    return model(**inputs).logits.float()


def compare(name, arguments, bin_folder, work):
    folder = work / name.replace(", ", "-").replace(" ", "-")
    command = [bin_folder / arguments[0], *arguments[1:], "--out", folder]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    float_folder = work / (folder.name + "-float32")
    float_folder.mkdir()
    in_float32(folder, float_folder)
    model = load(float_folder)
    layers = {type(module).__name__ for module in model.modules() if "Linear" in type(module).__name__}
    eight_bit = "Linear8bitLt" in layers
    reference = make_models.load_float32(folder) if eight_bit else model
    good = True
    for question, inputs in questions(folder):
        save_file({k: v.contiguous() for k, v in inputs.items()}, work / "in.safetensors")
        command = [bin_folder / "logits", "--model", folder, "--inputs", work / "in.safetensors", "--out", work / "out.safetensors"]
        subprocess.run([*command, "--profile", "transformers_4_56"], check=True)
        ours = load_file(work / "out.safetensors")["logits"]
        theirs = logits_of(reference, inputs)
        largest = theirs.abs().max()
        error = ((ours - theirs).abs().max() / largest).item()
        good &= error < TOLERANCE
        line = f"{name:23}  {question:8} {inputs['input_ids'].shape[1]:3} tokens  logits to {largest:5.2f}, error {error:.1e}"
        # On a CPU bitsandbytes' 8-bit layer cannot take the projector's five axes.
        if eight_bit and "pixel_values" not in inputs:
            line += f"; with quantised activations {((ours - logits_of(model, inputs)).abs().max() / largest).item():.1e}"
        print(line + ("" if error < TOLERANCE else "  FAILED"), flush=True)
    MllamaForConditionalGeneration.from_pretrained(folder, device_map="cpu", dtype="auto").save_pretrained(work / "saved")
    differ = [f for f in ("config.json", "generation_config.json", "model.safetensors") if not same(work / "saved" / f, folder / f)]
    print(f"{name:23}  layers: {', '.join(sorted(layers))}; saved again: {'other ' + ', '.join(differ) if differ else 'the same bytes'}", flush=True)
    return good and "model.safetensors" not in differ


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, required=True, help="folder of the programs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"transformers {transformers.__version__}, bitsandbytes {bitsandbytes.__version__}, torch {torch.__version__}, CPU")
    with tempfile.TemporaryDirectory() as work:
        good = all([compare(name, arguments, options.bin, Path(work)) for name, arguments in FOLDERS.items()])
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
