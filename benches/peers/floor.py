"""The least time of a forward: the multiplications that its shapes ask for, at the peak of the processor."""

# Tokens, width, MLP, blocks, patch (0: a text), embedding, whether an attention pool follows (SigLIP).
TOWERS = {
    "B/32": (50, 768, 3072, 12, 32, 512, False),
    "B/16": (197, 768, 3072, 12, 16, 512, False),
    "L/14": (257, 1024, 4096, 24, 14, 768, False),
    "SigLIP-B/16": (196, 768, 3072, 12, 16, 0, True),
    "B/32 text, 8 tokens": (8, 512, 2048, 12, 0, 512, False),
    "B/32 text, 77 tokens": (77, 512, 2048, 12, 0, 512, False),
}


def gflop(tokens, width, mlp, blocks, patch, embedding, pool):
    """(everything, what is left when the last block computes the one token alone that is read), in GFLOP."""
    keys = 2 * tokens * width * 2 * width
    rest = 2 * (2 * width * width + 2 * width * mlp) + 4 * tokens * width  # for one token
    around = 2 * (tokens - (0 if pool else 1)) * 3 * patch * patch * width + 2 * width * embedding
    if pool:
        around += keys + rest
    whole = blocks * (keys + tokens * rest) + around
    # An attention pool reads all tokens of the last block.
    return whole / 1e9, (whole if pool or not blocks else whole - (tokens - 1) * rest) / 1e9


def rows(machine, best):
    """`best` is the least measured time of an item by tower, in seconds."""
    for tower, shape in TOWERS.items():
        whole, pooled = gflop(*shape)
        times = [pooled / figures["f32_gflops"] * 1e3 for figures in machine.values()]
        cells = [f"{whole:.2f}", f"{pooled:.2f}", *(f"{t:.1f}" for t in times)]
        found = best.get(tower)
        yield [tower, *cells, f"{found * 1e3:.1f}, {times[-1] / (found * 1e3):.0%}" if found else ""]
