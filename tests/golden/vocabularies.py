"""Small tokenizers with the special tokens, normalisers and post-processors of the real ones."""

import contextlib
import gzip
import json
import math
import shutil
import string
import tempfile
from collections import Counter
from pathlib import Path

import sentencepiece
from open_clip.tokenizer import bytes_to_unicode, default_bpe
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPTokenizer, XLMRobertaTokenizer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CORPUS = """a photo of a red car on the street, a drawing of two dogs in the snow, the cat sleeps on a green chair,
a photo of a small bird, an old house near the river, people walking in the city at night, a close-up of a flower,
a blurry picture of the sea, the boy plays with a blue ball, a plate of food on a wooden table""".replace("\n", " ")


def clip_bpe(merge_count=48894):
    """Vocabulary and merges of CLIP's BPE; fewer merges give a smaller vocabulary with the same structure."""
    lines = gzip.open(default_bpe()).read().decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : merge_count + 1]]
    letters = list(bytes_to_unicode().values())
    pieces = letters + [letter + "</w>" for letter in letters] + ["".join(merge) for merge in merges] + [BOS, EOS]
    return {piece: i for i, piece in enumerate(pieces)}, merges


def write_clip(folder: Path, context, pad=EOS, merge_count=86):
    vocab, merges = clip_bpe(merge_count)
    CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=context).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    return len(vocab)


def write_t5(folder: Path, context, canonical):
    """SigLIP's Unigram vocabulary; the transformers layout canonicalises in the tokenizer, open_clip before it."""
    words = Counter("▁" + word.strip(string.punctuation).lower() for word in CORPUS.split())
    letters = Counter("▁" + string.ascii_letters + string.digits + string.punctuation + CORPUS.replace(" ", "▁"))
    total = sum(words.values())
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(word, math.log(n / total)) for word, n in sorted(words.items()) if len(word) > 2]
    pieces += [(letter, -8 + math.log(n / 400)) for letter, n in sorted(letters.items())]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    steps = [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    if canonical:
        steps[:0] = [normalizers.Lowercase(), normalizers.Replace(Regex(f"[{_escaped(string.punctuation)}]"), "")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    _write(folder, tokenizer, context, eos_token="</s>", pad_token="</s>", unk_token="<unk>")
    return tokenizer.get_vocab_size()


def _escaped(characters):
    return "".join("\\" + c for c in characters)


def write_gemma(folder: Path, context, tokenizer_class, merge_count=120):
    """SigLIP 2's BPE with byte fallback. No lower-casing in tokenizer.json: the library has to do it."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = specials + [f"<0x{b:02X}>" for b in range(256)] + ["▁", *string.ascii_letters, *string.digits, *",.!?'-"]
    merges, words = [], Counter(tuple(word) for word in _gemma_words(CORPUS))
    while len(merges) < merge_count:
        pairs = Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        best = max(sorted(pairs), key=pairs.get)
        merges.append(best)
        words = Counter({_merged(word, best): n for word, n in words.items()})
    vocab = {piece: i for i, piece in enumerate(pieces + ["".join(m) for m in merges])}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.add_special_tokens(specials)
    _write(
        folder, tokenizer, context, tokenizer_class, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>",
        unk_token="<unk>", mask_token="<mask>", add_bos_token=False, add_eos_token=True, padding_side="right",
    )
    return len(vocab)


def _gemma_words(corpus):
    return [("▁" if i else "") + word for i, word in enumerate(corpus.split(" "))]


def _merged(word, pair):
    out = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)


def write_wordpiece(folder: Path, context):
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = string.ascii_lowercase + string.digits + string.punctuation
    words = sorted({w.strip(string.punctuation) for w in CORPUS.split()} - set(letters))
    pieces = specials + list(letters) + ["##" + c for c in letters] + words + ["##ing", "##s", "##ed"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(specials)
    _write(folder, tokenizer, context, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
           mask_token="[MASK]")
    return len(vocab)


def write_chinese(folder: Path, context):
    """Only the vocabulary, as Chinese-CLIP's repositories have it; transformers builds the rest."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    words = sorted({w.strip(string.punctuation) for w in CORPUS.split()} - set(letters))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), *words]
    pieces += sorted(set("一只猫两条狗在雪地里的照片你好世界，。"))
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": context}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return len(pieces)


def write_xlm_roberta(folder: Path, context):
    """XLM-R's and XLM-V's Unigram: fairseq's four special tokens first, the mask last."""
    words = Counter("▁" + word.strip(string.punctuation) for word in CORPUS.split())
    letters = Counter("▁" + string.ascii_letters + string.digits + string.punctuation + CORPUS.replace(" ", "▁"))
    total = sum(words.values())
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(word, math.log(n / total)) for word, n in sorted(words.items()) if len(word) > 2]
    pieces += [(letter, -8 + math.log(n / 400)) for letter, n in sorted(letters.items())]
    pieces += [("<mask>", 0.0)]
    folder.mkdir(parents=True, exist_ok=True)
    XLMRobertaTokenizer(vocab=pieces, model_max_length=context).save_pretrained(folder)
    return len(pieces)


def write_sentencepiece(folder: Path, context):
    """XLM-R's vocabulary in SentencePiece's own file."""
    folder.mkdir(parents=True, exist_ok=True)
    _train_sentencepiece(folder / "sentencepiece.bpe.model")
    config = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": context}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return len(XLMRobertaTokenizer.from_pretrained(folder))


def write_spiece(folder: Path):
    """A vocabulary of T5's form, the one that SigLIP took over."""
    _train_sentencepiece(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


def _train_sentencepiece(path: Path, **ids):
    """A few rules of normalisation in place of NFKC's large table."""
    rules = {"\u00a0": " ", "\u3000": " ", "ﬁ": "fi", "é": "e", "Ａ": "A", "…": "..."}
    rules = [[f"{ord(a):X}"] + [" ".join(f"{ord(c):X}" for c in b)] for a, b in rules.items()]
    path = path.resolve()
    # The model keeps the names of the files that it was made of: relative ones are the same everywhere.
    with tempfile.TemporaryDirectory() as work, contextlib.chdir(work):
        Path("rules.tsv").write_text("\n".join("\t".join(rule) for rule in rules) + "\n")
        Path("corpus.txt").write_text(CORPUS.replace(", ", "\n") + "\n" + string.printable.strip() + "\n")
        sentencepiece.SentencePieceTrainer.train(
            input="corpus.txt", model_prefix="model", vocab_size=130, character_coverage=1.0, model_type="unigram",
            normalization_rule_tsv="rules.tsv", minloglevel=2, num_threads=1, **ids,
        )
        shutil.copy("model.model", path)


def write_roberta(folder: Path, context, size=320):
    """RoBERTa's byte-level BPE as vocab.json and merges.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = {**model["vocab"], "<mask>": len(model["vocab"])}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, model["merges"])) + "\n")
    config = {"tokenizer_class": "RobertaTokenizer", "model_max_length": context}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return len(vocab)


def _write(folder, tokenizer, context, tokenizer_class="PreTrainedTokenizerFast", **config):
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": tokenizer_class, "model_max_length": context, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
