"""What the references do to text: token ids and cleaned strings."""

import html
import json
import shutil
from importlib import metadata
from pathlib import Path

import ftfy
import open_clip.tokenizer as reference
from transformers import AutoTokenizer, CLIPTokenizer, SiglipTokenizer, T5Tokenizer

import vocabularies

TEXTS = [
    "a photo of a cat", "A Photo Of A CAT.", "a photo of a {}", "it's the dog's bone, isn't it?", "I'M we're they've I'll he'd",
    "IT'S THE DOG'S", "don''t 's 't", "1234567890", "3.14159 and 2,000,000", "route66 4x4 mp3", "hello,world!!!", "!!!", "...", "a-b_c+d=e",
    "#hashtag @user http://example.com/a?b=c&d=e", "$5.00 €10 £3 ¥100", "naïve café résumé", "cafe\u0301 decomposed", "ÀÉÎÕÜ ß ÿ Ÿ", "İstanbul ISTANBUL ı",
    "ΑΒΓ αβγ ς Σ", "Привет, мир", "你好,世界", "一只猫坐在椅子上", "こんにちは世界 カタカナ ひらがな", "안녕하세요 세계", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก",
    "🐱", "a 😀 b 👍🏽 c", "👨‍👩‍👧‍👦 family", "🇩🇪🇫🇷 flags", "❤️ heart", "ﬁ ligature ﬂ", "ｆｕｌｌ　ｗｉｄｔｈ", "½ ² ³ ① Ⅷ", "“quoted” ‘single’ – — …", "«guillemets»",
    "Tom &amp; Jerry", "&lt;b&gt;bold&lt;/b&gt;", "&amp;amp; twice &amp;lt;", "&#39;quoted&#39; &quot;x&quot;", "&nbsp;space&nbsp;", "&eacute;t&eacute; &copy; 2020",
    "cafÃ©", "â€œquotesâ€\x9d", "schÃ¶n fÃ¼r dich", "ðŸ˜€ smile", "Ã¢â‚¬â„¢ twice", "donâ€™t",
    "", " ", "\t\n\r ", "  leading and trailing  ", "tabs\tand\nnew\r\nlines", "double  spaces   here", "non\u00a0breaking\u2003em\u200bzero\u3000ideographic", "soft\u00adhyphen",
    "nul\x00 bell\x07 escape\x1b[0m", "\ufeffbyte order mark", "line\u2028separator\u2029paragraph\x85next", "rtl \u202eoverride\u202c",
    "<|startoftext|> x <|endoftext|>", "<start_of_text>a<end_of_text>", "<START_OF_TEXT>", "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "x" * 400, "the quick brown fox jumps over the lazy dog " * 12, "🐱" * 60, "a " * 74, "a " * 75, "a " * 76, "under_score __init__ snake_case", "(parentheses) [brackets] {braces} <angles>", "back\\slash / slash | pipe ~ ^ `",
]

MOJIBAKE_SOURCES = [
    "café", "naïve façade", "schön für dich", "señor mañana", "Ærøskøbing", "“quotes”", "it’s fine", "en – em — dash", "price: 5 €", "100 £",
    "© 2020 ®", "½ cup", "20 °C", "Привет мир", "Ελληνικά", "日本語", "中文字", "한국어", "😀 smile", "👍🏽", "İstanbul", "łódź żółć", "čeština", "naïve… yes", "l’été à la plage", "→ arrow", "∞ ≠ ≤", "trade™ mark", "• bullet", "\u00a0nbsp",
]
MOJIBAKE_FIXED = [
    "âœ” No problems", "The Mona Lisa doesnÃƒÂ¢Ã¢â€šÂ¬Ã¢â€žÂ¢t have eyebrows.", "l’humanitÃ©", "Ã perturber la rÃ©flexion", "à perturber la rÃ©flexion",
    "Ãºnico", "This â€” should be an em dash", "pÅ™edstavenÃ­", "ÃƒÂ©", "Ã©", "Ã ", "voilÃ ", "voilÃ  le travail", "â€œhelloâ€", "â€˜helloâ€™", "â€¦", "â‚¬", "Â£5", "Â°", "Â",
    "sÃ³", "ÐŸÑ€Ð¸Ð²ÐµÑ‚", "æ—¥æœ¬èªž", "ä½ å¥½", "ðŸ\x98\x80", "ð\x9f\x98\x80", "HUHLL â€“ ok", "IL Y MARQUÉ…", "ANÄŒ", "Ôèôèêàöèÿ",
    "&lt;not fixed inside &lt;tags&gt;", "<b>&amp;</b>", "&amp; plain", "ﬁne ﬂow oﬃce", "ｆｕｌｌ ｗｉｄｔｈ", "curly “quotes” ‘single’", "line\r\nend\rold", "\x1b[36mcolour\x1b[m", "nul\x00byte", "\ufeffmark", "surrogate \ud83d\ude00 pair", "\x85next \x80euro \x93q\x94", "a\u2028b", "Ⅷ ½ ① stay", "ok as it is", "naïve café stays", "São Tomé É ok", "uÌˆber decomposed", "e\u0301 composed", "mixed cafÃ© and café",
]
ENTITIES = [
    "&amp;", "&amp;amp;", "&amp;lt;b&amp;gt;", "&lt;&gt;&quot;&apos;", "&#39;", "&#x27;", "&#X27;", "&#128512;", "&#x1F600;", "&eacute;", "&Eacute;", "&nbsp;", "&copy 2020", "&copy2020", "&notit;", "&notin;", "&not", "&ampx", "&unknown;", "&;", "&#;", "&#x;", "&#0;", "&#128;", "&#x80;", "&#xD800;", "&#1114112;", "&#9999999999;", "&#1;", "&#11;", "&#xFFFE;", "&NotEqualTilde;", "&AMP;", "&Amp;", "&hellip;", "&mdash;", "&rarr;", "a&b", "AT&T", "a & b", "?x=1&lt=2", "&CounterClockwiseContourIntegral;", "&fjlig;", "&bne;",
]


def garbled(source):
    """The text as seen after its UTF-8 bytes were read in another encoding, once or twice."""
    for encoding in ("sloppy-windows-1252", "latin-1", "macroman", "cp437", "sloppy-windows-1251"):
        yield source.encode().decode(encoding, errors="replace")
    once = source.encode().decode("sloppy-windows-1252")
    yield once.encode().decode("sloppy-windows-1252")


def write(folder: Path, vocabulary: Path):
    folder.mkdir(parents=True, exist_ok=True)

    open_clip = reference.SimpleTokenizer()
    ids = [row.tolist() for row in open_clip(TEXTS)]
    ids = [row[: row.index(open_clip.eot_token_id, max(i for i, x in enumerate(row) if x)) + 1] for row in ids]
    dump(folder / "clip_open_clip.json", TEXTS, ids, "SimpleTokenizer, context 77; the zeros after the end are left out")

    vocab, merges = vocabularies.clip_bpe()
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges)
    ids = [tokenizer(text, truncation=True, max_length=77).input_ids for text in TEXTS]
    dump(folder / "clip_hf.json", TEXTS, ids, "CLIPTokenizer, truncated to 77, not padded")

    for kind in ("canonicalize", "whitespace", "lower"):
        clean = reference.get_clean_fn(kind)
        dump(folder / f"clean_{kind}.json", TEXTS, [clean(text) for text in TEXTS], f"open_clip's clean function {kind}")

    write_small(folder)

    siglip = SiglipTokenizer.__new__(SiglipTokenizer)
    siglip.do_lower_case = True
    forms = [siglip.canonicalize_text(text) for text in TEXTS]
    dump(folder / "siglip_hf_canonical.json", TEXTS, forms, "SiglipTokenizer.canonicalize_text")

    cases = [text for source in MOJIBAKE_SOURCES for text in garbled(source)] + MOJIBAKE_FIXED
    cases = [text.encode("utf-16", "surrogatepass").decode("utf-16") for text in dict.fromkeys(cases)]
    dump(folder / "ftfy.json", cases, [ftfy.fix_text(text) for text in cases], "ftfy.fix_text, default settings")
    dump(folder / "html.json", ENTITIES, [html.unescape(text) for text in ENTITIES], "html.unescape, once")

    vocabulary.mkdir(parents=True, exist_ok=True)
    shutil.copy(reference.default_bpe(), vocabulary)
    licence = next(f for f in metadata.files("open_clip_torch") if f.name == "LICENSE")
    shutil.copy(licence.locate(), vocabulary / "LICENSE")


# Scripts, emoji and long texts have no place in a small vocabulary.
SMALL = TEXTS[:20] + ["一只猫坐在椅子上", "ＡＢＣ ﬁne …", "<s> a </s> <pad> <unk>", "[CLS] a [SEP] [PAD]", "", " ", "x" * 100, "a\u2028b\u00a0c  d"]


def write_small(folder: Path):
    """What transformers makes of the vocabularies of the small checkpoints, which have no tokenizer.json."""
    data = folder.parent
    for name, place in (
        ("bert", "hf-chinese-clip"), ("roberta", "open_clip-roberta/text"), ("xlm_roberta", "open_clip-xlm-roberta/text"),
    ):
        tokenizer = AutoTokenizer.from_pretrained(data / place)
        dump(folder / f"{name}_hf.json", SMALL, [tokenizer(text).input_ids for text in SMALL], f"{place}, not padded")
    vocabularies.write_spiece(folder)
    tokenizer = T5Tokenizer.from_pretrained(folder, extra_ids=0)
    dump(folder / "t5_hf.json", SMALL, [tokenizer(text).input_ids for text in SMALL], "T5Tokenizer of spiece.model")


def dump(path, inputs, outputs, note):
    cases = ",\n".join(json.dumps({"in": a, "out": b}) for a, b in zip(inputs, outputs, strict=True))
    path.write_text(f'{{"note": {json.dumps(note)}, "cases": [\n{cases}\n]}}\n')
