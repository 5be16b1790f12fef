#!/usr/bin/env python3
"""Writes formats/: checksums of what bitsandbytes quantises and dequantises and of folders that transformers saves with it, and small
products of its 8-bit linear layer.

    make_formats.py

make_models.py comes first.

The numbers that go in are made by formulas, here and in tests/unit/core/encode_test.cpp; README.md has them. bitsandbytes 0.50.2 on
a CPU without AVX-512 (with it, the layer computes in bfloat16).
"""

import os
import tempfile
import zlib
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["BITSANDBYTES_NOWELCOME"] = "1"

import bitsandbytes
import bitsandbytes.functional as bnb
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

FOLDER = Path(__file__).parent / "formats"
BLOCKS = [32, 64, 128, 256, 512, 1024, 2048, 4096]
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
COUNT = 400_003  # no multiple of any block, and odd


def hashes(count, seed):
    """32-bit finaliser of MurmurHash3 over a counter."""
    x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(seed)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def thresholds(quant_type):
    values = np.sort(bnb.get_4bit_type(quant_type, device="cpu").numpy())
    return (values[:-1] + values[1:]) / np.float32(2)


def numbers(kind, quant_type, count, seed):
    x = hashes(count, seed)
    i = np.arange(count, dtype=np.uint32)
    sign = x & np.uint32(0x80000000)
    fraction = x & np.uint32(0x7FFFFF)
    exponent = x >> np.uint32(23) & np.uint32(0xFF)
    if kind == "spread":  # 2^-16 to 2^14
        bits = sign | (np.uint32(111) + exponent % np.uint32(30)) << np.uint32(23) | fraction
    elif kind == "any":  # of any size, subnormal to 2^127
        bits = sign | exponent % np.uint32(254) << np.uint32(23) | fraction
    elif kind == "tiny":  # around the smallest normal number
        bits = sign | exponent % np.uint32(4) << np.uint32(23) | fraction
    elif kind == "zeros":  # every other run of 96 is zero
        bits = sign | (np.uint32(111) + exponent % np.uint32(30)) << np.uint32(23) | fraction
        bits = np.where(i // np.uint32(96) % np.uint32(2) == 0, np.uint32(0), bits)
    elif kind == "ties":  # thresholds and their neighbours in blocks whose largest magnitude is 1
        t = thresholds(quant_type).view(np.uint32)
        bits = t[x % np.uint32(15)] + x // np.uint32(15) % np.uint32(5) - np.uint32(2)
        bits = np.where(i % np.uint32(32) == 0, np.float32(1).view(np.uint32), bits)
        bits = np.where(t[x % np.uint32(15)] == 0, np.uint32(0), bits)
    return torch.from_numpy(bits.astype(np.uint32).view(np.float32))


def crc(tensor):
    array = tensor.contiguous()
    if array.is_floating_point():
        array = array + 0  # -0 to +0: which zero a code decodes to differs between back ends
        array = array.view(torch.int16 if array.element_size() == 2 else torch.int32)
    return f"{zlib.crc32(array.numpy().tobytes()):08x}"


def dynamic_codes(differences, absmax2):
    """The nearest entries of bitsandbytes' map, ties to the even code: see the specification of nested scales."""
    values = bnb.create_dynamic_map().numpy()
    x = np.where(absmax2 > 0, differences / np.where(absmax2 > 0, absmax2, np.float32(1)), np.float32(0)).astype(np.float32)
    middles = ((values[:-1] + values[1:]) * np.float32(0.5)).astype(np.float32)
    code = np.searchsorted(middles, x, side="left")
    tie = (code < 255) & (middles[np.minimum(code, 254)] == x)
    return np.where(tie, code + code % 2, code).astype(np.uint8)


def nested(absmax):
    absmax = absmax.numpy()
    offset = np.float32(np.sum(absmax, dtype=np.float64) / len(absmax))
    groups = -(-len(absmax) // 256)
    d = np.zeros(groups * 256, np.float32)
    d[: len(absmax)] = absmax - offset
    absmax2 = np.abs(d.reshape(groups, 256)).max(1)
    codes = dynamic_codes(d, np.repeat(absmax2, 256))[: len(absmax)]
    return torch.from_numpy(codes), torch.from_numpy(absmax2), float(offset)


def four_bit():
    rows = ["type\tkind\tdtype\tblock\tseed\tcodes\tabsmax\tf32\tbf16\tf16\tnested_codes\tnested_absmax\toffset\tnested_f32"]
    seed = 0
    for quant_type in ("nf4", "fp4"):
        for kind in ("spread", "any", "tiny", "zeros", "ties"):
            for name, dtype in DTYPES.items():
                if name == "F16" and kind == "any":
                    continue  # infinite there
                seed += 1
                block = BLOCKS[seed % len(BLOCKS)]
                x = numbers(kind, quant_type, COUNT, seed).to(dtype)
                codes, state = bnb.quantize_4bit(x, blocksize=block, quant_type=quant_type)
                sums = []
                for out in DTYPES.values():
                    state.dtype = out
                    sums.append(crc(bnb.dequantize_4bit(codes, state)))
                nested_sums = ["-"] * 4
                if kind in ("spread", "zeros"):
                    q, absmax2, offset = nested(state.absmax)
                    map_ = bnb.create_dynamic_map()
                    inner = bnb.QuantState(absmax=absmax2, code=map_, blocksize=256, dtype=torch.float32)
                    outer = bnb.QuantState(
                        absmax=q, shape=x.shape, dtype=torch.float32, blocksize=block, code=state.code,
                        quant_type=quant_type, offset=torch.tensor(offset), state2=inner,
                    )  # fmt: skip
                    nested_sums = [crc(q), crc(absmax2), f"{np.float32(offset).view(np.uint32):08x}",
                                   crc(bnb.dequantize_4bit(codes, outer))]  # fmt: skip
                rows.append("\t".join([quant_type, kind, name, str(block), str(seed), crc(codes), crc(state.absmax), *sums,
                                       *nested_sums]))  # fmt: skip
    (FOLDER / "four_bit.tsv").write_text("\n".join(rows) + "\n")


def int8():
    rows = ["kind\tdtype\trows\tcolumns\tseed\tcodes\tscales\tf32"]
    seed = 1000
    for kind in ("spread", "zeros"):
        for name, dtype in DTYPES.items():
            for columns in (1, 7, 96, 4096):
                seed += 1
                count = 100_000 // columns
                x = numbers(kind, "nf4", count * columns, seed).to(dtype).reshape(count, columns)
                codes, scales, _ = bnb.int8_vectorwise_quant(x.to(torch.float16))
                codes[scales == 0] = 0  # 0 times infinity there
                rows.append("\t".join([kind, name, str(count), str(columns), str(seed), crc(codes), crc(scales),
                                       crc(bnb.int8_vectorwise_dequant(codes, scales))]))  # fmt: skip
    (FOLDER / "int8.tsv").write_text("\n".join(rows) + "\n")


def int8_products():
    """What Linear8bitLt computes for rows with and without outliers."""
    tensors = {}
    for index, (count, n, k, bias) in enumerate([(1, 24, 64, False), (5, 24, 64, True), (4, 9, 100, True), (3, 16, 256, False)]):
        torch.manual_seed(index)
        weight = torch.randn(n, k) / k**0.5
        layer = bitsandbytes.nn.Linear8bitLt(k, n, bias=bias, has_fp16_weights=False, threshold=6.0)
        layer.weight = bitsandbytes.nn.Int8Params(weight, has_fp16_weights=False, requires_grad=False)
        if bias:
            layer.bias.data = torch.randn(n)
            tensors[f"{index}.bias"] = layer.bias.data.clone()
        layer = layer.to("cpu").eval()  # in training mode it multiplies with decoded weights
        x = torch.randn(count, k)
        if index != 3:
            x[0, 5], x[-1, 17] = 9.5, -20.25
        if count > 2:
            x[1] = 0
        with torch.no_grad():
            y = layer(x)
        tensors |= {f"{index}.x": x, f"{index}.y": y, f"{index}.weight": layer.weight.data, f"{index}.SCB": layer.weight.SCB}
        if layer.state.CB is not None:
            tensors[f"{index}.weight"], tensors[f"{index}.SCB"] = layer.state.CB, layer.state.SCB
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, FOLDER / "int8_products.safetensors")


def folders():
    """Files that save_pretrained writes for models that were quantised on their way in."""
    rows = ["model\tformat\tskip\tfile\tcrc"]
    cases = [("bf16", "nf4", ""), ("bf16", "fp4", ""), ("bf16", "int8", ""), ("odd", "nf4", ""), ("odd", "int8", "v_proj,lm_head"),
             ("ratios", "nf4", "lm_head,multi_modal_projector,model.language_model.layers.2.mlp"), ("one_tile", "fp4", "fc1")]  # fmt: skip
    for model, kind, skip in cases:
        options = dict(load_in_8bit=True) if kind == "int8" else dict(
            load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=torch.bfloat16 if model == "bf16" else torch.float32,
        )  # fmt: skip
        if skip:
            options["llm_int8_skip_modules"] = skip.split(",")
        with tempfile.TemporaryDirectory() as out:
            transformers.MllamaForConditionalGeneration.from_pretrained(
                FOLDER.parent / "models" / model, quantization_config=transformers.BitsAndBytesConfig(**options), dtype="auto",
                device_map="cpu",
            ).save_pretrained(out)  # fmt: skip
            for file in ("model.safetensors", "config.json"):
                crc = zlib.crc32((Path(out) / file).read_bytes())
                rows.append("\t".join([model, kind, skip or "-", file, f"{crc:08x}"]))
    (FOLDER / "folders.tsv").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    four_bit()
    int8()
    int8_products()
    folders()
