#!/usr/bin/env python3
"""Writes variants/: small models that differ from Mllama, and what Hugging Face's modules, put together in that way, compute.

    make_variants.py [VARIANT...]
"""

import argparse
import json
import shutil
from pathlib import Path

import make_models
import torch
import transformers
from make_models import I, Model, llama3, random_weight, run, text, to_file_name, uniform, vision
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MllamaConfig, MllamaForConditionalGeneration, SiglipVisionConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.siglip.modeling_siglip import SiglipVisionTransformer

VARIANTS = Path(__file__).parent / "variants"

VISION = dict(hidden=8, heads=2, inner=12, layers=(2, 1), image=14, patch=7, tiles=2, indices=[0], ratios=[[1, 1], [1, 2], [2, 1]])
TEXT = dict(hidden=16, heads=4, kv=2, inner=24, layers=5, cross=[1, 3], vocab=40)


# --- what is changed in Hugging Face's model, once it is built ------------------------------------------------------


def unchanged(_model):
    pass


def sliding_window(model, window=3):
    """Mistral's rule: a row of text sees itself and the window - 1 positions before it."""

    def hide(module, _args, kwargs):
        rows = kwargs["cache_position"][:, None]
        columns = torch.arange(kwargs["attention_mask"].shape[-1])[None]
        far = columns <= rows - window
        kwargs["attention_mask"] = kwargs["attention_mask"].masked_fill(far, torch.finfo(torch.float32).min)
        return _args, kwargs

    for layer in model.model.language_model.layers:
        if hasattr(layer, "self_attn"):
            layer.self_attn.register_forward_pre_hook(hide, with_kwargs=True)


def early_exit(model, layers=3):
    """Only the first layers are computed; the file has all of them."""
    decoder = model.model.language_model
    whole = decoder.forward

    def shortened(*args, **kwargs):
        rest = decoder.layers
        decoder.layers = rest[:layers]
        try:
            return whole(*args, **kwargs)
        finally:
            decoder.layers = rest

    decoder.forward = shortened


class TwoLayerProjector(nn.Module):
    """LLaVA 1.5's: linear, GELU, linear."""

    def __init__(self, features, width):
        super().__init__()
        self.linear_1 = nn.Linear(features, width)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x):
        return self.linear_2(self.act(self.linear_1(x)))


def two_layer_projector(model):
    model.model.multi_modal_projector = TwoLayerProjector(model.config.vision_config.vision_output_dim, model.model.hidden_size)


class SiglipTower(SiglipVisionTransformer):
    """SigLIP's vision model under Mllama's signature: one tile to a picture."""

    def __init__(self, config):
        super().__init__(config)
        self.num_patches = self.embeddings.num_patches

    def forward(self, pixel_values, aspect_ratio_mask=None, **_unused):
        states = super().forward(pixel_values.flatten(0, 2)).last_hidden_state
        return BaseModelOutput(last_hidden_state=states.reshape(*pixel_values.shape[:3], *states.shape[1:]))


def siglip(model):
    config = SiglipVisionConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=23, patch_size=7,
        vision_use_head=False,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model.model.vision_model = SiglipTower(config)
    model.model.multi_modal_projector = TwoLayerProjector(config.hidden_size, model.model.hidden_size)


class Mixture(MixtralSparseMoeBlock):
    def forward(self, x):
        return super().forward(x)[0]


def mixture_of_experts(model):
    """Mixtral's: 4 experts, of which each row takes two."""
    sizes = model.config.text_config
    config = MixtralConfig(
        hidden_size=sizes.hidden_size, intermediate_size=sizes.intermediate_size, num_local_experts=4, num_experts_per_tok=2
    )
    for layer in model.model.language_model.layers:
        layer.mlp = Mixture(config)


# Name: text sizes that differ, and the change.
CONFIGS = {
    "wider_mlp": (dict(inner=48), unchanged),
    "other_cross_layers": (dict(cross=[0, 2, 3]), unchanged),
    "lora_on_cross_attention": ({}, unchanged),
    "int8_cross_keys": ({}, unchanged),
    "sliding_window": ({}, sliding_window),
    "early_exit": ({}, early_exit),
    "two_layer_projector": ({}, two_layer_projector),
    "mixture_of_experts": (dict(inner=12), mixture_of_experts),
    "siglip": ({}, siglip),
}


