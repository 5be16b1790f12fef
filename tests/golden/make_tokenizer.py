#!/usr/bin/env python3
"""Writes tokenizer/: two tokenizer.json files, texts and what the tokenizers library makes of them, chat renderings."""

import json
import os
import random
import unicodedata
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

OUT = Path(__file__).parent / "tokenizer"

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BOS, EOT, IMAGE = "<|begin_of_text|>", "<|eot_id|>", "<|image|>"
RESERVED = "<|reserved_special_token_%d|>"
SPECIAL = [
    BOS,
    "<|end_of_text|>",
    RESERVED % 0,
    RESERVED % 1,
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    EOT,
    "<|python_tag|>",
    *(RESERVED % i for i in range(2, 247)),
    IMAGE,
]

# --- texts ----------------------------------------------------------------------------------------------------------

SENTENCES = """The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs!
What is the colour of the largest circle in this picture? There isn't one; it's a square, and I'd say they're red.
Two triangles are left of the yellow star, above the green line. How many shapes do you see? I see 12 of them.
If I had to write a haiku for this one, it would be: soft rain on the roof, we've seen it before.
for (int i = 0; i < 1024; ++i) { sum += values[i] * weights[i]; }  // 3.14159, 0x7f, 1e-5
def describe(image, *, words=10):\n    return model.generate(image, max_new_tokens=words)\n
Der schnelle braune Fuchs springt über den faulen Hund, während Vögel zwitschern und Äpfel reifen.
Le café est fermé à Noël, mais l'été où nous étions heureux reste gravé dans nos mémoires.
El niño comió piñas y cantó una canción; ¿quién sabe por qué? ¡Qué día más extraño!
Съешь же ещё этих мягких французских булок, да выпей чаю. Быстрая лиса прыгает через ленивую собаку.
Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.
いろはにほへと ちりぬるを。日本語のテキストを少し書きます。東京は今日も晴れです。
我能吞下玻璃而不伤身体。这张图片里有多少个圆形？左边是红色的三角形。
키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.
نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ومغلف بجلد أزرق.
דג סקרן שט בים מאוכזב ולפתע מצא לו חברה.
ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश करने वाले विष्णुवतार भगवान श्रीराम।
เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน
😀 😃 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇯🇵 ✨🎉❤️""".splitlines()


def words(rng, count):
    """Made-up words, common ones often."""
    syllables = "ka lo mi ter ing ver son pre tion al es un re for com per an de st th ough ship ed ly".split()
    vocabulary = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(600)]
    return [vocabulary[min(int(rng.expovariate(1 / 60)), 599)] for _ in range(count)]


def corpus():
    rng = random.Random(1)
    for _ in range(400):
        made = words(rng, 12)
        made[rng.randrange(12)] = str(rng.randrange(10**4))
        yield " ".join(made).capitalize() + rng.choice([".", "!", "?", ".\n\n", ";\n", " - ", "...\r\n"])
        yield rng.choice(SENTENCES)
        yield rng.choice([" ", "    ", "\t", "\n", "  \n"]) * rng.randint(1, 6)


WHITE = "\t\n\v\f\r \x85\u00a0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
NOT_WHITE = "\x1c\x1d\x1e\x1f\u180e\u200b\u200c\u200d\u2060\ufeff\x00\x07\x7f"
DIGITS = "٠١٢٣٤٥٦٧٨٩०१२३४५６７８９²³¹¼½Ⅷⅻ①⑳㊿𝟘𝟙𝟚𐄇𐏓〇〡"
CLUSTERS = """
e\u0301 n\u0303 a\u0323\u0302 क्षि नि ก็ 각 \u1100\u1161\u11a8 ﬁ ﬀ \ufb05 ŉ İ ı ß ǅ
👩🏿‍🚀 👨‍👩‍👧‍👦 🏴󠁧󠁢󠁳󠁣󠁴󠁿 🇺🇳 🏳️‍⚧️ 1️⃣ ☺︎ ☺️ 𝒜𝓫 𠜎𠜱 \U0010fffd \ue000 \ufffd \ufffe \U0001ffff ʼ
’s العَرَبِيَّة שָׁלוֹם \u200fRTL\u200e Ω K Å \u0300 \u20dd ไทย မြန်မာ ខ្មែរ ትግርኛ ᏣᎳᎩ 𓀀𓂀 𐍈𐌰
""".split()


def stable_characters():
    """Code points assigned since Unicode 3.2 and of one category since: regex libraries agree on them."""
    old = unicodedata.ucd_3_2_0
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    return [c for c in points if old.category(c) == unicodedata.category(c) != "Cn" and c not in NOT_WHITE]


