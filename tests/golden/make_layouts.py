#!/usr/bin/env python3
"""Writes layouts/, and the model that goes with it: the same weights as other releases and other people save them.

    make_layouts.py --releases DIR

* layouts/text_only: the language model of `appendix_a`, saved as MllamaForCausalLM, with what transformers 4.57.6 computes.
* layouts/meta: random weights under the names and in the arrangement of Meta's own checkpoints, in one safetensors file.
* models/from_meta: the same weights converted for transformers, with cases and outputs like those of make_models.py.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import make_models as mm  # first: it sets the environment

import torch
import transformers
from safetensors.torch import save_file
from transformers import MllamaConfig, MllamaForCausalLM, MllamaForConditionalGeneration
from transformers.models.mllama.configuration_mllama import MllamaTextConfig

LAYOUTS = Path(__file__).parent / "layouts"

# Five layers without and two with cross-attention, as transformers' converter would merge them: Meta's own rule gives [1, 5].
mm.CONFIGS["from_meta"] = mm.Model(
    mm.vision(16, 4, 24, (3, 2), 28, 14, 4, [0, 2]),
    mm.text(48, 3, 1, 56, 7, [2, 6], 90),
    "bfloat16",
)


# --- the text model alone -------------------------------------------------------------------------------------------


@torch.no_grad()
def write_text_only():
    folder = LAYOUTS / "text_only"
    (folder / "cases").mkdir(parents=True)
    model = MllamaForCausalLM(MllamaTextConfig(**mm.CONFIGS["appendix_a"].text)).eval()
    for key, tensor in model.state_dict().items():
        tensor.copy_(mm.appendix_a_weight(None, f"language_model.{key}", tuple(tensor.shape)))
    model.save_pretrained(folder)

    model = MllamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    _, inputs = mm.case(
        "left_padding", "appendix_a", [[1, 5, 9], [1, 8, 27, 64, 33, 2, 70, 98]], padding="left",
        decode=[[5, 6, 7], [8, 9, 10]],
    )  # fmt: skip
    save_file(inputs, folder / "cases" / "left_padding.safetensors")

    mask, cache, logits = inputs["attention_mask"], transformers.DynamicCache(), []
    for ids in (inputs["input_ids"], *inputs["decode_input_ids"].split(1, 1)):
        if logits:
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        first = cache.get_seq_length()
        logits.append(
            model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                cache_position=torch.arange(first, first + ids.shape[1]), use_cache=True,
            ).logits
        )  # fmt: skip
    padding = inputs["attention_mask"] == 0
    expected = {
        "transformers_4_56/logits": logits[0].masked_fill(padding[:, :, None], 0),
        "transformers_4_56/decode_logits": torch.cat(logits[1:], 1),
    }
    save_file(expected, folder / "cases" / "left_padding.expected.safetensors")


# --- Meta's layout --------------------------------------------------------------------------------------------------


def meta_tensors(spec):
    """Names and shapes of Meta's checkpoint."""
    text, vision = spec.text, spec.vision
    hidden, inner, vocab = text["hidden_size"], text["intermediate_size"], text["vocab_size"]
    head = hidden // text["num_attention_heads"]
    kv = head * text["num_key_value_heads"]
    cross = len(text["cross_attention_layers"])
    shapes = {
        "text_model.tok_embeddings.weight": (vocab, hidden),
        "text_model.learnable_embedding.weight": (8, hidden),
        "text_model.norm.weight": (hidden,),
        "text_model.output.weight": (vocab, hidden),
        "text_model.rope.freqs": (head // 2,),
    }
    blocks = [f"text_model.layers.{i}." for i in range(text["num_hidden_layers"] - cross)]
    cross_blocks = [f"text_model.cross_attention_layers.{i}." for i in range(cross)]
    for block in blocks + cross_blocks:
        shapes |= {
            block + "attention.wq.weight": (hidden, hidden),
            block + "attention.wk.weight": (kv, hidden),
            block + "attention.wv.weight": (kv, hidden),
            block + "attention.wo.weight": (hidden, hidden),
            block + "feed_forward.w1.weight": (inner, hidden),
            block + "feed_forward.w2.weight": (hidden, inner),
            block + "feed_forward.w3.weight": (inner, hidden),
            block + "attention_norm.weight": (hidden,),
            block + "ffn_norm.weight": (hidden,),
        }
    for block in cross_blocks:
        shapes |= {block + "attention.q_norm.weight": (head,), block + "attention.k_norm.weight": (head,)}
        shapes |= {block + "gate_attn": (1,), block + "gate_ffwd": (1,)}

    width, mlp, tiles = vision["hidden_size"], vision["intermediate_size"], vision["max_num_tiles"]
    patch = vision["patch_size"]
    positions = (vision["image_size"] // patch) ** 2 + 1
    shapes |= {
        "vision_model.vision_projection.weight": (hidden, vision["vision_output_dim"]),
        "vision_model.vision_projection.bias": (hidden,),
    }
    encoder = "vision_model.vision_encoder."
    shapes |= {
        encoder + "class_embedding": (width,),
        encoder + "conv1._linear.weight": (width, 3 * patch * patch),
        encoder + "positional_embedding": (positions, width),
        encoder + "gated_positional_embedding": (tiles, tiles, positions, width),
        encoder + "gated_positional_embedding_gate": (1,),
    }
    for name in ("pre_tile_pos_embed", "post_tile_pos_embed"):
        shapes |= {encoder + name + ".embedding": (tiles, tiles, 1, width), encoder + name + ".gate": (1,)}
    for name in ("ln_pre", "ln_post"):
        shapes |= {encoder + name + ".weight": (width,), encoder + name + ".bias": (width,)}
    for stack, layers in (("transformer", vision["num_hidden_layers"]), ("global_transformer", vision["num_global_layers"])):
        for i in range(layers):
            block = f"{encoder}{stack}.resblocks.{i}."
            shapes |= {block + f"attn.w{x}.weight": (width, width) for x in "qkvo"}
            shapes |= {
                block + "mlp.c_fc.weight": (mlp, width),
                block + "mlp.c_fc.bias": (mlp,),
                block + "mlp.c_proj.weight": (width, mlp),
                block + "mlp.c_proj.bias": (width,),
            }
            for norm in ("ln_1", "ln_2"):
                shapes |= {block + norm + ".weight": (width,), block + norm + ".bias": (width,)}
            if stack == "global_transformer":
                shapes |= {block + "gate_attn": (1,), block + "gate_ffn": (1,)}
    return shapes


def meta_weight(name, shape):
    if "ln_" in name:
        name = name.replace("ln_", "norm_")  # make_models.py knows a norm by its name
    if "tok_embeddings" in name or "learnable_embedding" in name:
        name = name.replace("text_model", "embed_tokens")
    if "_linear" in name:
        name = name.replace("_linear", "patch")
    return mm.random_weight("meta", name, shape).to(torch.bfloat16)


def half_split(rows, heads):
    """Rows of neighbouring pairs, as complex numbers are rotated, to rows half a head apart."""
    head = rows.shape[0] // heads
    order = [h * head + pair * 2 + part for h in range(heads) for part in (0, 1) for pair in range(head // 2)]
    return rows[order]


def per_ratio(table, ratios):
    """[rows, columns, positions, features] of tiles to one row for each aspect ratio, after one of zeros for no picture."""
    tiles = table.shape[0]
    out = torch.zeros(len(ratios) + 1, tiles, *table.shape[2:], dtype=table.dtype)
    for i, (high, wide) in enumerate(ratios):
        for tile in range(high * wide):
            out[i + 1, tile] = table[tile // wide, tile % wide]
    return out.flatten(1)


def to_transformers(tensors, spec):
    """The conversion, one tensor after the other; names of transformers >= 4.52."""
    text, vision = spec.text, spec.vision
    cross = text["cross_attention_layers"]
    plain = [i for i in range(text["num_hidden_layers"]) if i not in cross]
    text_parts = {
        "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj", "feed_forward.w3": "mlp.up_proj", "gate_attn": "cross_attn_attn_gate",
        "gate_ffwd": "cross_attn_mlp_gate", "attention.q_norm": "cross_attn.q_norm", "attention.k_norm": "cross_attn.k_norm",
    }  # fmt: skip
    vision_parts = {
        "ln_1": "input_layernorm", "ln_2": "post_attention_layernorm", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
        "gate_attn": "gate_attn", "gate_ffn": "gate_ffn",
    } | {f"attn.w{x}": f"self_attn.{x}_proj" for x in "qkvo"}  # fmt: skip

    def renamed(parts, tail):
        for old, new in parts.items():
            if tail == old or tail.startswith(old + "."):
                return new + tail[len(old) :]
        raise KeyError(tail)

    out = {}
    tensors = dict(tensors)
    del tensors["text_model.rope.freqs"]
    tokens, extra = (tensors.pop(f"text_model.{x}.weight") for x in ("tok_embeddings", "learnable_embedding"))
    out["model.language_model.embed_tokens.weight"] = torch.cat([tokens, extra])
    for name, x in tensors.items():
        part = name.split(".")
        if name.startswith(("text_model.layers.", "text_model.cross_attention_layers.")):
            is_cross = part[1] == "cross_attention_layers"
            attention = "cross_attn" if is_cross else "self_attn"
            layer = (cross if is_cross else plain)[int(part[2])]
            new = renamed(text_parts | {f"attention.w{c}": f"{attention}.{c}_proj" for c in "qkvo"}, ".".join(part[3:]))
            if new == "self_attn.q_proj.weight":
                x = half_split(x, text["num_attention_heads"])
            elif new == "self_attn.k_proj.weight":
                x = half_split(x, text["num_key_value_heads"])
            out[f"model.language_model.layers.{layer}.{new}"] = x
        elif name.startswith("text_model.norm"):
            out["model.language_model.norm.weight"] = x
        elif name.startswith("text_model.output"):
            out["lm_head.weight"] = x
        elif name.startswith("vision_model.vision_projection"):
            out[f"model.multi_modal_projector.{part[-1]}"] = x
        elif "resblocks" in part:
            out[f"model.vision_model.{part[2]}.layers.{part[4]}.{renamed(vision_parts, '.'.join(part[5:]))}"] = x
        else:
            new = {
                "class_embedding": "class_embedding",
                "positional_embedding": "gated_positional_embedding.embedding",
                "gated_positional_embedding": "gated_positional_embedding.tile_embedding.weight",
                "gated_positional_embedding_gate": "gated_positional_embedding.gate",
                "pre_tile_pos_embed.embedding": "pre_tile_positional_embedding.embedding.weight",
                "pre_tile_pos_embed.gate": "pre_tile_positional_embedding.gate",
                "post_tile_pos_embed.embedding": "post_tile_positional_embedding.embedding.weight",
                "post_tile_pos_embed.gate": "post_tile_positional_embedding.gate",
                "conv1._linear.weight": "patch_embedding.weight",
                "ln_pre.weight": "layernorm_pre.weight",
                "ln_pre.bias": "layernorm_pre.bias",
                "ln_post.weight": "layernorm_post.weight",
                "ln_post.bias": "layernorm_post.bias",
            }[".".join(part[2:])]
            if x.dim() == 4:
                x = per_ratio(x, vision["supported_aspect_ratios"])
            elif new == "patch_embedding.weight":
                x = x.reshape(x.shape[0], 3, vision["patch_size"], vision["patch_size"])
            out[f"model.vision_model.{new}"] = x
    return out


def write_meta():
    spec, folder, converted = mm.CONFIGS["from_meta"], LAYOUTS / "meta", mm.MODELS / "from_meta"
    shutil.rmtree(converted, ignore_errors=True)
    (converted / "cases").mkdir(parents=True)
    folder.mkdir(parents=True)
    tensors = {name: meta_weight(name, shape) for name, shape in meta_tensors(spec).items()}
    save_file(tensors, folder / "consolidated.safetensors")
    config = MllamaConfig(
        vision_config=spec.vision, text_config=spec.text, image_token_index=spec.text["vocab_size"], dtype=spec.dtype
    )
    model = MllamaForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(to_transformers(tensors, spec))  # strict: no name is missing, none is left over
    model.save_pretrained(converted)
    shutil.copy(converted / "config.json", folder / "config.json")
    image = mm.I
    cases = (
        mm.case(
            "mixed", "from_meta", [[1, 17, image, 31, 33], [1, 2, 5, image, 63, 13, 8], [1, 20, 21]],
            [[(2, 2)], [(1, 3)], []], "left", [[5, 6, 7], [8, 9, 10], [11, 12, 13]],
        ),
    )  # fmt: skip
    for name, inputs in cases:
        save_file(inputs, converted / "cases" / f"{name}.safetensors")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--releases", type=Path, required=True)
    parser.add_argument("--outputs", action="store_true", help="only add the outputs of the release imported")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.outputs:
        mm.outputs("from_meta")
        return
    assert transformers.__version__ == "4.57.6", transformers.__version__
    shutil.rmtree(LAYOUTS, ignore_errors=True)
    write_text_only()
    write_meta()
    for release in mm.PROFILES:
        path = "" if release == transformers.__version__ else str(options.releases / release)
        command = [sys.executable, __file__, "--outputs", "--releases", str(options.releases)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": path})


if __name__ == "__main__":
    main()
