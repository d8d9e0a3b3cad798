#!/usr/bin/env python3
"""Makes the goldens of tests/tokenizer with the reference tokenizers.

    pip install tokenizers==0.23.3
    python3 tests/golden/make_tokenizer_golden.py

Its patterns are of Unicode 16, its normal forms of Unicode 9. Every file written to
tests/golden/tokenizer is {"tokenizer": a whole tokenizer.json, "cases": [...]}, its model left
out where it is that of base_model.json; a case is
  text     the input
  ids      encode(text, add_special_tokens=False)
  special  encode(text, add_special_tokens=True), where that differs
  as_text  encode with special tokens in the text taken as text, where that differs
  decoded  decode(ids, skip_special_tokens=False), where that differs from text
           (null where the reference takes the added token "Äpfel" through the byte-level
           alphabet and so breaks it: there the runtime gives the text itself)
  skipped  decode(ids, skip_special_tokens=True), where that differs from decoded
A file may have "answers", too: random ids with decoded and skipped, as a model may write them.
"""

import json
import pathlib
import random
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import third_party  # noqa: E402

with third_party.modules(third_party.ORACLE):
  import tokenizers
  from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
  from tokenizers import pre_tokenizers, processors, trainers

OUT = pathlib.Path(__file__).parent / "tokenizer"
assert tokenizers.__version__ == "0.23.3", tokenizers.__version__

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"
            r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
            r"\s*[\r\n]+|\s+(?!\S)|\s+"]

BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
KIMI = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
# Characters that came with Unicode 15 to 16: digits, letters, marks, signs, Han.
NEWER = ["a\U00010d40\U00010d41b 1\U000116d0\U0001ccf0", "\U000105c0\U00010d50\U00010d70x \u1c89\u1c8a",
         "x\u0897\u1b4e \U0001cc00\U0001f8b2!", "\U0002ebf0\U0002ee5d字 \U00031350", "\U0001e5d0\U0001e5f1\U0001e5ff",
         "\ua7cb\ua7cd\ua7daé \U00011f50\U00011f02"]

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and it's the dog's day; they'll see, won't they?",
    "def main(argc, argv):\n    for i in range(100):\n        print('hello world', i)\n\n",
    "Hello world hello World 123 1234 12345 2024-01-31 3.14159 hello hello the the the",
    "größer Äpfel naïve façade élève déjà vu cœur straße",
    "Привет мир, как дела? こんにちは世界 안녕하세요 你好世界 שלום عالم नमस्ते สวัสดี",
    "🙂👨‍👩‍👧‍👦🇫🇷 e\u0301 a\u0308 \t\t tabs  and   spaces    here\r\n\r\n",
]

TEXTS = [
    "", " ", "  ", "   ", "\n", "\r\n", "\t \n  x", "a", "Hello world", " Hello  world ",
    "it's they'LL we'Ve I'M 'sure 's's'S", "’s ‘re", "don't can't won't",
    "123", "1234567", "1 22 333 4444", "x1y22z333", "３４５ ٣٤٥ ²³ ⅷ Ⅻ ½ 一二三", "3.14e-10",
    "größer Äpfel", "e\u0301 A\u030a \u1100\u1161\u11a8 \u0041\u0328\u0301\u0041\u0301\u0328",
    "\u212b \u2126 ﬁ ǆ ﷺ \u0958 \u2adc", "a\u0315\u0300\u05ae\u0062", "İı ſ K",
    "Привет, МИР!", "こんにちは、世界。", "안녕하세요 세계", "你好，世界！ 𠀀𪚥", "שָׁלוֹם", "السَّلَام", "नमस्ते क्षि",
    "สวัสดีครับ", "ქართული", "ᏣᎳᎩ", "𐐷𐐲𐑌", "\u1806 ᠮᠣᠩᠭᠣᠯ\u180e\u180eᠠ a\u180eb \u180e \u180e x",
    "👨‍👩‍👧‍👦 👩🏽‍💻 🇫🇷🇩🇪 ☺️ 1️⃣", "a\u200db\u200cc\u2060d\ufeffe\u00ade",
    "\u00a0\u1680\u2000\u2003\u2028\u2029\u202f\u205f\u3000x\u0085y\u001cz\u000bw\u000c",
    "\x00", "a\x00b\x00\x00c", "\x01\x7f\x80\x9f", "\ufffd\uffff\U0010ffff\ue000",
    "foo(bar)->baz[0]; // ok!!\n\n\n  }\n", "http://example.com/?q=a&b=c#d", "<a><b></b></a>",
    "a-b_c--d", "   leading", "trailing   ", "mixed \t \n \t end", "x\n\n y\n \nz", "aaaaaaaaaaaaaaaa",
    "ĠĊ Ġhello Ã©", "the the the hello hello dog's",
]