def texts():
    rng = random.Random(2)
    yield from ["", " ", "a", "\0", "\0\0a\0", "\n", "\r\n", "  ", "'", "'s", IMAGE, BOS]
    yield from SENTENCES
    yield from [
        "If I had to write a haiku for this one",
        "Hello world! This is a test.",
        " café naïve\t\n\n  x",
        "12345 6789",
        "日本語テスト 😀👍🏽",
        "   lead",
        "trail   ",
        "a\r\nb\n\n\nc",
        "foo_bar(baz)->{x:1};",
    ]
    for tail in ("s", "t", "re", "ve", "m", "ll", "d", "ſ"):
        cases = sorted({tail, tail.upper(), tail.capitalize(), tail[0] + tail[1:].upper()})
        for form in cases:
            yield f"it'{form} o'{form}x '{form}' ''{form} I'{form}."
            yield f"'{form}a b '{form}\n'{form}9"
    for space in WHITE + NOT_WHITE:
        yield f"a{space}b{space}{space}c {space} d{space}\n{space}e 1{space}2{space}!{space}"
        yield f"{space}"
    for run in (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 64, 127):
        yield "a" + " " * run + "b" + "\n" * run + "c" + " " * run
        yield "\n" * run + " " * run + "\t" * run + "x"
        yield "1" * run + " " + "9" * run + "a" * run + "." * run
    for i in range(len(DIGITS) - 3):
        yield DIGITS[i : i + 4] + " x" + DIGITS[i] + "7" + DIGITS[i + 1]
    for i, cluster in enumerate(CLUSTERS):
        other = CLUSTERS[(i * 7 + 3) % len(CLUSTERS)]
        yield f"{cluster}{other} {cluster}1{other}\n'{cluster}"
    for i, token in enumerate(SPECIAL[:14] + SPECIAL[-4:]):
        yield f"x{token}y"
        yield f" {token} {token}\n{SPECIAL[i]}"
    yield from [
        "<|image|",
        "<|image|>>",
        "<<|image|>",
        "<|IMAGE|>",
        "<|image |>",
        "<|reserved_special_token_24|>6|>",
        "<|reserved_special_token_247|>",
        "<|reserved_special_token_2",
        "<|eot_id|><|eot_id|>'s",
        "<|<|image|>|>",
        f"{IMAGE}\u0301",
        f"\u200b{IMAGE}\u200b",
        f"{BOS}{BOS}Hi",
        f"{IMAGE}{IMAGE} a {IMAGE}",
        f"{EOT}\0{EOT}",
    ]
    characters = stable_characters()
    astral = [c for c in characters if ord(c) > 0xFFFF]
    for i in range(90):
        pool = (characters, astral, [c for c in characters if ord(c) < 0x250])[i % 3]
        picked = rng.choices(pool, k=rng.randint(3, 24))
        if i % 2:
            picked = [c + rng.choice(["", "", " ", "\n", "'s", "\u0301", "7"]) for c in picked]
        yield "".join(picked)
    for _ in range(60):
        marks = ["'", "'ll", "->", "...", "\r\n"]
        kinds = [words(rng, 3), SENTENCES[0].split(), CLUSTERS, WHITE, marks, SPECIAL[:11], "0123456789"]
        parts = [rng.choice(kind) for kind in rng.choices(kinds, k=rng.randint(4, 16))]
        yield "".join(p + rng.choice(["", " "]) for p in parts)
    for _ in range(40):
        yield " ".join(words(rng, rng.randint(5, 25))) + rng.choice([".", "!?", ".\n", "  "])
    yield "a" * 10000
    yield " " * 5000 + "\n" * 5000
    yield "".join(rng.choices(SENTENCES, k=40))[:2500] * 4


# --- tokenizers -----------------------------------------------------------------------------------------------------


def byte_level(tokenizer):
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def trained(size):
    """Vocabulary and merges of a byte-level tokenizer."""
    tokenizer = byte_level(Tokenizer(models.BPE()))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def mapped(text):
    """As the vocabulary spells a text."""
    (piece, _), *more = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    assert not more
    return piece


def build(size, whole_words, special):
    vocab, merges = trained(size)
    for word in map(mapped, whole_words):  # no merge makes these: only ignore_merges finds them
        vocab.setdefault(word, len(vocab))
    tokenizer = byte_level(Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True)))
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    return tokenizer


WHOLE_WORDS = [
    " triangle",
    " parallelogram",
    "日本語",
    " 😀",
    " неизвестный",
    "\n\n\n\n\n",
    "()->",
    " über",
    "qzqzqz",
    "!!!!",
]


def large():
    """Merges as pairs; byte-level and template post-processors in sequence, which put BOS in front."""
    tokenizer = build(1990, WHOLE_WORDS, SPECIAL)
    bos = tokenizer.token_to_id(BOS)
    template = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, bos)]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return json.loads(tokenizer.to_str())


