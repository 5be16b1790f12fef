"""Writes Pocket as Hugging Face folders: `model` in bfloat16, and `model-nf4` quantised by bitsandbytes.

    python export.py --checkpoint pocket-training/last.pt --out .

Without a checkpoint the weights are the initial ones: of no use but to try a loader with.
"""

import argparse
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig, MllamaForConditionalGeneration, MllamaImageProcessor, MllamaProcessor

from model import TILE, TILES, make_model
from tokenizer import load_tokenizer


def make_processor():
    images = MllamaImageProcessor(
        size={"height": TILE, "width": TILE}, max_image_tiles=TILES, resample=2,
        image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711],
    )  # fmt: skip
    tokenizer = load_tokenizer()
    return MllamaProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def save(model, processor, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    model.save_pretrained(folder, max_shard_size="3MB")
    processor.save_pretrained(folder)


def export(state, out):
    """Saves both folders. The quantised model is made from the rounded one, as a user would make it."""
    model = make_model()
    if state:
        model.load_state_dict(state)
    processor = make_processor()
    save(model.to(torch.bfloat16), processor, out / "model")
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    quantised = MllamaForConditionalGeneration.from_pretrained(
        out / "model", quantization_config=nf4, dtype=torch.bfloat16, device_map={"": "cpu"}
    )
    save(quantised, processor, out / "model-nf4")
    for folder in ("model", "model-nf4"):
        size = sum(f.stat().st_size for f in (out / folder).iterdir())
        print(f"{folder}: {size / 1e6:.2f} MB in {len(list((out / folder).iterdir()))} files")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    loaded = torch.load(arguments.checkpoint, weights_only=True)["model"] if arguments.checkpoint else None
    export(loaded, arguments.out)
