#!/usr/bin/env python3
"""Writes models/: small random Mllama checkpoints, inputs, and what Hugging Face computes from them.

    make_models.py --releases DIR [MODEL...]

DIR holds the two older releases of transformers, DIR/4.54.1 and DIR/4.55.4 (see README.md). This process
writes checkpoints and inputs; one child process per release then adds its outputs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["BITSANDBYTES_NOWELCOME"] = "1"

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import MllamaConfig, MllamaForConditionalGeneration
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

MODELS = Path(__file__).parent / "models"

# Which release computes which profile; True: step 4 of a cross-attention layer (the row mask) is added by a hook.
PROFILES = {
    "4.57.6": {"transformers_4_56": False, "meta_rows": True},
    "4.54.1": {"transformers_4_45": False, "meta": True},
    "4.55.4": {"transformers_4_55": False},
}
# A tensor equal to that of the profile named here is not stored.
FALLBACK = {
    "meta": "transformers_4_45",
    "meta_rows": "transformers_4_56",
    "transformers_4_45": "transformers_4_56",
}

STANDARD_RATIOS = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]


# --- numbers by formula ---------------------------------------------------------------------------------------------


def fnv1a(text):
    x = 2166136261
    for byte in text.encode():
        x = (x ^ byte) * 16777619 & 0xFFFFFFFF
    return x


def uniform(name, shape):
    """Values in [-0.5, 0.5), multiples of 2^-16: a linear congruential sequence started from the name."""
    count = int(np.prod(shape))
    x = np.empty(count, np.uint32)
    x[0] = (fnv1a(name) * 1664525 + 1013904223) & 0xFFFFFFFF
    a, c, filled = 1664525, 1013904223, 1  # x[i + filled] = a * x[i] + c
    while filled < count:
        more = min(filled, count - filled)
        x[filled : filled + more] = x[:more] * np.uint32(a) + np.uint32(c)
        a, c, filled = a * a & 0xFFFFFFFF, (a * c + c) & 0xFFFFFFFF, filled + more
    return torch.from_numpy((x >> 16).astype(np.float32) / 65536 - 0.5).reshape(shape)


def appendix_a_weight(_, name, shape):
    v = uniform(name, shape)
    if len(shape) == 1 and "norm" in name and name.endswith(".weight"):
        return 1 + v / 2
    return 2 * v if len(shape) == 1 or "embed" in name else v / 2


def random_weight(model, name, shape):
    v = uniform(f"{model}/{name}", shape)
    if shape == (1,):  # gate
        return v.sign() * (0.3 + v.abs())
    if len(shape) == 1 and "norm" in name and name.endswith(".weight"):
        return 1 + v / 2
    if len(shape) == 1 or ("embedding" in name and "patch" not in name):
        return v
    if "embed_tokens" in name:
        return 2 * v
    return v * (12 / np.prod(shape[1:])) ** 0.5  # variance 1 / fan-in


# --- models ---------------------------------------------------------------------------------------------------------


def llama3(factor=8.0, low=1.0, high=4.0, original=8192):
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def vision(hidden, heads, inner, layers, image, patch, tiles, indices, ratios=STANDARD_RATIOS, act="gelu", eps=1e-5):
    local, global_ = layers
    return dict(
        hidden_size=hidden, num_attention_heads=heads, intermediate_size=inner, num_hidden_layers=local,
        num_global_layers=global_, image_size=image, patch_size=patch, max_num_tiles=tiles,
        intermediate_layers_indices=indices, supported_aspect_ratios=ratios, hidden_act=act, norm_eps=eps,
        vision_output_dim=hidden * (1 + len(indices)),
    )  # fmt: skip


def text(hidden, heads, kv, inner, layers, cross, vocab, act="silu", theta=500000.0, rope=None, eps=1e-5):
    return dict(
        hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=kv, intermediate_size=inner,
        num_hidden_layers=layers, cross_attention_layers=cross, vocab_size=vocab, hidden_act=act, rope_theta=theta,
        rope_scaling=rope or llama3(), rms_norm_eps=eps, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip


@dataclass
class Model:
    vision: dict
    text: dict
    dtype: str = "float32"
    shard_size: str = "1GB"
    quantization: dict | None = None  # options of bitsandbytes; NF4 if they do not say otherwise


CONFIGS = {
    "appendix_a": Model(
        vision(16, 4, 24, (5, 2), 28, 7, 4, [0, 2, 4]),
        text(32, 4, 2, 40, 6, [1, 4], 99),
    ),
    # Widths that are no multiple of anything, two tiles, ratios in an order of their own.
    "odd": Model(
        vision(20, 5, 37, (3, 1), 56, 14, 2, [2, 0], [[1, 2], [1, 1], [2, 1]]),
        text(36, 3, 1, 50, 4, [2], 101, rope=llama3(4.0, 1.5, 3.0, 64), theta=1000.0, eps=1e-6),
    ),
    # One tile; adjacent cross layers; plain RoPE.
    "one_tile": Model(
        vision(18, 3, 26, (4, 2), 42, 14, 1, [3, 1], [[1, 1]], "gelu_pytorch_tanh", 1e-6),
        text(24, 6, 2, 34, 7, [1, 2, 5], 67, "gelu_pytorch_tanh", 10000.0, {"rope_type": "default"}),
    ),
    # Three tiles without the ratio 1 x 2; indices out of order, last layer included; 8 heads of 2 channels.
    "three_tiles": Model(
        vision(16, 8, 21, (5, 1), 30, 6, 3, [4, 0, 2], [[3, 1], [1, 1], [1, 3], [2, 1]], "quick_gelu"),
        text(24, 4, 4, 31, 5, [1, 3], 83, "quick_gelu", 100.0, llama3(2.0, 0.5, 8.0, 100)),
    ),
    # All eight ratios; one layer of each vision encoder, one intermediate state; the file in shards.
    "ratios": Model(
        vision(12, 2, 20, (1, 1), 20, 10, 4, [0], act="relu"),
        text(30, 5, 5, 44, 3, [1], 64, "relu", 20000.0),
        shard_size="60KB",
    ),
    "bf16": Model(
        vision(24, 3, 40, (3, 2), 28, 14, 2, [1, 2], [[1, 1], [1, 2], [2, 1]]),
        text(40, 5, 1, 72, 4, [2], 96),
        "bfloat16",
    ),
    # As published checkpoints: bfloat16, NF4 with nested scales, everything but the head quantised.
    "nf4_nested": Model(
        vision(64, 4, 64, (2, 1), 28, 14, 2, [1, 0], [[1, 1], [1, 2], [2, 1]]),
        text(64, 4, 2, 320, 3, [1], 64),
        "bfloat16",
        quantization=dict(bnb_4bit_use_double_quant=True),
    ),
    "nf4_plain": Model(
        vision(64, 2, 128, (1, 1), 28, 14, 1, [0], [[1, 1]]),
        text(64, 2, 1, 128, 3, [1], 64),
        "float32",
        quantization=dict(bnb_4bit_use_double_quant=False),
    ),
    # Only some linears quantised: vision attention, one text layer's MLP and the projector stay float.
    "nf4_mixed": Model(
        vision(64, 4, 64, (1, 1), 28, 14, 1, [0], [[1, 1]]),
        text(64, 4, 4, 64, 3, [1], 64),
        "bfloat16",
        quantization=dict(
            bnb_4bit_use_double_quant=True,
            llm_int8_skip_modules=[
                "lm_head", "multi_modal_projector", "model.language_model.layers.2.mlp",
                "model.vision_model.transformer.layers.0.self_attn", "v_proj",
            ],
        ),
    ),
    # FP4 whose bytes are labelled bfloat16, as trainers that shard parameters want it.
    "fp4_nested": Model(
        vision(64, 4, 64, (1, 1), 28, 14, 1, [0], [[1, 1]]),
        text(64, 4, 2, 192, 3, [1], 64),
        "bfloat16",
        quantization=dict(
            bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True, bnb_4bit_quant_storage="bfloat16",
        ),
    ),
    # LLM.int8(); the projector is float, since bitsandbytes' layer cannot take its five axes on a CPU.
    "int8": Model(
        vision(60, 3, 70, (2, 1), 28, 14, 2, [1, 0], [[1, 1], [1, 2], [2, 1]]),
        text(52, 2, 1, 90, 3, [1], 70),
        "bfloat16",
        quantization=dict(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "multi_modal_projector"]),
    ),
}  # fmt: skip


def to_file_name(name):
    """Module names of transformers >= 4.52 to the names that checkpoints have."""
    for new, old in (("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head.")):
        if name.startswith(new):
            return old + name[len(new) :]
    return name.removeprefix("model.")


def write_model(name, folder):
    spec = CONFIGS[name]
    dtype = getattr(torch, spec.dtype)
    config = MllamaConfig(vision_config=spec.vision, text_config=spec.text, image_token_index=spec.text["vocab_size"])
    weight = appendix_a_weight if name == "appendix_a" else random_weight
    model = MllamaForConditionalGeneration._from_config(config, dtype=dtype)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            tensor.copy_(weight(name, to_file_name(key), tuple(tensor.shape)))
    if spec.quantization is None:
        model.save_pretrained(folder, max_shard_size=spec.shard_size)
        return
    with tempfile.TemporaryDirectory() as plain:
        model.save_pretrained(plain)
        nf4 = {} if "load_in_8bit" in spec.quantization else dict(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        options = transformers.BitsAndBytesConfig(**nf4 | spec.quantization)
        MllamaForConditionalGeneration.from_pretrained(
            plain, quantization_config=options, dtype=dtype, device_map="cpu"
        ).save_pretrained(folder)


# --- cases ----------------------------------------------------------------------------------------------------------

I = "image"  # noqa: E741  placeholder of the image token in the lists of ids below


def case(name, model, ids, ratios=(), padding=None, decode=None, mask=True, cross_mask="processor"):
    """`ids` one list per row, `ratios` one list of (high, wide) per row, in the order of the row's image tokens."""
    vision_config = CONFIGS[model].vision
    image_token = CONFIGS[model].text["vocab_size"]
    tiles, side = vision_config["max_num_tiles"], vision_config["image_size"]
    ids = [[image_token if i is I else i for i in row] for row in ids]
    length = max(map(len, ids))

    def padded(row, fill, value):
        pads = [value] * (length - len(row))
        return pads + [fill(i) for i in row] if padding == "left" else [fill(i) for i in row] + pads

    out = {"input_ids": torch.tensor([padded(row, int, 0) for row in ids])}
    if mask:
        out["attention_mask"] = torch.tensor([padded(row, lambda _: 1, 0) for row in ids])
    if ratios:
        ratios = [[list(r) for r in row] for row in ratios]
        images = max(map(len, ratios))
        pixels = torch.zeros(len(ids), images, tiles, 3, side, side)
        ratio_ids = torch.zeros(len(ids), images, dtype=torch.int64)
        ratio_mask = torch.zeros(len(ids), images, tiles, dtype=torch.int64)
        ratio_mask[:, :, 0] = 1
        for b, row in enumerate(ratios):
            for m, (high, wide) in enumerate(row):
                used = high * wide
                pixels[b, m, :used] = 4 * uniform(f"{model}/{name}/{b}/{m}", (used, 3, side, side))
                ratio_ids[b, m] = vision_config["supported_aspect_ratios"].index([high, wide]) + 1
                ratio_mask[b, m, :used] = 1
        out.update(pixel_values=pixels, aspect_ratio_ids=ratio_ids, aspect_ratio_mask=ratio_mask)
        if cross_mask == "processor":
            ranges = [get_cross_attention_token_mask(row, image_token) for row in out["input_ids"].tolist()]
            counts = [[high * wide for high, wide in row] for row in ratios]
            dense = convert_sparse_cross_attention_mask_to_dense(ranges, counts, tiles, length)
            out["cross_attention_mask"] = torch.from_numpy(dense)
        elif cross_mask == "random":
            out["cross_attention_mask"] = (
                uniform(f"{model}/{name}/mask", (len(ids), length, images, tiles)) > 0.1
            ).long()
    if decode is not None:
        out["decode_input_ids"] = torch.tensor(decode)
    return name, out