def small():
    """Merges as strings; a byte-level post-processor, so no BOS; few special tokens."""
    tokenizer = build(500, [" triangle", "qzqzqz"], [*SPECIAL[:11], IMAGE])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    data = json.loads(tokenizer.to_str())
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    return data


def encoded(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    both = tokenizer.encode(text, add_special_tokens=True).ids
    before = both[: len(both) - len(ids)]
    assert both == before + ids
    row = {"text": text, "ids": ids, "before": before}
    for key, skip in (("decoded", False), ("skipped", True)):
        decoded = tokenizer.decode(both, skip_special_tokens=skip)
        if decoded != text:
            row[key] = decoded
    return row


def decoded(tokenizer):
    """Arbitrary ids: broken UTF-8, special tokens in between."""
    rng = random.Random(3)
    size = tokenizer.get_vocab_size()
    single = [i for i in range(size) if len(tokenizer.id_to_token(i)) == 1]
    for i in range(150):
        pool = (range(size), single, single + [size - 1] * 20)[i % 3]
        ids = rng.choices(pool, k=rng.randint(1, 12))
        yield {
            "ids": ids,
            "decoded": tokenizer.decode(ids, skip_special_tokens=False),
            "skipped": tokenizer.decode(ids, skip_special_tokens=True),
        }


# --- chat -----------------------------------------------------------------------------------------------------------


class TemplateError(Exception):
    pass


def instruct(
    messages, tools=None, custom_tools=None, tools_in_user_message=True, date_string=None, add_generation_prompt=False
):
    """The template of the Instruct models, written down from its description."""
    tools = custom_tools if custom_tools is not None else tools

    def block(role, text):
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}{EOT}"

    def dump(value, indent=None):
        return json.dumps(value, ensure_ascii=False, indent=indent)

    how = 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
    how += "Do not use variables.\n\n"
    listed = "".join(dump(tool, 4) + "\n\n" for tool in tools or [])
    system = ""
    if messages and messages[0]["role"] == "system":
        system, messages = messages[0]["content"].strip(), messages[1:]
    lists = [m["content"] for m in messages if isinstance(m.get("content"), list)]
    pictures = any(isinstance(part, dict) and part["type"] == "image" for parts in lists for part in parts)
    if pictures and system:
        raise TemplateError("Prompting with images is incompatible with system messages.")
    out = BOS
    if not pictures:
        text = "Environment: ipython\n" if tools is not None else ""
        text += f"Cutting Knowledge Date: December 2023\nToday Date: {date_string or '26 Jul 2024'}\n\n"
        if tools is not None and not tools_in_user_message:
            text += "You have access to the following functions. "
            text += "To call a function, please respond with JSON for a function call." + how + listed
        out += block("system", text + system)
    if tools is not None and tools_in_user_message:
        if not messages:
            raise TemplateError("Cannot put tools in the first user message when there's no first user message!")
        text = "Given the following functions, please respond with a JSON for a function call "
        text += "with its proper arguments that best answers the given prompt.\n\n"
        out += block("user", text + how + listed + messages[0]["content"].strip())
        messages = messages[1:]
    for message in messages:
        content = message.get("content")
        if "tool_calls" in message:
            if len(message["tool_calls"]) != 1:
                raise TemplateError("This model only supports single tool-calls at once!")
            call = message["tool_calls"][0]["function"]
            out += block("assistant", f'{{"name": "{call["name"]}", "parameters": {dump(call["arguments"])}}}')
        elif message["role"] in ("tool", "ipython"):
            out += block("ipython", dump(content) if isinstance(content, (dict, list, str)) else str(content))
        else:
            out += block(message["role"], joined(content))
    return out + ("<|start_header_id|>assistant<|end_header_id|>\n\n" if add_generation_prompt else "")


def joined(content):
    if isinstance(content, str):
        return content
    return "".join({"image": IMAGE, "text": part.get("text", "")}.get(part["type"], "") for part in content)


def plain(messages, add_generation_prompt=False):
    """The template of Hugging Face's conversion script."""
    out = BOS if messages else ""
    for message in messages:
        out += f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n{joined(message['content'])}{EOT}"
    return out + ("<|start_header_id|>assistant<|end_header_id|>\n\n" if add_generation_prompt else "")


