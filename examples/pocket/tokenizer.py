"""Makes Pocket's tokenizer: byte-level BPE exactly in the manner of Llama 3, with 624 tokens and 17 special ones.

The special tokens have Llama's names; their order is Llama's too, and `<|image|>` is the last, outside the head's vocabulary.

`tokenizer.json` is committed and belongs to the weights: run this only before a training from nothing. It came from an earlier
state of `pictures.py`; today's has the same tokens in another order.
"""

from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import pictures

FILE = Path(__file__).parent / "tokenizer.json"
BASE_VOCABULARY = 624
SPECIAL_TOKENS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>",
    "<|python_tag|>", *(f"<|reserved_special_token_{n}|>" for n in range(2, 7)), "<|image|>",
)  # fmt: skip
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = """{% for message in messages %}{% if loop.index0 == 0 %}{{ bos_token }}{% endif %}\
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}\
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}\
{% if content['type'] == 'image' %}{{ '<|image|>' }}{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}\
{% endfor %}{% endif %}{{ '<|eot_id|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

# Words that people use around the task. They get an embedding that training may leave at random, but no text falls to pieces.
PLAIN_WORDS = """the a of and to in is it you that he was for on are with as I his they be at one have this from or had by not but
what some we can out other were all there when up use your how said each she which do their time if will way about many then them
would like so these her him two has look more write go see no could people my than first been who its now find long down day
did get come made may part picture image hello please thank you show me between under over near next top bottom big small colour color yes
where why very just work back only good new water word same house world still every large must through before right think say help low line turn""".split()


def task_words():
    """Every word of the task in the forms in which it occurs; each shall be one token."""
    names = [*pictures.KINDS, *pictures.COLOUR_NAMES, *(k + ("es" if k == "cross" else "s") for k in pictures.KINDS)]
    return [" " + n for n in names] + [c.capitalize() for c in pictures.COLOUR_NAMES] + [*pictures.NUMBERS, "Nothing", "Yes", "No", "From"]


def corpus(seed=1):
    """Questions and answers; lower-cased ones make the lower-case first words known."""
    rng = np.random.default_rng(seed)
    for _ in range(10000):
        scene = pictures.make_scene(rng, largest=1.0)
        for _ in range(4):
            question = pictures.ask(rng, scene)
            yield question.text
            yield question.text.lower()
            yield question.answer
    for word in task_words():
        yield from [word] * 400
    for text in ("user", "assistant", "system", "\n\n", "The first picture.", "The second picture.", "Neither.", " pictures", " second"):
        yield from [text] * 400
    for word in PLAIN_WORDS:
        yield from [" " + word] * 40


def train_tokenizer():
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=BASE_VOCABULARY, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    bos = SPECIAL_TOKENS[0]
    template = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    assert [tokenizer.token_to_id(t) for t in SPECIAL_TOKENS] == list(range(BASE_VOCABULARY, BASE_VOCABULARY + len(SPECIAL_TOKENS)))
    for word in task_words():
        pieces = tokenizer.encode(word, add_special_tokens=False).tokens
        assert len(pieces) == 1, f"{word!r} is {pieces}"
    return tokenizer


def load_tokenizer():
    """The tokenizer in `tokenizer.json` as transformers wraps it."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(FILE), bos_token=SPECIAL_TOKENS[0], eos_token="<|eot_id|>", pad_token="<|finetune_right_pad_id|>",
        model_max_length=131072, model_input_names=["input_ids", "attention_mask"], padding_side="left",
        clean_up_tokenization_spaces=False, chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


if __name__ == "__main__":
    train_tokenizer().save(str(FILE))