def appendix_a_inputs():
    pixels = 4 * uniform("pixel_values", (2, 2, 4, 3, 28, 28))
    pixels[0, 0, 2:] = pixels[0, 1] = pixels[1, 0, 1:] = pixels[1, 1, 3:] = 0
    cross = torch.zeros(2, 11, 2, 4, dtype=torch.int64)
    cross[0, 2:, 0, :2] = cross[1, 3:6, 0, :1] = cross[1, 6:, 1, :3] = 1
    return {
        "input_ids": torch.tensor([[1, 7, 99, 12, 55, 3, 8, 90, 41, 6, 23], [1, 30, 4, 99, 17, 61, 99, 5, 77, 9, 2]]),
        "pixel_values": pixels,
        "aspect_ratio_ids": torch.tensor([[2, 0], [1, 3]]),
        "aspect_ratio_mask": torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]], [[1, 0, 0, 0], [1, 1, 1, 0]]]),
        "cross_attention_mask": cross,
        "decode_input_ids": torch.tensor([[5], [6]]),
    }


def appendix_a_cases(model):
    published = appendix_a_inputs()
    yield "published", published
    left = torch.ones(1, 11, dtype=torch.int64)
    left[0, :2] = 0
    yield "left_pad", {name: x[:1].clone() for name, x in published.items()} | {"attention_mask": left}
    ids = published["input_ids"]
    yield "text_only", {"input_ids": torch.where(ids == 99, 98, ids), "decode_input_ids": torch.tensor([[5], [6]])}


