"""Puts the results of the README's first command between its markers: python readme.py RESULTS.tsv README.md."""

import csv
import pathlib
import sys

# What the photo shows, as examples/photos/README.md says; photos and labels were chosen before any model saw them.
TRUTH = {
    "astronaut": "an astronaut", "brick-wall": "a brick wall", "photographer": "a photographer with a camera",
    "cat": "a cat", "coffee": "a cup of coffee", "coins": "coins", "grass": "grass", "gravel": "gravel",
    "galaxies": "galaxies in the night sky", "retina": "the retina of an eye", "rocket": "a rocket",
    "pagoda": "a pagoda", "flower": "a flower",
}

results, readme = sys.argv[1], pathlib.Path(sys.argv[2])
photos = {}
for row in csv.DictReader(open(results), delimiter="\t"):
    photos.setdefault(pathlib.Path(row["id"]).stem, []).append((row["label"], float(row["score"])))
lines = ["| photo | first | second | |", "|---|---|---|---|"]
right = 0
for name, labels in photos.items():
    good = labels[0][0] == TRUTH[name]
    right += good
    first, second = (f"{label} ({score:.0%})" for label, score in labels[:2])
    lines.append(f"| {name} | {first} | {second} | {'right' if good else 'wrong'} |")
lines.append(f"\n{right} of {len(photos)} right, among twenty labels.")
before, rest = readme.read_text().split("<!-- results: just readme -->\n")
after = rest.split("<!-- /results -->")[1]
readme.write_text(f"{before}<!-- results: just readme -->\n" + "\n".join(lines) + f"\n<!-- /results -->{after}")
