"""Pocket's architecture, its initial weights, and a forward pass over Hugging Face's modules that suits training.

The forward pass computes what `MllamaForConditionalGeneration` computes (`python model.py` checks it), with three liberties: a
picture is encoded once for many questions, only the tiles that exist may be computed, and it returns the states and attention
weights that the helper losses need.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import MllamaConfig, MllamaForConditionalGeneration

from pictures import CANVASES, TILE

PATCH, HIDDEN, TILES = 14, 128, 4
GRID = TILE // PATCH  # patches along a side of a tile
PATCHES = GRID * GRID
ROWS = PATCHES + 1  # with the class token
PADDED_ROWS = (ROWS + 7) // 8 * 8
VOCABULARY, IMAGE_TOKEN, BOS, EOT, PAD = 640, 640, 624, 633, 628


def make_config():
    return MllamaConfig(
        vision_config=dict(
            hidden_size=HIDDEN, num_hidden_layers=4, num_global_layers=2, num_attention_heads=4, intermediate_size=384,
            vision_output_dim=3 * HIDDEN, image_size=TILE, patch_size=PATCH, max_num_tiles=TILES,
            intermediate_layers_indices=[1, 3], supported_aspect_ratios=[list(c) for c in CANVASES],
        ),
        text_config=dict(
            vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=6, cross_attention_layers=[2, 4], num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=256, rope_theta=500000.0, max_position_embeddings=131072, tie_word_embeddings=False,
            rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192),
            bos_token_id=BOS, eos_token_id=EOT, pad_token_id=PAD,
        ),
        image_token_index=IMAGE_TOKEN,
    )  # fmt: skip


def make_model(seed=0):
    """A model with initial weights from which this task can be learnt in an hour."""
    torch.manual_seed(seed)
    model = MllamaForConditionalGeneration(make_config()).float()
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "fc2.weight", "down_proj.weight")):
            nn.init.normal_(parameter, std=0.15 / math.sqrt(parameter.shape[1]))
        elif parameter.dim() == 2 and "embed" not in name:
            nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[1]))
        elif name.endswith(("cross_attn_attn_gate", "cross_attn_mlp_gate")):
            nn.init.constant_(parameter, 0.8)
    vision, text = model.model.vision_model, model.model.language_model
    with torch.no_grad():
        vision.patch_embedding.weight.copy_(cosine_patches())
        nn.init.normal_(vision.class_embedding, std=0.1)
        position = vision.gated_positional_embedding
        position.gate.fill_(0.8)
        nn.init.normal_(position.embedding, std=0.1)
        position.tile_embedding.weight.copy_(canvas_positions())
        for table in (vision.pre_tile_positional_embedding, vision.post_tile_positional_embedding):
            table.gate.fill_(0.5)
            nn.init.normal_(table.embedding.weight, std=0.05)
        nn.init.normal_(text.embed_tokens.weight, std=0.5)
        nn.init.normal_(model.lm_head.weight, std=0.5 / math.sqrt(HIDDEN))
    model.generation_config.update(bos_token_id=BOS, eos_token_id=EOT, pad_token_id=PAD, do_sample=False, max_new_tokens=48)
    return model


def cosine_patches():
    """Patch embedding: 64 low frequencies of brightness and 2 x 32 of colour difference, in a random rotation."""
    wave = torch.arange(PATCH) + 0.5
    basis = torch.stack([torch.cos(math.pi * k * wave / PATCH) for k in range(PATCH)])
    basis = basis / basis.norm(dim=1, keepdim=True)
    order = sorted(((u, v) for u in range(PATCH) for v in range(PATCH)), key=lambda uv: (uv[0] ** 2 + uv[1] ** 2, uv))
    filters = []
    for colour, count in (((1.0, 1.0, 1.0), 64), ((1.0, -1.0, 0.0), 32), ((0.5, 0.5, -1.0), 32)):
        colour = torch.tensor(colour) / torch.tensor(colour).norm()
        filters += [colour[:, None, None] * torch.outer(basis[u], basis[v]) for u, v in order[:count]]
    rotation, _ = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN))
    return (rotation @ torch.stack(filters).flatten(1)).view(HIDDEN, 3, PATCH, PATCH) * 0.3


def canvas_positions():
    """Tile position table: sines and cosines of each patch's place on the whole canvas, so that tiles join without a seam."""
    table = torch.randn(len(CANVASES) + 1, TILES, ROWS, HIDDEN) * 0.02
    frequency = 0.9 ** torch.arange(HIDDEN // 4) * 1.2
    for ratio, (a, b) in enumerate(CANVASES, start=1):
        for tile in range(a * b):
            row = torch.arange(GRID).repeat_interleave(GRID) + tile // b * GRID
            column = torch.arange(GRID).repeat(GRID) + tile % b * GRID
            angles = [row[:, None] * frequency, column[:, None] * frequency]
            table[ratio, tile, 1:] += torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1) * 0.5
    return table.flatten(1)


