#!/usr/bin/env python3
"""Writes bfloat16_errors.tsv: what computing in bfloat16 costs Hugging Face, on the quantised models in models/.

    make_bfloat16_errors.py

The same release, weights and inputs, in bfloat16 and in float32: differences of logits and of cached steps' logits, the largest over
the largest number, and the length of their vector over that of the numbers.
"""

import tempfile
from pathlib import Path

import torch
import transformers
from make_models import MODELS, float32_checkpoint, run
from safetensors.torch import load_file
from transformers import MllamaForConditionalGeneration

NAMES = ["nf4_plain", "nf4_nested", "nf4_mixed", "fp4_nested"]


def load(folder, dtype):
    return MllamaForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def main():
    assert transformers.__version__ == "4.57.6", transformers.__version__
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    lines = ["model\tcase\toutput\tlargest\tlength"]
    for name in NAMES:
        with tempfile.TemporaryDirectory() as plain:
            float32_checkpoint(MODELS / name, Path(plain))
            exact, rounded = load(plain, torch.float32), load(plain, torch.bfloat16)
        for file in sorted((MODELS / name / "cases").glob("*.safetensors")):
            if file.name.endswith(".expected.safetensors"):
                continue
            inputs = load_file(file)
            fewer = {key: x.bfloat16() if x.is_floating_point() else x for key, x in inputs.items()}
            a, b = run(rounded, fewer, False), run(exact, inputs, False)
            for key in ("logits", "decode_logits"):
                difference = (a[key] - b[key]).double()
                largest = difference.abs().max() / b[key].abs().max()
                length = difference.norm() / b[key].double().norm()
                lines.append(f"{name}\t{file.stem}\t{key}\t{largest:.3e}\t{length:.3e}")
    (Path(__file__).parent / "bfloat16_errors.tsv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
