#!/usr/bin/env python3
"""Writes adapters/: LoRA adapters for two of the models in models/, and what PEFT computes with them, unmerged.

    make_adapters.py
"""

import json
import shutil
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from make_models import MODELS, load_float32, run, to_file_name, uniform

ADAPTERS = Path(__file__).parent / "adapters"

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLPS = ["gate_proj", "up_proj", "down_proj", "fc1", "fc2"]
EVERYTHING = [*ATTENTION, *MLPS, "multi_modal_projector", "lm_head", "embed_tokens"]

# Options of LoraConfig; `dtype` and `legacy` (keys as before transformers 4.52) say how the file is written.
CONFIGS = {
    "one_tile": {
        "everything": dict(r=3, lora_alpha=5, target_modules=EVERYTHING, dtype="bfloat16"),
        "patterns": dict(
            r=4, lora_alpha=6, use_rslora=True, target_modules=r".*\.(q_proj|o_proj|fc1)",
            rank_pattern={r"layers\.[0-3]\.cross_attn\.q_proj": 2, r"^model\.vision_model\..*fc1": 1, "o_proj": 3},
            alpha_pattern={"q_proj": 2.5, r"layers\.\d\.self_attn\.[qo]_proj": 9},
        ),
        "dora": dict(
            r=2, lora_alpha=8, use_dora=True,
            target_modules=["q_proj", "v_proj", "o_proj", "down_proj", "fc2", "multi_modal_projector", "lm_head"],
        ),
        "biased": dict(r=2, lora_alpha=3, lora_bias=True, target_modules=["fc1", "fc2", "v_proj", "down_proj"], dtype="float16"),
        "saved": dict(
            r=2, lora_alpha=2, target_modules=["k_proj", "fc1"], bias="all",
            modules_to_save=["multi_modal_projector", "model.language_model.norm", "q_norm", "lm_head", "embed_tokens"],
        ),
        "legacy": dict(r=2, lora_alpha=4, target_modules=["up_proj", "k_proj", "lm_head"], legacy=True),
    },
    "nf4_plain": {
        "plain": dict(r=4, lora_alpha=8, target_modules=[*ATTENTION, *MLPS, "multi_modal_projector"], dtype="bfloat16"),
        "dora": dict(r=2, lora_alpha=4, use_dora=True, target_modules=["q_proj", "o_proj", "gate_proj", "fc1", "multi_modal_projector"]),
    },
}  # fmt: skip

# Inputs of each model, and which adapters are active, with their scales.
CASES = {
    "one_tile": (
        "no_cross_mask",
        {
            "everything": {"everything": 1},
            "patterns": {"patterns": 1},
            "dora": {"dora": 1},
            "dora_scaled": {"dora": 0.4},
            "biased": {"biased": 1},
            "saved": {"saved": 1},
            "legacy": {"legacy": 1},
            "several": {"everything": 0.5, "dora": 1.25, "biased": -0.75, "patterns": 1},
            "beside_saved": {"saved": 1, "patterns": 0.5},
        },
    ),
    "nf4_plain": ("mixed", {"plain": {"plain": 1}, "dora": {"dora": 1}, "both": {"dora": 0.75, "plain": 1.5}}),
}


def fill(model, name):
    """Numbers for what an adapter has, of the size that keeps their effect on a product about as large as the product."""
    for key, parameter in model.named_parameters():
        v = uniform(f"{name}/{key}", tuple(parameter.shape))
        if "lora_magnitude_vector" in key:
            parameter.mul_(1 + v / 2)
        elif "lora_embedding_A" in key or (".lora_" in key and key.endswith(".bias")):
            parameter.copy_(v)
        elif ".lora_" in key or "lora_embedding_B" in key:
            parameter.copy_(v * (6 / parameter.shape[1]) ** 0.5)
        elif "modules_to_save" in key or parameter.requires_grad:  # replaced, or a bias that is trained, too
            parameter.add_(v / 4)


def write_adapter(model_name, name):
    options = dict(CONFIGS[model_name][name])
    dtype, legacy = options.pop("dtype", "float32"), options.pop("legacy", False)
    folder = ADAPTERS / model_name / name
    model = get_peft_model(load_float32(MODELS / model_name), LoraConfig(**options))
    with torch.no_grad():
        fill(model, f"{model_name}/{name}")
    model.save_pretrained(folder)
    (folder / "README.md").unlink()

    file = folder / "adapter_model.safetensors"
    prefix = "base_model.model."
    tensors = {}
    for key, x in load_file(file).items():
        key = key.removeprefix(prefix)
        x = x.to(getattr(torch, dtype)) if "lora_" in key else x
        tensors[prefix + (to_file_name(key) if legacy else key)] = x.contiguous()
    save_file(tensors, file, metadata={"format": "pt"})

    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = model_name
    if isinstance(config["target_modules"], list):  # a set to PEFT
        config["target_modules"].sort()
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_outputs(model_name, inputs, case, active):
    folder = ADAPTERS / model_name
    names = list(active)
    model = load_float32(MODELS / model_name)
    model = PeftModel.from_pretrained(model, folder / names[0], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(folder / name, adapter_name=name)
    model.base_model.set_adapter(names)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name, scale in active.items():
                module.set_scale(name, scale)
    result = run(model.get_base_model().eval(), load_file(MODELS / model_name / "cases" / f"{inputs}.safetensors"), False)
    wanted = ("cross_attention_states", "logits", "decode_logits")
    outputs = {f"transformers_4_56/{key}": result[key].contiguous() for key in wanted}
    words = [inputs, *(f"{name}={scale}" for name, scale in active.items())]
    (folder / "cases").mkdir(exist_ok=True)
    save_file(outputs, folder / "cases" / f"{case}.expected.safetensors", metadata={"run": " ".join(words)})
    return result


def main():
    assert transformers.__version__ == "4.57.6", transformers.__version__
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    shutil.rmtree(ADAPTERS, ignore_errors=True)
    for model_name, configs in CONFIGS.items():
        for name in configs:
            write_adapter(model_name, name)
        inputs, cases = CASES[model_name]
        base = run(load_float32(MODELS / model_name), load_file(MODELS / model_name / "cases" / f"{inputs}.safetensors"), False)
        for case, active in cases.items():
            result = write_outputs(model_name, inputs, case, active)
            change = (result["logits"] - base["logits"]).abs().max() / base["logits"].abs().max()
            print(f"{model_name}/{case}: {change:.2f}")
            assert change > 0.05


if __name__ == "__main__":
    main()