def cases(model):
    """The cases of a model."""
    last = CONFIGS[model].text["vocab_size"] - 1
    if model == "appendix_a":
        yield from appendix_a_cases(model)
    elif model == "odd":
        yield case(
            "left_padding", model, [[1, 4, I, 60, 11, 3], [1, I, 22, 7, 45, last, 2, 19, 50]], [[(2, 1)], [(1, 1)]],
            "left", [[10, 11, 12, 13], [14, 15, 16, 17]],
        )  # fmt: skip
    elif model == "one_tile":
        yield case("image_first", model, [[I, 1, 20, 30, 40]], [[(1, 1)]], decode=[[50, 60, 3]])
        yield case(
            "imageless_rows", model, [[1, 7, 21, 33], [1, 5, I, 16, 48, 2], [1, 13]], [[], [(1, 1)], []],
            "left", [[5, 6, 7], [8, 9, 10], [11, 12, 13]],
        )  # fmt: skip
        yield case("no_cross_mask", model, [[1, 44, I, 3, 17, 29]], [[(1, 1)]], cross_mask=None, decode=[[4, 5, 6]])
        yield case(
            "text_only", model, [[1, 5, 9], [1, 8, 27, 64, 33, 2]], padding="left", decode=[[5, 6, 7], [8, 9, 10]]
        )
    elif model == "three_tiles":
        yield case("adjacent", model, [[1, 2, I, I, 11, 70, 31]], [[(1, 3), (2, 1)]], mask=False, decode=[[5, 6, 7, 8]])
        yield case(
            "several_images", model, [[1, I, 23, 5, I, 80, 14, 3], [1, 2, 3, 4, I, 51]], [[(3, 1), (1, 1)], [(2, 1)]],
            "right", [[3, 4, 5], [6, 7, 8]],
        )  # fmt: skip
        yield case(
            "random_mask", model, [[1, I, I, 40, 41, 42, 43, 44]], [[(2, 1), (1, 3)]], cross_mask="random",
            decode=[[1, 2, 3]],
        )  # fmt: skip
    elif model == "ratios":
        yield case(
            "all_ratios", model, [[1, I, 5, I, I, 9, I, 12], [1, 3, I, 6, I, 7, I, 60, I, 2]],
            [STANDARD_RATIOS[:4], STANDARD_RATIOS[4:]], "left", [[20, 21, 22], [23, 24, 25]],
        )  # fmt: skip
        yield case("text_only", model, [[1, 40, 41, 42, 43]], mask=False, decode=[[44, 45, 46]])
    elif model == "bf16":
        yield case(
            "mixed", model, [[1, 17, I, 31, 90], [1, 2, 5, I, 60, 72, 13], [1, 9, last]],
            [[(1, 2)], [(2, 1)], []], "left", [[5, 6, 7], [8, 9, 10], [11, 12, 13]],
        )  # fmt: skip
        yield case("long_text", model, [[int(i) for i in uniform_ids(model, 64, last)]], mask=False, decode=[[1, 2, 3]])
    else:
        ratio = (1, 2) if model in ("nf4_nested", "int8") else (1, 1)
        yield case(
            "mixed", model, [[1, 17, I, 31, 33], [1, 2, 5, 60, 63, 13, 8]], [[ratio], []],
            "left", [[5, 6, 7], [8, 9, 10]],
        )  # fmt: skip