# ------------------------------------------------------------------------------------------------------------ the forward


@dataclass
class Encoded:
    """What the vision model makes of pictures."""

    states: torch.Tensor  # (pictures, tiles, ROWS, 3 * HIDDEN)
    early: torch.Tensor  # (pictures, tiles, PATCHES, HIDDEN), the state that enters local layer 2


def encode(model, patches, ratio_ids, exists, intermediate="input"):
    """Vision model. patches (pictures, tiles, PATCHES, 3 * PATCH * PATCH); exists (pictures, tiles): the tile holds picture.

    It is the real model if all `TILES` tiles are given, empty ones included.
    """
    vision = model.model.vision_model
    pictures, tiles = exists.shape
    x = F.linear(patches, vision.patch_embedding.weight.flatten(1))
    pre = vision.pre_tile_positional_embedding
    x = x + pre.gate.tanh() * pre.embedding(ratio_ids).view(pictures, TILES, 1, HIDDEN)[:, :tiles]
    x = torch.cat([vision.class_embedding.expand(pictures, tiles, 1, HIDDEN).to(x.dtype), x], dim=2)
    position = vision.gated_positional_embedding
    gate = position.gate.tanh()
    x = x + (1 - gate) * position.embedding
    x = x + gate * position.tile_embedding(ratio_ids).view(pictures, TILES, ROWS, HIDDEN)[:, :tiles]
    x = vision.layernorm_pre(x)
    x = F.pad(x, (0, 0, 0, PADDED_ROWS - ROWS)).flatten(1, 2)

    pad = (~exists[:, :, None] | (torch.arange(PADDED_ROWS) >= ROWS)).flatten(1)
    pad = pad[:1] if (exists == exists[0]).all() else pad
    mask = torch.zeros(len(pad), 1, pad.shape[1], pad.shape[1])
    mask.masked_fill_((pad[:, :, None] & pad[:, None, :])[:, None], torch.finfo(torch.float32).min)

    states = [x]
    for layer in vision.transformer.layers:
        x = layer(x, mask)
        states.append(x)
    shift = 0 if intermediate == "input" else 1
    collected = torch.stack([states[i + shift] for i in vision.intermediate_layers_indices], dim=-1).flatten(2)
    x = vision.layernorm_post(x).view(pictures, tiles, PADDED_ROWS, HIDDEN)
    post = vision.post_tile_positional_embedding
    x = x + post.gate.tanh() * post.embedding(ratio_ids).view(pictures, TILES, 1, HIDDEN)[:, :tiles]
    x = x.flatten(1, 2)
    for layer in vision.global_transformer.layers:
        x = layer(x, mask)
    x = torch.cat([x, collected], dim=-1).view(pictures, tiles, PADDED_ROWS, -1)[:, :, :ROWS]
    early = states[2].view(pictures, tiles, PADDED_ROWS, HIDDEN)[:, :, 1:ROWS]
    return Encoded(x, early)