# Llama alone: options of LlamaConfig that differ. Rotations are scaled as in 3.0, 3.1 and 3.2; the numbers in them are such that a few
# positions show it.
LLAMA = dict(
    hidden_size=16, num_attention_heads=2, num_key_value_heads=1, intermediate_size=24, num_hidden_layers=3, vocab_size=40,
    rms_norm_eps=1e-5, rope_theta=100.0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
LLAMAS = {
    "llama": dict(rope_scaling=None, tie_word_embeddings=False),
    "llama_scaled_8": dict(rope_scaling=llama3(8.0, original=32), tie_word_embeddings=False),
    "llama_scaled_32_tied": dict(rope_scaling=llama3(32.0, original=32), tie_word_embeddings=True),
}


# --- models ---------------------------------------------------------------------------------------------------------


def build(name):
    """The variant's model with weights that bfloat16 holds, in float32."""
    sizes, change = CONFIGS[name]
    one_tile = dict(image=23, tiles=1, ratios=[[1, 1]]) if name == "siglip" else {}
    spec = Model(vision(**VISION | one_tile), text(**TEXT | sizes))
    config = MllamaConfig(vision_config=spec.vision, text_config=spec.text, image_token_index=spec.text["vocab_size"])
    config._attn_implementation = "eager"
    model = MllamaForConditionalGeneration._from_config(config, dtype=torch.float32, attn_implementation="eager")
    change(model)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            tensor.copy_(random_weight(name, to_file_name(key), tuple(tensor.shape)).bfloat16())
    make_models.CONFIGS[name] = spec
    return model.eval()


def save(name, model):
    folder = VARIANTS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.config.dtype = "bfloat16"
    model.config.save_pretrained(folder)
    if name == "siglip":
        settings = json.loads((folder / "config.json").read_text())
        settings["vision_config"] = model.model.vision_model.config.to_diff_dict()
        (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    tensors = {to_file_name(key): x.bfloat16().contiguous() for key, x in model.state_dict().items()}
    if name == "int8_cross_keys":
        tensors |= int8_cross_keys(model, tensors)
    save_file(dict(sorted(tensors.items())), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def int8_cross_keys(model, tensors):
    """Keys and values of pictures with LLM.int8() weights; the model gets what these stand for."""
    import bitsandbytes as bnb

    quantised = {}
    weights = model.state_dict()
    for key, x in weights.items():
        if ".cross_attn.k_proj." not in key and ".cross_attn.v_proj." not in key:
            continue
        codes, scales, _ = bnb.functional.int8_vectorwise_quant(x.half())
        with torch.no_grad():
            x.copy_(bnb.functional.int8_vectorwise_dequant(codes, scales))
        file_key = to_file_name(key)
        quantised[file_key] = codes
        quantised[file_key.removesuffix("weight") + "SCB"] = scales
        quantised[file_key + "_format"] = torch.tensor(0, dtype=torch.uint8)
    return quantised


def lora_on_cross_attention(name, model, folder):
    """An adapter on the four matrices of cross-attention, unmerged."""
    options = LoraConfig(r=3, lora_alpha=6, target_modules=r".*\.cross_attn\.(q|k|v|o)_proj")
    model = get_peft_model(model, options)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".lora_" in key:
                parameter.copy_(uniform(f"{name}/{key}", tuple(parameter.shape)) * (6 / parameter.shape[1]) ** 0.5)
    model.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink()
    file = folder / "adapter" / "adapter_config.json"
    settings = json.loads(file.read_text()) | {"base_model_name_or_path": name}
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    return model.base_model.model.eval()


def write(name):
    model = build(name)
    folder = save(name, model)
    ratios = [[(1, 1)], [(1, 1), (1, 1)]] if name == "siglip" else [[(1, 2)], [(1, 1), (2, 1)]]
    _, inputs = make_models.case(
        "mixed", name, [[1, 7, I, 31, 9, 22, 13, 5, 18], [1, I, 30, 4, I, 17, 2]], ratios, "left", [[5, 6, 7], [8, 9, 10]],
    )  # fmt: skip
    save_file(inputs, folder / "case.safetensors")
    if name == "lora_on_cross_attention":
        model = lora_on_cross_attention(name, model, folder)
    result = run(model, inputs, False)
    result = {f"transformers_4_56/{key}": x.contiguous() for key, x in result.items()}
    save_file(dict(sorted(result.items())), folder / "case.expected.safetensors")


# --- Llama ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def run_llama(model, ids, steps):
    """Logits and states of whole rows, then of single tokens after them."""
    seen = {}
    layers = model.model.layers
    handles = [model.model.embed_tokens.register_forward_hook(lambda _m, _x, y: seen.update({"hidden_states.0": y.clone()}))]
    for i, layer in enumerate(layers):
        keep = lambda _m, _x, y, i=i: seen.update({f"hidden_states.{i + 1}": y.clone()})  # noqa: E731
        handles.append(layer.register_forward_hook(keep))
    cache = transformers.DynamicCache()
    out = {"logits": model(ids, past_key_values=cache, use_cache=True).logits}
    for handle in handles:
        handle.remove()
    decoded = [model(step[:, None], past_key_values=cache, use_cache=True).logits for step in steps.unbind(1)]
    return out | seen | {"decode_logits": torch.cat(decoded, 1)}


def write_llama(name):
    folder = VARIANTS / name
    shutil.rmtree(folder, ignore_errors=True)
    config = LlamaConfig(**LLAMA | LLAMAS[name])
    model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16, attn_implementation="eager")
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            tensor.copy_(random_weight(name, key, tuple(tensor.shape)))
    if config.tie_word_embeddings:
        assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    ids = torch.tensor([make_models.uniform_ids(name, 40, 40)])
    inputs = {"input_ids": ids, "decode_input_ids": torch.tensor([[5, 6, 7]])}
    save_file(inputs, folder / "case.safetensors")
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    result = run_llama(model, ids, inputs["decode_input_ids"])
    result = {f"transformers_4_56/{key}": x.contiguous() for key, x in result.items()}
    save_file(dict(sorted(result.items())), folder / "case.expected.safetensors")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("variants", nargs="*", default=[*CONFIGS, *LLAMAS])
    assert transformers.__version__ == "4.57.6", transformers.__version__
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for name in parser.parse_args().variants:
        write_llama(name) if name in LLAMAS else write(name)
        print(name)


if __name__ == "__main__":
    main()