def uniform_ids(name, count, vocab):
    return ((uniform(f"{name}/ids", (count,)) + 0.5) * vocab).long().tolist()


# --- what Hugging Face computes -------------------------------------------------------------------------------------


def float32_checkpoint(folder, out):
    """A copy without quantisation: weight = fl(code value * scale), of 8 bits fl(fl(code * scale) / 127); not rounded further."""
    import bitsandbytes as bnb

    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    parts = {k: v for k, v in tensors.items() if ".weight." in k or k.endswith((".SCB", ".weight_format"))}
    four_bit = {k.removesuffix(f".quant_state.bitsandbytes__{t}") for k in parts for t in ("nf4", "fp4") if k.endswith(t)}
    plain = {k: v.float() for k, v in tensors.items() if k not in parts and k not in four_bit}
    for key in (k for k in plain if tensors[k].dtype == torch.int8):
        plain[key] = bnb.functional.int8_vectorwise_dequant(tensors[key], tensors[key.removesuffix("weight") + "SCB"])
    for key in four_bit:
        own = {k.removeprefix(key + "."): v for k, v in parts.items() if k.startswith(key + ".")}
        state = bnb.functional.QuantState.from_dict(own, device="cpu")
        state.dtype = torch.float32
        plain[key] = bnb.functional.dequantize_4bit(tensors[key], state)
    save_file(plain, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config", None)
    (out / "config.json").write_text(json.dumps(config))


def load_float32(folder):
    with tempfile.TemporaryDirectory() as plain:
        float32_checkpoint(folder, Path(plain))
        return MllamaForConditionalGeneration.from_pretrained(
            plain, torch_dtype=torch.float32, attn_implementation="eager"
        ).eval()


class Recorder:
    """Hooks that collect the intermediate results of one forward call, and add the row mask where asked to."""

    def __init__(self, model, mask_rows):
        self.seen = {}
        inner = model.model
        self.handles = [
            inner.vision_model.register_forward_hook(self.keep("vision_output", lambda y: y[0])),
            inner.multi_modal_projector.register_forward_hook(self.keep("cross_attention_states", lambda y: y)),
            inner.language_model.embed_tokens.register_forward_hook(self.keep("hidden_states.0", lambda y: y)),
        ]
        for i, layer in enumerate(inner.language_model.layers):
            first = lambda y: y if isinstance(y, torch.Tensor) else y[0]  # noqa: E731
            self.handles.append(layer.register_forward_hook(self.keep(f"hidden_states.{i + 1}", first)))
            if mask_rows and hasattr(layer, "cross_attn"):
                self.handles.append(layer.register_forward_pre_hook(self.note_rows, with_kwargs=True))
                self.handles.append(layer.cross_attn.register_forward_hook(self.mask_rows))

    def keep(self, name, pick):
        def hook(_module, _inputs, output):
            self.seen[name] = pick(output).detach().clone()

        return hook

    def note_rows(self, _module, _args, kwargs):
        self.row_ok = kwargs["full_text_row_masked_out_mask"]

    def mask_rows(self, _module, _inputs, output):
        return output if self.row_ok is None else (output[0] * self.row_ok[:, 0], *output[1:])

    def remove(self):
        for handle in self.handles:
            handle.remove()


def shape_as_specified(name, x, inputs):
    """[batch, images, tiles, positions, features] for everything that comes from pictures."""
    if name in ("vision_output", "cross_attention_states"):
        return x.reshape(*inputs["aspect_ratio_mask"].shape, *x.shape[-2:])
    return x


@torch.no_grad()
def run(model, inputs, mask_rows):
    inputs = dict(inputs)
    steps = inputs.pop("decode_input_ids", None)
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    padding = torch.zeros_like(ids, dtype=torch.bool) if mask is None else mask == 0

    def positions(mask):
        return (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)

    grown = torch.ones_like(ids) if mask is None else mask
    cache = transformers.DynamicCache()
    recorder = Recorder(model, mask_rows)
    here = torch.arange(ids.shape[1])
    result = model(**inputs, position_ids=positions(grown), past_key_values=cache, cache_position=here, use_cache=True)
    out = recorder.seen | {"logits": result.logits}
    for name in out:
        out[name] = shape_as_specified(name, out[name], inputs).float()
        if name == "logits" or name.startswith("hidden_states."):
            out[name] = out[name].masked_fill(padding[:, :, None], 0)

    decoded = []
    cross = inputs.get("cross_attention_mask")
    for step in range(0 if steps is None else steps.shape[1]):
        grown = torch.cat([grown, torch.ones_like(grown[:, :1])], 1)
        extra = {} if mask is None else {"attention_mask": grown}
        if cross is not None:
            cross = torch.cat([cross, cross[:, -1:]], 1)
            extra["cross_attention_mask"] = cross
        result = model(
            input_ids=steps[:, step : step + 1], position_ids=positions(grown)[:, -1:], past_key_values=cache,
            cache_position=torch.tensor([ids.shape[1] + step]), use_cache=True, **extra,
        )  # fmt: skip
        decoded.append(result.logits.float())
    recorder.remove()
    if decoded:
        out["decode_logits"] = torch.cat(decoded, 1)
    return out


def wanted(name, case_name, profile, key, x):
    """Logits always; the rest where it is small, or for the model of appendix A."""
    if key in ("logits", "decode_logits"):
        return True
    if case_name == "left_pad":  # a row of "published"
        return False
    if profile == "transformers_4_55" and name != "appendix_a":
        return False
    if key == "vision_output":
        return name == "appendix_a" or x.nbytes < 30_000
    return not key.startswith("hidden_states") or x.nbytes < 10_000


def fallback(stored, profile, key):
    """What a reader takes for a tensor that is not stored under its own profile."""
    while profile := FALLBACK.get(profile):
        if f"{profile}/{key}" in stored:
            return stored[f"{profile}/{key}"]
    return None


def outputs(name):
    """Adds the outputs of the imported release to those already in the files."""
    model = load_float32(MODELS / name)
    for file in sorted((MODELS / name / "cases").glob("*.safetensors")):
        if file.name.endswith(".expected.safetensors"):
            continue
        inputs = load_file(file)
        target = file.with_suffix(".expected.safetensors")
        stored = load_file(target) if target.exists() else {}
        for profile, mask_rows in PROFILES[transformers.__version__].items():
            result = run(model, inputs, mask_rows)
            if name == "appendix_a":
                check_appendix_a(file.stem, profile, result)
            if transformers.__version__ == "4.57.6" and name.startswith("nf4") and not mask_rows:
                check_quantized(name, inputs, result)
            for key, x in result.items():
                if not wanted(name, file.stem, profile, key, x):
                    continue
                same = fallback(stored, profile, key)
                if same is not None and torch.equal(x, same):
                    continue
                stored[f"{profile}/{key}"] = x.contiguous()
        save_file(dict(sorted(stored.items())), target)


# --- checks ---------------------------------------------------------------------------------------------------------

A_VISION = {  # profile: [0,0,0,0,16:22], [1,1,3,16,60:], sum, sum of squares
    "transformers_4_45": ([1.76308, 0.17808, -1.98809, -1.80517, -0.88977, -1.75433],
                          [-0.47231, -0.54848, -1.96752, -1.34916], 3281.500, 41046.05),
    "transformers_4_56": ([0.19942, -0.66869, -1.53213, -1.28964, -0.84612, -1.14200],
                          [-0.13920, -1.18547, -0.82886, -0.60035], 6651.500, 46880.26),
    "transformers_4_55": ([-1.53213, -1.53213, -1.53213, -1.14200, -1.14200, -1.14200],
                          [-0.13920, -0.60035, -0.60035, -0.60035], 8353.837, 61132.10),
}  # fmt: skip
A_VISION["meta"], A_VISION["meta_rows"] = A_VISION["transformers_4_45"], A_VISION["transformers_4_56"]
# Profile: [0,0,:4], [0,10,:6], [1,10,:6], arg max, sum, sum of squares, steps [:,0,:4], left pad [0,10,:4].
A_LOGITS = {
    "transformers_4_45": ([0.86154, 1.23490, -0.04999, -1.51204],
                          [0.98193, 0.89333, 0.69326, -1.07312, -0.90246, -0.10231],
                          [-0.33648, 1.10647, 1.06675, -0.68058, -0.88907, -0.34732], [36, 95], -167.849, 1555.16,
                          [[-0.09867, 0.18232, 0.89736, -0.97040], [0.61953, 0.53535, 0.88194, -1.43530]],
                          [0.42820, 1.37633, 0.23659, -0.48391]),
    "meta": ([1.08071, 0.78756, -0.53806, -1.23962],
             [1.10339, 0.60063, 0.65519, -1.11394, -0.88935, -0.14742],
             [-0.40005, 1.05370, 1.01791, -0.68375, -0.84039, -0.38023], [36, 95], -200.466, 1509.03,
             [[-0.09662, -0.07045, 0.94171, -0.94056], [0.52317, 0.46930, 0.85962, -1.50804]],
             [0.42820, 1.37633, 0.23659, -0.48391]),
    "transformers_4_55": ([0.99815, 1.04028, -0.36470, -1.50774],
                          [0.53437, 0.36790, 0.01333, -1.26963, -1.04284, -0.80972],
                          [-0.19117, 0.79307, 0.80217, -0.86088, -0.91602, -0.50226], [11, 28], -186.318, 1459.96,
                          [[0.25442, -0.10127, 0.44328, -0.86768], [0.40595, 0.12163, 0.24305, -1.41933]],
                          [-0.22212, 0.62583, -0.27147, -0.51464]),
    "transformers_4_56": ([1.17845, 0.92735, -0.25765, -1.62940],
                          [0.83708, 0.25011, 0.50772, -1.65780, -0.61280, -0.53394],
                          [0.00809, 0.86488, 0.77850, -0.81723, -0.64635, -0.12833], [36, 28], -214.437, 1577.17,
                          [[0.24545, -0.60367, 0.88406, -1.02788], [0.73529, 0.23012, 0.66258, -1.67321]],
                          [-0.45777, 0.64331, 0.24567, -0.81046]),
    "meta_rows": ([1.08071, 0.78756, -0.53806, -1.23962],
                  [1.07097, 0.08428, 0.39181, -1.69317, -0.66541, -0.60795],
                  [-0.02691, 0.84060, 0.73123, -0.79972, -0.63776, -0.16937], [36, 28], -227.338, 1520.94,
                  [[0.27495, -0.76875, 0.87610, -0.99069], [0.67334, 0.18669, 0.60414, -1.72572]],
                  [-0.45777, 0.64331, 0.24567, -0.81046]),
}  # fmt: skip


def near(got, expected, tolerance=1.2e-5):
    got = torch.as_tensor(got, dtype=torch.float64)
    assert torch.all((got - torch.tensor(expected)).abs() <= tolerance), (got, expected)


def check_appendix_a(case_name, profile, result):
    logits = result["logits"]
    if case_name == "text_only":
        near(logits[0, 10, :4], [0.89803, -1.02635, -0.64791, -0.79473])
        return
    row0, last0, last1, best, total, squares, steps, left = A_LOGITS[profile]
    if case_name == "left_pad":
        near(logits[0, 10, :4], left)
        return
    seen = result["vision_output"].double()
    collected, end, vision_total, vision_squares = A_VISION[profile]
    near(seen[0, 0, 0, 0, :4], [-0.46279, -2.40922, -1.14391, -0.21233])
    near(seen[0, 0, 0, 0, 16:22], collected)
    near(seen[1, 1, 3, 16, 60:], end)
    near(seen.sum(), vision_total, 1e-2)
    near(seen.square().sum(), vision_squares, 2e-2)
    near(logits[0, 0, :4], row0)
    near(logits[0, 10, :6], last0)
    near(logits[1, 10, :6], last1)
    assert logits[:, -1].argmax(-1).tolist() == best
    near(logits.double().sum(), total, 2e-3)
    near(logits.double().square().sum(), squares, 1e-2)
    near(result["decode_logits"][:, 0, :4], steps)


def check_quantized(name, inputs, result):
    """bitsandbytes' own layers agree with the dequantised weights, where the file's dtype adds no rounding."""
    if CONFIGS[name].dtype != "float32":
        return
    model = MllamaForConditionalGeneration.from_pretrained(
        MODELS / name, device_map="cpu", dtype=torch.float32, attn_implementation="eager"
    )
    for module in model.modules():
        module.support_avx512bf16_for_cpu = False  # else bitsandbytes computes in bfloat16, whatever it is told
    logits = run(model, inputs, False)["logits"]
    assert (logits - result["logits"]).abs().max() < 1e-5 * result["logits"].abs().max()


# --- main -----------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--releases", type=Path, required=True)
    parser.add_argument("--outputs", action="store_true", help="only add the outputs of the release imported")
    parser.add_argument("models", nargs="*", default=list(CONFIGS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    if options.outputs:
        for name in options.models:
            outputs(name)
        return
    assert transformers.__version__ == "4.57.6", transformers.__version__
    for name in options.models:
        shutil.rmtree(MODELS / name, ignore_errors=True)
        (MODELS / name / "cases").mkdir(parents=True)
        write_model(name, MODELS / name)
        for case_name, tensors in cases(name):
            save_file(tensors, MODELS / name / "cases" / f"{case_name}.safetensors")
    for release in PROFILES:
        path = "" if release == transformers.__version__ else str(options.releases / release)
        command = [sys.executable, __file__, "--outputs", "--releases", str(options.releases), *options.models]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": path})


if __name__ == "__main__":
    main()
