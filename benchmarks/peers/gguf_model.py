"""A GGUF file of random weights in the shapes of Mllama's self-attention layers, for llama.cpp to run.

    python gguf_model.py FILE --format q4_0 [--layers N] [--inner N]      # needs gguf and numpy

Formats: q4_0, as llama.cpp quantises (the head then is Q6_K); iq4_nl, whose head stays bfloat16. Every block is valid, with scales of a
trained model's size; two runs make the same file. There is no vocabulary, only its size: whoever runs it gives ids.
"""

import argparse

import gguf
import numpy

HIDDEN, HEADS, KV_HEADS, VOCABULARY = 4096, 32, 8, 128256
Q = gguf.GGMLQuantizationType


def small(random, count, largest):
    """Scales: float16 up to `largest`, as bytes."""
    return (random.random(count, dtype=numpy.float32) * largest).astype(numpy.float16).view(numpy.uint8).reshape(count, 2)


def rows_of(random, kind, rows, columns):
    """Bytes (rows, bytes of a row) of random blocks."""
    if kind == Q.BF16:  # two bytes of a float32 of about 1/64: sign, exponent, mantissa
        codes = random.integers(0, 1 << 16, (rows, columns), dtype=numpy.uint16)
        return ((codes & 0x807F) | 0x3C80).view(numpy.uint8)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    count = rows * columns // block
    blocks = random.integers(0, 256, (count, size), dtype=numpy.uint8)
    if kind == Q.Q6_K:  # 192 bytes of codes, 16 scales in int8, a float16 at the end
        blocks[:, -2:] = small(random, count, 1e-5)
    else:  # a float16 at the beginning
        blocks[:, :2] = small(random, count, 4e-3)
    return blocks.reshape(rows, columns // block * size)


def write(path, kind, head, layers, inner):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(8192)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    kv = HIDDEN // HEADS * KV_HEADS
    matrices = [("token_embd", VOCABULARY, HIDDEN, kind), ("output", VOCABULARY, HIDDEN, head)]
    norms = ["output_norm"]
    for layer in range(layers):
        of = f"blk.{layer}."
        norms += [of + "attn_norm", of + "ffn_norm"]
        matrices += [(of + "attn_q", HIDDEN, HIDDEN, kind), (of + "attn_k", kv, HIDDEN, kind), (of + "attn_v", kv, HIDDEN, kind)]
        matrices += [(of + "attn_output", HIDDEN, HIDDEN, kind), (of + "ffn_gate", inner, HIDDEN, kind)]
        matrices += [(of + "ffn_up", inner, HIDDEN, kind), (of + "ffn_down", HIDDEN, inner, kind)]
    for name in norms:
        writer.add_tensor_info(name + ".weight", (HIDDEN,), numpy.dtype(numpy.float32), 4 * HIDDEN)
    for name, rows, columns, of in matrices:
        block, size = gguf.GGML_QUANT_SIZES[of]
        width = columns // block * size
        writer.add_tensor_info(name + ".weight", (rows, width), numpy.dtype(numpy.uint8), rows * width, raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = numpy.random.default_rng(1)
    for _ in norms:
        writer.write_tensor_data(numpy.ones(HIDDEN, numpy.float32))
    for _, rows, columns, of in matrices:
        writer.write_tensor_data(rows_of(random, of, rows, columns))
    writer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--format", choices=["q4_0", "iq4_nl"], required=True)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--inner", type=int, default=14336)
    given = parser.parse_args()
    formats = {"q4_0": (Q.Q4_0, Q.Q6_K), "iq4_nl": (Q.IQ4_NL, Q.BF16)}
    write(given.file, *formats[given.format], given.layers, given.inner)