def cross_layer(layer, x, vision_states, tile_mask, row_sees, zero_masked_rows):
    """A cross-attention layer; also returns the attention weights (rows, heads, tokens, vision rows)."""
    attention = layer.cross_attn
    batch, tokens, _ = x.shape
    split = lambda t: t.view(batch, -1, t.shape[-1] // attention.head_dim, attention.head_dim).transpose(1, 2)  # noqa: E731
    q = attention.q_norm(split(attention.q_proj(layer.input_layernorm(x))))
    k = attention.k_norm(split(attention.k_proj(vision_states)))
    v = split(attention.v_proj(vision_states))
    groups = attention.num_key_value_groups
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    weights = (q @ k.transpose(2, 3) * attention.scaling + tile_mask).softmax(-1)
    a = attention.o_proj((weights @ v).transpose(1, 2).reshape(batch, tokens, -1))
    if zero_masked_rows:
        a = a * row_sees
    x = x + layer.cross_attn_attn_gate.tanh() * a
    m = layer.mlp(layer.post_attention_layernorm(x)) * row_sees
    return x + layer.cross_attn_mlp_gate.tanh() * m, weights


def read(model, encoded, exists, ids, positions, mask, zero_masked_rows=True):
    """Text model. Returns the last hidden states and the attention weights of the cross layers.

    `mask` (rows, 1, tokens, tokens) is additive. There are as many rows as pictures, or half as many: then each is about two.
    Every row begins alike. A token sees the pictures whose image token it is or follows; image tokens are adjacent.
    """
    text = model.model.language_model
    rows, tokens = ids.shape
    vision_states = model.model.multi_modal_projector(encoded.states).reshape(rows, -1, HIDDEN)
    images = len(encoded.states) // rows
    begun = (ids[0] == IMAGE_TOKEN).cumsum(0)[:, None] > torch.arange(images)  # (tokens, images)
    row_sees = begun.any(1).float()[None, :, None]
    sees = begun[None, :, :, None] & exists.view(rows, 1, images, -1)  # (rows, tokens, images, tiles)
    sees = sees.flatten(2).repeat_interleave(ROWS, 2)
    tile_mask = torch.zeros(sees.shape).masked_fill_(~sees, torch.finfo(torch.float32).min) * row_sees
    tile_mask = tile_mask[:, None]  # a token that may see nothing sees everything
    x = text.embed_tokens(ids)
    rope = text.rotary_emb(x, positions)
    looks = []
    for index, layer in enumerate(text.layers):
        if index in text.cross_attention_layers:
            x, weights = cross_layer(layer, x, vision_states, tile_mask, row_sees, zero_masked_rows)
            looks.append(weights)
        else:
            x = layer(x, attention_mask=mask, position_embeddings=rope)
            x = x[0] if isinstance(x, tuple) else x
    return text.norm(x), looks


def check_against_transformers():
    """The forward pass above equals Hugging Face's under the `meta` profile, for every tile count."""
    import profiles

    model = make_model().eval()
    torch.manual_seed(1)
    with torch.no_grad(), profiles.apply("meta"):
        for ratio, (a, b) in enumerate(CANVASES, start=1):
            patches = torch.randn(1, a * b, PATCHES, 3 * PATCH * PATCH)
            pixels = patches.view(1, a * b, GRID, GRID, 3, PATCH, PATCH).permute(0, 1, 4, 2, 5, 3, 6).reshape(1, a * b, 3, TILE, TILE)
            patches, pixels = F.pad(patches, (0, 0) * 2 + (0, TILES - a * b)), F.pad(pixels, (0, 0) * 3 + (0, TILES - a * b))
            exists = (torch.arange(TILES) < a * b)[None]
            if ratio > 1:  # together with the picture before
                patches, pixels, exists = (torch.cat(pair) for pair in zip(before, (patches, pixels, exists)))
            before = patches[-1:], pixels[-1:], exists[-1:]
            images = len(patches)
            ids = torch.tensor([[BOS, 5, 6] + [IMAGE_TOKEN] * images + [7, 8, 9]])
            cross = torch.zeros(1, ids.shape[1], images, TILES, dtype=torch.long)
            for image in range(images):
                cross[:, 3 + image :, image] = exists[image].long()
            ratio_ids = torch.arange(ratio + 1 - images, ratio + 1)
            expected = model(
                input_ids=ids, pixel_values=pixels[None], aspect_ratio_ids=ratio_ids[None],
                aspect_ratio_mask=exists[None].long(), cross_attention_mask=cross,
            ).logits  # fmt: skip
            tokens = ids.shape[1]
            causal = torch.full((1, 1, tokens, tokens), torch.finfo(torch.float32).min).triu(1)
            encoded = encode(model, patches, ratio_ids, exists)
            hidden, _ = read(model, encoded, exists, ids, torch.arange(tokens)[None], causal)
            print(f"{images} picture(s), {a}x{b}: largest difference of a logit {(model.lm_head(hidden) - expected).abs().max():.1e}")


if __name__ == "__main__":
    print(sum(p.numel() for p in make_model().parameters()), "parameters")
    check_against_transformers()
