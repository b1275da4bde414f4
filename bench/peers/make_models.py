#!/usr/bin/python3
"""Makes the GGUF models of the measurements: seeded random weights in published shapes.

usage: make_models.py SHAPE KIND OUT.gguf     SHAPE: a row of SHAPES; KIND: f32, f16, bf16
"""
import itertools
import os
import string
import sys

import numpy as np

from gguf_writer import F32, GGUF, I32, KINDS, STR, U32

SHAPES = {  # arch, layers, width, heads, kv heads, ffn, vocabulary, context
    "smallmind": ("gpt2", 4, 256, 8, 8, 1024, 512, 128),
    "gpt2-124m": ("gpt2", 12, 768, 12, 12, 3072, 50257, 1024),
    "stories15m-shape": ("llama", 6, 288, 6, 6, 768, 32000, 256),
    "tinyllama-1.1b": ("llama", 22, 2048, 32, 4, 5632, 32000, 2048),
    "llama-3.2-1b": ("llama", 16, 2048, 32, 8, 8192, 128256, 131072),
    "llama-2-7b": ("llama", 32, 4096, 32, 32, 11008, 32000, 4096),
}


def vocabulary(count):
    """A SentencePiece-style vocabulary of that size: specials, bytes, then short words; texts, scores and types."""
    texts, types = ["<unk>", "<s>", "</s>"], [2, 3, 3]
    texts += ["<0x%02X>" % i for i in range(256)]
    types += [6] * 256
    letters = "\u2581" + string.ascii_lowercase
    words = ("".join(w) for n in (1, 2, 3, 4) for w in itertools.product(letters, repeat=n))
    texts += itertools.islice(words, max(0, count - len(texts)))
    types += [1] * (len(texts) - len(types))
    scores = [0.0] * 259 + [-float(i) for i in range(len(texts) - 259)]
    return texts[:count], scores[:count], types[:count]


def make(shape, kind, path):
    """Writes the model; the file appears under its name when it is whole."""
    arch, layers, width, heads, kv_heads, ffn, vocab, context = SHAPES[shape]
    random = np.random.default_rng(7)
    head = width // heads
    partial = path + ".partial"
    g = GGUF(partial)
    g.add("general.architecture", STR, arch)
    g.add("general.name", STR, shape + "-random")
    g.add("general.alignment", U32, 32)
    for key, value in (("context_length", context), ("embedding_length", width), ("block_count", layers),
                       ("feed_forward_length", ffn), ("attention.head_count", heads),
                       ("attention.head_count_kv", kv_heads)):
        g.add(f"{arch}.{key}", U32, value)
    if arch == "gpt2":
        g.add("gpt2.attention.layer_norm_epsilon", F32, 1e-5)
    else:
        g.add(f"{arch}.attention.layer_norm_rms_epsilon", F32, 1e-5)
        g.add(f"{arch}.rope.dimension_count", U32, head)
        g.add(f"{arch}.rope.freq_base", F32, 10000.0)
        g.add(f"{arch}.vocab_size", U32, vocab)
    texts, scores, types = vocabulary(vocab)
    g.add("tokenizer.ggml.model", STR, "llama")
    g.add_array("tokenizer.ggml.tokens", STR, texts)
    g.add_array("tokenizer.ggml.scores", F32, scores)
    g.add_array("tokenizer.ggml.token_type", I32, types)
    for key, value in (("bos", 1), ("eos", 2), ("unknown", 0)):
        g.add(f"tokenizer.ggml.{key}_token_id", U32, value)

    def weight(name, *dims, dtype=kind):
        g.tensor(name + ".weight", dims, dtype,
                 lambda: random.standard_normal(dims, dtype=np.float32) * np.float32(dims[-1] ** -0.5))

    def gain(name, n):
        g.tensor(name + ".weight", (n,), "f32", lambda: 1 + 0.1 * random.standard_normal(n, dtype=np.float32))

    def bias(name, n):
        g.tensor(name + ".bias", (n,), "f32", lambda: 0.02 * random.standard_normal(n, dtype=np.float32))

    weight("token_embd", vocab, width)
    gain("output_norm", width)
    if arch == "gpt2":
        weight("position_embd", context, width, dtype="f32")
        bias("output_norm", width)
        for i in range(layers):
            block = f"blk.{i}."
            for name in ("attn_norm", "ffn_norm"):
                gain(block + name, width)
                bias(block + name, width)
            for name, n, k in (("attn_qkv", 3 * width, width), ("attn_output", width, width), ("ffn_up", ffn, width),
                               ("ffn_down", width, ffn)):
                weight(block + name, n, k)
                bias(block + name, n)
    else:
        for i in range(layers):
            block = f"blk.{i}."
            gain(block + "attn_norm", width)
            gain(block + "ffn_norm", width)
            for name, n, k in (("attn_q", width, width), ("attn_k", kv_heads * head, width),
                               ("attn_v", kv_heads * head, width), ("attn_output", width, width),
                               ("ffn_gate", ffn, width), ("ffn_up", ffn, width), ("ffn_down", width, ffn)):
                weight(block + name, n, k)
    # Tied embeddings, as the files of these shapes have them, save where the shape is published with a matrix of its own.
    if arch == "gpt2" or shape in ("tinyllama-1.1b", "llama-2-7b"):
        weight("output", vocab, width)
    g.write()
    os.rename(partial, path)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES or sys.argv[2] not in KINDS:
        sys.exit(__doc__.strip() + "\nshapes: " + " ".join(SHAPES))
    make(*sys.argv[1:])