ADDED_TEXTS = [
    "<s>", "<s><s>", "<s>hello</s>", "hello<s>world", "  <s>  hello  </s>  ", "<s", "<ss>", "<<s>>",
    "a <mask> b", "a  <mask>  b", "<mask><mask>", "<mask> <mask>", "\n\t<mask>\u3000\u00a0x",
    "x <right>  y", "x  <right>\n\ny", "<right>  <mask>", "<right>  <right>  <left>  <left>",
    "word", "a word b", "sword words word", "word.word", "_word", "word_", "wordé", "éword", "word1",
    "word\u0301", "wor d", "word word", "a\u200dword", "ⓐword", "(word)", "WORD",
    "<tool", "<tool>", "<tool_call>", "<tool_call", "<tool_calls>", "<tool><tool_call>",
    "Äpfel", "A\u0308pfel", "xÄpfely", "Raw\u0301", "Raẃ", "Raw\u0301 and Raẃ", "K kilo \u212a",
    "  ", "a    b", "<right>    b", "a\u3000 <mask>", "<｜begin｜>hi<｜end｜>", "hello helloworld",
    "<s> in the middle </s> and <mask>\n<right>\tword <tool_call>{\"x\": 1}",
]


def train(vocab_size=400, **options):
    """A trained model over the corpus, whose pre-tokenizer is set afterwards."""
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, special_tokens=[],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    return tokenizer


def with_model(tokenizer, change):
    """The tokenizer with its model's JSON changed."""
    spec = json.loads(tokenizer.to_str())
    change(spec["model"])
    return Tokenizer.from_str(json.dumps(spec))


def byte_level(**options):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, **options)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(pattern, behavior, invert)


def finish(pre_tokenizer, normalizer=None, **model):
    tokenizer = train(**model)
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sequence(*parts):
    return pre_tokenizers.Sequence(list(parts))


def case(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    special = tokenizer.encode(text, add_special_tokens=True).ids
    tokenizer.encode_special_tokens = True
    as_text = tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = False
    decoded = tokenizer.decode(ids, skip_special_tokens=False)
    skipped = tokenizer.decode(ids, skip_special_tokens=True)
    out = {"text": text, "ids": ids}
    if special != ids:
        out["special"] = special
    if as_text != ids:
        out["as_text"] = as_text
    if "\ufffdpfel" in decoded:
        out["decoded"] = None
    elif decoded != text:
        out["decoded"] = decoded
    if out.get("decoded", text) is not None and skipped != decoded:
        out["skipped"] = skipped
    return out


def random_texts(seed, count=20):
    """Strings of characters from many ranges, for what nobody thinks of."""
    rng = random.Random(seed)
    ranges = [(0, 0x7f), (0x20, 0x7e), (0x20, 0x7e), (9, 13), (0x80, 0x17f), (0x300, 0x36f),
              (0x370, 0x5ff), (0x600, 0xeff), (0x1100, 0x11ff), (0x1e00, 0x206f), (0x2070, 0x2fff),
              (0x3000, 0x30ff), (0x4e00, 0x4e80), (0xac00, 0xac80), (0xf900, 0xffff),
              (0x10000, 0x12000), (0x1d100, 0x1d800), (0x1f300, 0x1f700), (0x2f800, 0x2f8ff)]
    return ["".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 24)))
            for _ in range(count)]


def answer(tokenizer, ids):
    return {"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False),
            "skipped": tokenizer.decode(ids, skip_special_tokens=True)}