def chats():
    picture = {"type": "image"}

    def say(text):
        return {"type": "text", "text": text}

    def user(*parts):
        return {"role": "user", "content": parts[0] if len(parts) == 1 and isinstance(parts[0], str) else list(parts)}

    def answer(text):
        return {"role": "assistant", "content": text}

    def system(text):
        return {"role": "system", "content": text}

    def call(name, arguments, **more):
        function = {"name": name, "arguments": arguments}
        return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]} | more

    weather = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": 'Das Wetter für eine Stadt: “heute”, "morgen"\n',
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "default": None}},
                "required": ["city"],
            },
        },
    }
    clock = {
        "type": "function",
        "function": {"name": "clock", "parameters": {}, "ratio": 0.5, "strict": True, "tags": []},
    }
    date = {"date_string": "05 Mar 2025"}
    ask = {"add_generation_prompt": True}
    history = [user("What is the weather in Zürich?"), call("get_weather", {"city": "Zürich", "days": 2})]

    for more in ({}, date, ask, date | ask):
        yield [user("Hi")], more
        yield [user(picture, say("Hi"))], more
        yield [system("  You are brief.\n"), user("Hi")], more
    yield (
        [user(say("Describe this image in two sentences"), picture, say(" Test sentence   "), picture, say("ok\n"))],
        ask,
    )
    yield [user("  Not trimmed \n")], ask
    yield [user("A literal <|image|> in a string")], ask
    yield [user(say("only"), say(" "), say("text"))], ask
    yield [user(picture, picture, say("Which has more circles?")), answer("The first."), user("Why?")], ask
    yield [user(picture, say("a")), answer([say("b")]), user(say("c"), picture)], ask
    yield [user("a"), answer("b"), user("c"), answer("d")], {}
    yield [user({"type": "audio"}, say("unknown part"), picture)], {}
    yield [system(""), user(picture, say("empty system text"))], ask
    yield [system(" \n\t"), user(picture, say("blank system text"))], ask
    yield [system("Be brief."), user(picture, say("x"))], {}
    yield [system("Only a system message.")], date
    yield [user("a"), system("A later system message stays in place."), user("b")], ask
    yield [user("")], ask
    yield [user("日本語 \0 é 😀 </s>")], ask
    for tools in ([weather], [weather, clock], []):
        for inside in (True, False):
            more = ask | date | {"tools": tools, "tools_in_user_message": inside}
            yield [system("Be exact. "), user("  What is the weather in Zürich? ")], more
            yield [user("Hi")], more
    yield [system("no user")], {"tools": [weather]}
    yield [user(" trimmed "), answer(" kept "), user(" kept ")], {"tools": [clock]} | ask
    yield [user("x")], {"tools": [weather], "custom_tools": [clock]}
    yield [user("x"), answer("y"), user(picture, say("z"))], {"tools": [clock], "tools_in_user_message": True}
    yield [user("x"), answer("y"), user(picture, say("z"))], {"tools": [clock], "tools_in_user_message": False}
    for result in ({"temperature": 21.5, "sky": "klar ☀", "wind": None}, ["rain", 3, True], '21 "degrees"\nand é'):
        for role in ("tool", "ipython"):
            yield [*history, {"role": role, "content": result}], ask
    yield [*history, {"role": "tool", "content": "{}"}, answer("It rains."), user("Thanks")], {"tools": [weather]} | ask
    yield [user("x"), call("f", {}, content="ignored")], {}
    yield [user("x"), call("f", {"a": [1, 2.5, {"b": 'ü\\"\n'}], "c": False, "d": {}})], {}
    yield [user("x"), {"role": "assistant", "tool_calls": [call("f", {})["tool_calls"][0]] * 2}], {}
    yield [user("x"), {"role": "assistant", "tool_calls": []}], {}


def renderings():
    for messages, options in chats():
        row = {"template": "instruct", "messages": messages} | options
        try:
            row["text"] = instruct(messages, **options)
        except TemplateError as error:
            row["error"] = str(error)
        yield row
    for messages, options in chats():
        usual = all(m["role"] != "tool" and m["role"] != "ipython" and "tool_calls" not in m for m in messages)
        if set(options) <= {"add_generation_prompt"} and usual:
            yield {"template": "plain", "messages": messages} | options | {"text": plain(messages, **options)}


# --- main -----------------------------------------------------------------------------------------------------------


def write(name, rows):
    (OUT / name).write_text("".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows))


def main():
    OUT.mkdir(exist_ok=True)
    for name, data, every in (("large", large(), 1), ("small", small(), 3)):
        path = OUT / name / "tokenizer.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")))
        tokenizer = Tokenizer.from_file(str(path))
        chosen = [text for i, text in enumerate(texts()) if i % every == 0 and (every == 1 or len(text) < 500)]
        write(f"{name}/encode.jsonl", (encoded(tokenizer, text) for text in chosen))
        write(f"{name}/decode.jsonl", decoded(tokenizer))
    write("chat.jsonl", renderings())


if __name__ == "__main__":
    main()