def write(name, tokenizer, texts, answers=()):
    tokenizer.no_truncation()
    spec = json.loads(tokenizer.to_str())
    if spec["model"] == BASE_MODEL:
        del spec["model"]
    document = {"tokenizer": spec, "cases": [case(tokenizer, text) for text in texts]}
    if answers:
        document["answers"] = [answer(tokenizer, ids) for ids in answers]
    save(name, document)


def random_answers(tokenizer, seed, count=60):
    """Ids as of a model that writes anything: many tokens of bytes, whole characters among them."""
    rng = random.Random(seed)
    size = tokenizer.get_vocab_size()
    out = []
    for _ in range(count):
        ids = []
        for _ in range(rng.randint(1, 10)):
            if rng.random() < 0.4:
                ids += [3 + byte for byte in rng.choice("é字🙂\n aक").encode()]
            elif rng.random() < 0.4:
                ids.append(3 + rng.randrange(256))
            else:
                ids.append(rng.randrange(size))
        out.append(ids)
    return out


def sentencepiece(unknown="<unk>", missing="", byte_fallback=True, fuse_unk=True):
    """A model of characters as SentencePiece's: <unk> <s> </s>, bytes, then what was trained."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(CORPUS[:4] * 4, trainers.BpeTrainer(
        vocab_size=330, show_progress=False, special_tokens=[], limit_alphabet=90))
    model = json.loads(trained.to_str())["model"]
    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    pieces = [p for p in ["<unk>", "<s>", "</s>"] + bytes_of + pieces if not set(p) & set(missing)]
    merges = [(a, b) for a, b in model["merges"] if not set(a + b) & set(missing)]
    return Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges,
                                unk_token=unknown, fuse_unk=fuse_unk,
                                byte_fallback=byte_fallback))


def write_sentencepiece(few):
    """Llama 2, Mistral, Gemma and the like."""
    special = [AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")]
    space = decoders.Replace("▁", " ")
    chain = [space, decoders.ByteFallback(), decoders.Fuse()]
    strip = decoders.Strip(" ", 1, 0)
    legacy = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])

    def metaspace(scheme, split):
        return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)

    texts = few + ["<s>", "<s> hello</s>", "hello<s>world", " <s> x", "▁a ▁b", "  a", "<0x41>",
                   "naïve 🙂🙂 字", "\t\n", "a\U0001f642b\u0915", "Äpfel\u00e4 ▁"]
    for name, normalizer, pre_tokenizer, decoder, options in (
        ("llama2", legacy, None, chain + [strip], {}),
        ("mistral", None, metaspace("first", False), chain + [strip], {}),
        ("gemma", normalizers.Replace(" ", "▁"), split(" ", "merged_with_previous"), chain, {}),
        ("metaspace", None, metaspace("always", True), [decoders.Metaspace(prepend_scheme="always")], {}),
        ("metaspace_never", None, metaspace("never", True),
         [decoders.Metaspace(prepend_scheme="never"), decoders.ByteFallback()], {}),
        ("metaspace_words", None, sequence(pre_tokenizers.WhitespaceSplit(), metaspace("first", True)),
         chain, {}),
        ("no_byte_z", legacy, None, chain + [strip], {"missing": "7"}),
        ("no_byte_z_unfused", legacy, None, chain + [strip], {"missing": "7", "fuse_unk": False}),
        ("no_unknown", legacy, None, chain + [strip], {"missing": "7", "unknown": None}),
        ("strips", normalizers.Sequence([normalizers.Strip(left=True, right=True),
                                         normalizers.Replace(Regex(r"\s+|z"), "▁"),
                                         normalizers.NFKC()]),
         None, [space, decoders.ByteFallback(), decoders.Strip(" ", 2, 0)], {}),
    ):
        tokenizer = sentencepiece(**options)
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        if pre_tokenizer is not None:
            tokenizer.pre_tokenizer = pre_tokenizer
        tokenizer.decoder = decoders.Sequence(decoder)
        tokenizer.add_special_tokens(special)
        tokenizer.add_tokens([AddedToken("<turn>", normalized=False), AddedToken("\n\n", normalized=False),
                              AddedToken("word", normalized=True)])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
        write("sp_" + name, tokenizer, texts + ["<turn>a\n\n b", "a word <turn> word"],
              random_answers(tokenizer, name))


def write_more_pre_tokenizers(few):
    """Falcon, Bloom, Kimi K2 and what else cuts text."""
    write("falcon", finish(sequence(
        pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(False), split(Regex("[0-9][0-9][0-9]")))), few + NEWER)
    write("bloom", finish(sequence(split(Regex(BLOOM)), byte_level())), few + ["a(b|c)d।e…f，g"])
    write("kimi", finish(sequence(split(Regex(KIMI)), byte_level())),
          few + NEWER + ["你好World世界hello", "混合ABCdef字abc", "CamelCase字"])
    write("boundary", finish(sequence(
        split(Regex(r"\b[a-z]+\b|\B\d|[[a-c][^\w\s]]+|[\W&&\S]|\h{2}|[^a[b-d]&&[^x]]"),
              "isolated"), byte_level())), few + NEWER + ["word1 word\u0301 ⓐ_x a1b2 \u200db"])
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        write(f"punctuation_{behavior}",
              finish(sequence(pre_tokenizers.Punctuation(behavior), byte_level())),
              few[:30] + ["a.b..c!?d", "x\u061dy\u2e52z\u166dw\U000111c9"])
    write("whitespace", finish(sequence(pre_tokenizers.Whitespace(), byte_level())), few + NEWER)
    write("whitespace_split", finish(sequence(pre_tokenizers.WhitespaceSplit(), byte_level())), few)
    write("newer", finish(sequence(split(Regex(LLAMA3)), byte_level())), NEWER)

    def lacks_bytes(model):
        for byte in ("z", "Ð", "ã", "Ā"):
            model["merges"] = [m for m in model["merges"] if byte not in m[0] + m[1]]
            model["vocab"] = {t: i for t, i in model["vocab"].items() if byte not in t}

    write("bytes_left_out", with_model(finish(pre_tokenizers.ByteLevel(add_prefix_space=False)),
                                       lacks_bytes), few + ["a\x00b", "zzz", "azzb"])


def save(name, document):
    text = json.dumps(document, ensure_ascii=True, separators=(",", ":"))
    (OUT / f"{name}.json").write_text(text + "\n")


def main():
    OUT.mkdir(exist_ok=True)
    save("base_model", BASE_MODEL)
    texts = TEXTS + random_texts(1)
    few = TEXTS[:24] + TEXTS[35:39] + TEXTS[-12:] + random_texts(2, 6)

    write("llama3", finish(sequence(split(Regex(LLAMA3)), byte_level())), texts)
    write("gpt2", finish(pre_tokenizers.ByteLevel(add_prefix_space=False)), texts)
    write("gpt2_prefix_space", finish(pre_tokenizers.ByteLevel(add_prefix_space=True)), few)
    write("gpt4o", finish(sequence(split(Regex(GPT4O)), byte_level())), few)
    write("deepseek", finish(sequence(*[split(Regex(p)) for p in DEEPSEEK], byte_level())), texts)
    write("han_script", finish(sequence(split(Regex(r"[\p{Han}]+|\w+|\d|[^\w\s]+")), byte_level())),
          texts)
    write("digits_each", finish(sequence(pre_tokenizers.Digits(True), byte_level())), few)
    write("digits_runs", finish(sequence(
        pre_tokenizers.Digits(False), pre_tokenizers.ByteLevel(add_prefix_space=True))), few)
    # Characters that later versions of Unicode than the reference's normal forms added: where they
    # stand among marks, alone, and where they would decompose or compose.
    later = [0x7fd, 0x898, 0x89f, 0x8ca, 0xc3c, 0xd3b, 0xeba, 0x1715, 0x1abf, 0x1ace, 0x1df6, 0x32ff,
             0xa7f2, 0xab69, 0x10781, 0x107ba, 0x10d24, 0x10f46, 0x11938, 0x1e136, 0x1f16c, 0x1fbf9,
             0x10efd, 0x11f41, 0x1e030, 0x1e08f, 0x1e4ec]
    few_later = ["".join(f"a{chr(c)}\u0327\u0301 \u0301{chr(c)} " for c in later),
                 "\U00011935\U00011930 \U00011935\u0301", "\u1100\u1161\u11a8 e\u0301\u0898\u0323"]
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        write(form.lower(), finish(sequence(split(Regex(LLAMA3)), byte_level()),
                                   getattr(normalizers, form)()), few + few_later)
    write("nfd_nfc", finish(sequence(split(Regex(LLAMA3)), byte_level()),
                            normalizers.Sequence([normalizers.NFKD(), normalizers.NFC()])), few)

    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next",
                     "contiguous"):
        for invert in (False, True):
            suffix = behavior + ("_inverted" if invert else "")
            write(f"split_{suffix}", finish(sequence(
                split(Regex(r"\s|[aeiou]|(?=x)"), behavior, invert), byte_level())),
                few[:30])
    write("split_string", finish(sequence(
        split("l", "merged_with_previous"), split(" ", "merged_with_next"), byte_level())), few)

    # A token that no merges lead to is found by ignore_merges alone.
    def unreachable(ignore):
        def change(model):
            for token in ("ĠHelloĠĠworld", "xyzzy", "Hello", "123"):
                model["vocab"].setdefault(token, len(model["vocab"]))
            model["ignore_merges"] = ignore
        return change

    for ignore in (True, False):
        tokenizer = with_model(finish(sequence(split(Regex(LLAMA3)), byte_level())),
                               unreachable(ignore))
        write("ignore_merges" if ignore else "no_ignore_merges", tokenizer,
              few[:30] + ["xyzzy", " xyzzy", "Hello xyzzy 123", "123123"])

    # Merges as "A B", one pair twice (the later rank counts), and an unknown token.
    def legacy(model):
        merges = [" ".join(pair) for pair in model["merges"]]
        model["merges"] = merges + merges[3:5]
        for byte in ("z", "Ð", "ã"):
            merges = [m for m in model["merges"] if byte not in m]
            model["merges"] = merges
            model["vocab"] = {t: i for t, i in model["vocab"].items() if byte not in t}
        model["vocab"]["<unk>"] = max(model["vocab"].values()) + 1
        model["unk_token"] = "<unk>"

    for fuse in (False, True):
        def with_unknown(model, fuse=fuse):
            legacy(model)
            model["fuse_unk"] = fuse
        write("unknown_fused" if fuse else "unknown",
              with_model(finish(pre_tokenizers.ByteLevel(add_prefix_space=False)), with_unknown),
              few + ["zzz", "azzbz", "<unk>z"])

    # Added tokens of all kinds, with and without a normalizer.
    for name, normalizer in (("added", None), ("added_nfkc", normalizers.NFKC())):
        tokenizer = finish(sequence(split(Regex(LLAMA3)), byte_level()), normalizer)
        tokenizer.add_special_tokens(["<s>", "</s>", AddedToken("<mask>", lstrip=True, special=True),
                                      "<｜begin｜>", "<｜end｜>"])
        tokenizer.add_tokens([
            AddedToken("<left>", lstrip=True), AddedToken("<right>", rstrip=True),
            AddedToken("word", single_word=True), AddedToken("<tool>"), AddedToken("<tool_call>"),
            AddedToken("<tool_calls>", normalized=False), AddedToken("Äpfel", normalized=True),
            AddedToken("Raw\u0301", normalized=False), AddedToken("  ", normalized=False),
            AddedToken("K", normalized=True, single_word=True), AddedToken("hello")])
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A </s> </s>", special_tokens=[
                ("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))])])
        cases = ADDED_TEXTS + few[:12]
        write(name, tokenizer, cases)
    write_sentencepiece(few)
    write_more_pre_tokenizers(few)
    tokenizer = finish(pre_tokenizers.ByteLevel(add_prefix_space=True))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.add_tokens([AddedToken("hello", rstrip=True), AddedToken(" x", lstrip=True)])
    write("added_prefix_space", tokenizer, ADDED_TEXTS[:20] + ["hello  x x", "a x  x", "hello x"])


BASE_MODEL = json.loads(train().to_str())["model"]

if __name__ == "__main__":
    main()
